"""The quick route gives the same answers: whole networks of every kind, and its parts at borders and odd signs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from synthsr import inference, openvino
from synthsr.equivalent import EquivalentUNet, upsampling_kernel
from synthsr.networks import Level, UNet, UNetConfig, doubled
from synthsr.openvino import OpenVinoUNet, suits
from synthsr.predict import Predictor
from synthsr.segment import most_probable
from synthsr.weights.storage import save_network

KINDS: list[dict[str, Any]] = [
    {"out_channels": 3, "distance": True},
    {"tissues": 3},
    {"residual": 0},
    {"levels": 1},
    {"last_features": 5},
]


def network(**facts: Any) -> UNet:
    """A network whose norms are anything but the identity; some of their scales are negative."""
    torch.manual_seed(1)
    made = UNet(UNetConfig(**({"features": 3, "levels": 3} | facts))).eval()
    for module in made.modules():
        if isinstance(module, Level):
            nn.init.normal_(module.norm.get_parameter("weight"))
            nn.init.normal_(module.norm.get_parameter("bias"))
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean = torch.randn_like(module.running_mean)
            module.running_var = torch.rand_like(module.running_var) + 0.5
    if made.config.tissues:
        nn.init.normal_(made.tissue_grey)
    return made


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("facts", KINDS)
def test_a_network_and_its_equal_answer_the_same(norm: str, stride: int, facts: dict[str, Any]) -> None:
    written = network(norm=norm, stride=stride, **facts)
    image = torch.rand(1, 1, 16, 24, 40)
    with torch.inference_mode():
        expected = written(image)
        torch.testing.assert_close(EquivalentUNet(written)(image), expected, rtol=1e-4, atol=2e-5)
        in_bfloat16 = EquivalentUNet(written, torch.bfloat16)(image)
    assert in_bfloat16.dtype == torch.float32
    error = (in_bfloat16 - expected).square().mean()
    assert error < 1e-3 * expected.square().mean()
    # A single level is the first and the last, and these stay in float32.
    assert bool(error > 1e-12) is (written.config.levels > 1)


@pytest.mark.parametrize(
    "facts", [{}, {"distance": False, "residual": 1, "in_channels": 2}, {"levels": 1}, {"last_features": 5}]
)
def test_openvino_answers_the_same(facts: dict[str, Any]) -> None:
    written = network(**facts)
    assert suits(written.config)
    scan = torch.rand(1, written.config.in_channels, 30, 24, 41)
    expected = inference.run(written, scan)
    quick = inference.fastest(written, torch.device("cpu"))
    assert isinstance(quick, OpenVinoUNet)
    torch.testing.assert_close(inference.run(quick, scan), expected, rtol=1e-4, atol=2e-5)
    # Of another shape than the graph was last compiled for.
    part = scan[..., :20]
    torch.testing.assert_close(inference.run(quick, part), inference.run(written, part), rtol=1e-4, atol=2e-5)
    in_bfloat16 = inference.run(inference.fastest(written, torch.device("cpu"), "bfloat16"), scan)
    error = (in_bfloat16 - expected).square().mean()
    assert error < 1e-3 * expected.square().mean()


@pytest.mark.parametrize("facts", [{"norm": "instance"}, {"stride": 2}, {"out_channels": 3}, {"tissues": 3}])
def test_openvino_is_for_published_networks_only(facts: dict[str, Any]) -> None:
    written = network(**facts)
    assert not suits(written.config)
    assert type(inference.fastest(written, torch.device("cpu"))) is EquivalentUNet


def test_without_openvino_torch_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.importlib.util, "find_spec", lambda name: None)
    assert type(inference.fastest(network(), torch.device("cpu"))) is EquivalentUNet


def test_openvino_leaves_cores_to_other_jobs() -> None:
    quick = OpenVinoUNet(network())
    quick.answer(torch.zeros(1, 1, 8, 8, 8), (slice(None),) * 5)
    compiled = quick._compiled[1].get_compiled_model()
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()


def test_signals_arrive_after_openvino_networks_are_gone() -> None:
    """Runtimes that overlap leave signal handlers a stack that is freed; the end of a child was then a crash."""
    lines = (
        "import signal, subprocess, torch",
        "from synthsr.networks import UNet, UNetConfig",
        "from synthsr.openvino import OpenVinoUNet",
        "pair = [OpenVinoUNet(UNet(UNetConfig(features=2, levels=2)).eval()) for _ in range(2)]",
        "pair[0].answer(torch.zeros(1, 1, 8, 8, 8), (slice(None),) * 5)",
        "pair[1].answer(torch.zeros(1, 1, 8, 8, 8), (slice(None),) * 5)",
        "del pair[0]",
        "del pair[0]",
        "signal.signal(signal.SIGCHLD, lambda *_: print('told'))",
        "subprocess.run(['true'], check=True)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "told\n"


def test_openvino_sends_no_statistics() -> None:
    """Its converter would; building the graph does without."""
    lines = (
        "import os, sys",
        "sys.addaudithook(lambda event, _: os._exit(3) if event.startswith('socket') else None)",
        "import torch",
        "from synthsr.networks import UNet, UNetConfig",
        "from synthsr.openvino import OpenVinoUNet",
        "network = OpenVinoUNet(UNet(UNetConfig(features=2, levels=2)).eval())",
        "network.answer(torch.zeros(1, 1, 8, 8, 8), (slice(None),) * 5)",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_negative_scales_are_there_to_be_pooled_the_other_way() -> None:
    """Without the care for them the test above must fail, so it must meet some."""
    written = network(norm="batch")
    for level in EquivalentUNet(written)._down[:-1]:
        assert 0 < len(level.reversed) < level.width


def test_upsampling_and_convolution_are_one_transposed_convolution() -> None:
    torch.manual_seed(1)
    x, kernel = torch.randn(1, 3, 3, 4, 2, dtype=torch.float64), torch.randn(5, 3, 3, 3, 3, dtype=torch.float64)
    found = F.conv_transpose3d(x, upsampling_kernel(kernel), stride=2, padding=1)
    torch.testing.assert_close(found, F.conv3d(doubled(x), kernel, padding=1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(30, 21, 50), (64, 20, 33)])
def test_the_head_looks_only_where_the_scan_is(
    stride: int, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "FIELD_VOXELS", 40)
    written = network(norm="instance", stride=stride, tissues=2)
    image = torch.rand(1, 1, *shape)
    padding = inference.placement(written, image)
    field = F.pad(image, padding)
    with torch.inference_mode():
        whole = (written(field) + written(field.flip(2)).flip(2)) / 2
    expected = F.pad(whole, [-zeros for zeros in padding])
    looked = []
    read = written.read_folded
    monkeypatch.setattr(written, "read_folded", lambda trunk, seen: looked.append(trunk.shape[2:]) or read(trunk, seen))
    torch.testing.assert_close(inference.run(written, image), expected, rtol=1e-4, atol=1e-5)
    largest = [-(-min(size, 40) // stride) + (stride > 1) for size in shape]
    assert len(looked) == 2
    assert all(one <= most for seen in looked for one, most in zip(seen, largest, strict=True))


def test_largest_posterior() -> None:
    torch.manual_seed(1)
    posterior = torch.randn(1000, 33).mul(20).softmax(-1)
    assert torch.equal(most_probable(posterior), posterior.argmax(-1))
    assert most_probable(torch.full((2, 5), 0.2)).tolist() == [0, 0]
    assert most_probable(torch.zeros(1, 64)).tolist() == [0]


def test_predictions_take_the_quick_route(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_network(network(), path, {})
    assert isinstance(Predictor.load(path, "cpu").weights.network, EquivalentUNet)


def test_bfloat16_is_told(tmp_path: Path) -> None:
    """By the sidecar: its answers are others."""
    path, source = tmp_path / "w.safetensors", tmp_path / "scan.nii.gz"
    written = network()
    nn.init.normal_(written.head.weight, std=0.01)
    nn.init.constant_(written.head.bias, 0.2)  # grey levels that are not clipped
    save_network(written, path, {})
    nib.save(nib.Nifti1Image(torch.rand(20, 24, 16).numpy() * 100, np.diag([4.0, 4, 4, 1])), source)
    told = {}
    for arithmetic in inference.ARITHMETIC:
        target = tmp_path / f"{arithmetic}.nii.gz"
        Predictor.load(path, "cpu", arithmetic=arithmetic)(source, target)
        sidecar = json.loads((tmp_path / f"{arithmetic}.json").read_text())
        told[arithmetic] = sidecar.get("Arithmetic")
        assert sidecar["Engine"].startswith("openvino 20"), "networks like this one run by OpenVINO"
    assert told == {"float32": None, "bfloat16": "bfloat16"}
    images = [nib.load(tmp_path / f"{arithmetic}.nii.gz").get_fdata() for arithmetic in inference.ARITHMETIC]
    assert 0 < np.abs(images[0] - images[1]).mean() < 1


COMMANDS = {
    "synthsr": ["predict no.nii out.nii", "segment no.nii out.nii"],
    "analysis": [
        "synthesise scans.tsv --out out",
        "segment scans.tsv --out out",
        "convert scans.tsv --out out --deface segmentation",
        "multichannel --out out --weights no --contrasts T1w T2w",
    ],
}


@pytest.mark.parametrize("program", COMMANDS)
def test_commands_let_idle_threads_sleep(tmp_path: Path, program: str) -> None:
    """Which torch can be told only before it is imported; here it cannot be."""
    (tmp_path / "scans.tsv").write_text("scan_id\tseries_id\tsource_key\n")
    script = (
        f"import os, sys\nfrom {program} import cli\nassert 'torch' not in sys.modules\nsys.modules['torch'] = None\n"
        f"for command in {COMMANDS[program]}:\n    os.environ.pop('OMP_WAIT_POLICY', None)\n"
        "    try: cli.main(command.split())\n    except ImportError: pass\n    print(os.environ['OMP_WAIT_POLICY'])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PASSIVE"] * len(COMMANDS[program]), done.stderr
