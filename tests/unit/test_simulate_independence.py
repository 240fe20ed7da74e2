"""The clinic must not examine networks on what they have learnt: neither its anatomy nor its renderer is training's."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from analysis.simulate import anatomy
from synthsr import files

ROOT = Path(__file__).parents[2]
SOURCES = anatomy.DEFAULT.with_name("sources.tsv")


def sources() -> list[dict[str, str]]:
    """Every known image of the person whose head the base anatomy is, and the anatomy itself."""
    with SOURCES.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def voxels_sha256(path: Path) -> str:
    """Hash of every fourth value along each axis, whatever an image's compression and orientation."""
    data = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)[::4, ::4, ::4]
    return hashlib.sha256(np.ascontiguousarray(data, dtype="<f4").tobytes()).hexdigest()


def named(content: object) -> set[str]:
    """Images that a training configuration names, by whatever key: training, tuning, targets, real scans."""
    if isinstance(content, dict):
        return set().union(*map(named, content.keys()), *map(named, content.values()))
    if isinstance(content, list):
        return set().union(*map(named, content))
    name = Path(str(content)).name
    return {name} if name.endswith((".nii", ".nii.gz", ".mgz")) else set()


def test_base_anatomy_is_as_recorded() -> None:
    (own,) = (row for row in sources() if row["file"] == anatomy.DEFAULT.name)
    assert files.sha256(anatomy.DEFAULT) == own["sha256"]
    assert voxels_sha256(anatomy.DEFAULT) == own["voxels_sha256"]


def test_recorded_source_is_that_scan(data_folder: Path) -> None:
    for row in sources():
        for path in data_folder.rglob(row["file"]):
            assert files.sha256(path) == row["sha256"]
            assert voxels_sha256(path) == row["voxels_sha256"]
    assert any(list(data_folder.rglob(row["file"])) for row in sources()), "none of them is there: nothing was compared"


def test_no_training_names_the_base_anatomy_or_its_source(data_folder: Path) -> None:
    """By the hash of the file and by that of its voxels, over every shipped training configuration."""
    known = {row[column] for row in sources() for column in ("sha256", "voxels_sha256")}
    trained: set[str] = set()
    for configuration in (ROOT / "config").rglob("*.yaml"):
        content = yaml.safe_load(configuration.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "label_maps" in content:
            trained |= named(content)
    assert len(trained) >= 12, "label maps of training and validation"
    # What is made of a scan keeps its name's beginning: uih_T1w.nii.gz, uih_dseg.nii.gz.
    people = {row["file"].split("_")[0].split(".")[0] for row in sources()}
    assert not people & {name.split("_")[0].split(".")[0] for name in trained}
    compared = [path for path in sorted(data_folder.rglob("*")) if path.name in trained]
    assert len(compared) >= 12
    for path in compared:
        assert files.sha256(path) not in known and voxels_sha256(path) not in known, path


def test_renderer_shares_no_code_with_the_generator() -> None:
    """Whatever the clinic's modules import, the generator, networks and training are not among it."""
    modules = sorted(path.stem for path in (ROOT / "analysis" / "simulate").glob("*.py") if path.stem != "__init__")
    imports = "; ".join(f"import analysis.simulate.{module}" for module in modules)
    forbidden = "('synthsr.generator', 'synthsr.networks', 'synthsr.train', 'synthsr.preprocess', 'synthsr.resample')"
    program = f"import sys; {imports}; print([m for m in sys.modules if m.startswith({forbidden})])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
