"""SynthSR at inference: any scan of a brain, or several of one session → a synthetic 1 mm T1.

Order and constants of the reference implementation (Iglesias et al., Science Advances 2023): resample, reorient,
normalise, pad, network, average with the mirrored pass, × 255, clip to [0, 128], crop. Where the network takes several
scans (Iglesias et al., Radiology 2022), the others are resampled onto the first's 1 mm grid by their headers, linearly,
and each is scaled to [0, 1] by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from . import inference, io, preprocess, scan
from .errors import ConfigurationError, DataError
from .weights.storage import INTENSITIES_OF, RELIABILITY_MAPS, LoadedNetwork, load_network

CLIP_GREY = (0.0, preprocess.FULL_SCALE_GREY * preprocess.SYNTHETIC_MAXIMUM)
#: Opens the sidecar of every output.
FACTS = {
    "Synthetic": True,
    "Description": "T1-weighted image synthesised by SynthSR; its intensities are not a measurement",
}


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
    def load(cls, weights: str | Path = "synthsr", device: str = "auto") -> Predictor:
        """Load weights by name or path, onto a device.

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
        inference.ready(loaded.network, place)
        return cls(loaded, place)

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
        predicted = inference.run(self.weights.network, torch.cat(channels, dim=1), flip=flip)[0, 0]
        answered_in = self.weights.information.get(INTENSITIES_OF)
        if answered_in is None:
            grey = (predicted * preprocess.FULL_SCALE_GREY).clamp(*CLIP_GREY).numpy()
        else:
            low, high = ranges[answered_in - 1] if answered_in else scan.extremes(*scans[0], ct=ct)
            grey = (low + (high - low) * predicted).clamp_min(min(low, 0)).numpy()
        if not np.isfinite(grey).all():
            raise DataError(f"{source}: the network's output is not finite")
        # The sidecar first: no synthetic image lies about without its flag.
        scan.write_sidecar(target, FACTS, source=source, also=also, weights=self.weights, ct=ct, flip=flip)
        io.save(grey, grid, target)

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
