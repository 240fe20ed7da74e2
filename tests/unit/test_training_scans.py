"""Real scans at validation: references of other grids and other numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from training_maker import head, make_training, save

from synthsr import train
from synthsr.errors import DataError
from synthsr.train import scans

CPU = torch.device("cpu")
NAMES = "index\tname\n0\tUnknown\n5\tHippocampus\n6\tLeft-Cerebral-White-Matter\n7\tRight-Cerebral-White-Matter\n"


@pytest.fixture
def entry(tmp_path: Path) -> train.ValidationScan:
    """A scan of the head of nested boxes, and its reference on a coarser, turned grid, in numbers of its own."""
    numbers = head()
    t1 = np.where(numbers == 511, 50, np.where(numbers > 0, 100 + numbers % 40, 0)).astype(np.float32)
    theirs = np.select([np.isin(numbers, (17, 53)), numbers == 2, numbers == 41], [5, 6, 7], 0).astype(np.int16)
    # Every second voxel, left to right mirrored and axes permuted, as another program may write it.
    coarse = theirs[::2, ::2, ::2][::-1].transpose(2, 0, 1)
    affine = np.zeros((4, 4))
    affine[0, 1], affine[1, 2], affine[2, 0], affine[3, 3] = -2, 2, 2, 1
    affine[0, 3] = 22
    nib.save(nib.Nifti1Image(np.ascontiguousarray(coarse), affine), tmp_path / "dseg.nii.gz")
    (tmp_path / "names.tsv").write_text(NAMES)
    return train.ValidationScan(save(t1, tmp_path / "t1.nii.gz"), tmp_path / "dseg.nii.gz", tmp_path / "names.tsv")


def test_reference_comes_onto_the_scans_grid(entry: train.ValidationScan) -> None:
    scan = scans.read(entry)
    assert scan.reference is not None
    assert scan.reference.shape == tuple(scan.image.shape[2:])
    expected = np.select([np.isin(head(), (17, 53)), head() == 2, head() == 41], [5, 6, 7], 0)
    np.testing.assert_array_equal(scan.reference[::2, ::2, ::2], expected[::2, ::2, ::2])
    assert scan.structures == {(17, 53): [5], (2,): [6], (41,): [7]}


def test_dice_of_known_answers(entry: train.ValidationScan) -> None:
    """A name without a side stands for both; what the reference does not tell is not asked."""
    scan = scans.read(entry)
    assert scan.reference is not None
    answer = np.select([scan.reference == number for number in (5, 6, 7)], [17, 2, 41], 10)
    assert scan.dice(answer) == 1.0
    answer[scan.reference == 5] = np.where(np.arange((scan.reference == 5).sum()) % 2, 53, 17)
    assert scan.dice(answer) == 1.0
    answer[scan.reference == 7] = 0
    assert scan.dice(answer) == pytest.approx(2 / 3)
    half = np.zeros_like(answer)
    left = np.flatnonzero(scan.reference == 6)
    half.flat[left[: len(left) // 2]] = 2
    assert scan.dice(half) == pytest.approx(2 / 3 / 3, rel=0.01)


def test_reference_of_nothing_that_is_known(entry: train.ValidationScan, tmp_path: Path) -> None:
    far = nib.load(tmp_path / "dseg.nii.gz")
    moved = far.affine.copy()
    moved[:3, 3] += 300
    nib.save(nib.Nifti1Image(np.asarray(far.dataobj), moved), tmp_path / "far.nii.gz")
    with pytest.raises(DataError, match=r"far.nii.gz: on the grid of .*t1.nii.gz none of its numbers"):
        scans.read(replace(entry, labels=tmp_path / "far.nii.gz"))


def test_every_validation_looks_at_the_scans(entry: train.ValidationScan, tmp_path: Path) -> None:
    """One with and one without a reference; the one without counts in no mean."""
    config = train.read_config(make_training(tmp_path))
    stage = replace(config.segmentation.stages[0], steps=1)
    # Batch norm sees the scan as it is, instance norm a large cube about it.
    plan = replace(config.segmentation, norm="batch", stages=(stage,))
    both = (entry, train.ValidationScan(entry.scan))
    run = replace(config, segmentation=plan, synthsr=plan, validation_scans=both)
    train.train(replace(run, validate_every=100), device=CPU)
    for name in train.NETWORKS:
        trainer = train.Trainer(run, name, CPU)
        made = trainer.validate(trainer._generators(stage)[1], stage)
        assert set(made.pictures) == {"label_map", "scan-1", "scan-2"}
        assert made.pictures["scan-1"].shape == (72, 48, 3)
        assert 0 <= made.scores["real_dice"] <= 1
        alone = trainer.validation_scans[0]
        trainer.validation_scans = [alone]
        assert trainer.validate(trainer._generators(stage)[1], stage).scores == made.scores
