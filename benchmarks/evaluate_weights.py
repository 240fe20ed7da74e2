"""Accuracy of weights on synthetic scans of label maps that were never trained on.

    python benchmarks/evaluate_weights.py LABEL_MAPS... --out DIR

Every map is deformed by seeded draws of the generator, so that the true volumes are known; the draws take turns in
looking like a T1, T2, FLAIR or CT, and every one is scanned at 1 mm and at 3, 5 and 7 mm in each orientation. The
segmenter is asked about the scan itself (``direct``), and about what SynthSR makes of it (``synthsr``).

Leaves ``structures.tsv`` (a row per scan, route and structure: Dice, true and measured volume), ``images.tsv`` (L1 and
SSIM of SynthSR's image to its target) and ``summary.json``: means with 95 % intervals from a bootstrap over label maps.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from skimage.metrics import structural_similarity

from synthsr import files, inference, labels, losses
from synthsr.generator import Generator, LabelMap, Params, load_label_map, read_config
from synthsr.predict import Predictor
from synthsr.segment import Segmenter
from synthsr.train import MAIN_NUMBERS, as_segmenter_input

#: Grey levels per tissue: background, white, grey, CSF, bone, soft tissue. Deep grey matter lies between the first two.
CONTRASTS = {
    "T1": (2, 110, 75, 25, 15, 65),
    "T2": (2, 60, 85, 200, 10, 70),
    "FLAIR": (2, 95, 120, 25, 15, 80),
    "CT": (0, 28, 36, 10, 250, 45),
}
TISSUES = ("background", "white", "grey", "csf", "bone", "soft")
ORIENTATIONS = ("sagittal", "coronal", "axial")
#: Structures whose volumes are reported, by the left label's number.
VOLUMES = (17, 18, 10, 11, 12, 13, 4, 3, 2)
BOOTSTRAPS = 1000
#: Draws depend on it and on their number alone: every map gets the same.
SEED = 0x692E677A


def generator(device: torch.device) -> Generator:
    """Deforms as in training; nothing else is random but noise and a mild bias field."""
    steps = [
        {"mixture": {"sd_grey": [0, 0]}},
        {"bias": {"log_sd": [0.1, 0.1]}},
        {"normalise": {}},
        {"blur": {"sd_mm": [0.5, 0.5]}},
        {"acquire": {"fixed_spacing_mm": [[1, 1, 1]], "gaps": False, "profile_jitter": [1, 1]}},
    ]
    return Generator(read_config({"deformation": {"translation_mm": 5}, "steps": steps}), device)


def looking_like(params: Params, contrast: str, rng: np.random.Generator) -> Params:
    """The draw with the grey levels of a contrast; labels of a tissue differ by a few levels."""
    level = dict(zip(TISSUES, CONTRASTS[contrast], strict=True))
    level["deep_grey"] = 0.5 * (level["grey"] + level["white"])
    mean = np.array([level[label.tissue] + 3 * rng.standard_normal() for label in labels.table()]).clip(0, 255)
    mean = 0.5 * (mean + mean[labels.mirror_of_index()])
    mixture = {**params.steps[0], "mean_grey": mean[None], "sd_grey": np.full((1, mean.size), 5.0)}
    return replace(params, steps=(mixture, *params.steps[1:]))


def scanned(params: Params, spacing_mm: int, orientation: str) -> Params:
    """The draw, scanned in touching slices."""
    spacing = np.ones((1, 3))
    spacing[0, ORIENTATIONS.index(orientation)] = spacing_mm
    acquire = {"spacing_mm": spacing, "profile_sd_mm": 0.42 * spacing, "offset_mm": (spacing - 1) / 2}
    return replace(params, steps=(*params.steps[:-1], acquire))


def measure(
    source: LabelMap, draw: int, spacings_mm: list[int], networks: tuple[Segmenter, Predictor], make: Generator
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables for one deformed head."""
    segmenter, predictor = networks
    rng = np.random.default_rng([2023, draw, SEED])
    contrast = list(CONTRASTS)[draw % len(CONTRASTS)]
    params = looking_like(make.sample(rng), contrast, rng)
    numbers = labels.segmentation_numbers()
    structures: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for spacing_mm in spacings_mm:
        for orientation in ORIENTATIONS if spacing_mm > 1 else ORIENTATIONS[:1]:
            made = make.apply([source], [scanned(params, spacing_mm, orientation)])
            synthetic = inference.run(predictor.weights.network, made.image)
            row: dict[str, Any] = {
                "label_map": source.path.name,
                "draw": draw,
                "contrast": contrast,
                "spacing_mm": spacing_mm,
                "orientation": orientation if spacing_mm > 1 else "n/a",
            }
            target, answer = made.target[0, 0].cpu().numpy(), synthetic[0, 0].numpy()
            images.append(
                {
                    **row,
                    "l1_grey": float(np.abs(answer - target).mean()) * 255,
                    "ssim": structural_similarity(target, answer, data_range=float(np.ptp(target))),
                }
            )
            true = torch.bincount(made.channel.flatten().cpu(), minlength=len(numbers))
            for route, image in (("direct", made.image.cpu()), ("synthsr", as_segmenter_input(synthetic))):
                best, sums = segmenter.segment(image)
                dice = losses.hard_dice(best, made.channel[0].cpu(), len(numbers))
                for channel, number in enumerate(numbers):
                    if number in MAIN_NUMBERS:
                        measured = {"true_mm3": int(true[channel]), "volume_mm3": float(sums[channel])}
                        structures.append(
                            {**row, "route": route, "label": number, "dice": float(dice[channel]), **measured}
                        )
    return structures, images


