"""Segmentation of a scan of any contrast: labels, volumes from the posteriors, distance to the brain's boundary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import files, inference, io, labels, preprocess, scan
from .errors import ConfigurationError, DataError
from .networks import DISTANCE_LIMIT_MM, SLAB_PLANES, Blocks
from .weights.storage import LoadedNetwork, load_network, names_with_distance

#: Name of the intracranial volume among the structures: the sum of labels 1–499.
ICV = "ICV"
#: Far below what float32 tells of a sum; the logarithm of 0 is none.
LEAST_POSTERIOR = 1e-30
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
    def load(
        cls, weights: str | Path = "segmentation", device: str = "auto", *, arithmetic: str = "float32"
    ) -> Segmenter:
        """Load weights by name or path, onto a device, to run in one of :data:`synthsr.inference.ARITHMETIC`.

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
        return cls(replace(loaded, network=inference.fastest(loaded.network, place, arithmetic)), place)

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
        best, sums, _ = self._segment(image, flip=flip, with_entropy=False)
        return best, sums

    def segment_with_entropy(self, image: Tensor, *, flip: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`segment`, and how unsure the network is within each structure.

        Returns
        -------
        Also, per channel, the mean entropy of the posteriors in nats over the scan's voxels, each weighted by its
        posterior of the channel, float64: 0 where the network is certain, log of the number of channels at most.
        """
        return self._segment(image, flip=flip, with_entropy=True)

    @torch.inference_mode()
    def _segment(self, image: Tensor, *, flip: bool, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
        placed, blocks, padding = self._placed(image)
        scanned = self._blocks(F.pad(torch.ones_like(image[0, 0]), padding).to(self.device))
        best = torch.empty(scanned.shape, dtype=torch.int64, device=self.device)
        channels, mirrored = range(len(labels.segmentation_numbers())), labels.mirror_of_channel().tolist()
        sums = torch.zeros(len(channels), dtype=torch.float64, device=self.device)
        entropies = torch.zeros_like(sums)
        for planes, answers in self._answers(placed, blocks, channels, mirrored if flip else None):
            posterior = answers[0].softmax(-1)
            if flip:
                posterior.add_(answers[1].softmax(-1)).mul_(0.5)
            best[planes] = most_probable(posterior)
            # Each row of the grid in float32, all rows in float64.
            weight = scanned[planes].flatten(2).flatten(0, 1)
            rows = torch.bmm(weight[:, None], posterior.reshape(*weight.shape, -1))
            sums += rows.sum((0, 1), dtype=torch.float64)
            if with_entropy:
                entropy = posterior.clamp_min(LEAST_POSTERIOR).log_().mul_(posterior).sum(-1).neg_()
                weight = weight * entropy.reshape(weight.shape)
                rows = torch.bmm(weight[:, None], posterior.reshape(*weight.shape, -1))
                entropies += rows.sum((0, 1), dtype=torch.float64)
        return self._voxels(best, padding, outside=0), sums.cpu(), (entropies / sums.clamp_min(1e-12)).cpu()

    @torch.inference_mode()
    def strip(self, image: Tensor, *, flip: bool = True) -> Tensor:
        """Signed distance of a prepared scan's voxels to the brain's boundary.

        Parameters
        ----------
        image
            From :func:`synthsr.preprocess.prepare`, shape (1, 1, x, y, z).
        flip
            Average the distances of the scan and its left/right mirror image.

        Returns
        -------
        Millimetres, negative inside, clipped to ±:data:`synthsr.networks.DISTANCE_LIMIT_MM`, shape (x, y, z), float32;
        far outside where the network did not look.

        Raises
        ------
        ConfigurationError
            If the weights do not tell distances.
        """
        self.require_distance()
        placed, blocks, padding = self._placed(image)
        maps = [self.weights.network.config.out_channels]
        slabs = [
            torch.stack(answers).mean(0)[..., 0]
            for _, answers in self._answers(placed, blocks, maps, maps if flip else None)
        ]
        distance = torch.cat(slabs).clamp_(-DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM)
        return self._voxels(distance, padding, outside=DISTANCE_LIMIT_MM)

    def require_distance(self) -> None:
        """Raise :class:`ConfigurationError` if the weights do not tell the distance to the brain's boundary."""
        if self.weights.network.config.distance:
            return
        known = names_with_distance()
        advice = f"give --weights {' or '.join(known)}" if known else "no registered weights have it"
        raise ConfigurationError(
            f"{self.weights.path}: skull-stripping needs weights with a head for the distance to the brain's boundary, "
            f"these have none; {advice}"
        )

    def _placed(self, image: Tensor) -> tuple[Tensor, Blocks, list[int]]:
        """The scan as the network sees it, the blocks where it lies, and its padding within these."""
        padding = inference.placement(self.weights.network, image)
        return F.pad(image, padding), *inference.blocks_of_scan(self.weights.network, image.shape[-3:], padding)

    def _answers(
        self, placed: Tensor, blocks: Blocks, maps: Sequence[int], mirrored: Sequence[int] | None
    ) -> Iterator[tuple[slice, list[Tensor]]]:
        """The network's answers on its own grid, slab by slab, because they are far larger than what they come from.

        Parameters
        ----------
        placed
            Shape (1, 1, x, y, z).
        blocks
            Where on the network's own grid answers are wanted.
        maps
            Which maps of the answer.
        mirrored
            Those that stand for the same in the mirror image; ``None`` leaves it out.

        Yields
        ------
        Planes of ``blocks`` along x; and the scan's and the mirror image's answer there, both as the scan lies, of
        shape (planes, y/s, z/s, s, s, s, maps): blocks, then positions in a block.
        """
        network = self.weights.network
        s = network.config.stride
        weight, bias = network.head_rows()
        weight, bias = weight.reshape(-1, s, s, s, weight.shape[1]), bias.reshape(-1, s, s, s)
        image = placed.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        passes = [(network.trunk(image)[blocks], weight[list(maps)], bias[list(maps)])]
        if mirrored is not None:
            # What the mirror image has on its left lies on the scan's right, within a block as well.
            chosen = weight[list(mirrored)].flip(1), bias[list(mirrored)].flip(1)
            there = inference.mirrored(blocks, image.shape[2] // s)
            passes.append((network.trunk(image.flip(2))[there].flip(2), *chosen))
        heads = [
            (features[0].movedim(0, -1), rows.movedim(0, 3).flatten(0, 3).T, offsets.movedim(0, 3).flatten())
            for features, rows, offsets in passes
        ]
        for start in range(0, heads[0][0].shape[0], SLAB_PLANES):
            planes = slice(start, start + SLAB_PLANES)
            shape = (*heads[0][0][planes].shape[:3], s, s, s, len(maps))
            yield (
                planes,
                [
                    torch.addmm(offsets, features[planes].flatten(0, 2), rows).reshape(shape)
                    for features, rows, offsets in heads
                ],
            )

    def _blocks(self, volume: Tensor) -> Tensor:
        """Shape (x, y, z) → (x/s, y/s, z/s, s, s, s)."""
        s = self.weights.network.config.stride
        x, y, z = (size // s for size in volume.shape)
        return volume.reshape(x, s, y, s, z, s).permute(0, 2, 4, 1, 3, 5)

    def _voxels(self, blocks: Tensor, padding: list[int], *, outside: float) -> Tensor:
        """Undo :meth:`_blocks` and the padding, on the CPU; ``outside`` fills what was cut from the scan."""
        s = self.weights.network.config.stride
        x, y, z = (size * s for size in blocks.shape[:3])
        volume = blocks.permute(0, 3, 1, 4, 2, 5).reshape(x, y, z)
        return F.pad(volume, [-zeros for zeros in padding], value=outside).cpu()

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
        return self.write(channel, sums, grid, target, source=source, ct=ct, flip=flip)

    def write(
        self, channel: Tensor, sums: Tensor, grid: preprocess.Grid, target: Path, *, source: Path, ct: bool, flip: bool
    ) -> dict[str, float]:
        """Write what :meth:`segment` found on ``grid`` to ``target`` as :meth:`__call__` does, and return the volumes.

        Raises
        ------
        DataError
            If a volume is not finite; nothing is written then.
        """
        volumes = volumes_mm3(sums)
        if not np.isfinite(list(volumes.values())).all():
            raise DataError(f"{source}: the network's output is not finite")
        numbers = np.array(labels.segmentation_numbers(), dtype=np.int16)
        scan.write_sidecar(target, FACTS, source=source, weights=self.weights, ct=ct, flip=flip)
        io.save(numbers[channel.numpy()], grid, target)
        return volumes


def most_probable(posterior: Tensor) -> Tensor:
    """Channel of the largest posterior, of equal ones the first; torch's own takes four times as long on a CPU.

    The bits of floats that are not negative have the floats' order. The last six tell the channel here, so that
    posteriors are equal if they differ by less than 1 in 100,000.

    Parameters
    ----------
    posterior
        Shape (…, at most 64 channels), float32, not negative.
    """
    n_channels = posterior.shape[-1]
    last_first = torch.arange(n_channels - 1, -1, -1, dtype=torch.int32, device=posterior.device)
    packed = posterior.view(torch.int32).bitwise_and(-64).bitwise_or_(last_first)
    return n_channels - 1 - packed.amax(-1).bitwise_and_(63)


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
