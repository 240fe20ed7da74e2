"""Weights: import from Keras, and our own files."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

from synthsr import cli
from synthsr.errors import ConfigurationError, DataError
from synthsr.files import sha256
from synthsr.networks import UNet, UNetConfig
from synthsr.weights.keras import import_keras, read_keras
from synthsr.weights.registry import registered
from synthsr.weights.storage import load_network, save_network

TESTS = Path(__file__).parents[1]
STORED = TESTS / "data" / "keras_unet_small.h5"


def largest_difference(network: UNet, case: Path) -> float:
    """Between the network's output and that of the Keras model, both of the same input."""
    with np.load(case, allow_pickle=False) as arrays:
        image, expected = (torch.from_numpy(arrays[key]).movedim(-1, 0)[None] for key in ("input", "output"))
    with torch.inference_mode():
        return float((network.eval()(image) - expected).abs().max())


@pytest.fixture
def editable(tmp_path: Path) -> Path:
    """A copy of the stored Keras weights."""
    path = tmp_path / "edited.h5"
    path.write_bytes(STORED.read_bytes())
    return path


def replace_dataset(path: Path, layer: str, variable: str, values: npt.NDArray[np.generic]) -> None:
    with h5py.File(path, "r+") as stream:
        del stream[layer][layer][variable]
        stream[layer][layer].create_dataset(variable, data=values)


def write_two_channel_keras(path: Path, levels: int = 5, features: int = 2) -> npt.NDArray[np.float64]:
    """Random weights as ``save_weights`` writes them, under the published names; returns the first kernel."""
    rng = np.random.default_rng(11)
    width = [features * 2**level for level in range(levels)]
    convolutions = {}
    for level in range(levels):
        convolutions[f"downarm_{level}_0"] = (2 if level == 0 else width[level - 1], width[level])
        convolutions[f"downarm_{level}_1"] = (width[level], width[level])
    for j, level in enumerate(range(levels - 2, -1, -1)):
        convolutions[f"uparm_{levels + j}_0"] = (width[level + 1] + width[level], width[level])
        convolutions[f"uparm_{levels + j}_1"] = (width[level], width[level])
    norms = {f"down_{level}": width[level] for level in range(levels)}
    norms |= {f"up_{j}": width[levels - 2 - j] for j in range(levels - 1)}
    layers = {}
    for name, (n_in, n_out) in convolutions.items():
        kernel = rng.standard_normal((3, 3, 3, n_in, n_out)) / np.sqrt(27 * n_in)
        layers[f"unet_conv_{name}"] = {"kernel:0": kernel, "bias:0": 0.1 * rng.standard_normal(n_out)}
    for name, n in norms.items():
        layers[f"unet_bn_{name}"] = {
            "gamma:0": rng.uniform(0.5, 1.5, n), "beta:0": 0.1 * rng.standard_normal(n),
            "moving_mean:0": 0.1 * rng.standard_normal(n), "moving_variance:0": rng.uniform(0.5, 2, n),
        }  # fmt: skip
    layers["unet_likelihood"] = {"kernel:0": rng.standard_normal((1, 1, 1, features, 1)), "bias:0": np.array([0.2])}
    with h5py.File(path, "w") as stream:
        for layer, variables in layers.items():
            for variable, values in variables.items():
                stream.create_dataset(f"{layer}/{layer}/{variable}", data=values.astype(np.float32))
    return layers["unet_conv_downarm_0_0"]["kernel:0"]


