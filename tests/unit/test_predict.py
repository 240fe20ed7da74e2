"""Networks of several scans, with a residual, with reliability maps: what `synthsr predict --also` makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from synthsr import cli, files, preprocess, resample, scan
from synthsr.networks import UNet, UNetConfig
from synthsr.weights.storage import save_network

RNG = np.random.default_rng(7)
FIRST = RNG.uniform(-3, 500, (30, 26, 9)).astype(np.float32)
#: Last axis to the left, thick slices along the first, a little oblique.
SECOND = RNG.uniform(40, 90, (8, 34, 31)).astype(np.float32)
FIRST_AFFINE = np.array([[-1.0, 0, 0, 14], [0, 1, 0, -12], [0, 0, 3, -13], [0, 0, 0, 1]])
TURN = np.deg2rad(8)
SECOND_AFFINE = np.array(
    [
        [0, np.sin(TURN) * 0.9, -np.cos(TURN) * 0.9, 13],
        [0, np.cos(TURN) * 0.9, np.sin(TURN) * 0.9, -17],
        [4, 0, 0, -14],
        [0, 0, 0, 1],
    ]
)


def write(path: Path, data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def session(tmp_path: Path) -> tuple[str, str]:
    """Two scans on different grids."""
    first = write(tmp_path / "t1.nii.gz", FIRST, FIRST_AFFINE)
    return str(first), str(write(tmp_path / "t2.nii.gz", SECOND, SECOND_AFFINE))


def weights_that_give(folder: Path, *, channel: int, in_channels: int, **information: Any) -> str:
    """Weights of a network that answers with one of its input channels."""
    network = UNet(UNetConfig(in_channels, features=1, levels=2, residual=channel))
    for parameter in network.head.parameters():
        torch.nn.init.zeros_(parameter)
    path = folder / "weights" / f"gives_{channel}_of_{in_channels}.safetensors"
    save_network(network, path, {"task": "synthsr", **information})
    return str(path)


def predict(source: str, target: Path, weights: str, *also: str) -> tuple[npt.NDArray[np.float64], nib.Nifti1Image]:
    given = [part for path in also for part in ("--also", path)]
    assert cli.main(["predict", source, str(target), "--weights", weights, *given]) == 0
    image = nib.load(target)
    return image.get_fdata(), image


def resampled_like(grid: preprocess.Grid) -> npt.NDArray[np.float64]:
    """The second scan on the first's grid, as the reference implementation resamples it."""
    index = np.stack(np.meshgrid(*(np.arange(size) for size in grid.shape), indexing="ij"), axis=-1)
    matrix = np.linalg.inv(SECOND_AFFINE) @ grid.affine
    interpolate = RegularGridInterpolator(
        [np.arange(size) for size in SECOND.shape], SECOND, bounds_error=False, fill_value=float(SECOND.min())
    )
    return interpolate(index @ matrix[:3, :3].T + matrix[:3, 3])


def test_channels_are_in_the_order_given(tmp_path: Path, session: tuple[str, str]) -> None:
    image, grid = preprocess.prepare(FIRST, FIRST_AFFINE)
    laid = resampled_like(grid)
    expected = [image[0, 0].numpy(), (laid - laid.min()) / (laid.max() - laid.min())]
    assert 0.3 < (laid > SECOND.min()).mean() < 0.95
    for channel in (0, 1):
        weights = weights_that_give(tmp_path, channel=channel, in_channels=2)
        found, out = predict(session[0], tmp_path / f"{channel}.nii.gz", weights, session[1])
        np.testing.assert_allclose(out.affine, grid.affine, atol=1e-5)
        np.testing.assert_allclose(found, (255 * expected[channel]).clip(0, 128), atol=2e-2)


def test_sidecar_names_all_scans(tmp_path: Path, session: tuple[str, str]) -> None:
    weights = weights_that_give(tmp_path, channel=0, in_channels=3)
    predict(session[0], tmp_path / "out.nii.gz", weights, session[1], session[1])
    described = json.loads((tmp_path / "out.json").read_text())
    assert described["Synthetic"] is True
    assert described["Sources"] == ["t1.nii.gz", "t2.nii.gz", "t2.nii.gz"]
    assert described["SourceSHA256"] == files.sha256(Path(session[0]))
    assert described["FurtherSourcesSHA256"] == [files.sha256(Path(session[1]))] * 2


