"""Distances from the segmenter's head, and skull-stripped scans on their own grids."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from synthsr import cli, inference, labels
from synthsr.networks import DISTANCE_LIMIT_MM, UNet, UNetConfig, grown
from synthsr.segment import Segmenter
from synthsr.strip import brain_mask
from synthsr.weights.storage import LoadedNetwork, load_network, names_with_distance, save_network

CHANNELS = len(labels.segmentation_numbers())


def segmenter(network: UNet) -> Segmenter:
    return Segmenter(LoadedNetwork(network.eval(), {}, Path("net.safetensors"), ""), torch.device("cpu"))


def constant(distance_mm: float) -> UNet:
    """The same distance everywhere."""
    network = UNet(UNetConfig(1, CHANNELS, 1, 2, 2, distance=True))
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.constant_(network.head.bias, distance_mm / DISTANCE_LIMIT_MM)
    return network


def brightness() -> UNet:
    """Distance 10 mm · (½ − grey), for scans in [0, 1]: bright is inside."""
    network = UNet(UNetConfig(1, CHANNELS, 1, 1, distance=True))
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    for conv in (network.down[0].conv0, network.down[0].conv1):
        conv.weight.data[0, 0, 1, 1, 1] = 1
    network.down[0].norm.weight.data.fill_((1 + 1e-3) ** 0.5)  # the running variance is 1
    network.head.weight.data[-1] = -10 / DISTANCE_LIMIT_MM
    network.head.bias.data[-1] = 5 / DISTANCE_LIMIT_MM
    return network


@pytest.fixture
def bright(tmp_path: Path) -> str:
    """Weights file of :func:`brightness`."""
    path = tmp_path / "weights" / "bright.safetensors"
    save_network(brightness(), path, {"task": "segmentation"})
    return str(path)


def write(path: Path, data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def balls(shape: tuple[int, int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """A scan of a ball with a dark hole and a smaller ball beside it; and the filled ball."""
    at = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))

    def ball(centre: tuple[float, float, float], radius: float) -> npt.NDArray[np.bool_]:
        return (np.square(at - np.reshape(centre, (3, 1, 1, 1))).sum(0)) < radius**2

    whole = ball((-0.2, -0.2, 0), 0.6)
    scan = np.where(whole & ~ball((-0.2, -0.2, 0), 0.2) | ball((0.75, 0.75, 0.7), 0.2), 900, -20)
    return scan.astype(np.float32), whole


def test_brain_is_tissue_and_ventricles() -> None:
    assert set(labels.intracranial_numbers()) - set(labels.brain_numbers()) == {24}
    assert {2, 3, 4, 14, 15, 16, 43, 47} < set(labels.brain_numbers())


class TestDistance:
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("flip", [True, False])
    def test_equals_a_plain_forward_pass(self, stride: int, flip: bool) -> None:
        torch.manual_seed(2)
        network = UNet(UNetConfig(1, CHANNELS, 2, 2, stride, distance=True))
        image = torch.rand(1, 1, 32, 64, 32)
        found = segmenter(network).strip(image, flip=flip)
        with torch.no_grad():
            expected = network(image)[0, -1]
            if flip:
                expected = (expected + network(image.flip(2))[0, -1].flip(0)) / 2
        assert expected.std() > 0.02
        torch.testing.assert_close(found, expected.clamp(-DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM), rtol=1e-4, atol=1e-4)

    def test_is_far_outside_where_the_network_does_not_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inference, "FIELD_VOXELS", 16)
        network = UNet(UNetConfig(1, CHANNELS, 1, 2, 2, "instance", distance=True))
        torch.nn.init.zeros_(network.head.weight)
        torch.nn.init.constant_(network.head.bias, -2 / DISTANCE_LIMIT_MM)
        image = torch.rand(1, 1, 40, 8, 10)
        distance = segmenter(network).strip(image)
        padding = inference.placement(network, image)
        seen = F.pad(torch.full((40, 8, 10), -2.0), padding)
        expected = F.pad(seen, [-zeros for zeros in padding], value=DISTANCE_LIMIT_MM)
        assert expected[0].min() == expected[-1].min() == DISTANCE_LIMIT_MM and expected.min() == -2
        torch.testing.assert_close(distance, expected)

    def test_segmentation_is_the_same_with_and_without(self) -> None:
        torch.manual_seed(4)
        network = UNet(UNetConfig(1, CHANNELS, 2, 2, 2)).eval()
        wide = grown(network, last_features=None, distance=True)
        wide.head.weight.data[CHANNELS * 8 :] = 3
        image = torch.rand(1, 1, 32, 32, 32)
        (best, sums), (wide_best, wide_sums) = (segmenter(each).segment(image) for each in (network, wide))
        assert torch.equal(best, wide_best)
        assert torch.equal(sums, wide_sums)

    def test_segmenter_loads_both_kinds(self, tmp_path: Path) -> None:
        network = UNet(UNetConfig(1, CHANNELS, 1, 2, 2))
        for name, each in (("without", network), ("with", grown(network, last_features=None, distance=True))):
            path = tmp_path / f"{name}.safetensors"
            save_network(each, path, {"task": "segmentation"})
            assert Segmenter.load(path, "cpu").weights.network.config == each.config

    def test_names_of_weights_that_tell_it(self) -> None:
        shipped = ("segmentation", "synthsr")
        expected = [name for name in shipped if load_network(name).network.config.distance]
        assert [name for name in names_with_distance() if name in shipped] == expected


class TestMask:
    def test_border(self) -> None:
        distance = np.arange(-5, 5, dtype=np.float32).reshape(10, 1, 1) + 0.5
        for border_mm, voxels in ((-2, 3), (0, 5), (1, 6), (2.4, 7)):
            assert brain_mask(distance, border_mm).sum() == voxels

    def test_nothing_near(self) -> None:
        assert not brain_mask(np.full((3, 3, 3), 4, np.float32)).any()


class TestCommand:
    @pytest.mark.parametrize("axes", ["RAS", "LPS", "SRA", "PIL"])
    def test_largest_part_is_kept_whole(self, tmp_path: Path, bright: str, axes: str) -> None:
        """On the scan's own grid, whichever way its axes run, in its own intensities."""
        data, whole = balls((33, 31, 29))
        affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), data.shape)
        scan = write(tmp_path / "scan.nii.gz", data, affine)
        out, mask = tmp_path / "out" / "brain.nii.gz", tmp_path / "out" / "mask.nii.gz"
        arguments = ["strip", str(scan), str(out), "--mask", str(mask), "--weights", bright, "--border-mm", "0"]
        assert cli.main(arguments) == 0
        stripped, found = nib.load(out), nib.load(mask)
        for image in (stripped, found):
            np.testing.assert_allclose(image.affine, affine, atol=1e-6)
        assert np.array_equal(np.asarray(found.dataobj) == 1, whole)
        assert np.array_equal(stripped.get_fdata(), np.where(whole, data, -20))
        described = json.loads((tmp_path / "out" / "brain.json").read_text())
        assert (described["SkullStripped"], described["BorderMm"]) == (True, 0)
        assert described["Sources"] == ["scan.nii.gz"]
        assert json.loads((tmp_path / "out" / "mask.json").read_text())["Type"] == "Brain"

    def test_thick_slices(self, tmp_path: Path, bright: str) -> None:
        data, whole = balls((40, 44, 9))
        scan = write(tmp_path / "scan.nii", data, np.diag([-0.8, 1.1, 4, 1]))
        assert cli.main(["strip", str(scan), str(tmp_path / "brain.mgz"), "--weights", bright, "--border-mm", "0"]) == 0
        stripped = nib.load(tmp_path / "brain.mgz")
        assert stripped.shape == data.shape
        found = np.asarray(stripped.dataobj) != -20
        overlap = 2 * (found & whole).sum() / (found.sum() + whole.sum())
        assert overlap > 0.97
        assert set(np.unique(stripped.dataobj)) == {-20, 900}

    def test_no_brain(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        weights = tmp_path / "weights.safetensors"
        save_network(constant(3), weights, {"task": "segmentation"})
        scan = write(tmp_path / "scan.nii", balls((16, 16, 16))[0], np.eye(4))
        out = tmp_path / "out" / "brain.nii.gz"
        assert cli.main(["strip", str(scan), str(out), "--weights", str(weights)]) == 65
        assert "scan.nii: no brain found" in capsys.readouterr().err
        assert not out.parent.exists()
        assert cli.main(["strip", str(scan), str(out), "--weights", str(weights), "--border-mm", "3.5"]) == 0
        assert np.array_equal(nib.load(out).get_fdata(), nib.load(scan).get_fdata())

    def test_folder(self, tmp_path: Path, bright: str) -> None:
        for name in ("one", "two"):
            write(tmp_path / "in" / f"{name}.nii.gz", balls((16, 16, 16))[0], np.eye(4))
        arguments = ["strip", str(tmp_path / "in"), str(tmp_path / "out"), "--mask", str(tmp_path / "out")]
        assert cli.main([*arguments, "--weights", bright, "--no-flip"]) == 0
        expected = [f"{name}_{what}" for name in ("one", "two") for what in ("brain", "mask")]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
            f"{name}{suffix}" for name in expected for suffix in (".json", ".nii.gz")
        )

    def test_weights_without_the_head(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        weights = tmp_path / "plain.safetensors"
        save_network(UNet(UNetConfig(1, CHANNELS, 1, 2, 2)), weights, {"task": "segmentation"})
        scan = write(tmp_path / "scan.nii", balls((16, 16, 16))[0], np.eye(4))
        assert cli.main(["strip", str(scan), str(tmp_path / "x.nii"), "--weights", str(weights)]) == 78
        error = capsys.readouterr().err
        assert "plain.safetensors: skull-stripping needs weights with a head for the distance" in error
        assert (" or ".join(names_with_distance()) or "no registered weights") in error

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (["--border-mm", "5"], "up to 5 mm"),
            (["--border-mm", "nan"], "border of nan mm"),
            (["--mask", "x.mgz"], "is named as the output"),
            (["--mask", "scan.nii.gz"], "is named as the input"),
        ],
    )
    def test_wrong_settings(
        self, tmp_path: Path, bright: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
        extra: list[str], message: str,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "scan.nii", balls((16, 16, 16))[0], np.eye(4))
        before = sorted(tmp_path.iterdir())
        assert cli.main(["strip", "scan.nii", "x.nii", "--weights", bright, *extra]) == 78
        assert message in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before

    def test_ct_keeps_its_hounsfield_units(self, tmp_path: Path, bright: str) -> None:
        data, whole = balls((24, 24, 24))
        data = np.where(data > 0, 70, np.where(whole, 10, -1000)).astype(np.float32)
        data[0, 0, 0] = 2000
        scan = write(tmp_path / "scan.nii", data, np.eye(4))
        arguments = ["--ct", "--weights", bright, "--border-mm", "0"]
        assert cli.main(["strip", str(scan), str(tmp_path / "x.nii"), *arguments]) == 0
        assert np.array_equal(nib.load(tmp_path / "x.nii").get_fdata(), np.where(whole, data, -1000))


def test_mirrored_scan_gives_mirrored_distance() -> None:
    torch.manual_seed(5)
    network = segmenter(UNet(UNetConfig(1, CHANNELS, 2, 2, 2, distance=True)))
    image = F.interpolate(torch.rand(1, 1, 8, 8, 8), scale_factor=4)
    found = network.strip(image.flip(2)).flip(0)
    torch.testing.assert_close(found, network.strip(image), rtol=1e-4, atol=1e-4)
