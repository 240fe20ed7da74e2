"""The `synthsr` command on small files: outputs, sidecars, and what it says of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from synthsr import cli, labels
from synthsr.networks import UNet, UNetConfig
from synthsr.weights.storage import save_network


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, str]:
    """Tiny networks with random weights."""
    torch.manual_seed(0)
    paths = {}
    for name, channels in (("synthsr", 1), ("segmentation", len(labels.segmentation_numbers()))):
        path = tmp_path / f"{name}.safetensors"
        save_network(UNet(UNetConfig(1, channels, 2, 2, 2)), path, {"task": name})
        paths[name] = str(path)
    return paths


def write_scan(path: Path, data: np.ndarray, spacing_mm: tuple[float, float, float] = (1, 1, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([-spacing_mm[0], spacing_mm[1], spacing_mm[2], 1])), path)
    return path


def noise(shape: tuple[int, ...] = (30, 28, 7)) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 100, shape).astype(np.float32)


def test_predict_gives_1mm_ras_with_sidecar(tmp_path: Path, weights: dict[str, str]) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", noise())
    out = tmp_path / "out" / "t1.nii.gz"
    assert cli.main(["predict", str(scan), str(out), "--weights", weights["synthsr"], "--device", "cpu"]) == 0
    image = nib.load(out)
    assert image.shape == (30, 28, 28)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), 1)
    data = image.get_fdata()
    assert 0 <= data.min() <= data.max() <= 128
    described = json.loads((tmp_path / "out" / "t1.json").read_text())
    assert described["Synthetic"] is True
    assert described["FlipAveraged"] is True
    again = tmp_path / "again.nii.gz"
    cli.main(["predict", str(scan), str(again), "--weights", weights["synthsr"], "--device", "cpu"])
    assert again.read_bytes() == out.read_bytes()


def test_mirrored_scan_gives_mirrored_answer(tmp_path: Path, weights: dict[str, str]) -> None:
    data = noise((32, 32, 8))
    for name, volume in (("a", data), ("b", data[::-1])):
        scan = write_scan(tmp_path / f"{name}.nii", volume)
        cli.main(["segment", str(scan), str(tmp_path / f"{name}_dseg.mgz"), "--weights", weights["segmentation"]])
    a, b = (np.asarray(nib.load(tmp_path / f"{name}_dseg.mgz").dataobj) for name in "ab")
    mirror = np.vectorize(labels.mirror_number)
    assert (mirror(a[::-1]) == b).mean() > 0.999


def test_segment_folder_names_and_volumes(tmp_path: Path, weights: dict[str, str]) -> None:
    for name in ("one", "two"):
        write_scan(tmp_path / "in" / f"{name}.nii.gz", noise())
    volumes = tmp_path / "volumes.tsv"
    arguments = ["segment", str(tmp_path / "in"), str(tmp_path / "out"), "--volumes", str(volumes)]
    assert cli.main([*arguments, "--weights", weights["segmentation"], "--no-flip"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["one_dseg.nii.gz", "two_dseg.nii.gz"]
    rows = [line.split("\t") for line in volumes.read_text().splitlines()]
    assert rows[0] == ["image", "structure", "label", "volume_mm3"]
    one = {row[1]: float(row[3]) for row in rows if row[0] == "one.nii.gz"}
    inside = [labels.by_number()[number].name for number in labels.intracranial_numbers()]
    assert one["ICV"] == pytest.approx(sum(one[name] for name in inside), rel=1e-5)
    assert set(np.unique(nib.load(tmp_path / "out" / "one_dseg.nii.gz").get_fdata())) <= set(
        labels.segmentation_numbers()
    )


def rot(path: Path) -> None:
    """Flip some bits in the middle of a compressed file."""
    content = bytearray(path.read_bytes())
    for position in range(len(content) // 2, len(content) // 2 + 40):
        content[position] ^= 0xFF
    path.write_bytes(content)


def write_tilted(path: Path, degrees: float) -> None:
    """A scan whose slices are sheared against each other, as of a CT with tilted gantry."""
    affine = np.eye(4)
    affine[1:3, 2] = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(noise((30, 28, 30)), affine), path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: write_scan(path, np.full((8, 8, 8), np.nan, np.float32)), "512 voxels are NaN"),
        (lambda path: write_scan(path, np.full((8, 8, 8), 3, np.float32)), "every voxel is 3"),
        (lambda path: write_scan(path, noise((8, 8, 8, 5))), "has 4 dimensions"),
        (lambda path: path.write_text("not an image"), "cannot be read"),
        (lambda path: rot(write_scan(path, noise())), "cannot be read"),
        (lambda path: write_scan(path, noise(), (1000, 1, 1)), "no field of view of a head"),
        (lambda path: write_tilted(path, 20), "70° apart instead of 90°"),
        (lambda path: None, "no such file"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "segment"])
def test_bad_scan_is_named_and_leaves_nothing(
    tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str], command: str, make, message: str
) -> None:
    scan = tmp_path / "bad.nii.gz"
    make(scan)
    out = tmp_path / "out"
    name = "synthsr" if command == "predict" else "segmentation"
    assert cli.main([command, str(scan), str(out / "x.nii.gz"), "--weights", weights[name]]) == 65
    error = capsys.readouterr().err
    assert "bad.nii.gz" in error
    assert message in error
    assert not out.exists()


def test_a_truncated_scan_is_named(tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    scan = write_scan(tmp_path / "cut.nii.gz", noise())
    scan.write_bytes(scan.read_bytes()[:5000])
    assert cli.main(["predict", str(scan), str(tmp_path / "x.nii.gz"), "--weights", weights["synthsr"]]) == 65
    assert "cut.nii.gz: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["scan.nii.gz", "scan.mgz", "../here/scan.nii"])
def test_input_is_never_overwritten(tmp_path: Path, weights: dict[str, str], output: str) -> None:
    """Nor its sidecar, which an output of the same stem would replace."""
    scan = write_scan(tmp_path / "here" / "scan.nii.gz", noise())
    before = scan.read_bytes()
    assert cli.main(["predict", str(scan), str(tmp_path / "here" / output), "--weights", weights["synthsr"]]) == 78
    assert scan.read_bytes() == before
    assert [path.name for path in scan.parent.iterdir()] == ["scan.nii.gz"]


def test_one_bad_scan_does_not_stop_a_folder(
    tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "in" / "a_bad.nii", np.zeros((8, 8, 8), np.float32))
    write_scan(tmp_path / "in" / "b_good.nii", noise())
    assert cli.main(["predict", str(tmp_path / "in"), str(tmp_path / "out"), "--weights", weights["synthsr"]]) == 65
    assert (tmp_path / "out" / "b_good_synthsr.nii.gz").is_file()
    assert "1 of 2 scans left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--weights", "nothing"], "nothing"), (["--device", "warp"], "warp"), (["--threads", "0"], "threads")],
)
def test_wrong_settings_are_named(
    tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", noise())
    given = ["predict", str(scan), str(tmp_path / "x.nii.gz"), "--weights", weights["synthsr"], *extra]
    assert cli.main(given) == 78
    assert message in capsys.readouterr().err


def test_wrong_weights_for_the_task(
    tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", noise())
    assert cli.main(["predict", str(scan), str(tmp_path / "x.nii.gz"), "--weights", weights["segmentation"]]) == 65
    assert "33 output channels" in capsys.readouterr().err


def test_ct_is_clipped_to_its_window(tmp_path: Path, weights: dict[str, str]) -> None:
    inside = noise()
    outside = np.where(inside < 5, -1000, np.where(inside > 90, 3000, inside)).astype(np.float32)
    written = []
    for name, data in (("a", np.clip(inside, 0, 80)), ("b", np.clip(outside, 0, 80)), ("c", outside)):
        scan = write_scan(tmp_path / f"{name}.nii", data)
        out = tmp_path / f"{name}_out.nii"
        cli.main(["predict", str(scan), str(out), "--ct", "--weights", weights["synthsr"]])
        written.append(nib.load(out).get_fdata())
    np.testing.assert_array_equal(written[1], written[2])


@pytest.mark.parametrize("module", ["synthsr", "analysis"])
def test_help_imports_nothing_heavy(module: str) -> None:
    heavy = "{'torch', 'pandas', 'nibabel', 'matplotlib', 'statsmodels'}"
    code = (
        f"import sys; from {module}.cli import build_parser; build_parser().format_help(); "
        f"sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
