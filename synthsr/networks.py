"""The U-net of SynthSR and SynthSeg, and a faster relative that computes on a 2 mm grid.

Structure (Iglesias et al. 2023 and the reference implementation): levels of two 3×3×3 convolutions with ELU, features
doubling per level, max pooling by 2, nearest upsampling by 2, concatenation (skip first), batch normalisation after
each level but *behind* the skip, and a 1×1×1 convolution at the end.

With ``stride=2`` the network first folds each 2×2×2 block of voxels into channels, works on the grid of twice the
voxel size, and unfolds its output: every voxel still gets its own prediction, at about an eighth of the cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: A part of a tensor (n, c, x, y, z).
Blocks = tuple[slice, ...]
#: Of the published Keras models.
NORM_EPSILON = 1e-3
#: Distances to the brain's boundary are told up to here, as in SynthStrip (Hoopes et al. 2022), whose published network
#: tells them in a band of 4–5 mm. Also the unit in which the head learns them: a range of ±1 is near for Adam's steps.
DISTANCE_LIMIT_MM = 5.0
#: Planes of the network's own grid whose answers are in memory at a time; those of the whole grid are gigabytes.
SLAB_PLANES = 4


@dataclass(frozen=True)
class UNetConfig:
    """What makes up a U-net.

    Attributes
    ----------
    in_channels, out_channels
        Channels of input and output.
    features
        Features of the first level; they double per level.
    levels
        Number of levels.
    stride
        1 for the published network; 2 to work on blocks of 2×2×2 voxels.
    norm
        ``batch`` for the published network, whose skips are taken before the norm. ``instance`` uses the statistics of
        the scan at hand, in training and at inference alike (training with one scan a step leaves batch norm's running
        statistics unfit for evaluation), and takes its skips behind the norm: as strong as the upsampled features.
    last_features
        Features of the last level, from which the head reads; ``None``: as many as of the first. With ``stride=2`` the
        head tells eight voxels from them, and 16 are few for eight times 33 labels.
    tissues
        0: the head tells the output itself. Else the head tells, for every voxel, logits of so many classes and a
        remainder; the one output channel is the classes' learnt grey levels, averaged by their softmax, plus the
        remainder. A SynthSR of that kind can start as its segmenter, whose classes have known T1 grey levels.
    residual
        Number of the input channel that is added to the one output channel; the network then predicts the difference
        (joint super-resolution: high resolution minus upsampled low resolution, Iglesias et al., NeuroImage 2021).
    distance
        One more map behind the output channels: signed distance in mm to the brain's boundary, negative inside, up to
        ±:data:`DISTANCE_LIMIT_MM` (:func:`synthsr.losses.truncated_distance`).

    Raises
    ------
    ValueError
        If ``residual`` is no input channel, or there is not exactly one map to add it to, or to make of ``tissues``.
    """

    in_channels: int = 1
    out_channels: int = 1
    features: int = 24
    levels: int = 5
    stride: int = 1
    norm: Literal["batch", "instance"] = "batch"
    last_features: int | None = None
    tissues: int = 0
    residual: int | None = None
    distance: bool = False

    def __post_init__(self) -> None:
        if self.tissues and self.maps != 1:
            raise ValueError(f"tissues goes with one output map; there are {self.maps}")
        if self.residual is None:
            return
        if self.maps != 1:
            raise ValueError(f"residual goes with one output map; there are {self.maps}")
        if not 0 <= self.residual < self.in_channels:
            raise ValueError(f"residual is input channel {self.residual}; they are 0 to {self.in_channels - 1}")

    @property
    def maps(self) -> int:
        """Maps of the network's answer: output channels, and behind them the distance if there is one."""
        return self.out_channels + self.distance

    @property
    def multiple(self) -> int:
        """Every side of an input volume must be a multiple of this."""
        return int(self.stride * 2 ** (self.levels - 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for headers of weight files.

        What a network does not have is left out, so that the bytes of older weights, whose hash decides whether a
        cohort is computed anew, stay as they were.
        """
        absent = {"last_features": None, "tissues": 0, "residual": None, "distance": False}
        return {key: value for key, value in asdict(self).items() if key not in absent or value != absent[key]}


def fold(image: Tensor, stride: int) -> Tensor:
    """Blocks of voxels into channels: (n, c, x, y, z) → (n, c·s³, x/s, y/s, z/s), block offset fastest."""
    if stride == 1:
        return image
    n, c, x, y, z = image.shape
    s = stride
    blocks = image.reshape(n, c, x // s, s, y // s, s, z // s, s)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, c * s**3, x // s, y // s, z // s)


def unfold(image: Tensor, stride: int) -> Tensor:
    """Inverse of :func:`fold`."""
    if stride == 1:
        return image
    n, c, x, y, z = image.shape
    s = stride
    blocks = image.reshape(n, c // s**3, s, s, s, x, y, z)
    return blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(n, c // s**3, x * s, y * s, z * s)


class _Doubled(torch.autograd.Function):
    """Nearest upsampling by 2 whose gradient keeps the channels-last layout, a twentieth of a training step on CPUs."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        for axis in (2, 3, 4):
            pairs = gradient.unflatten(axis, (-1, 2))  # type: ignore[no-untyped-call]
            gradient = pairs.select(axis + 1, 0) + pairs.select(axis + 1, 1)
        return gradient


def doubled(x: Tensor) -> Tensor:
    """Every voxel of (n, c, x, y, z) as a block of 2×2×2."""
    result: Tensor = _Doubled.apply(x)  # type: ignore[no-untyped-call]
    return result


class InstanceNorm3d(nn.Module):
    """Normalisation of each volume by its own mean and variance per feature, with learnt scale and offset.

    The same arithmetic as ``torch.nn.InstanceNorm3d``, which gives up the channels-last layout and with it most of
    its speed on CPUs (five times slower over a training step). Where gradients are wanted the sums are those of
    ``F.batch_norm``, which on CPUs are off by up to 1/1000, differently for every number of threads; by them volumes
    would differ by as much as 2 %. Elsewhere they are :func:`moments`.
    """

    def __init__(self, features: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, c, x, y, z)."""
        each = [
            F.batch_norm(volume, None, None, self.weight, self.bias, True, 0.0, self.eps)
            if torch.is_grad_enabled()
            else F.batch_norm(volume, *moments(volume), self.weight, self.bias, False, 0.0, self.eps)
            for volume in torch.split(x, 1)
        ]
        return each[0] if len(each) == 1 else torch.cat(each)


def moments(volume: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per feature, float32, as exact as float32 can tell them, whatever the number of threads.

    Plane by plane, so that differences from the mean stay in the processor's cache; over planes in double precision.

    Parameters
    ----------
    volume
        Shape (1, c, x, y, z), float32 or bfloat16.
    """
    planes = volume[0].movedim(0, -1).flatten(1, 2)
    by_plane = planes.mean(1, dtype=torch.float32)
    about = by_plane.mean(0)
    squares = torch.stack([(plane - about).square_().mean(0) for plane in planes])
    mean = by_plane.double().mean(0)
    variance = squares.double().mean(0) - (mean - about.double()).square()
    return mean.float(), variance.float()


class Level(nn.Module):
    """Two convolutions with ELU, and the normalisation that follows them."""

    def __init__(
        self, in_channels: int, features: int, norm: Literal["batch", "instance"], out_features: int | None = None
    ) -> None:
        super().__init__()
        out_features = out_features or features
        self.conv0 = nn.Conv3d(in_channels, features, 3, padding=1)
        self.conv1 = nn.Conv3d(features, out_features, 3, padding=1)
        kinds: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm3d, "instance": InstanceNorm3d}
        if norm not in kinds:
            raise ValueError(f"norm is {norm!r}, must be one of {', '.join(kinds)}")
        self.norm = kinds[norm](out_features, eps=NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Features before normalisation; the caller applies ``norm`` (the skip is taken before it)."""
        return F.elu(self.conv1(F.elu(self.conv0(x))))


class UNet(nn.Module):
    """See the module's description.

    Parameters
    ----------
    config
        Size of the network.
    """

    #: Of the levels' arithmetic.
    dtype = torch.float32

    @property
    def engine(self) -> str:
        """What computes the answers, with its version where that is not torch."""
        return "torch"

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        block = config.stride**3
        features = [config.features * 2**level for level in range(config.levels)]
        self.down = nn.ModuleList()
        channels = config.in_channels * block
        for width in features:
            self.down.append(Level(channels, width, config.norm))
            channels = width
        self.up = nn.ModuleList()
        for level in range(config.levels - 2, -1, -1):
            out_features = (config.last_features if level == 0 else None) or features[level]
            self.up.append(Level(channels + features[level], features[level], config.norm, out_features))
            channels = out_features
        self.head = nn.Conv3d(channels, (config.tissues + config.maps) * block, 1)
        if config.tissues:
            self.tissue_grey = nn.Parameter(torch.zeros(config.tissues))

    def trunk(self, image: Tensor) -> Tensor:
        """Last features, on the network's own grid: (n, features, x/stride, y/stride, z/stride)."""
        x = fold(image, self.config.stride)
        skips: list[Tensor] = []
        for index, level in enumerate(self.down):
            assert isinstance(level, Level)
            x = level(x)
            before_norm, x = x, level.norm(x)
            if index < len(self.down) - 1:
                skips.append(before_norm if self.config.norm == "batch" else x)
                x = F.max_pool3d(x, 2)
        for level in self.up:
            assert isinstance(level, Level)
            x = torch.cat([skips.pop(), doubled(x)], dim=1)
            x = level.norm(level(x))
        return x

    def head_rows(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the last convolution, its (tissues + maps)·stride³ rows ordered as by :func:`fold`."""
        weight, bias = self.head.weight, self.head.bias
        assert bias is not None
        if not self.config.distance:
            return weight, bias
        unit = torch.ones_like(bias)
        unit[self.config.out_channels * self.config.stride**3 :] = DISTANCE_LIMIT_MM
        return weight * unit.reshape(-1, 1, 1, 1, 1), bias * unit

    def forward(self, image: Tensor) -> Tensor:
        """Prediction for every voxel: (n, in, x, y, z) → (n, maps, x, y, z)."""
        return unfold(self.forward_folded(image), self.config.stride)

    def forward_folded(self, image: Tensor) -> Tensor:
        """As :meth:`forward`, on the network's own grid: (n, maps·stride³, x/stride, y/stride, z/stride)."""
        return self.read_folded(self.trunk(image), image)

    def forward_block(self, image: Tensor, offset: int) -> Tensor:
        """Prediction for one voxel of every block: (n, maps, x/stride, y/stride, z/stride).

        Training on one randomly drawn offset a step gives an unbiased gradient at an eighth of the head's cost.

        Parameters
        ----------
        image
            As in :meth:`forward`.
        offset
            Position in the block, 0 to stride³ − 1, z fastest.
        """
        return self.read_block(self.trunk(image), image, offset)

    def read_folded(self, trunk: Tensor, image: Tensor) -> Tensor:
        """As :meth:`forward_folded`, from what :meth:`trunk` made of the image."""
        folded = self._told_everywhere(trunk) if self.config.tissues else F.conv3d(trunk, *self.head_rows())
        added = self._added(image)
        return folded if added is None else folded + fold(added, self.config.stride)

    def read_block(self, trunk: Tensor, image: Tensor, offset: int) -> Tensor:
        """As :meth:`forward_block`, from what :meth:`trunk` made of the image."""
        predicted = self._told(trunk, offset)
        added = self._added(image)
        return predicted if added is None else predicted + block_offset(added, self.config.stride, offset)

    def answer(self, image: Tensor, blocks: Blocks) -> Tensor:
        """As :meth:`forward` in a part of the network's own grid: (1, maps, …) for the voxels of these blocks."""
        s = self.config.stride
        voxels = tuple(slice(part.start * s, part.stop * s) for part in blocks[2:])
        return unfold(self.read_folded(self.trunk(image)[blocks], image[(*blocks[:2], *voxels)]), s)

    def tissue_logits(self, trunk: Tensor, offset: int) -> Tensor:
        """Logits of the tissues at one voxel of every block: (n, tissues, x/stride, y/stride, z/stride)."""
        block = self.config.stride**3
        rows = slice(offset, self.config.tissues * block, block)
        weight, bias = self.head_rows()
        return F.conv3d(trunk, weight[rows], bias[rows])

    def _told_everywhere(self, trunk: Tensor) -> Tensor:
        """As :meth:`_told` for all voxels of the blocks: (n, stride³, x/stride, y/stride, z/stride)."""
        block, tissues = self.config.stride**3, self.config.tissues
        weight, bias = self.head_rows()
        # Classes of a voxel side by side, where the softmax is fast.
        rows = weight.reshape(tissues + 1, block, -1).transpose(0, 1)
        offsets = bias.reshape(tissues + 1, block).T
        classes, class_offsets = rows[:, :tissues].flatten(0, 1).T, offsets[:, :tissues].flatten()
        remainder, remainder_offsets = rows[:, tissues].T, offsets[:, tissues]
        slabs = []
        for slab in torch.split(trunk.movedim(1, -1), SLAB_PLANES, dim=1):
            features = slab.flatten(0, 3)
            logits = torch.addmm(class_offsets, features, classes).reshape(-1, block, tissues)
            told = logits.softmax(-1) @ self.tissue_grey + torch.addmm(remainder_offsets, features, remainder)
            slabs.append(told.reshape(*slab.shape[:4], block))
        return torch.cat(slabs, dim=1).movedim(-1, 1)

    def _told(self, trunk: Tensor, offset: int) -> Tensor:
        """Maps of one voxel of every block, but for the channel that is added."""
        block, tissues = self.config.stride**3, self.config.tissues
        weight, bias = self.head_rows()
        first = tissues * block + offset
        told = F.conv3d(trunk, weight[first::block], bias[first::block])
        if not tissues:
            return told
        grey = self.tissue_grey.reshape(1, -1, 1, 1, 1)
        return F.conv3d(self.tissue_logits(trunk, offset).softmax(1), grey) + told

    def _added(self, image: Tensor) -> Tensor | None:
        """Input channel to which the prediction is the difference, shape (n, 1, x, y, z)."""
        channel = self.config.residual
        return None if channel is None else image[:, channel : channel + 1]


def grown(network: UNet, *, last_features: int | None, distance: bool) -> UNet:
    """The same network with more features at its last level, or with a map of distances behind its output channels.

    What it answers stays: the head does not read the new features yet, whose weights are random, and the distance is
    0 mm everywhere. A network that has both is returned as it is.

    Raises
    ------
    ValueError
        If the network is larger already.
    """
    config = replace(network.config, last_features=last_features, distance=distance)
    if config == network.config:
        return network
    larger = UNet(config).to(network.head.weight.device)
    state = larger.state_dict()
    for key, value in network.state_dict().items():
        if any(new < old for new, old in zip(state[key].shape, value.shape, strict=True)):
            raise ValueError(f"{network.config} is larger than {config} in {key}")
        if key.startswith("head."):
            state[key].zero_()
        state[key][tuple(slice(size) for size in value.shape)] = value
    return larger.train(network.training)


def block_offset(volume: Tensor, stride: int, offset: int) -> Tensor:
    """Voxels of ``volume`` (…, x, y, z) at position ``offset`` of each block, as :meth:`UNet.forward_block` orders."""
    i, j, k = offset // stride**2, offset // stride % stride, offset % stride
    return volume[..., i::stride, j::stride, k::stride]
