"""Train the network that sees motion.

    python -m analysis.motion.train --label-maps MAP... --scans SCAN... --out analysis/motion/weights.safetensors

Heads are deformed label maps of any contrast (``synthsr.generator``), and real scans that show no motion; half of the
slices are scanned while the head moves (:mod:`.simulate`). Under half an hour of two cores; the same call makes the
same weights on the same machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from synthsr import files, io, preprocess
from synthsr.generator import Generator, load_label_map, read_config

from .network import SIDE_VOXELS, MotionNetwork, directions, prepared
from .simulate import Acquisition

#: Of the heads made of label maps: anything that a scanner may show.
HEADS: dict[str, Any] = {
    "field_mm": 192,
    "deformation": {"translation_mm": 5, "scaling": 0.1},
    "steps": [
        {"mixture": {"mean_grey": [0, 255], "sd_grey": [0, 12], "tied_probability": 0.5,
                     "dark_background_probability": 0.5}},
        {"bias": {"log_sd": [0, 0.3]}},
        {"normalise": {}},
        {"blur": {"sd_mm": [0.5, 0.5]}},
        {"acquire": {"fixed_spacing_mm": [[1, 1, 1]], "gaps": False, "profile_jitter": [1, 1]}},
    ],
}  # fmt: skip
THICKNESS_MM = (1, 7)
REAL_SHARE = 0.3
ZOOM = (0.85, 1.2)
SHIFT_VOXELS = 12
#: Of a field of view, where slices are taken.
MIDDLE = (0.15, 0.85)
#: Slices with less of them bright are not shown.
LEAST_BRIGHT = 0.05
BATCH = 32
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-3
SEED = 0x6D6F7665

Volume = npt.NDArray[np.float16]


class Slices(Dataset[tuple[Tensor, Tensor]]):
    """Batches of slices, every second with motion; each is decided by its number alone.

    Parameters
    ----------
    heads
        Of label maps, 1 mm.
    scans
        Real ones at 1 mm, and the axes across which their slices lie.
    steps
        Number of batches.
    """

    def __init__(self, heads: Sequence[Volume], scans: Sequence[tuple[Volume, list[int]]], steps: int) -> None:
        self.heads, self.scans, self.steps = heads, scans, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Slices (:data:`BATCH`, 1, side, side), and 1 for those with motion."""
        if number >= self.steps:
            raise IndexError(number)
        rng = np.random.default_rng([SEED, number])
        moves = np.arange(BATCH) % 2 == 1
        scan, middle = Acquisition(), (SIDE_VOXELS // 2, SIDE_VOXELS // 2)
        shown = [prepared(scan(self._still(rng), rng, moves=bool(each)), middle) for each in moves]
        return torch.from_numpy(np.stack(shown))[:, None], torch.from_numpy(moves.astype(np.float32))

    def _still(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """A slice of a head that lies still, in any direction and place."""
        while True:
            if self.scans and rng.random() < REAL_SHARE:
                volume, axes = self.scans[int(rng.integers(len(self.scans)))]
                axis, thickness = int(rng.choice(axes)), 1
            else:
                volume = self.heads[int(rng.integers(len(self.heads)))]
                axis, thickness = int(rng.integers(3)), int(rng.integers(*THICKNESS_MM, endpoint=True))
            first = int(volume.shape[axis] * rng.uniform(*MIDDLE))
            planes = np.arange(first, min(first + thickness, volume.shape[axis]))
            plane = volume.take(planes, axis).astype(np.float32).mean(axis)
            plane = ndimage.zoom(plane, rng.uniform(*ZOOM), order=1)
            off = rng.integers(-SHIFT_VOXELS, SHIFT_VOXELS, 2, endpoint=True)
            plane = prepared(plane, [side // 2 + int(by) for side, by in zip(plane.shape, off, strict=True)])
            if (plane > 0.1 * plane.max()).mean() < LEAST_BRIGHT:
                continue
            turned = plane.T if rng.random() < 0.5 else plane
            return np.ascontiguousarray(turned[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))])


def deformed_heads(paths: Sequence[Path], each: int) -> list[Volume]:
    """So many heads of every label map."""
    make = Generator(read_config(HEADS))
    heads = []
    for index, path in enumerate(tqdm(paths, desc="heads", unit="map")):
        source = load_label_map(path)
        for draw in range(each):
            made = make.apply([source], [make.sample(np.random.default_rng([SEED, index, draw]))])
            heads.append(made.image[0, 0].numpy().astype(np.float16))
    return heads


def real_scan(path: Path) -> tuple[Volume, list[int]]:
    """A scan at 1 mm, and the axes across which its slices lie."""
    data, affine = io.load(path)
    seen, _ = preprocess.prepare(data, affine)
    return seen[0, 0].numpy().astype(np.float16), directions(affine)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.motion.train", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--label-maps", nargs="+", type=Path, required=True, metavar="MAP")
    parser.add_argument("--scans", nargs="*", type=Path, default=[], metavar="SCAN", help="real ones without motion")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--steps", type=int, default=3000, help="default: %(default)s")
    parser.add_argument("--heads", type=int, default=16, help="per label map (default: %(default)s)")
    given = parser.parse_args()
    torch.manual_seed(SEED)
    slices = Slices(
        deformed_heads(given.label_maps, given.heads), [real_scan(path) for path in given.scans], given.steps
    )
    network = MotionNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=given.steps)
    mean_loss = 0.0
    progress = tqdm(DataLoader(slices, batch_size=None, num_workers=1, prefetch_factor=8), desc="slices", unit="step")
    for shown, moves in progress:
        told = network(shown.contiguous(memory_format=torch.channels_last))
        loss = F.binary_cross_entropy_with_logits(told, moves)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        mean_loss += 0.02 * (loss.item() - mean_loss)
        progress.set_postfix(loss=f"{mean_loss:.3f}", refresh=False)
    facts = {
        "label_maps": ", ".join(sorted(path.name for path in given.label_maps)),
        "scans": ", ".join(sorted(f"{path.parent.name}/{path.name}" for path in given.scans)),
        "steps": given.steps,
        "heads": given.heads,
        "loss": round(mean_loss, 4),
    }
    with files.whole(given.out) as temporary:
        # One entry, because safetensors writes several in an order that differs from run to run.
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, temporary, metadata={"motion": json.dumps(facts)})
    print(f"{given.out}: loss {mean_loss:.3f}")


if __name__ == "__main__":
    main()
