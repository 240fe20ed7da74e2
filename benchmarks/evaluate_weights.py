"""Accuracy of weights on synthetic scans of label maps that were never trained on.

    python benchmarks/evaluate_weights.py LABEL_MAPS... --out DIR

Every map is deformed by seeded draws of the generator, so that the true volumes are known; the draws take turns in
looking like a T1, T2, FLAIR or CT, and every one is scanned at 1 mm and at 3, 5 and 7 mm in each orientation. The
segmenter is asked about the scan itself (``direct``), and about what SynthSR makes of it (``synthsr``).

Every head's rows are kept in ``parts/``: called again, only what is missing is measured. Leaves ``structures.tsv`` (a
row per scan, route and structure: Dice, true and measured volume), ``images.tsv`` (L1 and SSIM of SynthSR's image to
its target), ``summary.json`` (means with 95 % intervals from a bootstrap over label maps) and ``card_tables.md``, the
same for the model card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import card_tables
import deformed_heads
import intervals
import numpy as np
import pandas as pd
import torch
from skimage.metrics import structural_similarity

from synthsr import files, inference, io, labels, losses
from synthsr.errors import ConfigurationError
from synthsr.generator import Generator, LabelMap, load_label_map
from synthsr.predict import Predictor
from synthsr.segment import Segmenter
from synthsr.train import MAIN_NUMBERS, as_segmenter_input

#: Structures whose volumes are reported, by the left label's number.
VOLUMES = (17, 18, 10, 11, 12, 13, 4, 3, 2)
#: Orientation of scans of cubic voxels.
NO_ORIENTATION = "n/a"
Rows = list[dict[str, Any]]


def structure(number: int) -> str:
    """Name of a label without its side."""
    return labels.by_number()[number].name.removeprefix("Left-").removeprefix("Right-")


def measure(
    source: LabelMap, draw: int, spacings_mm: list[int], networks: tuple[Segmenter, Predictor], make: Generator
) -> dict[str, Rows]:
    """Rows of both tables for one deformed head."""
    segmenter, predictor = networks
    contrast = deformed_heads.contrast_of(draw)
    made = deformed_heads.head(make, source, draw, contrast)
    target, channel = made.target[0, 0].cpu().numpy(), made.channel[0].cpu()
    numbers = labels.segmentation_numbers()
    true = torch.bincount(channel.flatten(), minlength=len(numbers))
    structures: Rows = []
    images: Rows = []
    acquisitions = [
        (spacing_mm, orientation)
        for spacing_mm in spacings_mm
        for orientation in (deformed_heads.ORIENTATIONS if spacing_mm > 1 else (NO_ORIENTATION,))
    ]
    for spacing_mm, orientation in acquisitions:
        scan = deformed_heads.scanned(made.image, spacing_mm, orientation)
        synthetic = inference.run(predictor.weights.network, scan)
        row = {
            "label_map": source.path.name,
            "draw": draw,
            "contrast": contrast,
            "spacing_mm": spacing_mm,
            "orientation": orientation,
        }
        answer = synthetic[0, 0].numpy()
        images.append(
            {
                **row,
                "l1_grey": float(np.abs(answer - target).mean()) * 255,
                "ssim": float(structural_similarity(target, answer, data_range=float(np.ptp(target)))),
            }
        )
        for route, image in (("direct", scan.cpu()), ("synthsr", as_segmenter_input(synthetic))):
            best, sums = segmenter.segment(image)
            dice = losses.hard_dice(best, channel, len(numbers))
            for position, number in enumerate(numbers):
                if number in MAIN_NUMBERS:
                    overlap = float(dice[position])
                    measured = {"true_mm3": int(true[position]), "volume_mm3": round(float(sums[position]), 2)}
                    found = {"dice": None if np.isnan(overlap) else round(overlap, 5), **measured}
                    structures.append({**row, "route": route, "label": number, **found})
    return {"structures": structures, "images": images}


def kept(path: Path, key: dict[str, Any]) -> dict[str, Rows] | None:
    """Rows of an earlier call.

    Raises
    ------
    ConfigurationError
        If they were measured with other weights, label maps or spacings.
    """
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    differs = [name for name, value in key.items() if content["key"].get(name) != value]
    if differs:
        raise ConfigurationError(
            f"{path}: was measured with another {', '.join(differs)}; give another --out, or delete that folder"
        )
    return {"structures": content["structures"], "images": content["images"]}


def groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows by spacing, by orientation of thick slices, and by both."""
    found = {f"{spacing_mm} mm": rows for spacing_mm, rows in table.groupby("spacing_mm")}
    thick = table[table["orientation"] != NO_ORIENTATION]
    found |= {str(orientation): rows for orientation, rows in thick.groupby("orientation")}
    found |= {
        f"{spacing_mm} mm {orientation}": rows
        for (spacing_mm, orientation), rows in thick.groupby(["spacing_mm", "orientation"])
    }
    return found


