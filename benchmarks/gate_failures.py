"""Sensitivity and specificity of the quality gate on planted failures.

    python benchmarks/gate_failures.py --tune LABEL_MAPS... --test LABEL_MAPS... --out DIR [--draws 75]

Heads are deformed label maps that look like a T1, T2, FLAIR or CT, in slices 1 to 7 mm apart (``deformed_heads.py``).
Typical values and limits come from sound scans of the tuning maps alone, no failure is used; those of
the intracranial volume, motion, and a session's scans are the shipped ones. Both then judge sound
scans and failures of the test maps, which must not be among the tuning maps or the networks' training data. Every draw
of a test map is judged as it is and with one failure, the kinds taking turns.

Every scan's measures are kept in ``parts/``: called again, only what is missing is measured. Leaves
``gate_limits.tsv`` (to become ``analysis/gate_limits.tsv``) and, in ``tuned/`` for these limits and in ``shipped/`` for
those that the package has, ``scans.tsv`` (a row per scan: kind, measures, score), ``sensitivity.tsv`` (a row per kind,
with 95 % intervals), ``calibration.tsv`` (how many of the scans of a score are failures) and ``sensitivity.md``, both
for the documents.

The failures: a wrong voxel size (one axis halved or doubled), exchanged axes, half of the head missing, motion between
parts of k-space, the head upside down, back to front, or left/right mirrored, no brain at all (a phantom, texture,
noise), and a network that answers the same everywhere. All networks here treat both sides alike, and no measure of a
single scan can know that it is mirrored: that scan, and the sound one beside it, are judged as one of a session of
three, with scans of two other contrasts of the head. All other scans are judged alone.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import deformed_heads
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import ndimage

from analysis import gate, motion, quality, tsv
from synthsr import files, inference, io, labels, preprocess
from synthsr.errors import DataError
from synthsr.generator import Generator, LabelMap, load_label_map
from synthsr.predict import CLIP_GREY, Predictor
from synthsr.segment import Segmenter, volumes_mm3

Volume = npt.NDArray[np.float32]
Scan = tuple[Volume, npt.NDArray[np.float64]]
SOUND, MIRRORED, CONSTANT = "sound", "mirrored left/right", "constant output"
SPACINGS_MM = (1, 3, 5, 7)
SCANNER_FULL_SCALE = 1000.0
#: Of each axis: heads as large as people's are. Training has 0.15, a third more or less in volume.
SCALING = 0.06
#: Of the brightest voxel, U(low, high).
NOISE = (0.005, 0.03)
MOTION_PARTS, MOTION_MM = (4, 10), 12.0
SEED = 0x67617465
#: Direction in which a measure is bad, and the least spread that its typical value can have: these heads are alike, of
#: one quality and without disease, and a third of the way from typical to limit must not be less than patients differ.
MEASURES = {
    "edge_share": (1, 0.1),
    "noise_share": (1, 0.03),
    "agreement_dice": (-1, 0.04),
    "grey_white_contrast": (-1, 0.02),
    "asymmetry": (1, 0.04),
    "entropy": (1, 0.05),
    "cohort_distance": (1, 0.3),
}
#: Other scans of a session.
COMPANIONS = 2
#: Draws of the tuning maps are numbered from here: no deformation, slice or noise is common to both.
TUNE_FROM = 1000
#: Scores between which the share of failures is told.
BANDS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, math.inf)
#: Share of sound tuning scans that stay below the limit of every measure.
TUNED_SPECIFICITY = 0.98


def acquire(image: torch.Tensor, rng: np.random.Generator) -> Scan:
    """A scan of a head: slices along one axis, noise, a scanner's grey levels.

    Parameters
    ----------
    image
        Shape (1, 1, size, size, size), RAS, 1 mm, from 0 to 1.
    rng
        Draws spacing, orientation and noise.
    """
    spacing, axis = int(rng.choice(SPACINGS_MM)), int(rng.integers(3))
    scanned = deformed_heads.scanned(image, spacing, deformed_heads.ORIENTATIONS[axis])[0, 0].cpu().numpy()
    start = (spacing - 1) // 2
    chosen = [slice(None)] * 3
    chosen[axis] = slice(start, None, spacing)
    data = scanned[tuple(chosen)]
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[axis, axis] = spacing
    affine[:3, 3] = -np.array(scanned.shape) / 2
    affine[axis, 3] += start
    sd = rng.uniform(*NOISE)
    noisy = np.hypot(data + sd * rng.standard_normal(data.shape), sd * rng.standard_normal(data.shape))
    return (noisy * SCANNER_FULL_SCALE).astype(np.float32), affine


def wrong_size(scan: Scan, rng: np.random.Generator) -> Scan:
    """One axis's voxels are said to be half or twice as large."""
    affine = scan[1].copy()
    affine[:3, rng.integers(3)] *= rng.choice([0.5, 2.0])
    return scan[0], affine


