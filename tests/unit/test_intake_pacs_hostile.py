"""Fetching from a PACS that is broken or worse: it ends, keeps nothing that was not asked for, and tells nobody."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dicom_maker as maker
import orthanc
import pandas as pd
import pytest
import yaml
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from analysis import tsv
from analysis.cli import main
from analysis.intake.pacs import fetch, peer

LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
UIDS = {"STUDY": "1.2.3.4", "SERIES": "1.2.3.4.1", "IMAGE": "1.2.3.4.1.1"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.01)


def fetched(root: Path, settings: dict[str, Any], code: int = 0) -> pd.DataFrame:
    """Ask for the study A and give what the table says."""
    (root / "pacs.yaml").write_text(yaml.safe_dump({"timeout_s": 20, "attempts": 2, **settings}))
    (root / "table.tsv").write_text("accession_number\nA\n")
    assert main(["fetch", str(root / "pacs.yaml"), str(root / "table.tsv"), "--out", str(root / "out")]) == code
    return tsv.read(root / "out" / "fetched.tsv")


def image(root: Path, number: int = 1) -> Dataset:
    paths = maker.write_series(root / "made", {**maker.T1, "AccessionNumber": "A"}, places=maker.positions(number, 6.0))
    return dcmread(paths[number - 1])


class Scp:
    """A PACS by DIMSE whose answers are given."""

    def __init__(self, find: Callable[[Any], Any], get: Callable[[Any], Any] | None) -> None:
        entity = AE("PACS")
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        handlers: list[Any] = [(evt.EVT_C_FIND, find)]
        if get:
            entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
            entity.add_supported_context(MRImageStorage, scu_role=True, scp_role=True)
            handlers.append((evt.EVT_C_GET, get))
        self.port = orthanc.free_port()
        self.server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def __enter__(self) -> dict[str, Any]:
        return {"retrieve": "get", "host": "127.0.0.1", "port": self.port, "title": "PACS"}

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()


def answer(level: str) -> Dataset:
    found = Dataset()
    found.QueryRetrieveLevel = level
    found.AccessionNumber, found.Modality = "A", "MR"
    setattr(found, LEVELS[level], UIDS[level])
    return found


def find_one(event: Any) -> Iterator[tuple[int, Dataset]]:
    yield 0xFF00, answer(event.identifier.QueryRetrieveLevel)


def test_answers_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "MOST_ANSWERS", 20)

    def find(event: Any) -> Iterator[tuple[int, Dataset]]:
        while not event.is_cancelled and event.assoc.is_established:
            yield 0xFF00, answer("STUDY")

    with Scp(find, None) as settings:
        (row,) = fetched(tmp_path, settings).to_dict("records")
    assert row["status"] == "refused" and "more than 20 answers" in row["reason"]


def test_answers_that_cannot_be_read(tmp_path: Path) -> None:
    def find(event: Any) -> Iterator[tuple[int, Dataset]]:
        level = event.identifier.QueryRetrieveLevel
        found = answer(level)
        found.Modality = "QUOKKA" if level == "SERIES" else "MR"
        tag = Tag("NumberOfSeriesRelatedInstances")
        found[tag] = RawDataElement(tag, "IS", 4, b"many", 0, True, True)
        yield 0xFF00, found

    with Scp(find, None) as settings:
        (row,) = fetched(tmp_path, settings).to_dict("records")
    assert (row["status"], row["modality"], row["n_instances"]) == ("skipped", "n/a", "n/a")


def test_a_pacs_without_the_service(tmp_path: Path) -> None:
    with Scp(find_one, None) as settings:
        (row,) = fetched(tmp_path, settings).to_dict("records")
    assert row["status"] == "partial" and "does not offer C-GET" in row["reason"]


@pytest.mark.parametrize(
    ("sent", "told"), [("another image", "status A702"), ("another patient's", "not those they are called")]
)
def test_other_images_than_asked_for(tmp_path: Path, sent: str, told: str) -> None:
    def get(event: Any) -> Iterator[Any]:
        yield 1
        made = image(tmp_path, 2 if sent == "another image" else 1)
        if sent == "another patient's":
            made.StudyInstanceUID = "1.9"
        yield 0xFF00, made

    with Scp(find_one, get) as settings:
        (row,) = fetched(tmp_path, settings).to_dict("records")
    assert (row["status"], row["n_files"]) == ("partial", "0") and told in row["reason"]
    assert not list((tmp_path / "out").rglob("*.dcm"))


@pytest.mark.parametrize("too", ["large", "many"])
def test_images_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, too: str) -> None:
    monkeypatch.setattr(peer, "MOST_BYTES", 50_000)
    monkeypatch.setattr(peer, "MOST_REFUSED", 5)

    def get(event: Any) -> Iterator[Any]:
        made = image(tmp_path, 1 if too == "large" else 2)
        if too == "large":
            made.PixelData = bytes(200_000)
        yield 100
        while event.assoc.is_established:
            yield 0xFF00, made

    with Scp(find_one, get) as settings:
        # What is broken off is seen when the time for an answer is over.
        (row,) = fetched(tmp_path, {**settings, "timeout_s": 2, "attempts": 1}).to_dict("records")
    assert row["status"] == "partial" and "the connection is lost whenever" in row["reason"]
    assert not list((tmp_path / "out").rglob("*.dcm"))


class Web:
    """A server that answers every question with ``say(path)``: code, headers, body."""

    def __init__(self, say: Callable[[str], tuple[int, dict[str, str], bytes]]) -> None:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                code, headers, body = say(self.path)
                self.send_response(code)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.asked = asked
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/dicom-web"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def search(path: str) -> tuple[int, dict[str, str], bytes]:
    """One study, series and image, whatever the offset is."""
    depth = len(path.partition("?")[0].split("/"))
    level = {3: "STUDY", 5: "SERIES", 7: "IMAGE"}[depth]
    found = json.loads(answer(level).to_json())
    return 200, {"Content-Type": "application/dicom+json"}, json.dumps([found]).encode()


def test_the_same_page_for_ever_and_values_that_are_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What libraries warn of are values of headers, which may name a patient."""
    made = image(tmp_path)
    made.file_meta.ImplementationVersionName = "Quokka"
    made.add_new("PatientSex", "CS", "quokka and other words, far too long")
    made.save_as(tmp_path / "one.dcm")

    def say(path: str) -> tuple[int, dict[str, str], bytes]:
        if path.endswith("/instances/1.2.3.4.1.1"):
            return 200, {"Content-Type": "application/dicom"}, (tmp_path / "one.dcm").read_bytes()
        code, headers, body = search(path)
        return code, {**headers, "Warning": "299 Quokka"}, body

    with Web(say) as web, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (row,) = fetched(tmp_path, {"retrieve": "web", "url": web.url}).to_dict("records")
    assert row["status"] == "done" and len(web.asked) < 10
    assert caught == [] and "uokka" not in "".join(capfd.readouterr())


