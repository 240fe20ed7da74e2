"""Accuracy of shipped weights on synthetic scans of label maps that were never trained on.

    python benchmarks/evaluate_weights.py LABEL_MAPS... --out synthsr/weights/evaluation.json

Every map is deformed and given a contrast by seeded draws of the generator (the same draws for every spacing); the
scan is then taken at 1 mm, or at 5 mm in each orientation. Dice of the segmenter on the scan itself, and on SynthSR's
output; mean over 23 labels (2, 3, 4, 7, 8, 10–13, 17, 18, their right-hand partners, and 16). Volumes, sums of
posteriors over the true count of voxels, are given as the median ratio.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from synthsr import files, inference, labels, losses
from synthsr.generator import Generator, load_label_map, read_config
from synthsr.predict import Predictor
from synthsr.segment import Segmenter
from synthsr.train import as_segmenter_input, main_channels

ACQUISITIONS = {
    "1 mm": (1.0, 1.0, 1.0),
    "5 mm sagittal": (5.0, 1.0, 1.0),
    "5 mm coronal": (1.0, 5.0, 1.0),
    "5 mm axial": (1.0, 1.0, 5.0),
}


def acquisition(spacing_mm: tuple[float, float, float]) -> dict[str, tuple[float, ...]]:
    """Parameters of a scan without gaps at a given spacing."""
    thick = [HIGH_RESOLUTION_BLUR_MM if mm == 1 else SLICE_BLUR_COEFFICIENT * mm for mm in spacing_mm]
    return {
        "spacing_mm": spacing_mm,
        "blur_sd_mm": tuple(thick),
        "offset_mm": tuple(0.0 if mm == 1 else mm / 2 for mm in spacing_mm),
        "window": ((0.0, 1.0),) * 3,
    }


def medians(names: list[str], rows: list[torch.Tensor]) -> dict[str, float]:
    """Median over images per label."""
    return dict(zip(names, torch.stack(rows).nanmedian(0).values.tolist(), strict=True))


def main() -> None:
    """Evaluate and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label_maps", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3, help="seeded draws per map (default: %(default)s)")
    parser.add_argument("--segmentation", default="segmentation")
    parser.add_argument("--synthsr", default="synthsr")
    parser.add_argument("--no-flip", dest="flip", action="store_false")
    given = parser.parse_args()
    segmenter, predictor = Segmenter.load(given.segmentation), Predictor.load(given.synthsr)
    generator = Generator(GeneratorConfig(field_mm=192, translation_mm=5))
    channels, main_labels = len(labels.segmentation_numbers()), main_channels()
    names = [labels.by_number()[labels.segmentation_numbers()[channel]].name for channel in main_labels]
    result: dict[str, object] = {
        "label_maps": [path.name for path in given.label_maps],
        "draws_per_map": given.draws,
        "flip": given.flip,
        "segmentation_sha256": segmenter.weights.sha256,
        "synthsr_sha256": predictor.weights.sha256,
    }
    for name, spacing_mm in ACQUISITIONS.items():
        direct, through, l1 = [], [], []
        ratio_direct, ratio_through = [], []
        for position, path in enumerate(given.label_maps):
            source = load_label_map(path)
            for draw in range(given.draws):
                params = generator.sample(np.random.default_rng([2023, position, draw]))
                made = generator.apply(source, replace(params, **acquisition(spacing_mm)))
                synthetic = inference.run(predictor.weights.network, made.image, flip=given.flip)
                l1.append(float((synthetic - made.target).abs().mean()) * 255)
                true = torch.bincount(made.channel.flatten(), minlength=channels).double()
                for image, scores, ratios in (
                    (made.image, direct, ratio_direct),
                    (as_segmenter_input(synthetic), through, ratio_through),
                ):
                    predicted, sums = segmenter.segment(image, flip=given.flip)
                    scores.append(losses.hard_dice(predicted, made.channel[0], channels)[main_labels])
                    ratios.append((sums / true)[main_labels])
        result[name] = {
            "dice": float(torch.stack(direct).nanmean()),
            "dice_worst_image": float(torch.stack(direct).nanmean(1).min()),
            "dice_through_synthsr": float(torch.stack(through).nanmean()),
            "l1_grey_levels": float(np.mean(l1)),
            "volume_ratio_per_label": medians(names, ratio_direct),
            "volume_ratio_per_label_through_synthsr": medians(names, ratio_through),
            "dice_per_label": dict(zip(names, torch.stack(direct).nanmean(0).tolist(), strict=True)),
            "dice_per_label_through_synthsr": dict(zip(names, torch.stack(through).nanmean(0).tolist(), strict=True)),
        }
        print(
            name, {key: round(value, 3) for key, value in result[name].items() if isinstance(value, float)}, flush=True
        )
    files.write_json(given.out, result)


if __name__ == "__main__":
    main()