def wrong_axes(scan: Scan, rng: np.random.Generator) -> Scan:
    """Two axes are exchanged in the voxels but not in the affine."""
    order = [0, 1, 2]
    first, second = rng.choice(3, 2, replace=False)
    order[first], order[second] = order[second], order[first]
    # The spacing goes along with the voxels; what lies where does not.
    spacing = np.linalg.norm(scan[1][:3, :3], axis=0)[order]
    data = np.ascontiguousarray(scan[0].transpose(order))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.array(data.shape) * spacing / 2
    return data, affine


def half(scan: Scan, rng: np.random.Generator) -> Scan:
    """The field of view ends in the middle of the head."""
    axis = int(rng.integers(3))
    middle = scan[0].shape[axis] // 2
    chosen = [slice(None)] * 3
    chosen[axis] = slice(middle, None) if rng.random() < 0.5 else slice(None, middle)
    affine = scan[1].copy()
    affine[:3, 3] += affine[:3, axis] * (chosen[axis].start or 0)
    return np.ascontiguousarray(scan[0][tuple(chosen)]), affine


def shaken(scan: Scan, rng: np.random.Generator) -> Scan:
    """For every part of k-space the head lay elsewhere within the slices, up to :data:`MOTION_MM` along an axis."""
    data, affine = scan
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = [axis for axis in range(3) if axis != int(np.argmax(spacing))]
    spectrum = np.fft.fftn(data, axes=axes)
    lines = data.shape[axes[0]]
    part = np.sort(rng.integers(0, rng.integers(*MOTION_PARTS, endpoint=True), lines))
    for axis in axes:
        shift_mm = rng.uniform(-MOTION_MM, MOTION_MM, int(part.max()) + 1)[np.fft.ifftshift(part)]
        frequency = np.fft.fftfreq(data.shape[axis])
        shape = [1, 1, 1]
        shape[axis] = -1
        along = [1, 1, 1]
        along[axes[0]] = -1
        phase = -2j * np.pi * frequency.reshape(shape) * (shift_mm / spacing[axis]).reshape(along)
        spectrum = spectrum * np.exp(phase)
    return np.abs(np.fft.ifftn(spectrum, axes=axes)).astype(np.float32), affine


def flipped(axis: int) -> Callable[[Scan, np.random.Generator], Scan]:
    """The voxels run the other way along an axis of RAS than the affine says."""
    return lambda scan, rng: (np.ascontiguousarray(np.flip(scan[0], axis)), scan[1])


def no_brain(scan: Scan, rng: np.random.Generator) -> Scan:
    """A phantom, an ellipsoid of texture, or noise, on the scan's grid."""
    data, affine = scan
    kind = int(rng.integers(3))
    noise = rng.standard_normal(data.shape)
    if kind == 2:
        return (np.abs(noise) * 100).astype(np.float32), affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    place = np.meshgrid(*[(np.arange(n) - n / 2) * s for n, s in zip(data.shape, spacing, strict=True)], indexing="ij")
    radius = rng.uniform(60, 90, 3)
    inside = sum((x / r) ** 2 for x, r in zip(place, radius, strict=True)) < 1
    texture = ndimage.gaussian_filter(noise, 10 / spacing)
    level = 500 + (kind == 1) * 150 * texture / texture.std()
    return np.maximum(inside * level + 10 * noise, 0).astype(np.float32), affine


