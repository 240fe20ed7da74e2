"""Fetching from a real PACS: query by a table, C-GET, C-MOVE, DICOMweb, cut connections, going on, TLS."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import dicom_maker as maker
import orthanc
import pytest
import yaml
from orthanc import N_SLICES, Client, Orthanc, Proxy, in_the_way, same_as_stored
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from analysis import tsv
from analysis.cli import main
from analysis.intake.pacs import configuration, fetch, folder, table
from analysis.intake.pacs.peer import ConnectionLostError, Receive, RefusedError, RemoteSeries

N_STUDIES = 200
WAYS = ("get", "move", "web")
MOVE = {"retrieve": "move", "host": "x", "port": 104, "own_host": "x", "own_port": 104}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Orthanc with 200 small studies of 100 patients, and one of 20 slices with a series of another modality."""
    if reason := orthanc.lacking():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("orthanc")
    orthanc.make_studies(root / "made", N_STUDIES)
    maker.write_series(root / "made", {**maker.T2, "AccessionNumber": "BIG"}, patient="Müller^2", study="1.3.1")
    maker.write_series(root / "made", {"Modality": "PT", "AccessionNumber": "BIG"}, study="1.3.1", series="2")
    found = Orthanc(root / "orthanc")
    try:
        found.store(sorted((root / "made").iterdir()))
        yield found
    finally:
        found.stop()


@pytest.fixture
def client(tmp_path: Path, server: Orthanc) -> Client:
    return Client(tmp_path, server)


@pytest.mark.parametrize("way", WAYS)
def test_the_table_decides_what_is_fetched(client: Client, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"accession_number": "A007", "patient_id": "", "date_from": ""},
        {"accession_number": "", "patient_id": "P8", "date_from": "2011-01-01"},  # one of the two studies of P8
        {"accession_number": "A007", "patient_id": "P7", "date_from": "n/a"},  # the same again
        {"accession_number": "A009", "patient_id": "P1", "date_from": ""},  # does not fit
        {"accession_number": "A*", "patient_id": "", "date_from": ""},
        {"accession_number": "BIG", "patient_id": "", "date_from": ""},
    ]
    assert client.fetch(way, lines) == 0
    rows = client.table.set_index(["line", "study_uid", "modality"]).status
    assert dict(rows) == {
        ("2", "1.2.8", "MR"): "done",
        ("3", "1.2.109", "MR"): "done",
        ("4", "1.2.8", "MR"): "done",
        ("5", "n/a", "n/a"): "none",
        ("6", "n/a", "n/a"): "refused",
        ("7", "1.3.1", "MR"): "done",
        ("7", "1.3.1", "PT"): "skipped",
    }
    assert len(client.files) == 2 * N_SLICES + 20 and same_as_stored(client.files, client.server)
    assert client.out.stat().st_mode & 0o777 == 0o700
    told = "".join(capsys.readouterr())
    assert "is not encrypted" in told and not any(word in told for word in ("A007", "P8", "1.2.8"))


def test_inventory_reads_what_was_fetched(client: Client, tmp_path: Path) -> None:
    assert client.fetch("get", [{"accession_number": "BIG"}]) == 0
    assert main(["inventory", str(client.out), "--out", str(tmp_path / "results")]) == 0
    (row,) = tsv.read(tmp_path / "results" / "intake" / "series.tsv").to_dict("records")
    assert (row["decision"], row["contrast"], row["n_slices"]) == ("include", "T2w", "20")


