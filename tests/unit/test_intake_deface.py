"""Faces go, the brain stays as it is, and the sidecar says so; a network of three weights finds what is bright."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from analysis import batch
from analysis.cli import main
from analysis.intake import deface
from analysis.layout import Results, sidecar_of
from synthsr import labels, scan
from synthsr.networks import UNet, UNetConfig
from synthsr.preprocess import Grid
from synthsr.weights.storage import save_network

CHANNELS = len(labels.segmentation_numbers())
SPACING_MM = (3.0, 3.0, 6.0)
SHAPE = (40, 46, 20)


def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright brain of 45 mm radius in a dim shell of 52 mm, with a dim nose; and masks of brain and nose."""
    at = (np.indices(SHAPE) - np.reshape(np.array(SHAPE) / 2, (3, 1, 1, 1))) * np.reshape(SPACING_MM, (3, 1, 1, 1))
    radius = np.sqrt((at**2).sum(axis=0))
    nose = (np.abs(at[0]) < 10) & (at[1] > 54) & (at[1] < 64) & (np.abs(at[2]) < 12)
    brain = radius < 45
    values = np.where(brain, 900.0, np.where((radius < 52) | nose, 300.0, 0.0))
    return (values + np.random.default_rng(0).normal(0, 5, SHAPE)).astype(np.float32), brain, nose


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Label 2 (white matter) where the scaled scan is over one half, background elsewhere."""
    network = UNet(UNetConfig(1, CHANNELS, 1, 1))
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    for conv in (network.down[0].conv0, network.down[0].conv1):
        conv.weight.data[0, 0, 1, 1, 1] = 1
    network.down[0].norm.weight.data.fill_((1 + 1e-3) ** 0.5)  # the running variance is 1
    white = labels.segmentation_numbers().index(2)
    network.head.bias.data.fill_(-100)
    network.head.bias.data[0], network.head.bias.data[white] = 0, -10
    network.head.weight.data[white] = 20
    path = tmp_path / "bright.safetensors"
    save_network(network, path, {"task": "segmentation"})
    return str(path)


def test_nose_goes_and_brain_stays(tmp_path: Path, weights: str) -> None:
    values, brain, nose = head()
    path = tmp_path / "export" / "sub-1" / "anat" / "sub-1_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(values, np.diag([*SPACING_MM, 1.0])), path)
    folders = ["--out", str(tmp_path / "results"), "--private", str(tmp_path / "private")]
    assert main(["inventory", str(tmp_path / "export"), "--format", "bids", *folders]) == 0
    results = Results(tmp_path / "results")
    convert = ["convert", str(results.batch("select", "0001")), *folders]
    assert main([*convert, "--deface", weights, "--device", "cpu"]) == 0
    (row,) = batch.read(results.batch("convert", "0001")).to_dict("records")
    assert row["status"] == batch.DONE, row["reason"]
    target = results.raw("sub-1_T1w")
    made = nib.load(target).get_fdata(dtype=np.float32)
    assert not target.is_symlink() and values[nose].mean() > 250
    np.testing.assert_array_equal(made[brain], values[brain])
    np.testing.assert_array_equal(made[nose], min(0, values.min()))
    facts = json.loads(sidecar_of(target).read_text())
    assert facts["Defaced"] is True and facts["DefacingWeightsName"] == "bright"
    assert len(facts["DefacingWeightsSHA256"]) == 64
    assert main(convert) == 0 and target.is_symlink(), "without the option it is made again"


def test_border_is_where_it_says() -> None:
    inside = np.zeros((90, 90, 90), dtype=bool)
    inside[10:80, 10:80, 10:80] = True
    inside[0:3, 0:3, 0:3] = True  # an island does not count
    grid = Grid(inside.shape, np.eye(4))
    kept = deface.near(inside, grid, grid)
    assert kept is not None and not kept[:2].any()
    assert kept[2 : 80 + 8, 45, 45].all() and not kept[88:, 45, 45].any()
    assert deface.near(np.zeros_like(inside), grid, grid) is None
    inside[:] = False
    inside[:60, :60, :60] = True  # 0.2 l
    assert deface.near(inside, grid, grid) is None


@pytest.mark.parametrize("missed", ["labels", "distance"])
def test_brain_that_one_head_misses_is_kept_by_the_other(missed: str) -> None:
    """As real networks fail: a half of the brain is not labelled, or said to be far outside of it."""
    values, brain, _ = head()

    class Segmenter:
        weights = SimpleNamespace(network=SimpleNamespace(config=SimpleNamespace(distance=True)))

        def half(self, image: torch.Tensor, found: str) -> torch.Tensor:
            inside = image[0, 0] > 0.5
            if missed == found:
                inside[:, : inside.shape[1] // 2] = False
            return inside

        def segment(self, image: torch.Tensor, *, flip: bool) -> tuple[torch.Tensor, None]:
            return self.half(image, "labels") * labels.segmentation_numbers().index(2), None

        def strip(self, image: torch.Tensor, *, flip: bool) -> torch.Tensor:
            return torch.where(self.half(image, "distance"), -5.0, 5.0)

    defacer = deface.Defacer.__new__(deface.Defacer)
    defacer.segmenter = Segmenter()  # type: ignore[assignment]
    made = defacer(nib.Nifti1Image(values, np.diag([*SPACING_MM, 1.0])), "scan", is_ct=False).get_fdata()
    np.testing.assert_array_equal(made[brain], values[brain])


def test_real_brain_stays_whole_and_the_face_goes(data_folder: Path) -> None:
    """Brain as an independent network finds it (the largest part of its labels, which have islands in the neck)."""
    folder = data_folder / "nifti" / "t1_targets"
    image, reference = (nib.load(folder / f"uih_{name}.nii.gz") for name in ("T1w", "desc-meshnet18_dseg"))
    values = image.get_fdata(dtype=np.float32)
    parts, _ = ndimage.label(np.asanyarray(reference.dataobj) > 0)
    brain_there = (parts == 1 + np.bincount(parts.ravel())[1:].argmax()).astype(np.float32)
    brain = scan.onto_grid(brain_there, reference.affine, Grid(values.shape, image.affine)) > 0.5
    made = deface.Defacer("segmentation", "cpu")(image, "scan", is_ct=False).get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(made[brain], values[brain])
    # Of the head below the brain's front (nose, eyes, mouth and chin) nothing remains, but for
    # specks at the tips of the temporal lobes.
    place_mm = nib.affines.apply_affine(image.affine, np.moveaxis(np.indices(values.shape), 0, -1))
    in_front = place_mm[..., 1] > place_mm[brain][:, 1].max() - 30
    below = place_mm[..., 2] < place_mm[brain & in_front][:, 2].min() - 15
    face = in_front & below & (values > 0.1 * np.percentile(values, 99))
    assert face.sum() > 200_000 and (made[face] != 0).mean() < 0.002