def test_redirection_to_another_server(tmp_path: Path) -> None:
    """It would take the identifiers that we ask for there."""
    with Web(search) as other, Web(lambda path: (302, {"Location": other.url + path[10:]}, b"")) as web:
        (row,) = fetched(tmp_path, {"retrieve": "web", "url": web.url}).to_dict("records")
    assert row["status"] == "refused" and len(web.asked) == 1 and other.asked == []


def test_bodies_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "MOST_BYTES", 50_000)

    def say(path: str) -> tuple[int, dict[str, str], bytes]:
        return (
            search(path) if "/instances/" not in path else (200, {"Content-Type": "application/dicom"}, bytes(60_000))
        )

    with Web(say) as web:
        (row,) = fetched(tmp_path, {"retrieve": "web", "url": web.url}).to_dict("records")
    assert row["status"] == "partial" and "cannot be read" in row["reason"]


@pytest.mark.parametrize(
    "body", [b'"Quokka"', b'[1, {"0020000D": null}, {"0020000D": {"Value": []}}]', b"<html>", b"{}"]
)
def test_answers_that_are_no_answers(tmp_path: Path, body: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with Web(lambda path: (200, {"Content-Type": "application/json"}, body)) as web:
        (row,) = fetched(tmp_path, {"retrieve": "web", "url": web.url}).to_dict("records")
    assert row["status"] in ("none", "refused") and len(web.asked) < 4
    assert "Quokka" not in "".join(capfd.readouterr())
