"""SynthSR at inference: any scan of a brain, or several of one session → a synthetic 1 mm T1.

Order and constants of the reference implementation (Iglesias et al., Science Advances 2023): resample, reorient,
normalise, pad, network, average with the mirrored pass, × 255, clip to [0, 128], crop. Where the network takes several
scans (Iglesias et al., Radiology 2022), the others are resampled onto the first's 1 mm grid by their headers, linearly,
and each is scaled to [0, 1] by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import inference, io, preprocess, scan
from .errors import ConfigurationError, DataError
from .weights.storage import INTENSITIES_OF, RELIABILITY_MAPS, LoadedNetwork, load_network

#: Synthetic grey levels are whole multiples of 1 / 256: a third less to compress and to store.
GREY_STEPS = 256
CLIP_GREY = (0.0, preprocess.FULL_SCALE_GREY * preprocess.SYNTHETIC_MAXIMUM)
#: Opens the sidecar of every output.
FACTS = {
    "Synthetic": True,
    "Description": "T1-weighted image synthesised by SynthSR; its intensities are not a measurement",
}


@dataclass(frozen=True)
class Seen:
    """What a network is shown of a scan, or of several of one session.

    Attributes
    ----------
    source, also
        Files of the first and of the others.
    ct
        Whether the first is computed tomography.
    image
        Shape (1, channels, x, y, z), float32 in [0, 1].
    grid
        Of the image, 1 mm RAS.
    unit
        Intensities in which 0 and 1 of the network's answer are to be read; ``None``: 1 is grey level 255.
    """

    source: Path
    also: Sequence[Path]
    ct: bool
    image: Tensor
    grid: preprocess.Grid
    unit: tuple[float, float] | None


@dataclass
class Predictor:
    """A loaded SynthSR network.

    Attributes
    ----------
    weights
        Network and its provenance.
    device
        Where it runs.
    """

    weights: LoadedNetwork
    device: torch.device

    @classmethod
    def load(cls, weights: str | Path = "synthsr", device: str = "auto", *, arithmetic: str = "float32") -> Predictor:
        """Load weights by name or path, onto a device, to run in one of :data:`synthsr.inference.ARITHMETIC`.

        Raises
        ------
        ConfigurationError, DataError
            If weights or device cannot be used, or the weights are not of a SynthSR.
        """
        loaded = load_network(weights)
        config = loaded.network.config
        if config.maps != 1:
            raise DataError(
                f"{loaded.path}: has {config.in_channels} input and {config.out_channels} output channels; "
                "SynthSR weights of one output channel are needed"
            )
        place = inference.choose_device(device)
        return cls(replace(loaded, network=inference.fastest(loaded.network, place, arithmetic)), place)

    def __call__(
        self, source: Path, target: Path, *, also: Sequence[Path] = (), ct: bool = False, flip: bool = True
    ) -> None:
        """Write the synthetic T1 of ``source`` to ``target``, and a JSON sidecar beside it.

        Parameters
        ----------
        source
            Three-dimensional scan, NIfTI or MGH; the network's first.
        target
            Output, named by one of :data:`synthsr.io.SUFFIXES`, on the 1 mm grid of ``source``.
        also
            The network's further scans, in the order of its channels, aligned with ``source`` by their headers.
        ct
            ``source`` is computed tomography in Hounsfield units.
        flip
            Average with the mirrored pass.

        Raises
        ------
        ConfigurationError
            If the weights take another number of scans.
        DataError
            If a scan cannot be used; nothing is written then.
        """
        seen = self.read(source, also=also, ct=ct)
        self.write(seen, self.predict(seen, flip=flip), target, flip=flip)

    def read(self, source: Path, *, also: Sequence[Path] = (), ct: bool = False) -> Seen:
        """Load and prepare what the network is shown; parameters and errors as of a call."""
        self._require_scans(1 + len(also))
        scans = [io.load(path) for path in (source, *also)]
        image, grid = scan.prepared(source, *scans[0], ct=ct)
        channels, ranges = [image], []
        for path, (data, affine) in zip(also, scans[1:], strict=True):
            laid = scan.onto_grid(data, affine, grid, outside=float(data.min()))
            if not laid.max() > laid.min():
                raise DataError(f"{path}: nothing of it lies in the field of view of {source}; are they one session's?")
            channels.append(preprocess.scale_to_unit(torch.from_numpy(laid)[None, None]))
            ranges.append((float(laid.min()), float(laid.max())))
        if self.weights.information.get(RELIABILITY_MAPS):
            maps = [scan.reliability(data.shape, affine, grid) for data, affine in scans]
            channels += [torch.from_numpy(each)[None, None] for each in maps]
        answered_in = self.weights.information.get(INTENSITIES_OF)
        unit = None
        if answered_in is not None:
            unit = ranges[answered_in - 1] if answered_in else scan.extremes(*scans[0], ct=ct)
        return Seen(source, also, ct, torch.cat(channels, dim=1), grid, unit)

    @torch.inference_mode()
    def predict(self, seen: Seen, *, flip: bool = True) -> npt.NDArray[np.float32]:
        """Synthetic T1 on ``seen.grid``, in grey levels.

        Raises
        ------
        DataError
            If it is not finite.
        """
        predicted = inference.run(self.weights.network, seen.image, flip=flip)[0, 0]
        if seen.unit is None:
            predicted = predicted.mul_(preprocess.FULL_SCALE_GREY).clamp_(*CLIP_GREY)
            predicted = predicted.mul_(GREY_STEPS).round_().div_(GREY_STEPS)
        else:
            low, high = seen.unit
            predicted = (low + (high - low) * predicted).clamp_min(min(low, 0))
        grey: npt.NDArray[np.float32] = predicted.numpy()
        if not np.isfinite(grey).all():
            raise DataError(f"{seen.source}: the network's output is not finite")
        return grey

    def write(self, seen: Seen, grey: npt.NDArray[np.float32], target: Path, *, flip: bool = True) -> None:
        """Write what :meth:`predict` answered, and its sidecar."""
        # The sidecar first: no synthetic image lies about without its flag.
        scan.write_sidecar(
            target, FACTS, source=seen.source, also=seen.also, weights=self.weights, ct=seen.ct, flip=flip
        )
        io.save(grey, seen.grid, target)

    def _require_scans(self, given: int) -> None:
        """Raise :class:`ConfigurationError` if the network does not take ``given`` scans."""
        channels = self.weights.network.config.in_channels
        needed = channels // 2 if self.weights.information.get(RELIABILITY_MAPS) else channels
        if given != needed:
            raise ConfigurationError(
                f"{self.weights.path}: these weights take {needed} scan{'s' if needed > 1 else ''} of a session "
                f"({channels} input channels), given {'is' if given == 1 else 'are'} {given}; the first is the input, "
                "the others follow by --also, in the order of the channels"
            )
