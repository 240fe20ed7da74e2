"""Do features of a network depend on the contrast of the scan? The figure of Hoffmann 2025 (domain-randomised deep
learning), with numbers: the last features before the head, of the same brain under two contrasts.

    synthsr train config/ablation/random_contrast.yaml
    synthsr train config/ablation/t1_contrast.yaml
    python benchmarks/feature_stability.py LABEL_MAPS... --out DIR --figure docs/feature-stability.png

One network was trained on random contrasts, the other, of the same size and as many steps, on T1-like scans alone. Both
see the same deformed heads, which they were not trained on, looking like a T1 and like a T2; so does the shipped
segmenter, at 1 mm, which has nothing to be compared with but says what longer training makes of it. Over the voxels of
the brain, per feature: Pearson's correlation of its two maps, and the root mean square of their difference over the
feature's standard deviation (0 if they are equal, 1.41 if they have nothing in common). Leaves ``features.tsv`` (a row
per head, network and feature), ``feature_stability.json`` and the figure.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deformed_heads
import intervals
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from synthsr import files, inference, labels, losses, networks
from synthsr.errors import ConfigurationError
from synthsr.generator import Generated, Generator, load_label_map
from synthsr.networks import UNet
from synthsr.train import MAIN_NUMBERS
from synthsr.weights.storage import load_network

CONTRASTS = ("T1", "T2")
NETWORKS = {"random": "random contrasts", "t1": "T1-like scans alone"}
#: The shipped network, which is not in the figure.
SHIPPED = "shipped"
Mask = npt.NDArray[np.bool_]
#: Features of one network by contrast, each of shape (features, x, y, z).
Maps = dict[str, Tensor]
#: Features in the figure.
SHOWN = 6
#: Of features that vary less than this share of the network's most varied one, nothing is said.
SILENT = 1e-3
#: Correlation above which a feature counts as the same under both contrasts.
SAME = 0.9


@torch.inference_mode()
def last_features(network: UNet, image: Tensor) -> Tensor:
    """Features before the head, on the network's own grid: shape (features, x, y, z)."""
    return network.trunk(image.contiguous(memory_format=torch.channels_last_3d))[0].float()


def brain(made: Generated, stride: int) -> Mask:
    """Blocks of the network's grid of which more than half is inside the skull."""
    numbers = labels.segmentation_numbers()
    inside = torch.tensor([number in labels.intracranial_numbers() for number in numbers], device=made.channel.device)
    share: Tensor = F.avg_pool3d(inside[made.channel].float()[None], stride)
    return (share[0, 0] > 0.5).cpu().numpy()


