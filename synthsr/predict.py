"""SynthSR at inference: any scan of a brain → a synthetic 1 mm T1.

Order and constants of the reference implementation (Iglesias et al., Science Advances 2023): resample, reorient,
normalise, pad, network, average with the mirrored pass, × 255, clip to [0, 128], crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from . import inference, io, scan
from .errors import DataError
from .weights.storage import LoadedNetwork, load_network

FULL_SCALE_GREY = 255.0
CLIP_GREY = (0.0, 128.0)
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
            If weights or device cannot be used, or the weights are not of a one-channel SynthSR.
        """
        loaded = load_network(weights)
        config = loaded.network.config
        if (config.in_channels, config.out_channels) != (1, 1):
            raise DataError(
                f"{loaded.path}: has {config.in_channels} input and {config.out_channels} output channels; "
                "SynthSR weights of one input and one output channel are needed"
            )
        place = inference.choose_device(device)
        inference.ready(loaded.network, place)
        return cls(loaded, place)

    def __call__(self, source: Path, target: Path, *, ct: bool = False, flip: bool = True) -> None:
        """Write the synthetic T1 of ``source`` to ``target``, and a JSON sidecar beside it.

        Parameters
        ----------
        source
            Three-dimensional scan, NIfTI or MGH.
        target
            Output, named by one of :data:`synthsr.io.SUFFIXES`.
        ct
            The scan is computed tomography in Hounsfield units.
        flip
            Average with the mirrored pass.

        Raises
        ------
        DataError
            If the scan cannot be used; nothing is written then.
        """
        image, grid = scan.read(source, ct=ct)
        predicted = inference.run(self.weights.network, image, flip=flip)[0, 0]
        grey = (predicted * FULL_SCALE_GREY).clamp(*CLIP_GREY).numpy()
        if not np.isfinite(grey).all():
            raise DataError(f"{source}: the network's output is not finite")
        # The sidecar first: no synthetic image lies about without its flag.
        scan.write_sidecar(target, FACTS, source=source, weights=self.weights, ct=ct, flip=flip)
        io.save(grey, grid, target)