@pytest.mark.parametrize("way", WAYS)
def test_many_studies_in_spite_of_a_cut_and_of_a_pacs_that_is_gone(client: Client, way: str) -> None:
    """``benchmarks/fetch_pacs.py`` does this with all 200."""
    n_studies = 10
    lines = [{"accession_number": f"A{number:03d}"} for number in range(0, N_STUDIES, N_STUDIES // n_studies)]
    found = client.fetch_in_spite_of_a_cut(way, lines[:n_studies])
    assert found.n_cut == 1 and found.is_resumed_without_fetching_twice
    assert 0 < found.n_files_first < found.n_files == n_studies * N_SLICES
    assert set(client.table.status) == {"done"} and same_as_stored(client.files, client.server)


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_connection_is_made_anew(client: Client, way: str) -> None:
    # So that the cut falls into the transfer of images: each has 2 kB of pixels.
    cut_after = {"get": 40_000, "move": 20_000, "web": 24_000}[way]
    proxy, changes = in_the_way(way, client.server, n_cuts=1 if way == "move" else 2, cut_after=cut_after)
    try:
        assert client.fetch(way, [{"accession_number": "BIG"}], **changes) == 0
    finally:
        proxy.close()
    assert proxy.n_cut >= 1
    assert "done" in set(client.table.status) and len(client.files) == 20
    assert same_as_stored(client.files, client.server)
    assert not list(client.out.rglob(".part-*"))


@pytest.mark.parametrize("way", ["get", "web"])
def test_what_came_stays_when_the_pacs_is_gone(client: Client, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, changes = in_the_way(way, client.server, cut_after=40_000 if way == "get" else 24_000, dies=True)
    lines = [{"accession_number": "A001"}, {"accession_number": "BIG"}, {"accession_number": "A002"}]
    assert client.fetch(way, lines, attempts=2, **changes) == 69
    assert "run again" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in client.files}
    assert N_SLICES < len(before) < 20 and not list(client.out.rglob(".part-*"))
    assert client.table.status[0] == "done"
    assert client.fetch(way, lines) == 0
    assert len(client.files) == 20 + 2 * N_SLICES
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "nothing is fetched twice"


def test_fetching_again_fetches_nothing(client: Client) -> None:
    assert client.fetch("get", [{"accession_number": "BIG"}]) == 0
    before = {path: path.stat().st_mtime_ns for path in client.files}
    client.files[3].unlink()
    assert client.fetch("web", [{"accession_number": "BIG"}]) == 0
    after = {path: path.stat().st_mtime_ns for path in client.files}
    assert set(after) == set(before) and sum(after[path] != before[path] for path in before) == 1


def test_files_come_no_faster_than_they_may(client: Client) -> None:
    begin = time.monotonic()
    assert client.fetch("get", [{"accession_number": "BIG"}], files_per_second=10) == 0
    assert time.monotonic() - begin >= 1.9


@pytest.mark.parametrize("way", WAYS)
def test_tls(tmp_path: Path, server: Orthanc, way: str) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    certificate, key = orthanc.make_certificate(tmp_path)
    client = Client(tmp_path, server)
    ours = {"ca": str(certificate), "certificate": str(certificate), "key": str(key)}
    if way == "web":
        proxy = Proxy(server.http_port, n_cuts=0, certificate=(certificate, key))
        changes: dict[str, object] = {"url": f"https://127.0.0.1:{proxy.port}/dicom-web"}
        elsewhere = {"url": f"https://localhost:{proxy.port}/dicom-web"}
    else:
        extra = {"DicomTlsEnabled": True, "DicomTlsTrustedCertificates": str(certificate)}
        extra |= {"DicomTlsCertificate": str(certificate), "DicomTlsPrivateKey": str(key)}
        client.server = Orthanc(tmp_path / "encrypted", extra, calls_by_tls=True)
        client.server.store(sorted((server.root.parent / "made").glob("1.2.1.*")))
        changes, elsewhere = {}, {"host": "localhost"}

    def fetch(**settings: object) -> int:
        return client.fetch(way, [{"accession_number": "A000"}], attempts=1, **settings)

    try:
        assert fetch(**changes) == 69, "not encrypted, or not trusted"
        assert fetch(**ours, **{**changes, **elsewhere}) == 69, "another's certificate"
        assert not client.files
        assert fetch(**ours, **changes) == 0
        assert len(client.files) == N_SLICES
        if way == "move":
            client.files[0].unlink()
            (tmp_path / "stranger").mkdir()
            stranger, its_key = orthanc.make_certificate(tmp_path / "stranger")
            fetch(**{**ours, "certificate": str(stranger), "key": str(its_key)})
            assert len(client.files) == N_SLICES - 1, "the PACS sends to nobody whom it does not trust"
    finally:
        if client.server is not server:
            client.server.stop()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retrieve": "push"}, "none of get, move, web"),
        ({"retrieve": "get"}, "needs host; add it (config/pacs.yaml"),
        ({"host": "x"}, "lacks retrieve; add it"),
        ({"retrieve": "move", "host": "x", "port": 104}, "needs own_host"),
        ({"retrieve": "web", "url": "http://x", "hots": "x"}, "there is no 'hots'"),
        ({"retrieve": "web", "url": "http://x", "attempts": 0}, "not above zero"),
        ({"retrieve": "web", "url": "http://x", "ca": "no.pem"}, "is not a file"),
        ({"retrieve": "get", "host": "x", "port": "104"}, "port: '104' will not do; give a whole number"),
        ({"retrieve": "get", "host": "x", "port": 1 << 16}, "is no port"),
        ({"retrieve": "get", "host": "x", "port": 104, "title": "A" * 17}, "1 to 16 letters"),
        ({"retrieve": "get", "host": "x", "port": 104, "certificate": "pacs.yaml"}, "certificate without encryption"),
        ({"retrieve": "web", "url": "http://x", "ca": "pacs.yaml"}, "url is not of https"),
        ({"retrieve": "web", "url": "file:///etc"}, "begins with https://"),
        ({"retrieve": "web", "url": "https://me:secret@x"}, "belong into ~/.netrc"),
        ({**MOVE, "ca": "pacs.yaml"}, "move with ca needs certificate"),
    ],
)
def test_wrong_configuration_is_named(tmp_path: Path, settings: dict, said: str, capsys) -> None:
    path, lines = tmp_path / "pacs.yaml", tmp_path / "table.tsv"
    path.write_text(yaml.safe_dump(settings))
    lines.write_text("accession_number\nA1\n")
    assert main(["fetch", str(path), str(lines), "--out", str(tmp_path / "out")]) == 78
    told = capsys.readouterr().err
    assert said in told and "secret" not in told


