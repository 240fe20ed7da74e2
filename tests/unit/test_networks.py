"""The U-net: blocks, skips, sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from synthsr.networks import InstanceNorm3d, UNet, UNetConfig, block_offset, fold, unfold


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_unfold_inverts_fold(stride: int) -> None:
    image = torch.rand(2, 3, 8, 12, 16)
    folded = fold(image, stride)
    assert folded.shape == (2, 3 * stride**3, 8 // stride, 12 // stride, 16 // stride)
    assert torch.equal(unfold(folded, stride), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_fold_orders_channels_by_block_offset(channels: int) -> None:
    image = torch.rand(1, channels, 4, 6, 8)
    for offset in range(8):
        assert torch.equal(fold(image, 2)[:, offset::8], block_offset(image, 2, offset))


@pytest.mark.parametrize("stride", [1, 2])
def test_forward_block_is_part_of_forward(stride: int) -> None:
    network = UNet(UNetConfig(in_channels=2, out_channels=3, features=2, levels=3, stride=stride)).eval()
    image = torch.rand(1, 2, 16, 8, 24)
    with torch.inference_mode():
        whole = network(image)
        for offset in range(stride**3):
            part = network.forward_block(image, offset)
            torch.testing.assert_close(part, block_offset(whole, stride, offset), rtol=1e-5, atol=1e-6)


def test_published_size() -> None:
    network = UNet(UNetConfig())
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(13.2e6, rel=0.005)
    assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm3d)} == {1e-3}


def test_skip_is_taken_before_the_norm() -> None:
    """With the norm of a level constant, only the skip can still carry the image past it."""
    network = UNet(UNetConfig(features=4, levels=2)).eval()
    norm = network.down[0].get_submodule("norm")
    nn.init.zeros_(norm.get_parameter("weight"))
    image = torch.rand(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert network.down[0](image).std() > 0
        before = network(image)
        nn.init.constant_(norm.get_parameter("bias"), 5.0)
        skipped = []
        hook = network.up[0].register_forward_pre_hook(lambda module, arguments: skipped.append(arguments[0][:, :4]))
        after = network(image)
        hook.remove()
        torch.testing.assert_close(skipped[0], network.down[0](image))
    assert before.std() > 0
    assert not torch.equal(before, after)


@pytest.mark.parametrize("config", [UNetConfig(features=2), UNetConfig(features=2, levels=3, stride=2)])
def test_any_multiple_goes_in(config: UNetConfig) -> None:
    network = UNet(config).eval()
    with torch.inference_mode():
        for sides in ((1, 2, 1), (2, 1, 3)):
            shape = [side * config.multiple for side in sides]
            assert network(torch.rand(1, 1, *shape)).shape == (1, 1, *shape)


def test_gradient_reaches_every_parameter() -> None:
    network = UNet(UNetConfig(features=2, levels=3, stride=2))
    network(torch.rand(1, 1, 16, 16, 16)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_instance_norm_equals_torch() -> None:
    ours, theirs = InstanceNorm3d(3, 1e-3), nn.InstanceNorm3d(3, eps=1e-3, affine=True)
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        with torch.no_grad():
            parameter.copy_(other.copy_(torch.rand(3)))
    image = torch.randn(2, 3, 4, 5, 6) * 3 + 1
    torch.testing.assert_close(ours(image), theirs(image))


def test_instance_normalised_network_evaluates_as_it_trains() -> None:
    network = UNet(UNetConfig(features=2, levels=3, norm="instance"))
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.equal(network.train()(image), network.eval()(image))