class TestTwoChannels:
    """As in the published low-field model, which takes a T1 and a T2."""

    def test_first_convolution_takes_the_channels_in_their_order(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kernel = write_two_channel_keras(tmp_path / "two.h5")
        assert cli.main(["weights", "import", str(tmp_path / "two.h5"), str(tmp_path / "two.safetensors")]) == 0
        network = load_network(tmp_path / "two.safetensors").network
        assert network.config == UNetConfig(in_channels=2, out_channels=1, features=2, levels=5)
        assert "--low-field" in capsys.readouterr().err
        first = network.down[0].get_submodule("conv0")
        for channel in (0, 1):
            image = torch.zeros(1, 2, 5, 5, 5)
            image[0, channel, 2, 2, 2] = 1
            with torch.inference_mode():
                answer = (first(image) - first(torch.zeros_like(image)))[0, :, 1:4, 1:4, 1:4]
            # A point is answered with the kernel's mirror image.
            expected = np.moveaxis(kernel[::-1, ::-1, ::-1, channel], -1, 0)
            np.testing.assert_allclose(answer, expected, atol=1e-6)

    def test_low_field_is_the_reference_formula(self, tmp_path: Path) -> None:
        """T1 to [0, 3], T2 to [0, 2]; minimum + spread · (network + T1), at least 0."""
        write_two_channel_keras(tmp_path / "two.h5")
        source, out = str(tmp_path / "two.h5"), str(tmp_path / "low.safetensors")
        assert cli.main(["weights", "import", "--low-field", source, out]) == 0
        rng = np.random.default_rng(5)
        t1, t2 = (rng.uniform(low, high, (32, 32, 32)).astype(np.float32) for low, high in ((20, 700), (0, 90)))
        for name, data in (("t1", t1), ("t2", t2)):
            nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"{name}.nii")
        given = ["predict", str(tmp_path / "t1.nii"), str(tmp_path / "out.nii"), "--also", str(tmp_path / "t2.nii")]
        assert cli.main([*given, "--weights", out, "--no-flip"]) == 0
        im1 = t1 - t1.min()
        spread = im1.max() / 3
        im1, im2 = im1 / spread, (t2 - t2.min()) / (t2 - t2.min()).max() * 2
        with torch.inference_mode():
            residual = read_keras(tmp_path / "two.h5")(torch.from_numpy(np.stack([im1, im2])[None]))[0, 0].numpy()
        expected = (t1.min() + spread * (residual + im1)).clip(0)
        assert (expected == 0).mean() < 0.9 and (expected - t1).std() > 1
        np.testing.assert_allclose(nib.load(tmp_path / "out.nii").get_fdata(), expected, rtol=1e-3, atol=0.05)

    def test_low_field_needs_two_channels(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["weights", "import", "--low-field", str(STORED), str(tmp_path / "x.safetensors")]) == 65
        assert "2 input and 3 output channels; the published low-field model has 2 and 1" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


