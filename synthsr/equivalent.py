"""A U-net's answers by fewer multiplications: what networks run as when they do not train.

Every step is exact but for rounding. The convolution of [skip, upsampled] is the sum of two: that of the skip, and that
of the upsampled features, which repeats each value in a block of 2×2×2 and is therefore a transposed convolution of the
grid before upsampling, with kernels of 4×4×4 and a stride of 2 (8 taps a voxel instead of 27). Batch norm's constants
act behind the pooling, on an eighth of the voxels; those of the last level become part of the head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import Level, UNet, fold


class EquivalentUNet(UNet):
    """The equal of a network in evaluation mode: it shares the parameters, from which the rest is derived once.

    Parameters
    ----------
    network
        On its device.
    dtype
        Of the arithmetic between the first level and the last; equal only in float32. In bfloat16 throughout, volumes
        of a thick scan's structures were off by up to 4 %, with those two levels in float32 by 0.13 %.
    """

    def __init__(self, network: UNet, dtype: torch.dtype = torch.float32) -> None:
        nn.Module.__init__(self)
        self.config, self.dtype = network.config, dtype
        self.down, self.up, self.head = network.down, network.up, network.head
        if self.config.tissues:
            self.tissue_grey = network.tissue_grey
        self.eval()
        with torch.no_grad():
            kinds = [dtype] * (len(self.down) + len(self.up))
            kinds[0] = kinds[-1] = torch.float32
            self._down = [_Level(*each) for each in zip(self.down, kinds, strict=False)]
            widths = [level.width for level in self._down[-2::-1]]
            self._up = [_Level(*each) for each in zip(self.up, kinds[len(self.down) :], widths, strict=True)]

    def trunk(self, image: Tensor) -> Tensor:
        """As of :class:`~synthsr.networks.UNet`; with batch norm without the last level's, which the head has."""
        is_batch = self.config.norm == "batch"
        x = fold(image, self.config.stride)
        skips: list[Tensor] = []
        for level in self._down:
            x = level.features(x)
            if level is self._down[-1]:
                break
            if is_batch:
                skips.append(x)
                x = level.norm(level.pooled(x))
            else:
                skips.append(level.norm(x))
                x = F.max_pool3d(skips[-1], 2)
        for before, level in zip([self._down[-1], *self._up], self._up, strict=False):
            x = level.features(before.norm(x), skips.pop())
        if not is_batch:
            x = [self._down[-1], *self._up][-1].norm(x)
        return x

    def head_rows(self) -> tuple[Tensor, Tensor]:
        """As of :class:`~synthsr.networks.UNet`, for what :meth:`trunk` gives."""
        weight, bias = super().head_rows()
        if self.config.norm != "batch":
            return weight, bias
        scale, shift = [self._down[-1], *self._up][-1].constants()
        return weight * scale.reshape(1, -1, 1, 1, 1), bias + weight.flatten(1) @ shift


class _Level:
    """A level's two convolutions with ELU, its norm, and what else is made of its parameters.

    Parameters
    ----------
    level
        A :class:`~synthsr.networks.Level`.
    dtype
        Of the convolutions.
    skip
        Channels of the skip that comes first in the input; 0 if there is none.
    """

    def __init__(self, level: nn.Module, dtype: torch.dtype, skip: int = 0) -> None:
        assert isinstance(level, Level)
        self.dtype = dtype
        self.norm, self.width = level.norm, level.conv1.out_channels
        first, second = level.conv0, level.conv1
        weight = first.weight
        if skip:
            self.upsampled = placed(upsampling_kernel(weight[:, skip:]), dtype)
            weight = weight[:, :skip]
        self.first, self.second = placed(weight, dtype), placed(second.weight, dtype)
        self.first_bias, self.second_bias = (conv.bias.to(dtype) for conv in (first, second) if conv.bias is not None)
        #: Features whose order batch norm turns round, so that their largest is their smallest before it.
        self.reversed = torch.nonzero(level.norm.get_parameter("weight") < 0).flatten()

    def features(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Features before normalisation, as of :class:`~synthsr.networks.Level`, of [skip, doubled x] or of x."""
        x = x.to(self.dtype)
        if skip is None:
            made = F.conv3d(x, self.first, self.first_bias, padding=1)
        else:
            made = F.conv3d(skip.to(self.dtype), self.first, self.first_bias, padding=1)
            del skip  # hundreds of megabytes, if the caller has let it go too
            made += F.conv_transpose3d(x, self.upsampled, stride=2, padding=1)
        del x
        return F.elu_(F.conv3d(F.elu_(made), self.second, self.second_bias, padding=1))

    def pooled(self, x: Tensor) -> Tensor:
        """What pooling behind the norm would have picked, before the norm."""
        largest = F.max_pool3d(x, 2)
        if len(self.reversed):
            largest[:, self.reversed] = -F.max_pool3d(-x[:, self.reversed], 2)
        return largest

    def constants(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of a batch norm, shape (features,)."""
        norm = self.norm
        assert isinstance(norm, nn.BatchNorm3d) and norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return scale, norm.bias - norm.running_mean * scale


def placed(kernel: Tensor, dtype: torch.dtype) -> Tensor:
    """A kernel as the convolutions like it."""
    return kernel.detach().to(dtype).contiguous(memory_format=torch.channels_last_3d)


def upsampling_kernel(kernel: Tensor) -> Tensor:
    """Kernel of the transposed convolution (stride 2, padding 1) that is nearest upsampling by 2, then convolution.

    Along one axis the taps w₀, w₁, w₂ become w₂, w₁ + w₂, w₀ + w₁, w₀: what a value adds to the four voxels that its
    block of two and their neighbours are. Exact at borders too: what either pads with is zero.

    Parameters
    ----------
    kernel
        Of a convolution with padding 1, shape (out, in, 3, 3, 3).

    Returns
    -------
    Shape (in, out, 4, 4, 4).
    """
    for axis in (2, 3, 4):
        first, middle, last = kernel.unbind(axis)
        kernel = torch.stack([last, middle + last, first + middle, first], dim=axis)
    return kernel.transpose(0, 1)
