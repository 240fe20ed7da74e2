"""Whole-brain segmentation of a scan of any contrast, and volumes from the posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import files, inference, io, labels, networks, preprocess, scan
from .errors import DataError
from .weights.storage import LoadedNetwork, load_network

#: Name of the intracranial volume among the structures: the sum of labels 1–499.
ICV = "ICV"
#: Opens the sidecar of every output.
FACTS = {"Description": "Whole-brain segmentation, FreeSurfer label numbers"}


@dataclass
class Segmenter:
    """A loaded segmentation network.

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
    def load(cls, weights: str | Path = "segmentation", device: str = "auto") -> Segmenter:
        """Load weights by name or path, onto a device.

        Raises
        ------
        ConfigurationError, DataError
            If weights or device cannot be used, or the weights do not fit the label table.
        """
        loaded = load_network(weights)
        config, expected = loaded.network.config, len(labels.segmentation_numbers())
        if (config.in_channels, config.out_channels) != (1, expected):
            raise DataError(
                f"{loaded.path}: has {config.in_channels} input and {config.out_channels} output channels; "
                f"segmentation weights of 1 and {expected} channels are needed"
            )
        place = inference.choose_device(device)
        inference.ready(loaded.network, place)
        return cls(loaded, place)

    @torch.inference_mode()
    def segment(self, image: Tensor, *, flip: bool = True) -> tuple[Tensor, Tensor]:
        """Segment a prepared scan.

        Posteriors are averaged, summed and compared on the network's own grid, where they lie; only the label map is
        brought to the scan's.

        Parameters
        ----------
        image
            From :func:`synthsr.preprocess.prepare`, shape (1, 1, x, y, z).
        flip
            Average the posteriors of the scan and its left/right mirror image.

        Returns
        -------
        Most probable channel per voxel, shape (x, y, z), int64; and the sum of posteriors over the scan's voxels per
        channel, float64.
        """
        network = self.weights.network
        padding = inference.placement(network, image)
        placed = F.pad(image, padding).to(self.device).contiguous(memory_format=torch.channels_last_3d)
        posterior = self._blocks(network.forward_folded(placed))
        if flip:
            mirrored = self._blocks(network.forward_folded(placed.flip(2)))
            for channel, other in enumerate(labels.mirror_of_channel().tolist()):  # one at a time, for memory
                posterior[channel].add_(mirrored[other].flip((0, 3))).mul_(0.5)
        scanned = F.pad(torch.ones_like(image), padding).to(self.device)
        scanned = networks.fold(scanned, network.config.stride).reshape(posterior.shape[1:])
        sums = torch.stack([(channel * scanned).sum(dtype=torch.float64) for channel in posterior])
        best = posterior.argmax(0)
        best = networks.unfold(best.reshape(1, -1, *best.shape[-3:]), network.config.stride)
        return F.pad(best, [-zeros for zeros in padding])[0, 0].cpu(), sums.cpu()

    def _blocks(self, logits: Tensor) -> Tensor:
        """Posteriors of shape (channels, s, s, s, x/s, y/s, z/s): position in a block, then the block's."""
        s = self.weights.network.config.stride
        channels = self.weights.network.config.out_channels
        return logits[0].reshape(channels, s, s, s, *logits.shape[-3:]).float().softmax(0)

    def __call__(self, source: Path, target: Path, *, ct: bool = False, flip: bool = True) -> dict[str, float]:
        """Write the label map of ``source`` to ``target`` with a JSON sidecar, and return its volumes.

        Returns
        -------
        Volume in mm³ per structure name, and :data:`ICV`.

        Raises
        ------
        DataError
            If the scan cannot be used; nothing is written then.
        """
        image, grid = scan.read(source, ct=ct)
        channel, sums = self.segment(image, flip=flip)
        volumes = volumes_mm3(sums)
        if not np.isfinite(list(volumes.values())).all():
            raise DataError(f"{source}: the network's output is not finite")
        numbers = np.array(labels.segmentation_numbers(), dtype=np.int16)
        scan.write_sidecar(target, FACTS, source=source, weights=self.weights, ct=ct, flip=flip)
        io.save(numbers[channel.numpy()], grid, target)
        return volumes


def volumes_mm3(posterior_sums: Tensor) -> dict[str, float]:
    """Expected volumes: sums of posteriors times the voxel's volume.

    Parameters
    ----------
    posterior_sums
        Per channel, over the voxels of a 1 mm grid.
    """
    sums = posterior_sums * preprocess.VOXEL_SIZE_MM**3
    numbers = labels.segmentation_numbers()
    volumes = {
        labels.by_number()[number].name: float(volume)
        for number, volume in zip(numbers, sums, strict=True)
        if number != 0
    }
    inside = [numbers.index(number) for number in labels.intracranial_numbers()]
    return {**volumes, ICV: float(sums[inside].sum())}


def write_volumes(volumes: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Write a long table: image, structure, label number (n/a for the ICV), volume in mm³.

    Parameters
    ----------
    volumes
        Volume per structure, per image name.
    path
        Target TSV.
    """
    numbers = {label.name: str(label.number) for label in labels.table()}
    lines = ["image\tstructure\tlabel\tvolume_mm3"]
    for image, structures in volumes.items():
        for structure, volume in structures.items():
            lines.append(f"{image}\t{structure}\t{numbers.get(structure, 'n/a')}\t{volume:.3f}")
    files.write_text(path, "\n".join(lines) + "\n")
