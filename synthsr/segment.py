"""Whole-brain segmentation of a scan of any contrast, and volumes from the posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import __version__, files, inference, io, labels, preprocess
from .errors import DataError
from .predict import sidecar
from .weights.storage import LoadedNetwork, load_network

#: Name of the intracranial volume among the structures: the sum of labels 1–499.
ICV = "ICV"


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

    def posteriors(self, image: Tensor, *, flip: bool = True) -> Tensor:
        """Label probabilities of a prepared scan, shape (channels, x, y, z), float32."""
        swap = torch.from_numpy(labels.mirror_of_channel()).to(self.device)
        return inference.run(
            self.weights.network, image, flip=flip, activation=lambda x: x.softmax(1), unflip=lambda x: x[:, swap]
        )[0]

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
        data, affine = io.load(source)
        try:
            image, grid = preprocess.prepare(data, affine, ct=ct)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        posterior = self.posteriors(image, flip=flip)
        volumes = volumes_mm3(posterior)
        if not np.isfinite(list(volumes.values())).all():
            raise DataError(f"{source}: the network's output is not finite")
        io.save(label_map(posterior), grid, target)
        files.write_json(sidecar(target), self._describe(source, ct=ct, flip=flip))
        return volumes

    def _describe(self, source: Path, *, ct: bool, flip: bool) -> dict[str, Any]:
        return {
            "Description": "Whole-brain segmentation, FreeSurfer label numbers",
            "Sources": [source.name],
            "SourceSHA256": files.sha256(source),
            "GeneratedBy": {"Name": "synthsr-cohort", "Version": __version__},
            "WeightsName": self.weights.path.stem,
            "WeightsSHA256": self.weights.sha256,
            "ComputedTomography": ct,
            "FlipAveraged": flip,
        }


def volumes_mm3(posterior: Tensor) -> dict[str, float]:
    """Expected volumes: the sum of posteriors times the voxel's volume.

    Parameters
    ----------
    posterior
        Shape (channels, x, y, z) on a 1 mm grid.
    """
    sums = posterior.sum(dim=(1, 2, 3), dtype=torch.float64) * preprocess.VOXEL_SIZE_MM**3
    numbers = labels.segmentation_numbers()
    volumes = {
        labels.by_number()[number].name: float(volume)
        for number, volume in zip(numbers, sums, strict=True)
        if number != 0
    }
    inside = [numbers.index(number) for number in labels.intracranial_numbers()]
    return {**volumes, ICV: float(sums[inside].sum())}


def label_map(posterior: Tensor) -> npt.NDArray[np.int16]:
    """Most probable label number per voxel."""
    numbers = np.array(labels.segmentation_numbers(), dtype=np.int16)
    result: npt.NDArray[np.int16] = numbers[posterior.argmax(0).numpy()]
    return result


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