def agreement(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    """Correlation and relative difference of features under two contrasts.

    Parameters
    ----------
    one, other
        Shape (features, voxels).

    Returns
    -------
    Pearson's correlation, and root mean square difference over the root mean of both variances; each of shape
    (features,), not a number for a feature that hardly varies.
    """
    one, other = one.astype(np.float64), other.astype(np.float64)
    variance = np.stack([one.var(axis=1), other.var(axis=1)])
    covariance = ((one - one.mean(axis=1, keepdims=True)) * (other - other.mean(axis=1, keepdims=True))).mean(axis=1)
    silent = (np.sqrt(variance) < SILENT * np.sqrt(variance.max())).any(axis=0)
    correlation = covariance / np.sqrt(np.where(silent, np.nan, variance.prod(axis=0)))
    difference = np.sqrt(((one - other) ** 2).mean(axis=1) / np.where(silent, np.nan, variance.mean(axis=0)))
    return correlation, difference


@torch.inference_mode()
def mean_dice(network: UNet, features: Tensor, made: Generated) -> float:
    """Of the segmentation that the head makes of the features."""
    numbers = labels.segmentation_numbers()
    # Behind the labels there may be a map of distances.
    best = networks.unfold(network.head(features[None]), network.config.stride)[:, : len(numbers)].argmax(1)
    dice = losses.hard_dice(best, made.channel, len(numbers))
    return float(torch.nanmean(dice[[numbers.index(number) for number in MAIN_NUMBERS]]))


def summarise(features: pd.DataFrame, dice: pd.DataFrame) -> dict[str, Any]:
    """Per network: median over features and heads with its interval, share of unchanged features, Dice per contrast."""
    summary: dict[str, Any] = {}
    for name in (*NETWORKS, SHIPPED):
        rows = features[features["network"] == name].dropna()
        entry: dict[str, Any] = {
            f"median_{column}": intervals.of_statistic(rows, [column], lambda values: float(np.median(values)))
            for column in ("correlation", "relative_difference")
        }
        entry["share_same"] = intervals.of_statistic(rows, ["correlation"], lambda r: float((r > SAME).mean()))
        of_network = dice[dice["network"] == name]
        entry["dice"] = {
            str(contrast): intervals.of_mean(rows, "dice") for contrast, rows in of_network.groupby("contrast")
        }
        summary[name] = entry
    return summary


def draw_figure(
    path: Path, scans: dict[str, Tensor], maps: dict[str, Maps], within: dict[str, Mask], features: pd.DataFrame
) -> None:
    """One head: the scan and some features under both contrasts, for both networks; histogram of all correlations.

    The features shown are spread evenly from the least to the most stable.

    Parameters
    ----------
    path
        Target.
    scans
        By contrast, shape (1, 1, size, size, size).
    maps, within
        By network: its features of both scans, and which blocks of its grid are brain.
    features
        Rows of all heads.
    """
    figure = plt.figure(figsize=(15, 7.2), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[3.2, 1])[0]
    axes = left.subplots(2 * len(NETWORKS), 1 + SHOWN)
    for block, (name, title) in enumerate(NETWORKS.items()):
        voxels = within[name]
        correlation, _ = agreement(*(maps[name][contrast].numpy()[:, voxels] for contrast in CONTRASTS))
        order = np.argsort(correlation)[: np.isfinite(correlation).sum()]
        shown = order[np.linspace(0, order.size - 1, SHOWN).round().astype(int)]
        # A plane between the middle of the brain and its bottom, where there are deep grey matter and ventricles.
        plane = int(np.argwhere(voxels)[:, 2].mean())
        for row, contrast in enumerate(CONTRASTS):
            line = axes[2 * block + row]
            image = scans[contrast][0, 0].cpu()
            at = round((plane + 0.5) * image.shape[2] / voxels.shape[2])
            line[0].imshow(image[:, :, at].T, cmap="gray", origin="lower")
            line[0].set_ylabel(f"{title}\n{contrast}-like scan" if row == 0 else f"{contrast}-like scan", fontsize=9)
            for axis, feature in zip(line[1:], shown, strict=True):
                both = np.stack([maps[name][one][feature, :, :, plane].numpy() for one in CONTRASTS])
                low, high = np.percentile(both, [1, 99])
                axis.imshow(both[row].T, cmap="viridis", origin="lower", vmin=low, vmax=high)
                if row == 0:
                    axis.set_title(f"r = {correlation[feature]:.2f}".replace("-", "−"), fontsize=9)
            for axis in line:
                axis.set(xticks=[], yticks=[])
    axis = right.subplots()
    bins = np.linspace(-1, 1, 41)
    for name, title in NETWORKS.items():
        values = features.loc[features["network"] == name, "correlation"].dropna()
        axis.hist(values, bins, alpha=0.6, density=True, label=f"{title}\nmedian {values.median():.2f}")
    axis.set(xlabel="correlation of a feature under T1 and T2", ylabel="density")
    axis.legend(fontsize=8, loc="upper left")
    with files.whole(path) as temporary:
        figure.savefig(temporary, dpi=90)
    plt.close(figure)


@dataclass
class Measured:
    """Rows of the tables, and what the figure shows of the first head."""

    features: list[dict[str, Any]] = field(default_factory=list)
    dice: list[dict[str, Any]] = field(default_factory=list)
    scans: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Maps] = field(default_factory=dict)
    within: dict[str, Mask] = field(default_factory=dict)

    def add(self, ready: dict[str, UNet], make: Generator, path: Path, draw: int) -> None:
        """Measure networks on one deformed head."""
        source = load_label_map(path)
        made = {contrast: deformed_heads.head(make, source, draw, contrast) for contrast in CONTRASTS}
        for name, network in ready.items():
            row = {"label_map": path.name, "draw": draw, "network": name}
            within, maps = brain(made["T1"], network.config.stride), {}
            for contrast in CONTRASTS:
                told = last_features(network, made[contrast].image)
                self.dice.append({**row, "contrast": contrast, "dice": mean_dice(network, told, made[contrast])})
                maps[contrast] = told.cpu()
            found = agreement(*(maps[contrast].numpy()[:, within] for contrast in CONTRASTS))
            for feature, (correlation, difference) in enumerate(zip(*found, strict=True)):
                measured = {"correlation": correlation, "relative_difference": difference}
                self.features.append({**row, "feature": feature, **measured})
            if name not in self.maps:
                self.maps[name], self.within[name] = maps, within
                self.scans = self.scans or {contrast: made[contrast].image for contrast in CONTRASTS}


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label_maps", nargs="+", type=Path)
    parser.add_argument("--random", default="runs/ablation/random_contrast/segmentation.safetensors")
    parser.add_argument("--t1", default="runs/ablation/t1_contrast/segmentation.safetensors")
    parser.add_argument("--shipped", default="segmentation", help="name or file (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=8, help="seeded deformations per map (default: %(default)s)")
    parser.add_argument("--field-mm", type=int, default=192, help="as in training (default: %(default)s)")
    parser.add_argument("--voxel-size-mm", type=int, default=2, help="as in training (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    inference.prepare_process(given.threads)
    device = inference.choose_device(given.device)
    loaded = {name: load_network(path) for name, path in (("random", given.random), ("t1", given.t1))}
    steps = {str(one.path): one.information["steps"] for one in loaded.values()}
    if len(set(steps.values())) > 1:
        raise ConfigurationError(f"steps differ: {steps}; train both networks to the end, or they do not compare")
    ready = {name: inference.ready(one.network, device) for name, one in loaded.items()}
    own = load_network(given.shipped)
    make, make_1mm = (
        deformed_heads.generator(device, field_mm=given.field_mm, voxel_size_mm=size)
        for size in (given.voxel_size_mm, 1)
    )
    measured = Measured()
    for path in given.label_maps:
        for draw in range(given.draws):
            measured.add(ready, make, path, draw)
            measured.add({SHIPPED: inference.ready(own.network, device)}, make_1mm, path, draw)
            print(path.name, draw, flush=True)
    table, dice = pd.DataFrame(measured.features), pd.DataFrame(measured.dice)
    with files.whole(given.out / "features.tsv") as temporary:
        table.round(5).to_csv(temporary, sep="\t", index=False)
    summary = {
        "label_maps": [path.name for path in given.label_maps],
        "draws_per_map": given.draws,
        "contrasts": list(CONTRASTS),
        "sha256": {name: one.sha256 for name, one in {**loaded, SHIPPED: own}.items()},
        "steps": next(iter(steps.values())),
        **summarise(table, dice),
    }
    files.write_json(given.out / "feature_stability.json", summary)
    draw_figure(given.figure, measured.scans, measured.maps, measured.within, table)
    for name, title in {**NETWORKS, SHIPPED: "shipped segmenter, 1 mm"}.items():
        print(f"{title}: {summary[name]}")


if __name__ == "__main__":
    main()
