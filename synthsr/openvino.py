"""Published networks by OpenVINO, where it is installed: less memory than by torch on a CPU, and in bfloat16 less time.

Only networks that look at every voxel, as the published SynthSR does, gain by it; the shipped ones, on blocks of 2×2×2
voxels, hardly do. The graph is built here, operation by operation, from what
:class:`~synthsr.equivalent.EquivalentUNet` derives: OpenVINO's own converter takes two seconds a process, and would
send usage statistics.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .equivalent import EquivalentUNet
from .networks import Blocks, UNet, UNetConfig

#: OpenVINO's names of arithmetics.
PRECISION = {torch.float32: "f32", torch.bfloat16: "bf16"}


def suits(config: UNetConfig) -> bool:
    """Whether such a network runs by OpenVINO here."""
    is_published_kind = config.norm == "batch" and config.stride == 1 and config.maps == 1 and not config.tissues
    return is_published_kind and importlib.util.find_spec("openvino") is not None


@cache
def core() -> Any:
    """OpenVINO's runtime, for as long as the process lives.

    It gives the process a stack for signal handlers and takes that along when it goes: the next signal that Python
    handles, such as a child's end or Ctrl-C, would then be the end.
    """
    import openvino

    return openvino.Core()


class OpenVinoUNet(EquivalentUNet):
    """As :class:`~synthsr.equivalent.EquivalentUNet`, its answers computed by OpenVINO; its ``trunk`` still by torch.

    Parameters
    ----------
    network
        That :func:`suits`, on the CPU.
    dtype
        Of the arithmetic, float32 or bfloat16: of all levels, where torch's keeps the first and the last in float32.
    """

    def __init__(self, network: UNet, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(network)
        self.dtype = dtype
        self._model = self._graph()
        self._compiled: tuple[torch.Size, Any] | None = None

    @property
    def engine(self) -> str:
        """As of :class:`~synthsr.networks.UNet`."""
        return f"openvino {importlib.metadata.version('openvino')}"

    def answer(self, image: Tensor, blocks: Blocks) -> Tensor:
        """As of :class:`~synthsr.networks.UNet`."""
        if self._compiled is None or self._compiled[0] != image.shape:
            self._compiled = image.shape, self._compile(image.shape)
        told = torch.from_numpy(self._compiled[1].infer([image.contiguous().numpy()], share_inputs=True)[0])[blocks]
        added = self._added(image)
        return told if added is None else told + added[blocks]

    def _compile(self, shape: torch.Size) -> Any:
        """The graph for images of a shape, which it runs faster and in less memory than for any."""
        model = self._model.clone()
        model.reshape(list(shape))
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISION[self.dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # It would bind the threads of every process to the same first cores; several jobs share a machine.
            "ENABLE_CPU_PINNING": False,
        }
        return core().compile_model(model, "CPU", settings).create_infer_request()

    @torch.no_grad()
    def _graph(self) -> Any:
        """Image to answers, of any shape."""
        import openvino
        from openvino import opset1

        ones, twos, zeros = [1, 1, 1], [2, 2, 2], [0, 0, 0]

        def constant(values: Tensor) -> Any:
            return opset1.constant(np.ascontiguousarray(values.detach().numpy()))

        def per_feature(values: Tensor) -> Any:
            return constant(values.reshape(1, -1, 1, 1, 1))

        def elu(x: Any, bias: Tensor) -> Any:
            return opset1.elu(opset1.add(x, per_feature(bias)), 1.0)

        def convolved(x: Any, kernel: Tensor, pad: list[int] = ones) -> Any:
            return opset1.convolution(x, constant(kernel), ones, pad, pad, ones)

        def normalised(x: Any, level: Any) -> Any:
            scale, shift = level.constants()
            return opset1.add(opset1.multiply(x, per_feature(scale)), per_feature(shift))

        def pooled(x: Any, level: Any) -> Any:
            turned = torch.ones(level.width)
            turned[level.reversed] = -1
            if not len(level.reversed):
                return opset1.max_pool(x, twos, zeros, zeros, twos)
            there = opset1.max_pool(opset1.multiply(x, per_feature(turned)), twos, zeros, zeros, twos)
            return opset1.multiply(there, per_feature(turned))

        def features(x: Any, level: Any, skip: Any = None) -> Any:
            made = convolved(x if skip is None else skip, level.first)
            if skip is not None:
                upsampled = opset1.convolution_backprop_data(x, constant(level.upsampled), twos, None, ones, ones, ones)
                made = opset1.add(made, upsampled)
            return elu(convolved(elu(made, level.first_bias), level.second), level.second_bias)

        image = opset1.parameter([1, self.config.in_channels, -1, -1, -1], np.float32, "image")
        x, skips = image, []
        for level in self._down[:-1]:
            skips.append(features(x, level))
            x = normalised(pooled(skips[-1], level), level)
        x = features(x, self._down[-1])
        for before, level in zip([self._down[-1], *self._up], self._up, strict=False):
            x = features(normalised(x, before), level, skips.pop())
        weight, bias = self.head_rows()
        return openvino.Model([opset1.add(convolved(x, weight, zeros), per_feature(bias))], [image], "u-net")
