"""Real scans, what SynthSR makes of them, and what the segmenter finds in that: three planes each, one row per scan.

python benchmarks/plot_real_scans.py SCAN... --out docs/real-scans.png [--ct]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from synthsr import files, inference, labels, scan
from synthsr.predict import Predictor
from synthsr.segment import Segmenter
from synthsr.train import as_segmenter_input

TITLES = ("scan, resampled to 1 mm", "synthetic T1", "segmentation on it")
#: Opacity of the segmentation's colours.
OPACITY = 0.4
#: What is shown of each plane about the middle of the brain, in mm.
SHOWN_MM = 200


def colours(channel: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """RGBA per voxel; background is transparent."""
    rows = [labels.by_number()[number] for number in labels.segmentation_numbers()]
    table = np.array([[*(part / 255 for part in row.colour), OPACITY if row.number else 0.0] for row in rows])
    return table[channel]


def plane(volume: npt.NDArray[Any], axis: int, middle: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Sagittal, coronal or axial plane (axis 0, 1, 2) through a voxel, cut out about it: up is up, left is left.

    The cut-out reaches beyond the volume's border where it must, with zeros.
    """
    half = SHOWN_MM // 2
    padded = np.pad(volume, [(0, 0) if one == axis else (half, half) for one in range(3)])
    box = tuple(middle[one] if one == axis else slice(middle[one], middle[one] + SHOWN_MM) for one in range(3))
    return padded[box].T


def draw_row(axes: list[Axes], path: Path, networks: tuple[Predictor, Segmenter], *, ct: bool) -> None:
    """Nine pictures of one scan."""
    predictor, segmenter = networks
    image, _ = scan.read(path, ct=ct)
    synthetic = inference.run(predictor.weights.network, image)
    channel = segmenter.segment(as_segmenter_input(synthetic))[0].numpy()
    inside = np.isin(np.array(labels.segmentation_numbers())[channel], labels.intracranial_numbers())
    found = np.argwhere(inside)
    middle = found.mean(axis=0).round().astype(int) if found.size else np.array(channel.shape) // 2
    for position, axis in enumerate(axes):
        volume = (image, synthetic, synthetic)[position // 3][0, 0].numpy()
        across = position % 3
        seen = plane(volume, across, middle)
        axis.imshow(seen, cmap="gray", origin="lower", vmin=0, vmax=max(float(np.percentile(seen, 99.5)), 1e-6))
        if position >= 6:
            axis.imshow(colours(plane(channel, across, middle)), origin="lower", interpolation="nearest")
        ends = ("P", "A") if across == 0 else ("L", "R")  # RAS: the first voxel is the left-most, or rear-most
        for letter, at in zip(ends, (0.03, 0.97), strict=True):
            side = "left" if at < 0.5 else "right"
            axis.text(at, 0.5, letter, color="yellow", fontsize=9, transform=axis.transAxes, ha=side, va="center")
        axis.axis("off")
    # Over the middle picture of each three; the first says whose they are.
    for third, title in enumerate(TITLES):
        axes[3 * third + 1].set_title(title, color="white", fontsize=9)
    axes[0].set_title(path.name, color="white", fontsize=9, loc="left")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ct", action="store_true", help="the scans are CT in Hounsfield units")
    parser.add_argument("--segmentation", default="segmentation", help="weights, name or path (default: %(default)s)")
    parser.add_argument("--synthsr", default="synthsr", help="weights, name or path (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    inference.prepare_process(given.threads)
    networks = Predictor.load(given.synthsr, given.device), Segmenter.load(given.segmentation, given.device)
    size = (15, 2.05 * len(given.scans))
    figure, axes = plt.subplots(
        len(given.scans), 9, figsize=size, layout="constrained", facecolor="black", squeeze=False
    )
    for line, path in zip(axes, given.scans, strict=True):
        draw_row(list(line), path, networks, ct=given.ct)
    with files.whole(given.out) as temporary:
        figure.savefig(temporary, dpi=100, facecolor="black")
    print(given.out)


if __name__ == "__main__":
    main()
