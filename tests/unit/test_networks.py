"""The U-net: blocks, skips, sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from synthsr.networks import (
    DISTANCE_LIMIT_MM,
    InstanceNorm3d,
    UNet,
    UNetConfig,
    block_offset,
    doubled,
    fold,
    grown,
    moments,
    unfold,
)


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
@pytest.mark.parametrize("extra", [{"out_channels": 3}, {"out_channels": 3, "distance": True}, {"residual": 1}])
def test_forward_block_is_part_of_forward(stride: int, extra: dict[str, int]) -> None:
    network = UNet(UNetConfig(in_channels=2, features=2, levels=3, stride=stride, **extra)).eval()
    image = torch.rand(1, 2, 16, 8, 24)
    with torch.inference_mode():
        whole = network(image)
        assert whole.shape == (1, network.config.maps, 16, 8, 24)
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
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image))


def test_instance_normalised_network_evaluates_as_it_trains() -> None:
    network = UNet(UNetConfig(features=2, levels=3, norm="instance"))
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        evaluated = network.eval()(image)
    torch.testing.assert_close(network.train()(image), evaluated)


@pytest.mark.parametrize(("level", "sd"), [(2.0, 0.5), (30.0, 0.1)])
def test_moments_are_right_where_plain_sums_are_not(level: float, sd: float) -> None:
    torch.manual_seed(1)
    volume = (torch.randn(1, 2, 96, 96, 96) * sd + level).contiguous(memory_format=torch.channels_last_3d)
    mean, variance = moments(volume)
    exact = volume.double().flatten(2)[0]
    torch.testing.assert_close(mean.double(), exact.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), exact.var(1, correction=0), rtol=1e-6, atol=0)
    assert moments(torch.full((1, 1, 8, 8, 8), 3.3))[1] == pytest.approx(0, abs=1e-10)
    in_bfloat16 = volume.bfloat16()
    exact = in_bfloat16.double().flatten(2)[0]
    torch.testing.assert_close(moments(in_bfloat16)[1].double(), exact.var(1, correction=0), rtol=1e-6, atol=0)


def test_norms_do_not_depend_on_threads() -> None:
    """A cohort that is run again on another machine is to get the same numbers."""
    torch.manual_seed(1)
    volume = (torch.randn(1, 16, 96, 96, 96) * 0.5 + 2).contiguous(memory_format=torch.channels_last_3d)
    norm = InstanceNorm3d(16, 1e-3)
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                answers.append(norm(volume))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(answers[0], other) for other in answers[1:])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channel", [0, 2])
def test_residual_with_a_zero_head_gives_the_channel(stride: int, channel: int) -> None:
    network = UNet(UNetConfig(3, features=2, levels=2, stride=stride, residual=channel)).eval()
    for parameter in network.head.parameters():
        nn.init.zeros_(parameter)
    image = torch.rand(2, 3, 8, 12, 16)
    expected = image[:, channel : channel + 1]
    with torch.inference_mode():
        assert torch.equal(network(image), expected)
        for offset in range(stride**3):
            assert torch.equal(network.forward_block(image, offset), block_offset(expected, stride, offset))


def test_residual_adds_the_channel_to_the_answer() -> None:
    plain = UNet(UNetConfig(2, features=2, levels=2, stride=2)).eval()
    network = UNet(UNetConfig(2, features=2, levels=2, stride=2, residual=1)).eval()
    network.load_state_dict(plain.state_dict())
    image = torch.rand(1, 2, 8, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), plain(image) + image[:, 1:])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"in_channels": 2, "residual": 2}, "input channel 2; they are 0 to 1"),
        ({"residual": -1}, "input channel -1"),
        ({"residual": 0, "out_channels": 2}, "one output map; there are 2"),
        ({"residual": 0, "distance": True}, "one output map; there are 2"),
    ],
)
def test_unfit_residual(facts: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNetConfig(**facts)


def test_headers_name_only_what_a_network_has() -> None:
    """Headers are part of the bytes whose hash decides whether a cohort is computed anew."""
    before = {"in_channels": 1, "out_channels": 33, "features": 16, "levels": 5, "stride": 2, "norm": "instance"}
    assert list(UNetConfig(**before).to_dict().items()) == list(before.items())
    for extra in (
        {"out_channels": 1, "residual": 0},
        {"distance": True},
        {"last_features": 48},
        {"out_channels": 1, "tissues": 33},
    ):
        config = UNetConfig(**(before | extra))
        assert config.to_dict() == before | extra
        assert UNetConfig(**config.to_dict()) == config


@pytest.mark.parametrize("stride", [1, 2])
def test_distance_head_leaves_the_other_maps_alone(stride: int) -> None:
    network = UNet(UNetConfig(1, 3, features=2, levels=2, stride=stride, norm="instance"))
    wide = grown(network, last_features=None, distance=True)
    assert wide.config == UNetConfig(1, 3, 2, 2, stride, "instance", distance=True)
    assert wide.training and not grown(network.eval(), last_features=None, distance=True).training
    assert grown(wide, last_features=None, distance=True) is wide
    image = torch.rand(1, 1, 8, 8, 8)
    with torch.inference_mode():
        answer = wide.eval()(image)
        torch.testing.assert_close(answer[:, :3], network(image))
        assert (answer[:, 3] == 0).all()
        wide.head.bias[3 * stride**3 :] = -1
        answer = wide(image)
    torch.testing.assert_close(answer[:, :3], network(image))
    assert (answer[:, 3] == -DISTANCE_LIMIT_MM).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_more_last_features_change_nothing_until_the_head_reads_them(stride: int) -> None:
    network = UNet(UNetConfig(1, 3, features=2, levels=2, stride=stride, norm="instance"))
    wide = grown(network, last_features=5, distance=True)
    assert wide.head.weight.shape == (4 * stride**3, 5, 1, 1, 1)
    image = torch.rand(1, 1, 8, 8, 8)
    torch.testing.assert_close(wide(image)[:, :3], network(image))
    wide(image).square().mean().backward()
    assert wide.head.weight.grad is not None and (wide.head.weight.grad[:, 2:] != 0).any()
    with pytest.raises(ValueError, match="larger"):
        grown(wide, last_features=None, distance=True)


@pytest.mark.parametrize("stride", [1, 2])
def test_tissues_average_grey_levels_by_their_posteriors(stride: int) -> None:
    network = UNet(UNetConfig(1, 1, features=2, levels=2, stride=stride, norm="instance", tissues=3)).eval()
    segmenter = UNet(UNetConfig(1, 4, features=2, levels=2, stride=stride, norm="instance")).eval()
    segmenter.load_state_dict({key: value for key, value in network.state_dict().items() if key != "tissue_grey"})
    grey = torch.tensor([0.0, 0.3, 0.5])
    network.tissue_grey.data = grey
    image = torch.rand(2, 1, 8, 8, 8)
    with torch.inference_mode():
        told = segmenter(image)
        expected = (told[:, :3].softmax(1) * grey[:, None, None, None]).sum(1, keepdim=True) + told[:, 3:]
        torch.testing.assert_close(network(image), expected)
        for offset in range(stride**3):
            part = block_offset(expected, stride, offset)
            torch.testing.assert_close(network.forward_block(image, offset), part)
    with pytest.raises(ValueError, match="one output map"):
        UNetConfig(out_channels=2, tissues=3)


def test_distance_head_learns_from_zero() -> None:
    network = grown(
        UNet(UNetConfig(1, 2, features=2, levels=2, stride=2, norm="instance")), last_features=None, distance=True
    )
    image, true = torch.rand(1, 1, 8, 8, 8), 5 * torch.sign(torch.randn(1, 4, 4, 4))
    first = (network.forward_block(image, 5)[:, 2] - true).square().mean()
    first.backward()
    assert network.head.weight.grad is not None
    assert (network.head.weight.grad[2 * 8 + 5] != 0).all()
    with torch.no_grad():
        network.head.weight -= 1e-4 * network.head.weight.grad
    assert (network.forward_block(image, 5)[:, 2] - true).square().mean() < first


def test_doubling_and_its_gradient_are_those_of_nearest_interpolation() -> None:
    x = torch.rand(2, 3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 3, 8, 10, 12, dtype=torch.float64)
    expected = F.interpolate(x, scale_factor=2.0, mode="nearest")
    assert torch.equal(doubled(x), expected)
    (own,) = torch.autograd.grad((doubled(x) * weight).sum(), x)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(own, theirs)