def summarise(structures: pd.DataFrame, images: pd.DataFrame) -> dict[str, Any]:
    """Per route and group of scans: Dice, and volume errors per structure; per group, the image's errors."""
    structures = structures.assign(
        structure=structures["label"].map(structure),
        error_percent=100 * (structures["volume_mm3"] / structures["true_mm3"].replace(0, np.nan) - 1),
    )
    structures["absolute_error_percent"] = structures["error_percent"].abs()
    summary: dict[str, Any] = {}
    for route, of_route in structures.groupby("route"):
        summary[str(route)] = {name: _of_structures(rows) for name, rows in groups(of_route).items()}
    summary["image"] = {
        name: {column: intervals.of_mean(rows, column) for column in ("l1_grey", "ssim")}
        for name, rows in groups(images).items()
    }
    return summary


def _of_structures(rows: pd.DataFrame) -> dict[str, Any]:
    volumes = {}
    for name in map(structure, VOLUMES):
        part = rows[rows["structure"] == name]
        volumes[name] = {
            "bias_percent": intervals.of_mean(part, "error_percent"),
            "absolute_error_percent": intervals.of_mean(part, "absolute_error_percent"),
            "pearson_r": intervals.of_correlation(part, "true_mm3", "volume_mm3"),
        }
    return {
        "dice": intervals.of_mean(rows, "dice"),
        "dice_by_contrast": {
            contrast: intervals.of_mean(rows[rows["contrast"] == contrast], "dice")
            for contrast in deformed_heads.CONTRASTS
            if contrast in set(rows["contrast"])
        },
        "dice_by_structure": {
            str(name): intervals.of_mean(part, "dice") for name, part in rows.groupby("structure", sort=False)
        },
        "volume": volumes,
    }


def main() -> None:
    """Evaluate and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label_maps", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=10, help="seeded deformations per map (default: %(default)s)")
    parser.add_argument("--spacings-mm", type=int, nargs="+", default=[1, 3, 5, 7], help="(default: %(default)s)")
    parser.add_argument("--field-mm", type=int, default=192, help="side of the field of view (default: %(default)s)")
    parser.add_argument("--segmentation", default="segmentation", help="weights, name or path (default: %(default)s)")
    parser.add_argument("--synthsr", default="synthsr", help="weights, name or path (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    inference.prepare_process(given.threads)
    segmenter = Segmenter.load(given.segmentation, given.device)
    predictor = Predictor.load(given.synthsr, given.device)
    make = deformed_heads.generator(segmenter.device, field_mm=given.field_mm)
    weights = {"segmentation_sha256": segmenter.weights.sha256, "synthsr_sha256": predictor.weights.sha256}
    rows: dict[str, Rows] = {"structures": [], "images": []}
    for path in given.label_maps:
        source = None
        key = {
            **weights,
            "label_map_sha256": files.sha256(path),
            "spacings_mm": given.spacings_mm,
            "field_mm": given.field_mm,
        }
        for draw in range(given.draws):
            part = given.out / "parts" / f"{io.stem(path)}_draw-{draw:02d}.json"
            found = kept(part, key)
            if found is None:
                source = source or load_label_map(path)
                found = measure(source, draw, given.spacings_mm, (segmenter, predictor), make)
                files.write_json(part, {"key": key, **found})
                dice = pd.DataFrame(found["structures"]).groupby("route")["dice"].mean()
                print(path.name, draw, *(f"{route} {mean:.3f}" for route, mean in dice.items()), flush=True)
            for name, some in found.items():
                rows[name] += some
    tables = {name: pd.DataFrame(some) for name, some in rows.items()}
    for name, table in tables.items():
        with files.whole(given.out / f"{name}.tsv") as temporary:
            table.round(4).to_csv(temporary, sep="\t", index=False)
    provenance = {
        "label_maps": [path.name for path in given.label_maps],
        "draws_per_map": given.draws,
        "spacings_mm": given.spacings_mm,
        **weights,
    }
    summary = {**provenance, **summarise(**tables)}
    files.write_json(given.out / "summary.json", summary)
    files.write_text(given.out / "card_tables.md", card_tables.markdown(summary))
    print(given.out / "card_tables.md")


if __name__ == "__main__":
    main()
