"""The study's secret key, and the pseudonyms, dates and UIDs that it makes of identifiers.

All are keyed hashes (HMAC-SHA-256): the same person has the same pseudonym in every run, and whoever lacks the key
cannot tell it, not even from a list of all patients. The key is a file of the private folder; without it no earlier
pseudonym can be made again.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import secrets
from datetime import date, timedelta
from pathlib import Path

from analysis.errors import ConfigurationError

#: Characters of base 32 (five bits each) in a participant's pseudonym: 1e5 people share one with odds of 4 in 1e9.
LABEL_LENGTH = 12
#: Dates move back by this and up to ten years more: before 1925, where BIDS wants shifted dates, until the year 2040.
LEAST_SHIFT_DAYS = 42_370
SHIFT_RANGE_DAYS = 3_653
_KEY_BYTES = 32


class Key:
    """Keyed hashes under a study's secret.

    Parameters
    ----------
    secret
        At least 32 bytes; never shown by ``repr``.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, path: Path) -> Key:
        """The key in a file, made with mode 0600 if it is not there.

        Raises
        ------
        ConfigurationError
            If the file holds no key, or others may read it.
        """
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"{path}: others may read this key; chmod 600 it")
        text = path.read_text(encoding="ascii", errors="replace").strip()
        if not re.fullmatch(f"([0-9a-f]{{2}}){{{_KEY_BYTES},}}", text):
            raise ConfigurationError(
                f"{path}: is no key of {2 * _KEY_BYTES} hexadecimal digits; bring back the study's own key "
                "(without it known patients would get new pseudonyms)"
            )
        return cls(bytes.fromhex(text))

    def participant(self, patient_id: str) -> str:
        """BIDS name of a patient, such as ``sub-k3f7q2x4mzap``."""
        return f"sub-{self._label('participant', patient_id)}"

    def label(self, kind: str, identifier: str) -> str:
        """Letters and digits for anything else that needs a name, such as a study."""
        return self._label(f"label {kind}", identifier)

    def uid(self, uid: str) -> str:
        """DICOM UID in place of another, below the root for UIDs made of random numbers (PS3.5, B.2)."""
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16], 'big')}"

    def shift_days(self, patient_id: str) -> int:
        """Days by which all dates of a patient move back, so that the intervals between them stay."""
        return LEAST_SHIFT_DAYS + int.from_bytes(self._digest("dates", patient_id)[:8], "big") % SHIFT_RANGE_DAYS

    def shifted(self, day: str, patient_id: str) -> str:
        """A date ``YYYYMMDD`` of a patient, moved; empty if it is no date."""
        try:
            known = date(int(day[:4]), int(day[4:6]), int(day[6:8]))
            moved = known - timedelta(days=self.shift_days(patient_id))
        except (ValueError, OverflowError):
            return ""
        return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"

    def digest(self, text: str) -> str:
        """Sixteen hexadecimal digits of anything."""
        return self._digest("digest", text)[:8].hex()

    def _label(self, purpose: str, text: str) -> str:
        return base64.b32encode(self._digest(purpose, text)).decode("ascii").lower()[:LABEL_LENGTH]

    def _digest(self, purpose: str, text: str) -> bytes:
        """Hash of a text for one purpose: hashes for different purposes tell nothing about each other."""
        return hmac.digest(self._secret, f"{purpose}\0{text}".encode("utf-8", "surrogateescape"), "sha256")


def _create(path: Path) -> None:
    """Make the file whole and closed from the start; of two runs that make it at once, one wins and both read it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(f"{secrets.token_hex(_KEY_BYTES)}\n")
            stream.flush()
            os.fsync(stream.fileno())  # a power failure must not take the key of what is written with it
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