def test_lines_that_cannot_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(
        "patient_id\tdate_from\tdate_to\n4711\t2020-01-01\t\n\t20200101\t20210101\nA?\t\t\n4711\t***\t\n4711\t\t20213101\n"
    )
    found = table.read(path)
    assert [bool(request.fault) for request in found] == [False, True, True, True, True]
    assert found[0].dates == "20200101-"
    assert found[0].fits(accession_number="1", patient_id="4711 ", study_date="20200101")
    assert not found[0].fits(accession_number="1", patient_id="4711", study_date="20191231")
    assert not found[0].fits(accession_number="1", patient_id="4712", study_date="20200101")


def test_shipped_example_is_valid() -> None:
    example = Path(configuration.__file__).parents[3] / "config" / "pacs.yaml"
    assert configuration.read(example).retrieve == "get"


def content(*uids: str) -> bytes:
    """A file of study, series and instance."""
    image = Dataset()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = uids
    image.SOPClassUID = MRImageStorage
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


class Moody:
    """A PACS whose second series breaks every connection, and whose third has an instance that it does not give."""

    def __init__(self) -> None:
        self.series = [RemoteSeries("1.2", f"1.2.{number}", "MR", 3) for number in (1, 2, 3, 4)]

    def find_series(self, request: table.Request) -> list[RemoteSeries]:
        return self.series

    def find_instances(self, series: RemoteSeries) -> list[str]:
        return [f"{series.series_uid}.{number}" for number in (1, 2, 3)]

    def retrieve(self, series: RemoteSeries, instances: Sequence[str], receive: Receive, *, as_whole: bool) -> None:
        if as_whole and series.series_uid == "1.2.4":  # this one only by its instances
            raise RefusedError("status A900")
        if series.series_uid == "1.2.2":
            raise ConnectionLostError
        refuses = series.series_uid == "1.2.3"
        for instance in instances:
            if not (refuses and instance.endswith(".1")):
                assert receive(instance, content(series.study_uid, series.series_uid, instance))
        assert not receive("9.9.9", b"never asked for")
        if refuses:
            raise RefusedError("status A702")

    def close(self) -> None:
        pass


def test_one_bad_series_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.Fetcher, "_connection", lambda self: Moody())
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.01)
    pacs = configuration.Pacs(retrieve="get", attempts=2, files_per_second=1e4)
    line = table.Request(line=2, accession_number="A", patient_id="", date_from="", date_to="", fault="")
    rows = fetch.fetch(pacs, [line], tmp_path).set_index("series_uid")
    assert list(rows.status) == ["done", "partial", "partial", "done"]
    assert list(rows.n_files) == [3, 0, 2, 3]
    assert "connection is lost" in rows.reason["1.2.2"] and "A702" in rows.reason["1.2.3"]
    assert len(list(tmp_path.rglob("*.dcm"))) == 8


def test_images_of_others_are_not_kept(tmp_path: Path) -> None:
    series = RemoteSeries("1.2", "1.2.1", "MR", 3)
    found = folder.SeriesFolder(tmp_path, series, folder.Pace(1e6))
    found.expect(["a", "b"])
    others = [("1.9", "1.2.1", "a"), ("1.2", "1.9", "a"), ("1.2", "1.2.1", "b"), ("", "", "a")]
    assert not any(found.receive("a", content(*uids)) for uids in others) and found.n_foreign == 4
    assert not found.receive("a", b"no DICOM") and not found.receive("c", content("1.2", "1.2.1", "c"))
    assert found.receive("a", content("1.2", "1.2.1", "a")) and found.missing(["a", "b"]) == ["b"]