def test_sidecar_of_one_scan(tmp_path: Path, session: tuple[str, str]) -> None:
    predict(session[0], tmp_path / "out.nii.gz", weights_that_give(tmp_path, channel=0, in_channels=1))
    assert list(json.loads((tmp_path / "out.json").read_text())) == [
        "Synthetic", "Description", "Sources", "SourceSHA256", "GeneratedBy", "WeightsName", "WeightsSHA256",
        "ComputedTomography", "FlipAveraged", "Engine",
    ]  # fmt: skip


@pytest.mark.parametrize("channel", [0, 1])
def test_answer_in_the_intensities_of_a_scan(tmp_path: Path, session: tuple[str, str], channel: int) -> None:
    weights = weights_that_give(tmp_path, channel=channel, in_channels=2, intensities_of=channel)
    found, _ = predict(session[0], tmp_path / "out.nii.gz", weights, session[1])
    resampled, affine = preprocess.resample_to_1mm(FIRST, FIRST_AFFINE)
    _, grid = preprocess.prepare(FIRST, FIRST_AFFINE)
    expected = nib.as_closest_canonical(nib.Nifti1Image(resampled, affine)).get_fdata() if channel == 0 else None
    expected = resampled_like(grid) if expected is None else expected
    np.testing.assert_allclose(found, expected, atol=1e-2)
    assert found.min() == pytest.approx(-3 if channel == 0 else 40, abs=0.5)


def test_own_intensities_are_not_negative_without_cause(tmp_path: Path) -> None:
    """As in the reference implementation, which clips at zero."""
    network = UNet(UNetConfig(1, features=1, levels=2, residual=0))
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.constant_(network.head.bias, -0.5)
    save_network(network, tmp_path / "w.safetensors", {"intensities_of": 0})
    source = write(tmp_path / "scan.nii", np.abs(FIRST), FIRST_AFFINE)
    found, _ = predict(str(source), tmp_path / "out.nii", str(tmp_path / "w.safetensors"))
    assert found.min() == 0 < found.max()


@pytest.mark.parametrize(
    ("in_channels", "also", "information", "message"),
    [
        (2, 0, {}, "take 2 scans of a session (2 input channels), given is 1"),
        (1, 1, {}, "take 1 scan of a session (1 input channels), given are 2"),
        (4, 2, {"reliability_maps": True}, "take 2 scans of a session (4 input channels), given are 3"),
    ],
)
def test_wrong_number_of_scans(
    tmp_path: Path, session: tuple[str, str], capsys: pytest.CaptureFixture[str],
    in_channels: int, also: int, information: dict[str, Any], message: str,
) -> None:  # fmt: skip
    weights = weights_that_give(tmp_path, channel=0, in_channels=in_channels, **information)
    out = tmp_path / "out" / "x.nii.gz"
    assert cli.main(["predict", session[0], str(out), "--weights", weights, *["--also", session[1]] * also]) == 78
    error = capsys.readouterr().err
    assert message in error and weights in error
    assert not out.parent.exists()


