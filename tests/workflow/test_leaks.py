"""Identifiers planted in every field and in names of folders and files are nowhere but in ``private/``."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import lzma
import os
import sqlite3
import subprocess
import sys
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import dicom_maker as maker
import leaks
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from pydicom import dcmread
from pydicom.datadict import DicomDictionary

from analysis import batch, tsv
from analysis.layout import Results

ROOT = Path(__file__).parents[2]

SECRETS = ("Quokka", "Erika", "4711-0815", "19431207", "20210304", "1.2.276.0.7.4711", "Wombat", "alert(1)")
#: Elements that decide what a series is.
LEFT_ALONE = {"SpecificCharacterSet", "Modality", "ImageType", "PhotometricInterpretation", "ScanningSequence"}
LEFT_ALONE |= {"PatientSex", "BurnedInAnnotation", "ConversionType", "SequenceVariant", "AngioFlag", "PatientAge"}
GROUPS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)
TEXTS = {"LO": "4711-0815", "SH": "4711-0815", "LT": "Erika Quokka", "ST": "Erika Quokka", "UT": "Erika Quokka"}
TEXTS |= {"PN": "Quokka^Erika", "CS": "QUOKKA", "AE": "QUOKKA", "UC": "Erika Quokka", "DA": "19431207"}


def plant(path: Path) -> None:
    image = dcmread(path)
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in TEXTS and keyword and keyword not in LEFT_ALONE and tag >> 16 in GROUPS:
            setattr(image, keyword, TEXTS[vr])
    image.StudyDate = "20210304"
    image.PatientComments = image.ImageComments = "Wombat"
    image.SeriesDescription = "<script>alert(1)</script> Quokka"
    image.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"Quokka Wombat")
    image.save_as(path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("leaks")
    folder = root / "export" / "Quokka^Erika" / "19431207 4711-0815"
    uids = {"study": "1.2.276.0.7.4711", "patient": "4711-0815"}
    paths = [*maker.write_series(folder, maker.T1, **uids), *maker.write_series(folder, maker.T2, series="2", **uids)]
    paths += maker.write_series(folder, maker.T1, series="3", places=maker.positions(4, 6.0), **uids)
    for path in paths:
        plant(path)
        path.rename(path.with_name(f"Quokka {path.name}"))
    cut = next(folder.glob("Quokka *.3.*"))
    cut.write_bytes(cut.read_bytes()[:-100])
    (folder / "Quokka.dcm").write_text("Erika Quokka\n" * 50)
    study = root / "study"
    (study / "tmp").mkdir(parents=True)
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", study, "--cores", "1",
         "intake", "--config", f"dicom={root / 'export'}"],
        cwd=ROOT, env={**os.environ, "HOME": str(study), "XDG_CACHE_HOME": str(study), "TMPDIR": str(study / "tmp")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (study / "terminal.txt").write_text(result.stdout + result.stderr)
    return study


def test_nothing_but_the_private_folder_names_anybody(study: Path) -> None:
    converted = batch.read(Results(study / "results").batch("convert", "0001"))
    assert list(converted.status) == [batch.DONE] * 2
    assert len(tsv.read(Results(study / "results").series)) == 4
    places = [study / name for name in ("results", "logs", "benchmarks", ".snakemake")]
    assert all(place.is_dir() for place in places)
    assert leaks.find(places, SECRETS) == []
    assert not [path for path in (study / "tmp").rglob("*") if path.is_file()], "no temporary file is left"
    terminal = (study / "terminal.txt").read_text().lower()
    assert not [secret for secret in SECRETS if secret.lower() in terminal]
    told = leaks.find([study / "private"], SECRETS)
    assert {"Quokka", "4711-0815", "1.2.276.0.7.4711", "20210304"} <= {line.rpartition(": ")[2] for line in told}


def _png(secret: str) -> bytes:
    figure, stream = plt.figure(figsize=(1, 1)), io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Comment": secret * 200})
    plt.close(figure)
    return stream.getvalue()


def _zip(secret: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("inside.gz", gzip.compress(secret.encode() * 100))
    return stream.getvalue()


def _sqlite(secret: str) -> bytes:
    tables = sqlite3.connect(":memory:")
    tables.execute("CREATE TABLE a (b BLOB)")
    tables.execute("INSERT INTO a VALUES (?)", (gzip.compress(secret.encode() * 100),))
    tables.commit()
    return tables.serialize()


def _parquet(secret: str) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"a": ["x", secret] * 50}).to_parquet(stream, compression="gzip")
    return stream.getvalue()


def _pdf(secret: str) -> bytes:
    figure, stream = plt.figure(figsize=(1, 1)), io.BytesIO()
    figure.savefig(stream, format="pdf", metadata={"Title": secret})
    plt.close(figure)
    packed = zlib.compress(f"({secret}) Tj".encode())
    return stream.getvalue().replace(secret.encode(), b"") + b"stream\n" + packed + b"endstream"


HIDDEN: dict[str, Callable[[str], bytes]] = {
    "text": lambda secret: f"a {secret.upper()}".encode(),
    "gzip": lambda secret: gzip.compress(secret.encode() * 100),
    "gzip's name": lambda secret: b"\x1f\x8b\x08\x08" + bytes(6) + secret.encode() + b"\0\x03\0" + bytes(8),
    "xz": lambda secret: lzma.compress(secret.encode() * 100),
    "zip": _zip,
    "png": _png,
    "parquet": _parquet,
    "sqlite": _sqlite,
    "pdf": _pdf,
    "utf-16": lambda secret: f"a {secret}".encode("utf-16"),
    "utf-16 within voxels": lambda secret: bytes(999) + secret.encode("utf-16-be") + bytes(999),
    "json": lambda secret: json.dumps([f"a {secret}"]).encode(),
    "page": lambda secret: f"<p>{html.escape(secret)}</p>".encode(),
    "address": lambda secret: urllib.parse.quote(f"/a/{secret}").encode(),
    "base64": lambda secret: base64.b64encode(f"12{secret}".encode()),
    "picture of a page": lambda secret: b'<img src="data:image/png;base64,' + base64.b64encode(_png(secret)) + b'">',
}


@pytest.mark.parametrize("secret", ["Quokka", "Zoë <Quokka>"])
@pytest.mark.parametrize("hide", HIDDEN)
def test_the_search_finds_what_is_there(tmp_path: Path, hide: str, secret: str) -> None:
    """A leak test that finds nothing must be one that would have."""
    (tmp_path / "file").write_bytes(HIDDEN[hide](secret))
    assert leaks.find([tmp_path], [secret]) == [f"file: {secret}"]
    assert not leaks.find([tmp_path], ["Wombat"])


def test_the_search_finds_names_links_and_dates(tmp_path: Path) -> None:
    (tmp_path / "QUOKKA").mkdir()
    (tmp_path / "wombat.txt").touch()
    (tmp_path / "link").symlink_to("/export/Numbat/1.dcm")
    name = base64.b64encode(b"results/Bilby.tsv", altchars=b"-_").decode()
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / name).touch()
    (tmp_path / "dates").write_text("born 07.12.1943, MRN 47110815")
    wanted = ["Quokka", "Wombat", "Numbat", "Bilby", "19431207", "4711-0815"]
    assert {line.rpartition(": ")[2] for line in leaks.find([tmp_path], [*wanted, "Dingo"])} == set(wanted)
