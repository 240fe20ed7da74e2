"""Real scans at validation: what the network in training makes of them on the way that a user's scans go."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from nibabel.processing import resample_from_to
from torch import Tensor

from .. import inference, io, labels, preprocess, scan
from ..errors import DataError
from ..networks import UNet
from ..segment import Segmenter
from ..weights.storage import LoadedNetwork
from .config import ValidationScan


def as_segmenter_input(predicted: Tensor) -> Tensor:
    """SynthSR's output as the segmenter sees it: clipped as at inference, then scaled to [0, 1]."""
    return preprocess.scale_to_unit(predicted.clamp(0, preprocess.SYNTHETIC_MAXIMUM))


@dataclass(frozen=True, eq=False)
class RealScan:
    """A validation scan in memory.

    Attributes
    ----------
    image
        As of :func:`synthsr.preprocess.prepare`, shape (1, 1, x, y, z).
    reference
        Numbers of its reference segmentation on the image's grid, shape (x, y, z), int32; or ``None``.
    structures
        Numbers of the reference by the segmentation numbers that they stand for together.
    """

    image: Tensor
    reference: npt.NDArray[np.int32] | None
    structures: dict[tuple[int, ...], list[int]]

    def dice(self, segmented: npt.NDArray[np.integer]) -> float:
        """Mean Dice over the reference's structures.

        Parameters
        ----------
        segmented
            Segmentation numbers, shape (x, y, z).
        """
        assert self.reference is not None
        scores = []
        for ours, theirs in self.structures.items():
            found, true = np.isin(segmented, ours), np.isin(self.reference, theirs)
            scores.append(2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true)))
        return float(np.mean(scores))


def read(entry: ValidationScan) -> RealScan:
    """Read a validation scan and bring its reference onto the 1 mm grid, by nearest neighbour.

    Raises
    ------
    DataError
        If a file cannot be used, or no number of the reference stands for a structure of ours.
    """
    image, grid = scan.read(entry.scan, ct=entry.ct)
    if entry.labels is None:
        return RealScan(image, None, {})
    reference = _on_grid(entry.labels, grid)
    meaning = labels.read_segmentation_names(entry.names)
    structures: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number in np.unique(reference[reference != 0]).tolist():
        ours = tuple(sorted(set(meaning.get(number, ())) - {0}))
        if ours:
            structures[ours].append(number)
    if not structures:
        raise DataError(
            f"{entry.labels}: on the grid of {entry.scan} none of its numbers stands for a structure that the "
            "segmenter knows; check names, and that both lie in the same space"
        )
    return RealScan(image, reference, dict(structures))


def _on_grid(path: Path, grid: preprocess.Grid) -> npt.NDArray[np.int32]:
    image = nib.Nifti1Image(*io.load(path))
    # Zeros are taken to go on beyond the border, so that rounding of affines costs no voxel there.
    placed = resample_from_to(image, (grid.shape, grid.affine), order=0, mode="grid-constant")
    return np.asarray(placed.dataobj).round().astype(np.int32)


def synthesise(network: UNet, image: Tensor) -> Tensor:
    """Synthetic T1 of a scan, without the mirrored pass, clipped; shape (1, 1, x, y, z), on the CPU."""
    return inference.run(network, image, flip=False).clamp(0, preprocess.SYNTHETIC_MAXIMUM)


def segment(network: UNet, image: Tensor, device: torch.device) -> npt.NDArray[np.int64]:
    """Channel of the segmentation per voxel of a scan, without the mirrored pass; shape (x, y, z)."""
    segmenter = Segmenter(LoadedNetwork(network, {}, Path(), ""), device)
    return np.asarray(segmenter.segment(image, flip=False)[0].numpy())
