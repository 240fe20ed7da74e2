"""Works through the lines of a table: query, fetch what is missing, write down what came."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from analysis import tsv
from analysis.errors import ToolError
from analysis.intake import profile
from analysis.intake.pseudonyms import inert
from synthsr.progress import tracked

from .configuration import WEB, Pacs
from .folder import Pace, SeriesFolder
from .peer import ConnectionLostError, Peer, RefusedError, RemoteSeries
from .table import Request

COLUMNS = ("line", "study_uid", "series_uid", "modality", "n_instances", "n_files", "status", "reason")
DONE, PARTIAL, SKIPPED, NONE, REFUSED = "done", "partial", "skipped", "none", "refused"
#: A series is asked for so often without a new file, though the connection stays: a PACS that cannot reach us for a
#: moment ends a C-MOVE with a failure.
ROUNDS = 2
UNREACHABLE = "the PACS was not to be reached"
#: Between two attempts; doubled each time.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
#: Seconds between two writings of the table.
WRITE_EVERY_S = 10.0

Answer = TypeVar("Answer")


class Fetcher:
    """Fetches from one PACS into one folder.

    Parameters
    ----------
    pacs
        How to reach it.
    root
        The folder.
    """

    def __init__(self, pacs: Pacs, root: Path) -> None:
        self._pacs, self._root = pacs, root
        self._pace = Pace(pacs.files_per_second)
        self._peer: Peer | None = None
        self.rows: dict[tuple[int, RemoteSeries | None], dict[str, object]] = {}
        self._known: dict[tuple[str, str], dict[str, object]] = {}

    def request(self, request: Request) -> None:
        """Fetch what a line asks for."""
        if request.fault:
            self._tell(request, None, REFUSED, request.fault)
            return
        try:
            found = self._persist(lambda peer: peer.find_series(request))
        except RefusedError as error:
            self._tell(request, None, REFUSED, f"the PACS does not answer the query: {error}")
            return
        if not found:
            self._tell(request, None, NONE, "the PACS has no such study")
        for series in found:
            if series.modality and series.modality not in self._pacs.modalities:
                self._tell(request, series, SKIPPED, "of another modality")
            elif (uids := (series.study_uid, series.series_uid)) in self._known:  # of an earlier line as well
                self.rows[request.line, series] = {**self._known[uids], "line": request.line}
            else:
                self._fetch(request, series)

    def close(self) -> None:
        """End the connection."""
        if self._peer:
            with contextlib.suppress(Exception):
                self._peer.close()
        self._peer = None

    def _fetch(self, request: Request, series: RemoteSeries) -> None:
        folder = SeriesFolder(self._root, series, self._pace)
        instances: list[str] = []
        reason = UNREACHABLE
        try:
            instances = self._persist(lambda peer: peer.find_instances(series))
            folder.expect(instances)
            reason = self._retrieve(series, folder, instances)
        except RefusedError as error:
            reason = f"the PACS refuses: {error}"
        finally:
            missing = folder.missing(instances)
            is_done = instances and not missing
            if folder.n_foreign:
                reason = f"{folder.n_foreign} images came that are not those they are called; tell who runs the PACS"
            reason = reason or f"{len(missing)} files did not come"
            self._tell(request, series, DONE if is_done else PARTIAL, "" if is_done else reason)
            row = self.rows[request.line, series]
            row |= {"n_instances": len(instances), "n_files": len(instances) - len(missing)}
            self._known[series.study_uid, series.series_uid] = row

    def _retrieve(self, series: RemoteSeries, folder: SeriesFolder, instances: list[str]) -> str:
        """Ask for what is missing until all is there or nothing more comes; why not, where the PACS says so.

        A series of which nothing is there is asked for as a whole, another by its instances, and the other way round
        where that brings nothing.
        """
        reason = ""
        stalled = 0

        def ask(peer: Peer) -> None:
            asked = folder.missing(instances)
            is_new = len(asked) == len(instances)
            peer.retrieve(series, asked, folder.receive, as_whole=is_new != bool(stalled))

        while (missing := folder.missing(instances)) and stalled < ROUNDS:
            try:
                self._persist(ask, progress=lambda: len(folder.missing(instances)))
            except RefusedError as error:
                reason = f"the PACS refuses: {error}"
            except ToolError:
                # One series that breaks every connection must not stop the others; a PACS that is gone does.
                self._persist(lambda peer: peer.find_instances(series))
                return "the connection is lost whenever the series is asked for"
            stalled = 0 if len(folder.missing(instances)) < len(missing) else stalled + 1
        return reason

    def _persist(self, call: Callable[[Peer], Answer], progress: Callable[[], int] = lambda: 0) -> Answer:
        """Call, and call again with a new connection if it is lost, until nothing has come several times.

        Raises
        ------
        ToolError
            If the PACS stays out of reach.
        """
        failures = 0
        pause_s = FIRST_PAUSE_S
        before = progress()
        while True:
            try:
                return call(self._connection())
            except ConnectionLostError as error:
                self.close()
                now = progress()
                failures, pause_s = (0, FIRST_PAUSE_S) if now < before else (failures + 1, pause_s)
                before = now
                if failures >= self._pacs.attempts:
                    raise ToolError(
                        f"{UNREACHABLE} {failures} times in a row; "
                        "see to network, address, titles and certificates, then run again: what has come stays"
                    ) from error
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _connection(self) -> Peer:
        if self._peer is None:
            if self._pacs.retrieve == WEB:
                from .web import WebPeer

                self._peer = WebPeer(self._pacs)
            else:
                from .dimse import DimsePeer

                self._peer = DimsePeer(self._pacs)
        return self._peer

    def _tell(self, request: Request, series: RemoteSeries | None, status: str, reason: str) -> None:
        self.rows[request.line, series] = {
            "line": request.line,
            "study_uid": series.study_uid if series else tsv.MISSING,
            "series_uid": series.series_uid if series else tsv.MISSING,
            "modality": profile.modality_of(series.modality if series else "") or tsv.MISSING,
            "n_instances": tsv.MISSING if series is None or series.n_instances is None else series.n_instances,
            "n_files": 0,
            "status": status,
            "reason": reason,
        }


def fetch(pacs: Pacs, wanted: Sequence[Request], root: Path) -> pd.DataFrame:
    """Fetch all lines of a table into ``root``, and write ``fetched.tsv`` there, a row per line and series.

    Raises
    ------
    ToolError
        If the PACS stays out of reach; the table tells what came until then.
    """
    fetcher = Fetcher(pacs, root)
    written = time.monotonic()
    try:
        for request in tracked(wanted, what="lines fetched", total=len(wanted)):
            fetcher.request(request)
            if time.monotonic() - written > WRITE_EVERY_S:
                _write(fetcher, root)
                written = time.monotonic()
    finally:
        fetcher.close()
        table = _write(fetcher, root)
    return table


def _write(fetcher: Fetcher, root: Path) -> pd.DataFrame:
    table = pd.DataFrame(list(fetcher.rows.values()), columns=list(COLUMNS))
    tsv.write(inert(table), root / "fetched.tsv")
    return table