#: What is done to a scan; the constant output is done to the network's answer.
FAILURES: dict[str, Callable[[Scan, np.random.Generator], Scan]] = {
    "wrong voxel size": wrong_size,
    "exchanged axes": wrong_axes,
    "half brain": half,
    "motion": shaken,
    "upside down": flipped(2),
    "back to front": flipped(1),
    "no brain": no_brain,
    MIRRORED: flipped(0),
}
KINDS = (SOUND, *FAILURES, CONSTANT)


def measured(scan: Scan, kind: str, networks: tuple[Predictor, Segmenter], *, noise: float) -> dict[str, Any]:
    """What the pipeline measures of a scan: ``quality`` and ``volumes_mm3``, or the ``reason`` of a stage that refused.

    Parameters
    ----------
    scan
        Voxels and affine.
    kind
        One of :data:`KINDS`.
    networks
        Synthesiser and segmenter.
    noise
        Of a network that answers the same everywhere (grey levels).
    """
    predictor, segmenter = networks
    numbers = np.array(labels.segmentation_numbers(), dtype=np.int16)
    try:
        seen, grid = preprocess.prepare(*scan)
        if kind == CONSTANT:
            answer = (64 + noise * np.random.default_rng(SEED).standard_normal(grid.shape)).astype(np.float32)
        else:
            predicted = inference.run(predictor.weights.network, seen)[0, 0] * preprocess.FULL_SCALE_GREY
            answer = predicted.clamp(*CLIP_GREY).numpy()
        image, image_grid = preprocess.prepare(answer, grid.affine)
    except DataError as error:
        return {"reason": str(error)}
    best, sums, entropies = segmenter.segment_with_entropy(image)
    direct, _ = segmenter.segment(seen, flip=False)
    sizes = volumes_mm3(sums)
    found = quality.measure(
        *scan,
        image[0, 0].numpy(),
        grid=image_grid,
        numbers=numbers[best.numpy()],
        direct=numbers[direct.numpy()],
        entropies=entropies.numpy(),
        volumes_mm3=sizes,
        seen=seen[0, 0].numpy(),
    )
    return {"reason": "", "quality": found, "volumes_mm3": sizes}


def kinds_of(draw: int) -> tuple[str, str]:
    """What a draw of a test map is judged as: sound, and with one failure."""
    return SOUND, KINDS[1 + draw % (len(KINDS) - 1)]


def of_head(
    source: LabelMap, draw: int, kinds: Sequence[str], networks: tuple[Predictor, Segmenter], make: Generator
) -> list[dict[str, Any]]:
    """Rows of the scans of one deformed head, sound or failed."""
    contrast = deformed_heads.contrast_of(draw)
    image = deformed_heads.head(make, source, draw, contrast).image
    # The same scan whatever is then done to it.
    acquired = acquire(image, np.random.default_rng([SEED, draw]))
    companions = companions_of(source, draw, networks, make) if MIRRORED in kinds else None
    rows = []
    for kind in kinds:
        rng = np.random.default_rng([SEED, draw, KINDS.index(kind)])
        scan = FAILURES[kind](acquired, rng) if kind in FAILURES else acquired
        found = measured(scan, kind, networks, noise=float(rng.choice([0.0, 2.0])))
        facts = {"label_map": source.path.name, "draw": draw, "contrast": contrast, "kind": kind}
        rows.append({**facts, **found, "companions": companions})
    return rows


