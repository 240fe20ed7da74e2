"""A PACS that speaks DIMSE: C-FIND, and C-GET or C-MOVE."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, DEFAULT_TRANSFER_SYNTAXES, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from . import peer
from .configuration import GET, MOVE, Pacs
from .peer import ConnectionLostError, Receive, RefusedError, RemoteSeries, chunks
from .table import Request

#: What is taken: each class in plain form and, with a context of its own, in each compressed one, so that a PACS need
#: not decompress.
STORAGE = (
    *(MRImageStorage, EnhancedMRImageStorage, EnhancedMRColorImageStorage, LegacyConvertedEnhancedMRImageStorage),
    *(CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage, SecondaryCaptureImageStorage),
)
COMPRESSED = (JPEGLosslessSV1, JPEG2000Lossless, JPEG2000, JPEGLSLossless, RLELossless, JPEGBaseline8Bit)
#: Instances asked for at once; longer lists are refused by some PACS.
AT_ONCE = 50

_SUCCESS, _WARNING, _PENDING = 0x0000, 0xB000, (0xFF00, 0xFF01)
_NOT_ASKED_FOR, _NO_ROOM = 0xC001, 0xA700

# It would print queries, names among them.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


class DimsePeer:
    """A PACS reached by DIMSE; connects when first asked.

    Parameters
    ----------
    pacs
        Where and how.
    """

    def __init__(self, pacs: Pacs) -> None:
        self._pacs = pacs
        self._association: Association | None = None
        self._receive: Receive | None = None
        self._error: OSError | None = None
        self._n_refused = self._n_bytes = 0
        self._lock = threading.Lock()
        self._server: Any = None

    def find_series(self, request: Request) -> list[RemoteSeries]:
        """Series of the studies that fit a request."""
        query = _query(
            "STUDY",
            AccessionNumber=request.accession_number,
            PatientID=request.patient_id,
            StudyDate=request.dates,
            StudyInstanceUID="",
        )
        studies = [
            _text(answer, "StudyInstanceUID")
            for answer in self._find(query)
            if request.fits(
                accession_number=_text(answer, "AccessionNumber"),
                patient_id=_text(answer, "PatientID"),
                study_date=_text(answer, "StudyDate"),
            )
        ]
        found = []
        for study_uid in dict.fromkeys(filter(None, studies)):
            query = _query(
                "SERIES",
                StudyInstanceUID=study_uid,
                SeriesInstanceUID="",
                Modality="",
                NumberOfSeriesRelatedInstances="",
            )
            for answer in self._find(query):
                count = _text(answer, "NumberOfSeriesRelatedInstances")
                found.append(
                    RemoteSeries(
                        study_uid=study_uid,
                        series_uid=_text(answer, "SeriesInstanceUID"),
                        modality=_text(answer, "Modality"),
                        n_instances=int(count) if count.isdecimal() else None,
                    )
                )
        return [series for series in found if series.series_uid]

    def find_instances(self, series: RemoteSeries) -> list[str]:
        """SOPInstanceUIDs of a series."""
        query = _query(
            "IMAGE", StudyInstanceUID=series.study_uid, SeriesInstanceUID=series.series_uid, SOPInstanceUID=""
        )
        answers = [_text(answer, "SOPInstanceUID") for answer in self._find(query)]
        return list(dict.fromkeys(filter(None, answers)))

    def retrieve(self, series: RemoteSeries, instances: Sequence[str], receive: Receive, *, as_whole: bool) -> None:
        """Fetch instances of a series, or the series as a whole: not every PACS takes lists of instances.

        Raises
        ------
        ConnectionLostError
            If the connection is gone; what has come has been received.
        RefusedError
            If the PACS says that it cannot.
        """
        with self._lock:
            self._receive, self._n_refused = receive, 0
        try:
            if self._pacs.retrieve == MOVE:
                self._listen()
            names = {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.series_uid}
            if as_whole:
                self._retrieve(_query("SERIES", **names))
            else:
                for part in chunks(instances, AT_ONCE):
                    self._retrieve(_query("IMAGE", **names, SOPInstanceUID=list(part)))
        finally:
            with self._lock:
                self._receive = None

    def close(self) -> None:
        """End the connection, and listen no longer."""
        if self._association and self._association.is_established:
            self._association.release()
        self._association = None
        if self._server:
            self._server.shutdown()
            self._server = None

    def _retrieve(self, query: Dataset) -> None:
        last = None
        for status, _ in self._answers(self._pacs.retrieve, query):
            last = status.get("Status")
            if self._error:
                raise self._error
            if last is None:
                raise ConnectionLostError
        # With a warning some instances failed: those that are missing are seen afterwards.
        if last not in (_SUCCESS, _WARNING):
            raise RefusedError(f"status {last:04X}" if last is not None else "no status")

    def _find(self, query: Dataset) -> list[Dataset]:
        found = []
        for status, answer in self._answers("find", query):
            code = status.get("Status")
            if code is None:
                raise ConnectionLostError
            if code in _PENDING and answer is not None:
                found.append(answer)
            elif code != _SUCCESS:
                raise RefusedError(f"status {code:04X}")
        return found

    def _answers(self, verb: str, query: Dataset) -> Iterator[tuple[Dataset, Dataset | None]]:
        """Ask, and give status and content of every answer, of which not even a broken PACS may send without end."""
        association = self._connected()
        try:
            if verb == MOVE:
                model = StudyRootQueryRetrieveInformationModelMove
                answers = association.send_c_move(query, self._pacs.own_title, model)
            elif verb == GET:
                answers = association.send_c_get(query, StudyRootQueryRetrieveInformationModelGet)
            else:
                answers = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
        except ValueError as error:  # it did not accept this service
            raise RefusedError(f"it does not offer C-{verb.upper()} to us") from error
        except RuntimeError as error:  # gone since the last question
            raise ConnectionLostError from error
        for number, (status, answer) in enumerate(answers):
            if number >= peer.MOST_ANSWERS:
                association.abort()
                raise RefusedError(f"more than {peer.MOST_ANSWERS} answers to one question")
            yield status, answer

    def _connected(self) -> Association:
        if self._association and self._association.is_established:
            return self._association
        entity = AE(ae_title=self._pacs.own_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self._pacs.timeout_s
        entity.connection_timeout = self._pacs.timeout_s
        entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        roles = []
        if self._pacs.retrieve == MOVE:
            entity.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
        else:
            entity.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
            for storage in STORAGE:
                for syntaxes in (DEFAULT_TRANSFER_SYNTAXES, *COMPRESSED):
                    entity.add_requested_context(storage, syntaxes)
                roles.append(build_role(storage, scp_role=True))
        context = self._pacs.tls()
        association = entity.associate(
            self._pacs.host,
            self._pacs.port,
            ae_title=self._pacs.title,
            ext_neg=roles,  # type: ignore[arg-type]
            tls_args=(context, self._pacs.host) if context else None,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_DATA_RECV, self._weigh)],
        )
        if association.is_rejected:
            raise RefusedError("the association is rejected; do titles fit?")
        if not association.is_established:
            raise ConnectionLostError
        self._association = association
        return association

    def _listen(self) -> None:
        """Accept what the PACS, and nobody else, sends to us."""
        if self._server:
            return
        entity = AE(ae_title=self._pacs.own_title)
        entity.require_called_aet = True
        entity.require_calling_aet = [self._pacs.title]
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self._pacs.timeout_s
        for storage in STORAGE:
            entity.add_supported_context(storage, [*DEFAULT_TRANSFER_SYNTAXES, *COMPRESSED])
        self._server = entity.start_server(
            (self._pacs.own_host, self._pacs.own_port),
            block=False,
            ssl_context=self._pacs.tls(ssl.Purpose.CLIENT_AUTH),
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_DATA_RECV, self._weigh)],
        )

    def _store(self, event: evt.Event) -> int:
        with self._lock:
            name = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
            try:
                is_taken = self._receive is not None and self._receive(name, event.encoded_dataset())
            except OSError as error:
                self._error = error  # raised where the answers are read: here pynetdicom would swallow it
                return _NO_ROOM
            self._n_bytes = 0
            self._n_refused = 0 if is_taken else self._n_refused + 1
        if self._n_refused > peer.MOST_REFUSED:
            event.assoc.abort()
        return _SUCCESS if is_taken else _NOT_ASKED_FOR

    def _weigh(self, event: evt.Event) -> None:
        """End a connection through which an image comes that no memory holds."""
        self._n_bytes += len(event.data)
        if self._n_bytes > peer.MOST_BYTES:
            self._n_bytes = 0
            event.assoc.abort()


def _text(answer: Dataset, keyword: str) -> str:
    """Value in an answer; empty where there is none that can be read."""
    try:
        return str(answer[keyword].value or "") if keyword in answer else ""
    except Exception:  # pydicom raises nearly anything on a damaged value
        return ""


def _query(level: str, **keys: Any) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    # The values of a table may be in any language.
    query.SpecificCharacterSet = "ISO_IR 192"
    return query
