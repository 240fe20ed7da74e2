"""Tables of the model card, from the summary that evaluate_weights.py leaves.

python benchmarks/card_tables.py synthsr/weights/evaluation.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from intervals import Interval

ROUTES = {"direct": "segmenter", "synthsr": "segmenter behind SynthSR"}


def figure(interval: Interval, *, decimals: int = 2, sign: bool = False) -> str:
    """``0.69 (0.68–0.70)``; of signed figures ``+27 (+11 to +58)``."""
    if None in interval:
        return "–"
    text = [f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−") for value in interval]
    return f"{text[0]} ({text[1]}{' to ' if sign else '–'}{text[2]})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)] + [""]


def words(name: str) -> str:
    """``Cerebral-White-Matter`` → ``cerebral white matter``; numbers and abbreviations as they are."""
    return " ".join(part if part.isupper() else part.lower() for part in name.split("-"))


def markdown(summary: dict[str, Any]) -> str:
    """All tables, one heading each."""
    spacings = [f"{spacing_mm} mm" for spacing_mm in summary["spacings_mm"]]
    lines = [
        "<!-- Made by benchmarks/card_tables.py; change that, not this. -->",
        "",
        f"Label maps: {', '.join(summary['label_maps'])}; {summary['draws_per_map']} seeded deformations of each. In "
        "brackets 95 % intervals from resampling the maps. Weights (SHA-256): segmentation "
        f"{summary['segmentation_sha256'][:12]}, synthsr {summary['synthsr_sha256'][:12]}.",
        "",
        "### Mean Dice",
        "",
        *table(
            ["scan", *ROUTES.values()],
            [
                [scan, *(figure(summary[route][scan]["dice"], decimals=3) for route in ROUTES)]
                for scan in summary["direct"]
            ],
        ),
    ]
    for route, title in ROUTES.items():
        for key, of in (("dice_by_contrast", "contrast"), ("dice_by_structure", "structure")):
            first = summary[route][spacings[0]][key]
            rows = [
                [words(name), *(figure(summary[route][scan][key][name]) for scan in spacings if scan in summary[route])]
                for name in first
            ]
            lines += [f"### Dice by {of}: {title}", "", *table([of, *spacings], rows)]
    for route, title in ROUTES.items():
        for scan in spacings:
            rows = [
                [
                    words(name),
                    figure(errors["bias_percent"], decimals=0, sign=True),
                    figure(errors["absolute_error_percent"], decimals=0),
                    figure(errors["pearson_r"], sign=True),
                ]
                for name, errors in summary[route][scan]["volume"].items()
            ]
            heads = ["structure", "bias, %", "mean absolute error, %", "Pearson r"]
            lines += [f"### Volumes at {scan}: {title}", "", *table(heads, rows)]
    images = [
        [scan, figure(errors["l1_grey"], decimals=1), figure(errors["ssim"])]
        for scan, errors in summary["image"].items()
    ]
    lines += ["### SynthSR's image against its target", "", *table(["scan", "L1, grey levels", "SSIM"], images)]
    return "\n".join(lines)


def main() -> None:
    """Print the tables of a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summary", type=Path)
    print(markdown(json.loads(parser.parse_args().summary.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