def test_scan_of_another_place(tmp_path: Path, session: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    far = SECOND_AFFINE.copy()
    far[2, 3] += 200
    second = write(tmp_path / "far.nii", SECOND, far)
    weights = weights_that_give(tmp_path, channel=0, in_channels=2)
    given = ["predict", session[0], str(tmp_path / "x.nii.gz"), "--weights", weights, "--also", str(second)]
    assert cli.main(given) == 65
    assert "far.nii: nothing of it lies in the field of view of" in capsys.readouterr().err


class TestFolders:
    @pytest.fixture
    def given(self, tmp_path: Path) -> list[str]:
        """Arguments for two sessions, a folder per contrast, alike in names."""
        for name in ("a", "b"):
            write(tmp_path / "t1" / f"{name}.nii.gz", FIRST, FIRST_AFFINE)
            write(tmp_path / "t2" / f"{name}.nii", SECOND if name == "a" else SECOND[:, ::-1], SECOND_AFFINE)
        weights = weights_that_give(tmp_path, channel=1, in_channels=2)
        return ["predict", str(tmp_path / "t1"), str(tmp_path / "out"), "--weights", weights, "--also"]

    def test_scans_are_matched_by_name(self, tmp_path: Path, given: list[str]) -> None:
        assert cli.main([*given, str(tmp_path / "t2")]) == 0
        sources = [json.loads((tmp_path / "out" / f"{name}_synthsr.json").read_text())["Sources"] for name in "ab"]
        assert sources == [["a.nii.gz", "a.nii"], ["b.nii.gz", "b.nii"]]
        a, b = (nib.load(tmp_path / "out" / f"{name}_synthsr.nii.gz").get_fdata() for name in "ab")
        assert not np.array_equal(a, b)

    def test_missing_partner_is_named(
        self, tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "t2" / "b.nii").unlink()
        assert cli.main([*given, str(tmp_path / "t2")]) == 65
        assert "t2: lacks b.nii.gz" in capsys.readouterr().err

    def test_file_beside_a_folder(self, tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main([*given, str(tmp_path / "t2" / "a.nii")]) == 78
        assert "a.nii: is no folder" in capsys.readouterr().err

    def test_folder_beside_a_file(self, tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        given[1:3] = [str(tmp_path / "t1" / "a.nii.gz"), str(tmp_path / "x.nii.gz")]
        assert cli.main([*given, str(tmp_path / "t2")]) == 78
        assert "t2: is a folder" in capsys.readouterr().err


class TestReliability:
    @pytest.mark.parametrize("spacing_mm", [3.0, 2.5, 1.4, 1.0, 0.7])
    def test_is_that_of_the_generator(self, spacing_mm: float) -> None:
        """Along an axis of a scan whose slices lie as the generator's do."""
        shape = (12, 12, 9)
        affine = np.diag([1, 1, spacing_mm, 1.0])
        _, grid = preprocess.prepare(RNG.uniform(size=shape).astype(np.float32), affine)
        found = scan.reliability(shape, affine, grid)
        start = float(grid.affine[2, 3])
        place = (np.arange(grid.shape[2]) + start) / spacing_mm
        slices = (np.arange(shape[2]) * spacing_mm - start).clip(0, grid.shape[2] - 1)
        expected = resample.interpolation(slices, grid.shape[2]).sum(0).clip(max=1) if spacing_mm > 1 else 1
        inside = (place > 0) & (place < shape[2] - 1)
        np.testing.assert_allclose(found[:, :, inside], np.broadcast_to(expected, found.shape)[:, :, inside], atol=1e-4)
        assert found.min() >= 0 and found.max() <= 1

    def test_is_zero_outside_the_scan(self) -> None:
        grid = preprocess.Grid((30, 30, 30), np.diag([1, 1, 1, 1.0]))
        affine = np.array([[1, 0, 0, 10], [0, 1, 0, 0], [0, 0, 5, 10], [0, 0, 0, 1.0]])
        found = scan.reliability((10, 40, 3), affine, grid)
        expected = np.zeros((30, 30, 30))
        expected[10:20, :, 10:21:5] = 1
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_maps_follow_behind_the_scans(self, tmp_path: Path, session: tuple[str, str]) -> None:
        image, grid = preprocess.prepare(FIRST, FIRST_AFFINE)
        expected = [
            image[0, 0].numpy(),
            scan.reliability(FIRST.shape, FIRST_AFFINE, grid),
            scan.reliability(SECOND.shape, SECOND_AFFINE, grid),
        ]
        for position, channel in enumerate((0, 2, 3)):
            weights = weights_that_give(tmp_path, channel=channel, in_channels=4, reliability_maps=True)
            found, _ = predict(session[0], tmp_path / f"{channel}.nii.gz", weights, session[1])
            np.testing.assert_allclose(found, (255 * expected[position]).clip(0, 128), atol=2e-2)
