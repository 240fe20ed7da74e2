"""What a connection to a PACS can do, whatever it speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .table import Request

#: What a sound PACS stays below, so that a broken one ends: answers to one question; images in a row that nobody asked
#: for; bytes of one image or of one page of answers, of which the largest multi-frame files need half.
MOST_ANSWERS, MOST_REFUSED, MOST_BYTES = 100_000, 1_000, 4 << 30

#: Takes an instance's SOPInstanceUID and its whole file; False if it was not asked for.
Receive = Callable[[str, bytes], bool]


class ConnectionLostError(Exception):
    """The connection is gone, or could not be made; another attempt may do."""


class RefusedError(Exception):
    """The PACS answered that it cannot or will not."""


@dataclass(frozen=True)
class RemoteSeries:
    """A series that the PACS has; ``n_instances`` is None if it does not say."""

    study_uid: str
    series_uid: str
    modality: str
    n_instances: int | None


class Peer(Protocol):
    """A PACS."""

    def find_series(self, request: Request) -> list[RemoteSeries]:
        """Series of the studies that fit a request."""

    def find_instances(self, series: RemoteSeries) -> list[str]:
        """SOPInstanceUIDs of a series."""

    def retrieve(self, series: RemoteSeries, instances: Sequence[str], receive: Receive, *, as_whole: bool) -> None:
        """Fetch instances of a series, or, where the PACS can, the series as a whole; ends when no more will come."""

    def close(self) -> None:
        """End the connection."""


def chunks(instances: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Parts of a list, each of at most ``size``."""
    for start in range(0, len(instances), size):
        yield instances[start : start + size]
