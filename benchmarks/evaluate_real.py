"""Overlap with another network's labels on real T1 scans: a second opinion, not a truth.

    python benchmarks/evaluate_real.py --scans T1... --labels DSEG... --names TSV --out DIR

There are no manual labels of these scans. The labels compared with are the automatic ones of an independent published
network, so that a low Dice says that the two disagree, and a high one that they agree, be it in error. Sides are put
together where the other network does not tell them apart. Scans whose label maps the weights were trained on say less
still; what a weights file says of that is printed. The segmenter is asked about the scan itself (``direct``) and
about what SynthSR makes of it (``synthsr``). Leaves ``agreement.tsv`` (a row per scan, route and structure) and
``agreement.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from nibabel.processing import resample_from_to

from synthsr import files, inference, io, labels, scan
from synthsr.errors import ConfigurationError
from synthsr.predict import Predictor
from synthsr.segment import Segmenter
from synthsr.train import as_segmenter_input

SECOND_OPINION = "labels compared with are automatic, of an independent network: a second opinion, not a truth"
Numbers = npt.NDArray[np.int64]


def agreement(own: Numbers, other: Numbers, names: Mapping[int, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Dice and both volumes of every structure that the other network names.

    Parameters
    ----------
    own
        Label numbers of the project, on a grid of 1 mm.
    other
        The other network's indices, on the same grid.
    names
        From :func:`synthsr.labels.read_segmentation_names`.
    """
    rows = []
    for index, numbers in names.items():
        if numbers == (0,):
            continue
        ours, theirs = np.isin(own, numbers), other == index
        total = int(ours.sum() + theirs.sum())
        name = labels.by_number()[numbers[0]].name
        rows.append(
            {
                "structure": name.removeprefix("Left-") if len(numbers) > 1 else name,
                "dice": 2 * int((ours & theirs).sum()) / total if total else np.nan,
                "volume_mm3": int(ours.sum()),
                "other_volume_mm3": int(theirs.sum()),
            }
        )
    return rows


def means(rows: pd.DataFrame, by: str) -> dict[str, float]:
    """Mean Dice by a column; without what neither network found."""
    found = rows.groupby(by, sort=False)["dice"].mean().dropna()
    return {str(name): round(float(value), 3) for name, value in found.items()}


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, nargs="+", required=True, help="T1 scans")
    parser.add_argument("--labels", type=Path, nargs="+", required=True, help="segmentations of them, in that order")
    parser.add_argument("--names", type=Path, required=True, help="their look-up table, columns index and name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--segmentation", default="segmentation", help="weights, name or path (default: %(default)s)")
    parser.add_argument("--synthsr", default="synthsr", help="weights, name or path (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    if len(given.scans) != len(given.labels):
        raise ConfigurationError(f"{len(given.scans)} scans and {len(given.labels)} label maps; give one for each scan")
    inference.prepare_process(given.threads)
    predictor = Predictor.load(given.synthsr, given.device)
    segmenter = Segmenter.load(given.segmentation, given.device)
    names = labels.read_segmentation_names(given.names)
    numbers = np.array(labels.segmentation_numbers())
    rows: list[dict[str, Any]] = []
    for path, label_path in zip(given.scans, given.labels, strict=True):
        image, grid = scan.read(path, ct=False)
        other = resample_from_to(nib.Nifti1Image(*io.load(label_path)), (grid.shape, grid.affine), order=0)
        index = np.asarray(other.dataobj).round().astype(np.int64)
        synthetic = inference.run(predictor.weights.network, image)
        for route, seen in (("direct", image), ("synthsr", as_segmenter_input(synthetic))):
            own = numbers[segmenter.segment(seen)[0].numpy()]
            rows += [{"scan": path.name, "route": route, **row} for row in agreement(own, index, names)]
        print(path.name, flush=True)
    table = pd.DataFrame(rows)
    with files.whole(given.out / "agreement.tsv") as temporary:
        table.round(4).to_csv(temporary, sep="\t", index=False)
    figures = {
        str(route): {f"by_{by}": means(part, by) for by in ("scan", "structure")}
        for route, part in table.groupby("route")
    }
    weights = {
        name: {"sha256": loaded.sha256, "trained_on": loaded.information.get("label_maps")}
        for name, loaded in (("segmentation", segmenter.weights), ("synthsr", predictor.weights))
    }
    files.write_json(given.out / "agreement.json", {"note": SECOND_OPINION, "weights": weights, "mean_dice": figures})
    print(table.pivot_table("dice", "structure", ["scan", "route"], sort=False).round(2).to_string())
    print(table.groupby(["scan", "route"])["dice"].mean().round(3).to_string())
    for name, facts in weights.items():
        print(f"{name} was trained on {', '.join(facts['trained_on'] or ['label maps that its file does not name'])}")
    print(SECOND_OPINION)


if __name__ == "__main__":
    main()