class TestKerasImport:
    def test_stored_case(self, tmp_path: Path) -> None:
        out = tmp_path / "imported.safetensors"
        config = import_keras(STORED, out)
        assert config == UNetConfig(in_channels=2, out_channels=3, features=2, levels=3)
        loaded = load_network(out)
        assert largest_difference(loaded.network, STORED.with_suffix(".npz")) < 1e-5
        assert loaded.information == {
            "task": "synthsr",
            "source": {"file": STORED.name, "sha256": sha256(STORED), "format": "keras-hdf5"},
        }

    def test_whole_model_layout(self, tmp_path: Path) -> None:
        path = tmp_path / "model.h5"
        with h5py.File(STORED) as old, h5py.File(path, "w") as new:
            new.create_group("optimizer_weights/Adam").create_dataset("iteration:0", data=3)
            for name in old:
                old.copy(name, new.require_group("model_weights"))
        assert largest_difference(read_keras(path), STORED.with_suffix(".npz")) < 1e-5

    def test_missing_layer(self, editable: Path, tmp_path: Path) -> None:
        with h5py.File(editable, "r+") as stream:
            del stream["unet_bn_up_1"]
        with pytest.raises(DataError, match=r"edited\.h5: layer unet_bn_up_1 is missing"):
            import_keras(editable, tmp_path / "out.safetensors")
        assert list(tmp_path.iterdir()) == [editable]

    @pytest.mark.parametrize("level", [0, 1, 2])
    def test_missing_level_is_named(self, editable: Path, level: int) -> None:
        with h5py.File(editable, "r+") as stream:
            for name in [name for name in stream if name.startswith(f"unet_conv_downarm_{level}_")]:
                del stream[name]
        with pytest.raises(DataError, match=f"unet_conv_downarm_{level}_0 is missing"):
            read_keras(editable)

    def test_unknown_layer(self, editable: Path) -> None:
        with h5py.File(editable, "r+") as stream:
            stream.copy("unet_likelihood", "unet_prior")
        with pytest.raises(DataError, match="unknown layer unet_prior"):
            read_keras(editable)

    def test_wrong_shape(self, editable: Path) -> None:
        replace_dataset(editable, "unet_conv_downarm_1_0", "kernel:0", np.zeros((3, 3, 3, 2, 5), np.float32))
        message = r"unet_conv_downarm_1_0 has shape \(3, 3, 3, 2, 5\) \(float32\), expected \(3, 3, 3, 2, 4\)"
        with pytest.raises(DataError, match=message):
            read_keras(editable)

    def test_two_dimensional_network(self, editable: Path) -> None:
        replace_dataset(editable, "unet_conv_downarm_0_0", "kernel:0", np.zeros((3, 3, 2, 2), np.float32))
        with pytest.raises(DataError, match="kernel of layer unet_conv_downarm_0_0"):
            read_keras(editable)

    def test_missing_variable(self, editable: Path) -> None:
        with h5py.File(editable, "r+") as stream:
            del stream["unet_bn_down_0/unet_bn_down_0/moving_mean:0"]
        with pytest.raises(DataError, match="unet_bn_down_0 has beta, gamma, moving_variance, expected gamma"):
            read_keras(editable)

    def test_text_in_place_of_numbers(self, editable: Path) -> None:
        replace_dataset(editable, "unet_bn_down_0", "gamma:0", np.array([b"a", b"b"]))
        with pytest.raises(DataError, match=r"gamma of layer unet_bn_down_0 has shape \(2,\)"):
            read_keras(editable)

    def test_not_finite(self, editable: Path) -> None:
        replace_dataset(editable, "unet_bn_down_0", "gamma:0", np.array([1, np.nan], np.float32))
        with pytest.raises(DataError, match="not finite"):
            read_keras(editable)

    @pytest.mark.parametrize(
        "content",
        [b"", b"some text", pickle.dumps({"unet_likelihood": [1.0]}), STORED.read_bytes()[:5000]],
        ids=["empty", "text", "pickle", "truncated"],
    )
    def test_not_hdf5(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "weights.h5"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"weights\.h5: not a readable HDF5 file"):
            read_keras(path)

    @pytest.mark.parametrize("seed", range(20))
    def test_corrupted_file(self, editable: Path, seed: int) -> None:
        content, rng = bytearray(editable.read_bytes()), np.random.default_rng(seed)
        for place in rng.integers(len(content), size=400):
            content[place] = rng.integers(256)
        editable.write_bytes(content)
        with pytest.raises(DataError, match=r"edited\.h5: "):
            read_keras(editable)

    def test_other_hdf5(self, tmp_path: Path) -> None:
        path = tmp_path / "table.h5"
        with h5py.File(path, "w") as stream:
            stream["measurements/age"] = np.arange(3)
        with pytest.raises(DataError, match="unet_conv_downarm_0_0 is missing \\(found measurements"):
            read_keras(path)

    @pytest.mark.skipif(
        "SYNTHSR_KERAS_PYTHON" not in os.environ,
        reason="SYNTHSR_KERAS_PYTHON names no Python with TensorFlow; 'make test-keras' makes one",
    )
    @pytest.mark.parametrize("layout", ["weights", "model"])
    @pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (2, 1), (1, 33)])
    def test_fresh_keras_model(self, tmp_path: Path, layout: str, in_channels: int, out_channels: int) -> None:
        path = tmp_path / "fresh.h5"
        seed = np.random.SeedSequence().entropy
        options = {
            "layout": layout, "levels": 5, "features": 4, "in-channels": in_channels, "out-channels": out_channels,
            "size": 32, "seed": seed,
        }  # fmt: skip
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        subprocess.run([os.environ["SYNTHSR_KERAS_PYTHON"], TESTS / "keras_reference.py", path, *flags], check=True)
        network = read_keras(path)
        assert network.config == UNetConfig(in_channels, out_channels, features=4, levels=5)
        assert largest_difference(network, path.with_suffix(".npz")) < 1e-4, f"seed {seed}"