def interval(table: pd.DataFrame, column: str) -> list[float]:
    """Mean of a column over label maps and its 95 % interval from resampling label maps."""
    per_map = table.groupby("label_map")[column].mean().to_numpy()
    rng = np.random.default_rng(1)
    means = rng.choice(per_map, (BOOTSTRAPS, per_map.size)).mean(axis=1)
    return [round(float(value), 4) for value in (per_map.mean(), *np.percentile(means, [2.5, 97.5]))]


def summarise(structures: pd.DataFrame, images: pd.DataFrame) -> dict[str, Any]:
    """Per route and acquisition: Dice, and volume errors per structure."""
    summary: dict[str, Any] = {}
    for route, of_route in structures.groupby("route"):
        entry: dict[str, Any] = {"dice": {}, "dice_by_contrast": {}, "dice_by_structure": {}, "volume": {}}
        for (spacing_mm, orientation), rows in of_route.groupby(["spacing_mm", "orientation"]):
            name = f"{spacing_mm} mm" + ("" if spacing_mm == 1 else f" {orientation}")
            entry["dice"][name] = interval(rows, "dice")
            entry["dice_by_contrast"][name] = {
                key: round(float(part["dice"].mean()), 3) for key, part in rows.groupby("contrast")
            }
            entry["dice_by_structure"][name] = {
                labels.by_number()[int(number)].name: round(float(part["dice"].mean()), 3)
                for number, part in rows.groupby("label")
            }
            entry["volume"][name] = {}
            for number in VOLUMES:
                part = rows[rows["label"].isin([number, labels.mirror_number(number)])].copy()
                part["error"] = 100 * (part["volume_mm3"] / part["true_mm3"] - 1)
                part["absolute_error"] = part["error"].abs()
                entry["volume"][name][labels.by_number()[number].name.removeprefix("Left-")] = {
                    "bias_percent": interval(part, "error"),
                    "absolute_error_percent": interval(part, "absolute_error"),
                    "pearson_r": round(float(np.corrcoef(part["true_mm3"], part["volume_mm3"])[0, 1]), 3),
                }
        summary[str(route)] = entry
    summary["image"] = {
        f"{spacing_mm} mm": {column: interval(rows, column) for column in ("l1_grey", "ssim")}
        for spacing_mm, rows in images.groupby("spacing_mm")
    }
    return summary


def main() -> None:
    """Evaluate and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label_maps", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=10, help="seeded deformations per map (default: %(default)s)")
    parser.add_argument("--spacings-mm", type=int, nargs="+", default=[1, 3, 5, 7], help="(default: %(default)s)")
    parser.add_argument("--segmentation", default="segmentation")
    parser.add_argument("--synthsr", default="synthsr")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    inference.prepare_process(None)
    segmenter = Segmenter.load(given.segmentation, given.device)
    predictor = Predictor.load(given.synthsr, given.device)
    make = generator(segmenter.device)
    structures, images = [], []
    for path in given.label_maps:
        source = load_label_map(path)
        for draw in range(given.draws):
            some_structures, some_images = measure(source, draw, given.spacings_mm, (segmenter, predictor), make)
            structures += some_structures
            images += some_images
            print(path.name, draw, f"{np.nanmean([row['dice'] for row in some_structures]):.3f}", flush=True)
    tables = {"structures": pd.DataFrame(structures), "images": pd.DataFrame(images)}
    given.out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with files.whole(given.out / f"{name}.tsv") as temporary:
            table.round(4).to_csv(temporary, sep="\t", index=False)
    provenance = {
        "label_maps": [path.name for path in given.label_maps],
        "draws_per_map": given.draws,
        "segmentation_sha256": segmenter.weights.sha256,
        "synthsr_sha256": predictor.weights.sha256,
    }
    files.write_json(given.out / "summary.json", {**provenance, **summarise(**tables)})


if __name__ == "__main__":
    main()
