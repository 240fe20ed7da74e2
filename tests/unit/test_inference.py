"""Where a network looks, and what comes back on the scan's grid."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from synthsr import inference, labels
from synthsr.networks import UNet, UNetConfig, unfold
from synthsr.segment import Segmenter
from synthsr.weights.storage import LoadedNetwork


def head(shape: tuple[int, int, int], centre: tuple[float, float, float]) -> torch.Tensor:
    """A bright ellipsoid of a head's size (radii 75, 90, 85 mm), with a neck and noise."""
    axes = [torch.arange(size) - middle for size, middle in zip(shape, centre, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    ellipsoid = (x / 75) ** 2 + (y / 90) ** 2 + (z / 85) ** 2 < 1
    neck = (x.abs() < 50) & ((y - 20).abs() < 50) & (z < 0)
    noise = 0.05 * torch.rand(shape, generator=torch.Generator().manual_seed(1))
    return torch.where(ellipsoid | neck, 0.6, 0.0) + noise


@pytest.mark.parametrize("shape", [(200, 240, 260), (256, 256, 180), (170, 230, 190)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (9, -12, 5)])
def test_cerebrum_is_found(shape: tuple[int, int, int], shift: tuple[int, int, int]) -> None:
    centre = tuple(size / 2 + mm for size, mm in zip((shape[0], shape[1], shape[2] + 30), shift, strict=True))
    found = inference.cerebrum_centre(head(shape, centre))
    expected = (centre[0], centre[1], min(centre[2] + 85, shape[2] - 1) - inference.CROWN_TO_CENTRE_VOXELS)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 8


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("shape", [(41, 50, 30), (224, 40, 40)])
def test_answer_lies_where_the_scan_does(norm: str, shape: tuple[int, int, int]) -> None:
    network = UNet(UNetConfig(1, 1, 1, 1, 1, norm)).eval()  # type: ignore[arg-type]
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    for conv in (network.down[0].conv0, network.down[0].conv1):
        conv.weight.data[0, 0, 1, 1, 1] = 1
    network.down[0].norm.weight.data.fill_(1)
    network.head.weight.data.fill_(1)
    image = torch.rand(1, 1, *shape)
    answer = inference.run(network, image)
    assert answer.shape == image.shape
    middle = tuple(slice(max(0, size // 2 - 15), size // 2 + 15) for size in shape)
    pair = torch.stack([answer[0, 0][middle].flatten(), image[0, 0][middle].flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.999


def test_volumes_count_only_what_was_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "FIELD_VOXELS", 48)
    channels = len(labels.segmentation_numbers())
    network = UNet(UNetConfig(1, channels, 1, 1, 2, "instance")).eval()
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    segmenter = Segmenter(LoadedNetwork(network, {}, None, ""), torch.device("cpu"))  # type: ignore[arg-type]
    _, sums = segmenter.segment(torch.rand(1, 1, 20, 30, 10))
    torch.testing.assert_close(sums, torch.full((channels,), 6000 / channels, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_segmenter_agrees_with_a_plain_forward_pass(
    stride: int, norm: Literal["batch", "instance"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the scan sticks out of the cube that networks with instance norm see (a small one, for speed)."""
    torch.manual_seed(3)
    monkeypatch.setattr(inference, "FIELD_VOXELS", 48)
    channels = len(labels.segmentation_numbers())
    network = UNet(UNetConfig(1, channels, 2, 2, stride, norm)).eval()
    image = torch.rand(1, 1, 32, 64, 32)
    segmenter = Segmenter(LoadedNetwork(network, {}, None, ""), torch.device("cpu"))  # type: ignore[arg-type]
    best, sums, entropies = segmenter.segment_with_entropy(image)
    swap = torch.from_numpy(labels.mirror_of_channel())
    padding = inference.placement(network, image)
    placed, scanned = F.pad(image, padding), F.pad(torch.ones_like(image), padding)[0, 0]
    with torch.no_grad():
        straight = network(placed).softmax(1)
        mirrored = network(placed.flip(2)).softmax(1)[:, swap].flip(2)
    expected = (straight + mirrored)[0] / 2
    assert best.shape == image.shape[2:]
    seen = F.pad(expected.argmax(0)[None, None], [-zeros for zeros in padding])[0, 0]
    assert (best == seen).float().mean() > 0.999
    torch.testing.assert_close(sums, (expected * scanned).sum((1, 2, 3)).double(), rtol=1e-4, atol=1e-2)
    entropy = -(expected * expected.log()).sum(0) * scanned
    inside = (expected * entropy).sum((1, 2, 3)) / (expected * scanned).sum((1, 2, 3))
    torch.testing.assert_close(entropies, inside.double(), rtol=1e-4, atol=1e-4)
    assert torch.equal(segmenter.segment(image)[0], best)
    assert unfold(network.forward_folded(image), stride).shape == (1, channels, 32, 64, 32)