def companions_of(
    source: LabelMap, draw: int, networks: tuple[Predictor, Segmenter], make: Generator
) -> list[dict[str, float]]:
    """Volumes of the head's other scans, of other contrasts and slices; all are sound."""
    found = []
    for number in range(1, COMPANIONS + 1):
        image = deformed_heads.head(make, source, draw, deformed_heads.contrast_of(draw + number)).image
        scan = acquire(image, np.random.default_rng([SEED, draw, len(KINDS) + number]))
        found.append(measured(scan, SOUND, networks, noise=0.0))
    return [one["volumes_mm3"] for one in found if not one["reason"]]


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per scan: measures, the cohort's among them, which is that of the sound scans of the same maps."""
    table = pd.DataFrame([{**row, **(row.get("quality") or {}), "session_sides": sides_of(row)} for row in rows])
    table = table.drop(columns=["quality", "volumes_mm3", "companions"], errors="ignore")
    sizes = pd.DataFrame([row.get("volumes_mm3") or {} for row in rows], index=table.index)
    sizes["ICV"] = sizes.get("ICV", math.nan)
    table["icv_mm3"] = sizes["ICV"]
    sound = table.index[(table["kind"] == SOUND) & sizes["ICV"].notna()]
    distance = pd.Series(math.nan, index=table.index)
    if len(sound) >= gate.COHORT_MINIMUM:
        for number in table.index[sizes["ICV"] > 0]:
            cohort = sizes.loc[sound.union([number])]
            distance[number] = gate.cohort_distance(cohort)[number]
    return table.assign(cohort_distance=distance)


def sides_of(row: dict[str, Any]) -> float:
    """The gate's measure of left and right for a scan with companions; NaN without."""
    if not (row.get("companions") and row.get("volumes_mm3")):
        return math.nan
    session = pd.DataFrame([row["volumes_mm3"], *row["companions"]])
    return float(gate.session_sides(session, pd.Series("session", index=session.index))[0])


def tuned(sound: pd.DataFrame) -> pd.DataFrame:
    """Limits such that :data:`TUNED_SPECIFICITY` of the sound scans are below all of them, equally far in spreads."""
    shipped = gate.read_limits()
    typical = {name: float(sound[name].median()) for name in MEASURES}
    spread, away = {}, {}
    for name, (sign, least) in MEASURES.items():
        off = sound[name] - typical[name]
        spread[name] = max(gate.MAD_TO_SD * float(off.abs().median()), least)
        away[name] = sign * off / spread[name]
    worst = pd.DataFrame(away).max(axis=1)
    reach = max(float(worst.quantile(TUNED_SPECIFICITY)), 3.0)
    for name, (sign, _) in MEASURES.items():
        if math.isnan(typical[name]):
            continue  # too few scans for a cohort: the shipped limit stays
        row = shipped["measure"] == name
        shipped.loc[row, "typical"] = round(typical[name], 4)
        shipped.loc[row, "limit"] = round(typical[name] + sign * reach * spread[name], 4)
    return shipped


def judged(table: pd.DataFrame, limits: pd.DataFrame) -> pd.DataFrame:
    """The gate's decision of every scan; ``excluded`` is its answer."""
    scans = table.assign(scan_id=[str(number) for number in table.index], reason=table["reason"].fillna(""))
    result = gate.judge(scans, limits)
    return result.assign(excluded=result["included"] == "no")


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return math.nan, math.nan
    z, p = 1.959964, hits / n
    centre, width = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - width) / (1 + z**2 / n), (centre + width) / (1 + z**2 / n)


def summarise(test: pd.DataFrame) -> pd.DataFrame:
    """Share of scans that were judged right, by kind, of all failures, and of all but the left/right mirrored head."""
    parts = {kind: test[test["kind"] == kind] for kind in KINDS}
    parts["all failures"] = test[test["kind"] != SOUND]
    parts["all but mirrored"] = test[~test["kind"].isin([SOUND, MIRRORED])]
    rows = []
    for kind, part in parts.items():
        right = int((part["excluded"] != (kind == SOUND)).sum())
        low, high = wilson(right, len(part))
        what = "specificity" if kind == SOUND else "sensitivity"
        share = right / len(part) if len(part) else math.nan
        rows.append({"kind": kind, "figure": what, "n": len(part), "share": share, "low": low, "high": high})
    return pd.DataFrame(rows)


def calibrated(test: pd.DataFrame) -> pd.DataFrame:
    """Sound scans and failures by score; what a stage refused has none."""
    told = test[test["score"].notna()]
    band = pd.cut(told["score"], BANDS, right=True, include_lowest=True)
    is_failure = (told["kind"] != SOUND).groupby(band, observed=False)
    table = pd.DataFrame({"scans": is_failure.size(), "failures": is_failure.sum()})
    edges = list(table.index.categories)
    table.insert(0, "above", [max(float(edge.left), 0.0) for edge in edges])
    table.insert(1, "up_to", [float(edge.right) for edge in edges])
    return table.assign(share=table["failures"] / table["scans"]).reset_index(drop=True)


