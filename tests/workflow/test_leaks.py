"""Identifiers planted in every field and in names of folders and files are nowhere but in ``private/``."""

from __future__ import annotations

import os
import subprocess
import sys
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
    study.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", study, "--cores", "1",
         "intake", "--config", f"dicom={root / 'export'}"],
        cwd=ROOT, env={**os.environ, "HOME": str(study), "XDG_CACHE_HOME": str(study)}, capture_output=True, text=True,
        check=False,
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
    terminal = (study / "terminal.txt").read_text().lower()
    assert not [secret for secret in SECRETS if secret.lower() in terminal]
    told = leaks.find([study / "private"], SECRETS)
    assert {"Quokka", "4711-0815", "1.2.276.0.7.4711", "20210304"} <= {line.rpartition(": ")[2] for line in told}


@pytest.mark.parametrize("hide", ["name", "folder", "text", "gzip", "xz", "png", "parquet", "link", "base64", "utf-16"])
def test_the_search_finds_what_is_there(tmp_path: Path, hide: str) -> None:
    """A leak test that finds nothing must be one that would have."""
    import base64
    import gzip
    import lzma

    path = tmp_path / "file"
    path.write_text("nothing")
    if hide == "name":
        (tmp_path / "quokka.txt").touch()
    elif hide == "folder":
        (tmp_path / "QUOKKA").mkdir()
    elif hide == "text":
        path.write_text("a Quokka")
    elif hide == "gzip":
        path.write_bytes(gzip.compress(b"Quokka" * 100))
    elif hide == "xz":
        path.write_bytes(lzma.compress(b"Quokka" * 100))
    elif hide == "png":
        figure = plt.figure(figsize=(1, 1))
        figure.savefig(path, format="png", metadata={"Comment": "Quokka" * 200})
        plt.close(figure)
    elif hide == "parquet":
        pd.DataFrame({"a": ["x", "Quokka"] * 50}).to_parquet(path, compression="gzip")
    elif hide == "link":
        (tmp_path / "link").symlink_to("/export/Quokka/1.dcm")
    elif hide == "base64":
        folder = tmp_path / "metadata"
        folder.mkdir()
        (folder / base64.b64encode(b"results/Quokka.tsv", altchars=b"-_").decode()).touch()
    elif hide == "utf-16":
        path.write_bytes("a Quokka".encode("utf-16"))
    assert leaks.find([tmp_path], ["Quokka", "Wombat"])
    assert not leaks.find([tmp_path], ["Wombat"])
