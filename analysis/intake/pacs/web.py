"""A PACS that speaks DICOMweb: QIDO-RS and WADO-RS."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmwrite
from requests.adapters import HTTPAdapter

from . import peer
from .configuration import Pacs
from .peer import ConnectionLostError, Receive, RefusedError, RemoteSeries
from .table import Request

_TAGS = {
    "StudyInstanceUID": "0020000D",
    "SeriesInstanceUID": "0020000E",
    "SOPInstanceUID": "00080018",
    "AccessionNumber": "00080050",
    "PatientID": "00100020",
    "StudyDate": "00080020",
    "Modality": "00080060",
    "NumberOfSeriesRelatedInstances": "00201209",
}
_LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
#: Bad gateway, unavailable, gateway's time is up.
_BUSY = (502, 503, 504)

# They would print identifiers, which stand in addresses.
for _name in ("dicomweb_client", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class WebPeer:
    """A PACS reached by DICOMweb.

    Parameters
    ----------
    pacs
        Where and how.
    """

    def __init__(self, pacs: Pacs) -> None:
        session = requests.Session()
        if pacs.certificate:
            session.cert = (str(pacs.certificate), str(pacs.key)) if pacs.key else str(pacs.certificate)
        adapter = _Adapter(pacs)
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        self._session = session
        self._client = DICOMwebClient(pacs.url, session=session)
        self._client.set_http_retry_params(retry=False)

    def find_series(self, request: Request) -> list[RemoteSeries]:
        """Series of the studies that fit a request."""
        filters = {
            "AccessionNumber": request.accession_number,
            "PatientID": request.patient_id,
            "StudyDate": request.dates,
        }
        answers = self._ask(
            "StudyInstanceUID",
            self._client.search_for_studies,
            search_filters={key: value for key, value in filters.items() if value},
            fields=["AccessionNumber", "PatientID", "StudyDate"],
        )
        studies = [
            _text(answer, "StudyInstanceUID")
            for answer in answers
            if request.fits(
                accession_number=_text(answer, "AccessionNumber"),
                patient_id=_text(answer, "PatientID"),
                study_date=_text(answer, "StudyDate"),
            )
        ]
        found = []
        for study_uid in studies:
            fields = ["Modality", "NumberOfSeriesRelatedInstances"]
            for answer in self._ask("SeriesInstanceUID", self._client.search_for_series, study_uid, fields=fields):
                count = _text(answer, "NumberOfSeriesRelatedInstances")
                found.append(
                    RemoteSeries(
                        study_uid=study_uid,
                        series_uid=_text(answer, "SeriesInstanceUID"),
                        modality=_text(answer, "Modality"),
                        n_instances=int(count) if count.isdecimal() else None,
                    )
                )
        return found

    def find_instances(self, series: RemoteSeries) -> list[str]:
        """SOPInstanceUIDs of a series."""
        search = self._client.search_for_instances
        return [
            _text(answer, "SOPInstanceUID")
            for answer in self._ask("SOPInstanceUID", search, series.study_uid, series.series_uid)
        ]

    def retrieve(self, series: RemoteSeries, instances: Sequence[str], receive: Receive, *, as_whole: bool) -> None:
        """Fetch instances of a series, one by one, as the PACS has them stored.

        Raises
        ------
        ConnectionLostError
            If the connection is gone; what has come has been received.
        RefusedError
            If the PACS does not give one of them; the others have been received.
        """
        refused: RefusedError | None = None
        for instance in instances:
            try:
                content = self._told(self._instance, series, instance)
            except RefusedError as error:
                refused = error
            else:
                receive(instance, content)
        if refused:
            raise refused

    def _instance(self, series: RemoteSeries, instance: str) -> bytes:
        image = self._client.retrieve_instance(series.study_uid, series.series_uid, instance)
        content = io.BytesIO()
        dcmwrite(content, image, enforce_file_format=True)
        return content.getvalue()

    def close(self) -> None:
        """End the connection."""
        self._session.close()

    def _ask(self, named_by: str, search: Any, *names: str, **options: Any) -> list[Mapping[str, Any]]:
        """Answers of all pages, one for each ``named_by``; some PACS send the first page for ever."""
        found: dict[str, Mapping[str, Any]] = {}
        offset = 0
        while answers := self._told(search, *names, offset=offset, **options):
            before = len(found)
            for answer in answers:
                found.setdefault(_text(answer, named_by), answer)
            offset += len(answers)
            if len(found) > peer.MOST_ANSWERS:
                raise RefusedError(f"more than {peer.MOST_ANSWERS} answers to one question")
            if len(found) == before:
                break
        return [answer for uid, answer in found.items() if uid]

    def _told(self, call: Any, *names: Any, **options: Any) -> Any:
        try:
            return call(*names, **options)
        except _LOST as error:
            raise ConnectionLostError from error
        except requests.HTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            if code in _BUSY:
                raise ConnectionLostError from error
            raise RefusedError(f"HTTP status {code}") from error
        except Exception as error:  # what came is no DICOM, or cut off
            raise RefusedError(f"an answer that cannot be read ({type(error).__name__})") from error


class _Adapter(HTTPAdapter):
    """Waits for an answer, but not for ever, takes no more than fits, and trusts what the configuration says.

    A session's own ``verify`` would give way to the environment's ``REQUESTS_CA_BUNDLE``; and it would follow wherever
    a PACS, or whoever answers in its place, sends it, with the identifiers that are asked for.
    """

    def __init__(self, pacs: Pacs) -> None:
        super().__init__()
        self._pacs = pacs

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        if urlsplit(request.url)[:2] != urlsplit(self._pacs.url)[:2]:
            raise requests.exceptions.InvalidURL("the PACS sends us to another server")
        options["timeout"] = self._pacs.timeout_s
        if self._pacs.ca:
            options["verify"] = str(self._pacs.ca)
        response = super().send(request, *arguments, **options)
        setattr(response.raw, "stream", _weighed(response.raw.stream))  # noqa: B010 (a method, for a type checker)
        return response


def _weighed(stream: Any) -> Any:
    def parts(*arguments: Any, **options: Any) -> Iterator[bytes]:
        n_bytes = 0
        for part in stream(*arguments, **options):
            n_bytes += len(part)
            if n_bytes > peer.MOST_BYTES:
                raise ValueError("more than fits into memory")
            yield part

    return parts


def _text(answer: Mapping[str, Any], keyword: str) -> str:
    """Value in an answer; empty where there is none that can be read."""
    try:
        values = answer.get(_TAGS[keyword], {}).get("Value") or [""]
        return str(values[0])
    except (AttributeError, IndexError, KeyError, TypeError):
        return ""