def report(test: pd.DataFrame, out: Path) -> str:
    """Write what some limits made of the test scans into a folder, and return it in Markdown."""
    summary, calibration = summarise(test), calibrated(test)
    for table, name in ((test, "scans"), (summary, "sensitivity"), (calibration, "calibration")):
        tsv.write(table, out / f"{name}.tsv")
    lines = ["| failure | scans | judged right | 95 % interval |", "|---|---|---|---|"]
    for row in summary[summary["n"] > 0].to_dict("records"):
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(f"| {row['kind']} ({row['figure']}) | {row['n']} | {row['share']:.3f} | {interval} |")
    lines += ["", "| score | scans | failures among them |", "|---|---|---|"]
    for row in calibration[calibration["scans"] > 0].to_dict("records"):
        lines.append(f"| {row['above']:g} to {row['up_to']:g} | {row['scans']} | {row['share']:.2f} |")
    files.write_text(out / "sensitivity.md", "\n".join(lines) + "\n")
    return "\n".join(lines)


def main() -> None:
    """Measure, tune, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", nargs="+", type=Path, required=True, metavar="LABEL_MAP")
    parser.add_argument("--test", nargs="+", type=Path, required=True, metavar="LABEL_MAP")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=75, help="seeded deformations per test map (default: %(default)s)")
    parser.add_argument("--tune-draws", type=int, default=8, help="the same per tuning map (default: %(default)s)")
    parser.add_argument("--field-mm", type=int, default=192, help="side of the field of view (default: %(default)s)")
    parser.add_argument("--segmentation", default="segmentation", help="weights, name or path (default: %(default)s)")
    parser.add_argument("--synthsr", default="synthsr", help="weights, name or path (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    both = {path.resolve() for path in given.tune} & {path.resolve() for path in given.test}
    if both:
        parser.error(f"{sorted(both)[0]} is among both the tuning and the test maps")
    inference.prepare_process(given.threads)
    networks = Predictor.load(given.synthsr, given.device), Segmenter.load(given.segmentation, given.device)
    make = deformed_heads.generator(networks[1].device, field_mm=given.field_mm, scaling=SCALING)
    key = {"synthsr": networks[0].weights.sha256, "segmentation": networks[1].weights.sha256,
           "motion": files.sha256(motion.WEIGHTS), "field": given.field_mm, "scaling": SCALING}  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {"tune": [], "test": []}
    plan = [(number / given.tune_draws, "tune", TUNE_FROM + number, path) for number in range(given.tune_draws)
            for path in given.tune]  # fmt: skip
    plan += [(number / given.draws, "test", number, path) for number in range(given.draws) for path in given.test]
    load = cache(load_label_map)
    # In step: broken off early, there is of all maps alike, and --draws and --tune-draws can be what was reached.
    for _, split, draw, path in sorted(plan, key=lambda each: each[0]):
        part = given.out / "parts" / f"{split}_{io.stem(path)}_draw-{draw:02d}.json"
        kept = json.loads(part.read_text(encoding="utf-8")) if part.is_file() else {}
        if kept.get("key") != key:
            kinds = kinds_of(draw) if split == "test" else (SOUND,)
            kept = {"key": key, "rows": of_head(load(path), draw, kinds, networks, make)}
            files.write_text(part, json.dumps(kept))  # NaN among the measures is Python's JSON only
            print(split, path.name, draw, *kinds, flush=True)
        rows[split] += kept["rows"]
    test = as_table(rows["test"])
    tsv.write(limits := tuned(as_table(rows["tune"])), given.out / "gate_limits.tsv")
    for name, table in (("shipped", gate.read_limits()), ("tuned", limits)):
        print(f"\nLimits: {name}\n\n{report(judged(test, table), given.out / name)}")


if __name__ == "__main__":
    main()
