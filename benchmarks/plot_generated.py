"""What the generator makes: 24 scans per preset, one middle slice of each, in turn sagittal, coronal and axial.

python benchmarks/plot_generated.py LABEL_MAPS... --out docs/
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from synthsr.generator import PRESETS, Generator, load_label_map, read_config

COLUMNS, ROWS = 8, 3


def main() -> None:
    """Write ``generated-PRESET.png`` for every preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label_maps", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    maps = [load_label_map(path) for path in given.label_maps]
    for preset in PRESETS:
        lesions = {"lesions": {"probability": 1}} if preset == "synthsr-2023" else {}
        generator = Generator(read_config({"preset": preset, **lesions}))
        figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(16, 6.2), layout="constrained", facecolor="black")
        for position, axis in enumerate(axes.flat):
            params = generator.sample(np.random.default_rng([1, position]))
            image = generator.apply([maps[position % len(maps)]], [params]).image[0, 0].numpy()
            plane = np.take(image, image.shape[position % 3] // 2 + (8 if position % 3 == 0 else 0), axis=position % 3)
            axis.imshow(plane.T, cmap="gray", origin="lower", vmin=0, vmax=np.percentile(image, 99.8))
            axis.axis("off")
        given.out.mkdir(parents=True, exist_ok=True)
        figure.savefig(given.out / f"generated-{preset}.png", dpi=70, facecolor="black")
        plt.close(figure)


if __name__ == "__main__":
    main()
