"""What the segmentation loss gives: SynthSR trained with it and without it, on heads that neither has seen.

    for one in random_contrast with_segmentation_loss without_segmentation_loss; do
        synthsr train config/ablation/$one.yaml; done
    python benchmarks/compare_ablation.py LABEL_MAPS... --out DIR

Both networks get the same deformed heads, which take turns in looking like a T1, T2, FLAIR or CT and in being cut into
thick sagittal, coronal or axial slices. Measured are L1 and SSIM of their images to the target, and, by the segmenter
that stood behind them in training, Dice and volumes of what it finds in their images. Leaves ``rows.tsv`` and
``ablation.json``: means with 95 % intervals from resampling the label maps, and of the difference between the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import deformed_heads
import intervals
import numpy as np
import pandas as pd
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from synthsr import files, inference, labels, losses
from synthsr.errors import ConfigurationError
from synthsr.generator import Generated, Generator, load_label_map
from synthsr.networks import UNet
from synthsr.train import MAIN_NUMBERS, as_segmenter_input
from synthsr.weights.storage import load_network

ARMS = ("with", "without")
#: Structures whose volumes are compared, by the labels of both sides.
VOLUMES = {"hippocampus": (17, 53), "lateral_ventricle": (4, 43), "cortex": (3, 42)}


@torch.inference_mode()
def measure(network: UNet, segmenter: UNet, scan: Tensor, made: Generated) -> dict[str, float]:
    """Errors of one network on one scan.

    The networks see the whole field as in training; there is no averaging with the mirrored pass.

    Parameters
    ----------
    network, segmenter
        Ready, on the scan's device.
    scan
        Shape (1, 1, x, y, z), in [0, 1].
    made
        Target and truth.
    """
    synthetic = network(scan.contiguous(memory_format=torch.channels_last_3d)).float()
    seen = as_segmenter_input(synthetic).contiguous(memory_format=torch.channels_last_3d)
    posterior = segmenter(seen).float().softmax(1)
    numbers = labels.segmentation_numbers()
    dice = losses.hard_dice(posterior.argmax(1), made.channel, len(numbers))
    true = torch.bincount(made.channel.flatten(), minlength=len(numbers)).double()
    volume = posterior.sum(dim=(0, 2, 3, 4), dtype=torch.float64)
    target, answer = made.target[0, 0].cpu().numpy(), synthetic[0, 0].cpu().numpy()
    found = {
        "l1_grey": float(np.abs(answer - target).mean()) * 255,
        "ssim": float(structural_similarity(target, answer, data_range=float(np.ptp(target)))),
        "dice": float(torch.nanmean(dice[[numbers.index(number) for number in MAIN_NUMBERS]])),
    }
    for name, both in VOLUMES.items():
        channels = [numbers.index(number) for number in both]
        error = 100 * float(volume[channels].sum() / true[channels].sum().clamp_min(1) - 1)
        found |= {f"{name}_error_percent": error, f"{name}_absolute_error_percent": abs(error)}
    return found


def summarise(rows: pd.DataFrame, columns: list[str]) -> dict[str, Any]:
    """Mean per arm and of the difference, with minus without, each with its interval."""
    one, other = (rows[rows["arm"] == arm].set_index(["label_map", "draw"])[columns] for arm in ARMS)
    parts = {"with": one, "without": other, "difference": one - other}
    return {
        column: {name: intervals.of_mean(part.reset_index(), column) for name, part in parts.items()}
        for column in columns
    }


def head_and_scan(make: Generator, source: Any, draw: int, spacing_mm: float) -> tuple[Generated, Tensor, str, str]:
    """A deformed head, its scan, contrast and orientation; twelve draws have every pair of these once."""
    contrast = deformed_heads.contrast_of(draw)
    orientation = deformed_heads.ORIENTATIONS[draw % len(deformed_heads.ORIENTATIONS)]
    made = deformed_heads.head(make, source, draw, contrast)
    voxel_size_mm = make.config.voxel_size_mm
    scan = deformed_heads.scanned(made.image, spacing_mm, orientation, voxel_size_mm=voxel_size_mm)
    return made, scan, contrast, orientation


def main() -> None:
    """Compare, print and write."""
    runs = Path("runs/ablation")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label_maps", nargs="+", type=Path)
    for arm in ARMS:
        default = runs / f"{arm}_segmentation_loss/synthsr.safetensors"
        parser.add_argument(f"--{arm}", type=Path, default=default, help="weights (default: %(default)s)")
    default = runs / "random_contrast/segmentation.safetensors"
    parser.add_argument("--segmentation", type=Path, default=default, help="weights (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=12, help="seeded deformations per map (default: %(default)s)")
    parser.add_argument("--spacing-mm", type=float, default=5, help="slice distance (default: %(default)s)")
    parser.add_argument("--field-mm", type=int, default=192, help="as in training (default: %(default)s)")
    parser.add_argument("--voxel-size-mm", type=int, default=2, help="as in training (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    inference.prepare_process(given.threads)
    device = inference.choose_device(given.device)
    loaded = {arm: load_network(getattr(given, arm)) for arm in ARMS}
    behind = load_network(given.segmentation)
    if loaded["with"].information["steps"] != loaded["without"].information["steps"]:
        steps = ", ".join(f"{one.path} {one.information['steps']}" for one in loaded.values())
        raise ConfigurationError(f"steps differ ({steps}); train both to the end, or the comparison says nothing")
    for one in loaded.values():
        if one.information["segmenter_sha256"] != behind.sha256:
            raise ConfigurationError(f"{one.path}: {behind.path} is not the segmenter that it was trained in front of")
    ready = {arm: inference.ready(one.network, device) for arm, one in loaded.items()}
    segmenter = inference.ready(behind.network, device)
    make = deformed_heads.generator(device, field_mm=given.field_mm, voxel_size_mm=given.voxel_size_mm)
    rows = []
    for path in given.label_maps:
        source = load_label_map(path)
        for draw in range(given.draws):
            made, scan, contrast, orientation = head_and_scan(make, source, draw, given.spacing_mm)
            for arm in ARMS:
                found = measure(ready[arm], segmenter, scan, made)
                row = {"label_map": path.name, "draw": draw, "contrast": contrast, "orientation": orientation}
                rows.append({**row, "arm": arm, **found})
        print(path.name, flush=True)
    table = pd.DataFrame(rows)
    columns = [str(name) for name in table if name not in ("label_map", "draw", "contrast", "orientation", "arm")]
    with files.whole(given.out / "rows.tsv") as temporary:
        table.round(5).to_csv(temporary, sep="\t", index=False)
    figures = summarise(table, columns)
    files.write_json(
        given.out / "ablation.json",
        {
            "label_maps": [path.name for path in given.label_maps],
            "draws_per_map": given.draws,
            "spacing_mm": given.spacing_mm,
            "voxel_size_mm": given.voxel_size_mm,
            "steps": loaded["with"].information["steps"],
            "sha256": {**{arm: one.sha256 for arm, one in loaded.items()}, "segmentation": behind.sha256},
            **figures,
        },
    )
    print(f"{'':42s}{'with':>30s}{'without':>30s}{'difference':>30s}")
    for column, entry in figures.items():
        cells = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in entry.values()]
        print(f"{column:42s}" + "".join(f"{cell:>30s}" for cell in cells))


if __name__ == "__main__":
    main()
