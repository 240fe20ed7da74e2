"""Whole-head label maps: the brain stays, sides and fluid are completed, the rest is told apart by intensity."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from miniature_head import numbers
from torch import Tensor

from synthsr import cli, heads, labels
from synthsr.errors import DataError
from synthsr.networks import UNet, UNetConfig
from synthsr.segment import Segmenter
from synthsr.weights.storage import load_network, save_network

#: Deep structures, which nothing redraws.
DEEP = (4, 43, 17, 53, 10, 49)
MERGED = {2: 1, 41: 1, 3: 2, 42: 2, 4: 3, 43: 3, 17: 14, 53: 14, 10: 7, 49: 7}
NAMES = "index\tname\n0\tUnknown\n1\tCerebral-White-Matter\n2\tCerebral-Cortex\n3\tLateral-Ventricle\n7\tThalamus\n"


class Knowing(Segmenter):
    """Finds the brain of the miniature head, as a network that has learnt only this would."""

    def segment(self, image: Tensor, *, flip: bool = True) -> tuple[Tensor, Tensor]:
        inside = np.where(numbers() < 500, numbers(), 0)
        channel = np.searchsorted(labels.segmentation_numbers(), inside)
        return torch.from_numpy(channel), torch.zeros(len(labels.segmentation_numbers()))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    path = tmp_path_factory.mktemp("weights") / "segmentation.safetensors"
    save_network(UNet(UNetConfig(1, len(labels.segmentation_numbers()), 2, 2, 2)), path, {"task": "segmentation"})
    return Knowing(load_network(path), torch.device("cpu"))


@pytest.fixture
def t1(tmp_path: Path) -> Path:
    truth = numbers()
    white = np.isin(truth, labels.WHITE_MATTER)
    fluid = np.isin(truth, (labels.FLUID, 4, 43))
    grey = np.select([truth == 511, truth == 515, white, fluid, truth > 0], [120.0, 8.0, 100.0, 20.0, 60.0])
    return write(tmp_path / "t1.nii.gz", grey.astype(np.float32))


def write(path: Path, data: npt.NDArray[np.generic], affine: npt.NDArray[np.float64] | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def read(path: Path) -> npt.NDArray[np.int64]:
    return np.asarray(nib.load(path).dataobj).astype(np.int64)


def given_elsewhere(folder: Path, shift_mm: float = 0.0) -> tuple[Path, Path]:
    """The brain with merged sides and without fluid, on a larger left-anterior-superior grid; and its names."""
    truth = numbers()
    merged = np.vectorize(lambda number: MERGED.get(number, 0))(truth).astype(np.uint8)
    padded = np.pad(merged, ((5, 3), (2, 9), (4, 4)))[::-1].copy()
    affine = np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = [truth.shape[0] - 1 + 3 + shift_mm, -2, -4]
    names = folder / "names.tsv"
    names.write_text(NAMES + "14\tHippocampus\n")
    return write(folder / "brain.nii.gz", padded, affine), names


def test_brain_of_the_segmenter(tmp_path: Path, t1: Path, segmenter: Segmenter) -> None:
    heads.label_head(t1, tmp_path / "head.nii.gz", segmenter=segmenter)
    found, truth = read(tmp_path / "head.nii.gz"), numbers()
    redrawn = np.isin(truth, (*labels.WHITE_MATTER, *labels.CORTEX, labels.FLUID))
    assert (found == truth)[np.isin(truth, DEEP)].all()
    assert (found == truth)[redrawn].mean() > 0.9
    assert (found[truth == 515] == 515).mean() > 0.6
    assert (found[truth == 511] == 511).mean() > 0.9
    assert (tmp_path / "head.json").is_file()


def test_folds_are_drawn_by_intensity() -> None:
    """A segmentation without folds, under a scan that shows them: white matter is found in the cortex it covers."""
    truth = numbers()
    gyrus = np.isin(truth, labels.CORTEX) & (np.indices(truth.shape)[2] > 40)
    truth[gyrus] -= 1
    grey = np.select([np.isin(truth, (2, 41)), np.isin(truth, (3, 42)), truth == labels.FLUID], [100.0, 60.0, 20.0])
    rough = np.where(numbers() < 500, numbers(), 0).astype(np.uint16)
    found = heads.fold_cerebrum(grey.astype(np.float32), rough)
    assert (found == truth)[gyrus].mean() > 0.9
    assert (rough == truth)[gyrus].sum() == 0


def test_given_brain_gets_sides_and_fluid(tmp_path: Path, t1: Path, segmenter: Segmenter) -> None:
    brain, names = given_elsewhere(tmp_path)
    heads.label_head(t1, tmp_path / "head.nii.gz", segmenter=segmenter, brain=brain, names=names)
    found, truth = read(tmp_path / "head.nii.gz"), numbers()
    inside = (truth > 0) & (truth < 500)
    np.testing.assert_array_equal(found[inside], truth[inside])
    assert (found[truth == 511] == 511).mean() > 0.9


def test_nearest_side_decides() -> None:
    """Given structures reach beyond those of the other segmentation; midline structures tell no side."""
    own = np.array([0, 2, 2, 16, 41, 0, 0, 24], dtype=np.uint16)
    left = np.array([17, 17, 0, 16, 17, 17, 0, 0], dtype=np.uint16)
    right = np.where(left == 17, 53, left).astype(np.uint16)
    found = heads.complete(np.stack([left, right])[..., None, None], own[:, None, None])
    np.testing.assert_array_equal(found.ravel(), [17, 17, 24, 16, 53, 53, 0, 24])


@pytest.mark.parametrize(
    ("table", "shift_mm", "message"),
    [
        (NAMES, 0.0, r"brain\.nii\.gz: labels \[14\] have no name"),
        (NAMES + "14\tHippocampus\n", 300.0, r"brain\.nii\.gz: on the grid of .*t1\.nii\.gz it has no cerebral white"),
    ],
    ids=["nameless", "elsewhere"],
)
def test_given_brains_that_do_not_fit(
    tmp_path: Path, t1: Path, segmenter: Segmenter, table: str, shift_mm: float, message: str
) -> None:
    brain, names = given_elsewhere(tmp_path, shift_mm)
    names.write_text(table)
    with pytest.raises(DataError, match=message):
        heads.label_head(t1, tmp_path / "head.nii.gz", segmenter=segmenter, brain=brain, names=names)
    assert not (tmp_path / "head.nii.gz").exists() and not (tmp_path / "head.json").exists()


def test_command_names_what_is_wrong(tmp_path: Path, t1: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, message in (
        ([str(t1), str(tmp_path / "o.nii.gz"), "--names", "names.tsv"], 78, "--names: is the look-up table of --brain"),
        ([str(tmp_path), str(tmp_path / "o.nii.gz")], 78, "is a folder; give one T1 scan"),
        ([str(t1), str(tmp_path / "o.txt")], 78, "name the output"),
        ([str(tmp_path / "none.nii.gz"), str(tmp_path / "o.nii.gz")], 65, "no such file"),
    ):
        assert cli.main(["head", *arguments]) == code
        assert message in capsys.readouterr().err
