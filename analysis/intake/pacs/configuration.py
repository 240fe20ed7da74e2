"""How a PACS is reached: a small YAML file."""

from __future__ import annotations

import re
import ssl
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from analysis.errors import ConfigurationError, yaml_fault

GET, MOVE, WEB = "get", "move", "web"
#: Of a field's type: what YAML gives, and what people call it.
_KINDS: dict[str, tuple[Any, str]] = {
    "str": (str, "a text"),
    "int": (int, "a whole number, without quotes"),
    "float": ((int, float), "a number, without quotes"),
    "Path": (str, "the path of a file"),
    "tuple[str, ...]": (list, "a list, such as [MR, CT]"),
}
EXAMPLE = "config/pacs.yaml is an example"


@dataclass(frozen=True, kw_only=True)
class Pacs:
    """A PACS.

    Attributes
    ----------
    retrieve
        ``get`` (C-GET), ``move`` (C-MOVE) or ``web`` (DICOMweb).
    host, port, title
        DIMSE: where the PACS listens, and its application entity title.
    own_title
        DIMSE: our title, as the PACS knows it.
    own_host, own_port
        C-MOVE: where we listen for what the PACS sends; it must know our title, address and port.
    url
        DICOMweb: its root, such as ``https://pacs.example.org/dicom-web``. Name and password come from ``~/.netrc``.
    ca, certificate, key
        PEM files for TLS; DIMSE is encrypted if ``ca`` is given. The latter are ours, for a PACS that asks for them.
    modalities
        Series of others are not fetched.
    files_per_second
        Not more than these are taken.
    timeout_s
        A PACS that does not answer for so long is taken for gone.
    attempts
        New connections in a row without a single new file before giving up.
    """

    retrieve: str
    host: str = ""
    port: int = 0
    title: str = "ANY-SCP"
    own_title: str = "SYNTHSR"
    own_host: str = ""
    own_port: int = 0
    url: str = ""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    modalities: tuple[str, ...] = ("MR", "CT")
    files_per_second: float = 50.0
    timeout_s: float = 60.0
    attempts: int = 4

    @property
    def is_encrypted(self) -> bool:
        """Whether names and images are hidden on their way."""
        return self.url.startswith("https:") if self.retrieve == WEB else self.ca is not None

    def tls(self, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> ssl.SSLContext | None:
        """Context for encryption that checks the other side's certificate; None if no ``ca`` is given."""
        if self.ca is None:
            return None
        context = ssl.create_default_context(purpose, cafile=str(self.ca))
        context.verify_mode = ssl.CERT_REQUIRED
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key)
        return context


def read(path: Path) -> Pacs:
    """Read the file; relative paths in it start at its folder.

    Raises
    ------
    ConfigurationError
        If it is not there, has a key that does not exist, or lacks one.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: no such file; {EXAMPLE}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not YAML: {yaml_fault(error)}; mend that line") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected `key: value` lines; {EXAMPLE}")
    known = {field.name: field for field in fields(Pacs)}
    if unknown := set(content) - set(known):
        name = sorted(map(str, unknown))[0]
        raise ConfigurationError(f"{path}: there is no {name!r}; is it misspelt? There are {', '.join(known)}")
    if lacking := [name for name, field in known.items() if field.default is MISSING and name not in content]:
        raise ConfigurationError(f"{path}: lacks {lacking[0]}; add it ({EXAMPLE})")
    values: dict[str, Any] = {}
    for name, value in content.items():
        kind = str(known[name].type).removesuffix(" | None")
        expected, words = _KINDS[kind]
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ConfigurationError(f"{path}: {name}: {value!r} will not do; give {words}")
        values[name] = path.parent / value if kind == "Path" else tuple(value) if kind.startswith("tuple") else value
    pacs = Pacs(**values)
    _check(pacs, path)
    return pacs


def _check(pacs: Pacs, path: Path) -> None:
    needed = {GET: ("host", "port"), MOVE: ("host", "port", "own_host", "own_port"), WEB: ("url",)}
    if pacs.retrieve not in needed:
        raise ConfigurationError(
            f"{path}: retrieve: {pacs.retrieve!r} is none of {', '.join(needed)}; give one of them"
        )
    for name in needed[pacs.retrieve]:
        if not getattr(pacs, name):
            raise ConfigurationError(f"{path}: retrieve: {pacs.retrieve} needs {name}; add it ({EXAMPLE})")
    _check_address(pacs, path)
    for name in ("files_per_second", "timeout_s", "attempts"):
        if getattr(pacs, name) <= 0:
            raise ConfigurationError(f"{path}: {name}: {getattr(pacs, name)} is not above zero; give a number that is")
    for name in ("ca", "certificate", "key"):
        file = getattr(pacs, name)
        if file and not file.is_file():
            raise ConfigurationError(
                f"{path}: {name}: {file} is not a file; give one in PEM, from this file's folder on"
            )
    if pacs.certificate and not pacs.is_encrypted:
        raise ConfigurationError(f"{path}: certificate without encryption: give ca, or a url of https")
    if pacs.ca and not pacs.is_encrypted:
        raise ConfigurationError(f"{path}: ca is given, but url is not of https; give such a url, or leave ca out")
    if pacs.retrieve == MOVE and pacs.ca and not pacs.certificate:
        raise ConfigurationError(f"{path}: retrieve: move with ca needs certificate, as the PACS calls us; add ours")


def _check_address(pacs: Pacs, path: Path) -> None:
    for name in ("title", "own_title"):
        if not re.fullmatch(r"[!-\[\]-~][ -\[\]-~]{0,15}", getattr(pacs, name)):
            raise ConfigurationError(f"{path}: {name}: 1 to 16 letters and digits are allowed")
    for name in ("port", "own_port"):
        if not 0 <= getattr(pacs, name) < 1 << 16:
            raise ConfigurationError(f"{path}: {name}: {getattr(pacs, name)} is no port; give 1 to 65535")
    if pacs.retrieve != WEB:
        return
    address = urlsplit(pacs.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigurationError(f"{path}: url: begins with https:// (or http://) and the name of a host")
    if "@" in address.netloc:  # not quoted: messages go to logs
        raise ConfigurationError(f"{path}: url: name and password belong into ~/.netrc, mode 0600")