class TestSafetensors:
    @pytest.fixture
    def network(self) -> UNet:
        torch.manual_seed(1)
        network = UNet(UNetConfig(features=4, levels=2, out_channels=3, stride=2))
        for _ in range(3):
            network(torch.rand(1, 1, 8, 8, 8))  # so that the running statistics are not those of a new network
        return network.eval()

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float16, 5e-3)])
    def test_round_trip(self, network: UNet, tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
        path = tmp_path / "net.safetensors"
        save_network(network, path, {"task": "segmentation", "steps": 7}, dtype=dtype)
        loaded = load_network(path)
        assert loaded.network.config == network.config
        assert loaded.information == {"task": "segmentation", "steps": 7}
        assert (loaded.path, loaded.sha256) == (path, sha256(path))
        assert not loaded.network.training
        assert {parameter.dtype for parameter in loaded.network.parameters()} == {torch.float32}
        image = torch.rand(1, 1, 8, 8, 8)
        with torch.inference_mode():
            difference = (loaded.network(image) - network(image)).abs().max()
        assert difference <= tolerance

    def test_same_weights_same_bytes(self, network: UNet, tmp_path: Path) -> None:
        """Their hash decides whether a cohort is computed anew."""
        paths = [tmp_path / f"{number}.safetensors" for number in range(8)]
        for path in paths:
            save_network(network, path, {"task": "synthsr", "steps": 7, "seed": 1})
        assert len({sha256(path) for path in paths}) == 1

    @pytest.mark.parametrize("name", ["segmentation", "synthsr"])
    def test_shipped_weights_keep_their_bytes(self, name: str, tmp_path: Path) -> None:
        """What this version writes is what an earlier one wrote."""
        loaded = load_network(name)
        save_network(loaded.network, tmp_path / "again.safetensors", loaded.information, dtype=torch.float16)
        assert sha256(tmp_path / "again.safetensors") == registered()[name].sha256

    @pytest.mark.parametrize("extra", [{"residual": 1}, {"distance": True}])
    def test_round_trip_of_residual_and_distance(self, extra: dict[str, int], tmp_path: Path) -> None:
        network = UNet(UNetConfig(2, features=2, levels=2, stride=2, **extra)).eval()
        save_network(network, tmp_path / "net.safetensors", {})
        loaded = load_network(tmp_path / "net.safetensors").network
        assert loaded.config == network.config
        image = torch.rand(1, 2, 8, 8, 8)
        with torch.inference_mode():
            assert torch.equal(loaded(image), network(image))

    def test_unknown_name(self) -> None:
        with pytest.raises(
            ConfigurationError, match="no-such-weights: neither a weights file nor one of the registered"
        ):
            load_network("no-such-weights")

    @pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1])], ids=["empty", "text", "pickle"])
    def test_not_safetensors(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "net.safetensors"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"net\.safetensors: not a safetensors file"):
            load_network(path)

    @pytest.mark.parametrize(
        "header",
        [
            {},
            {"synthsr": "features: 4"},
            {"synthsr": json.dumps({"network": {"feature": 4}, "information": {}})},
            {"synthsr": json.dumps([1, 1, 4, 2, 1])},
            {"synthsr": json.dumps({"network": {"features": 8, "levels": 2}, "information": {}})},
            {"synthsr": json.dumps({"network": {"features": 4, "levels": 2, "residual": 1}, "information": {}})},
            {"synthsr": json.dumps({"network": {"features": 4, "levels": 2, "distance": True}, "information": {}})},
            {"synthsr": json.dumps({"network": {"features": 4, "levels": 3}, "information": {}})},
        ],
        ids=["none", "not-json", "misspelt", "list", "too-wide", "no-such-channel", "no-distance-rows", "too-deep"],
    )
    def test_unfit_header(self, tmp_path: Path, header: dict[str, str]) -> None:
        path = tmp_path / "net.safetensors"
        tensors = {key: value.clone() for key, value in UNet(UNetConfig(features=4, levels=2)).state_dict().items()}
        save_file(tensors, path, metadata=header)
        with pytest.raises(DataError, match=r"net\.safetensors: not weights of this project's U-net"):
            load_network(path)
