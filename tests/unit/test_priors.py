"""Intensity priors: known answers, and the way there and back through files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synthsr import cli
from synthsr.errors import DataError
from synthsr.generator import Generator, priors, read_config
from synthsr.generator.priors import Prior


def phantom(rng: np.random.Generator, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """White matter at 100 ± 8, cortex at 60 ± 5, left and right."""
    number = np.zeros((20, 20, 20), np.int16)
    number[2:8, 2:18, 2:18], number[12:18, 2:18, 2:18] = 2, 41
    number[2:8, 2:18, 2:8], number[12:18, 2:18, 2:8] = 3, 42
    mean, sd = np.zeros(50), np.ones(50)
    mean[[2, 41]], sd[[2, 41]] = 100 + offset, 8
    mean[[3, 42]], sd[[3, 42]] = 60 + offset, 5
    return (mean[number] + sd[number] * rng.standard_normal(number.shape)).astype(np.float32), number


def test_median_and_robust_deviation() -> None:
    grey, number = phantom(np.random.default_rng(1))
    grey[2, 2, 2:] = 1e6  # a few voxels of bright artefact
    figures = priors.label_figures(grey, number, (1, 1, 1))
    assert figures[2] == (pytest.approx(100, abs=1), pytest.approx(8, rel=0.1))
    assert figures[3] == (pytest.approx(60, abs=1), pytest.approx(5, rel=0.1))


def test_thick_slices_raise_the_variance() -> None:
    """By the ratio of the voxel sizes' sums, which the later blur takes back."""
    grey, number = phantom(np.random.default_rng(1))
    thin, thick = (priors.label_figures(grey, number, spacing)[2][1] for spacing in ((1, 1, 1), (1, 1, 7)))
    assert thick / thin == pytest.approx(np.sqrt(3))


def test_spread_over_scans_is_multiplied_by_five() -> None:
    scans = [{2: (mean, 8.0)} for mean in (98.0, 100.0, 102.0)]
    found = priors.estimate(scans)
    assert found[2] == found[41] == Prior(100.0, 10.0, 8.0, 0.0)


def test_negative_deviations_are_never_drawn() -> None:
    rng = np.random.default_rng(1)
    drawn = np.array([Prior(50, 3, 1, 4).sample(rng) for _ in range(2000)])
    assert drawn[:, 1].min() >= 0
    assert drawn[:, 0].mean() == pytest.approx(50, abs=0.3)


def test_command_and_generator(tmp_path: Path) -> None:
    """Label maps may lie on their own grid; the generator then draws what the protocol looks like."""
    rng = np.random.default_rng(2)
    for position in range(4):
        grey, number = phantom(rng, offset=position)
        for folder, data in (("scans", grey), ("labels", number)):
            (tmp_path / folder).mkdir(exist_ok=True)
            if folder == "labels":
                data = np.pad(data, 3)
            affine = np.eye(4)
            affine[:3, 3] = -3 if folder == "labels" else 0
            suffix = "_dseg" if folder == "labels" else ""
            nib.save(nib.Nifti1Image(data, affine), tmp_path / folder / f"scan{position}{suffix}.nii.gz")
    out = tmp_path / "priors.tsv"
    assert cli.main(["priors", str(tmp_path / "scans"), str(tmp_path / "labels"), str(out)]) == 0
    table = priors.read_priors(out)
    assert set(table) == {2, 3, 41, 42}
    assert table[2].mean_grey == pytest.approx(101.5, abs=0.5)
    assert table[2].mean_spread == pytest.approx(5 * np.std(range(4), ddof=1), rel=0.2)
    generator = Generator(read_config({"change": {"mixture": {"priors": [str(out)]}}}))
    params = [generator.sample(rng).steps[0] for _ in range(500)]
    white = np.array([p["mean_grey"][0, 1] for p in params])
    assert white.mean() == pytest.approx(101.5, abs=1.5)
    assert white.std() == pytest.approx(table[2].mean_spread, rel=0.15)


def test_scan_without_label_map_is_named(tmp_path: Path) -> None:
    for folder, name in (("scans", "one"), ("labels", "two")):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    with pytest.raises(DataError, match=r"one\.nii\.gz: no label map of that name"):
        priors.estimate_from_files(tmp_path / "scans", tmp_path / "labels")


def test_other_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.tsv").write_text("label\tmean\n2\t3\n")
    with pytest.raises(DataError, match=r"other\.tsv: not a table of priors"):
        priors.read_priors(tmp_path / "other.tsv")
