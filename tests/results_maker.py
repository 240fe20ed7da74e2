"""A small results folder as the pipeline leaves it, for tests of what reads one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from analysis import batch, cli, tsv
from analysis.intake.series import SERIES_COLUMNS
from analysis.layout import Results
from analysis.report import planes
from synthsr import io, labels
from synthsr.preprocess import Grid

CONTRASTS = ("T1w", "T2w", "FLAIR")
PLANES = ("axial", "coronal", "sagittal")
GRID_MM = 4.0
SHAPE = (48, 56, 48)
SHA256 = "0123456789abcdef" * 4
#: Ellipsoids of a schematic head: label, centre and half-axes in mm (RAS), painted in order. Right sides by mirror.
HEAD = (
    (507, (0, 0, 0), (72, 92, 84)),
    (24, (0, 0, 0), (66, 84, 76)),
    (3, (-32, 0, 4), (31, 78, 66)),
    (2, (-31, 0, 4), (25, 68, 56)),
    (4, (-10, 0, 12), (7, 30, 12)),
    (10, (-11, -14, 2), (8, 14, 9)),
    (12, (-25, 4, 0), (6, 14, 10)),
    (17, (-26, -18, -18), (8, 16, 7)),
    (16, (0, -24, -46), (11, 11, 20)),
)


def head(ventricle: float = 1.0) -> np.ndarray:
    """Label map of the schematic head; ``ventricle`` widens the lateral ventricles."""
    centre = (np.array(SHAPE) - 1) / 2
    world = [(np.arange(n) - c) * GRID_MM for n, c in zip(SHAPE, centre, strict=True)]
    x, y, z = np.meshgrid(*world, indexing="ij")
    numbers = np.zeros(SHAPE, np.int16)
    for number, (cx, cy, cz), (ax, ay, az) in HEAD:
        wide = ventricle if number == 4 else 1.0
        for side in (1, -1) if cx else (1,):
            inside = ((x - side * cx) / ax / wide) ** 2 + ((y - cy) / ay) ** 2 + ((z - cz) / az / wide) ** 2 < 1
            numbers[inside] = number if side == 1 else labels.mirror_number(number)
    return numbers


def make_results(root: Path, *, n_people: int = 45, hostile: str = "") -> Results:
    """Write the folder; ``hostile`` becomes the reason of a rejected series. No person gives an empty cohort."""
    results, rng = Results(root), np.random.default_rng(0)
    affine = np.diag([GRID_MM] * 3 + [1.0])
    affine[:3, 3] = -(np.array(SHAPE) - 1) / 2 * GRID_MM
    grey = np.zeros(labels.table()[-1].number + 1)
    for label in labels.table():
        grey[label.number] = label.t1_grey
    series, sessions, stages, gate, volumes, truth = (
        [],
        [],
        {"convert": [], "synthesise": [], "segment": []},
        [],
        [],
        [],
    )
    for person in range(n_people):
        participant, session = f"sub-{person + 1:04d}", "ses-01"
        age = float(np.round(rng.uniform(20, 90), 1))
        sessions.append(
            {"participant_id": participant, "session_id": session, "age_years": age, "sex": "FM"[person % 2]}
        )
        for run in range(1 + (person % 4 == 0)):
            contrast, plane = CONTRASTS[(person + run) % 3], PLANES[person % 3]
            scan_id = f"{participant}_{session}_run-{run + 1}_{contrast}"
            names = {"participant_id": participant, "session_id": session, "scan_id": scan_id, "contrast": contrast}
            series.append(
                {
                    **names,
                    "modality": "MR",
                    "rows": 256,
                    "columns": 256,
                    "n_slices": 28,
                    "n_volumes": 1,
                    "in_plane_mm": 0.9,
                    "spacing_mm": 3.0 + (person + run) % 5,
                    "thickness_mm": 5.0,
                    "plane": plane,
                    "missing_slices": 0,
                    "decision": "include",
                    "reason": "",
                }
            )
            fate = "constant image" if person == 7 else ""
            stages["convert"].append({**names, "status": "rejected" if fate else "done", "reason": fate})
            if fate:
                gate.append({**names, "stage": "convert", "included": "no", "reason": fate, "icv_mm3": np.nan})
                continue
            small = person == 11
            image = results.synthetic(scan_id).relative_to(root).as_posix()
            stages["synthesise"].append({**names, "status": "done", "reason": "", "path": image})
            table = results.scan_volumes(scan_id).relative_to(root).as_posix()
            stages["segment"].append({**names, "status": "done", "reason": "", "path": table, "sha256": SHA256})
            icv = (0.9e6 if small else 1.4e6) + 1e5 * (person % 2) + 6e4 * rng.normal()
            gate.append(
                {
                    **names,
                    "stage": "segment",
                    "included": "no" if small else "yes",
                    "icv_mm3": icv,
                    "decided_by": "gate",
                    "score": 1.3 if small else 0.4,
                    "icv_litres": icv / 1e6,
                    "noise_share": 0.05 + 0.01 * (person % 5),
                    "reason": f"ICV {icv / 1e6:.2f} l is under 1.1 l: not a whole head" if small else "",
                }
            )
            if small:
                continue
            sizes = {
                "Hippocampus": 3900 - 12 * max(age - 50, 0),
                "Thalamus": 7600 - 25 * (age - 20),
                "Lateral-Ventricle": 6000 + 3 * max(age - 30, 0) ** 2,
                "Cerebral-Cortex": 2.5e5 - 900 * (age - 20),
                "Cerebral-White-Matter": 2.3e5 - 30 * (age - 35) ** 2,
            }
            for name, size in sizes.items():
                for side in ("Left-", "Right-"):
                    true = size * (icv / 1.45e6) * (1 + 0.04 * rng.laplace())
                    measured = true * (1.02 + 0.04 * rng.normal())
                    spacing = series[-1]["spacing_mm"]
                    volumes.append({**names, "structure": side + name, "volume_mm3": measured, "spacing_mm": spacing})
                    truth.append({**names, "structure": side + name, "volume_mm3": true})
            volumes.append({**names, "structure": "ICV", "volume_mm3": icv, "spacing_mm": series[-1]["spacing_mm"]})
            truth.append({**names, "structure": "ICV", "volume_mm3": icv * 1.01})
            if person < 9:
                _write_images(results, scan_id, head(0.6 + age / 60), affine, grey, rng)
    for reason in ("localizer: 3 orientations", "31 volumes: more than three dimensions", hostile or "no pixel data"):
        series.append(
            {
                "participant_id": "sub-0001",
                "session_id": "ses-01",
                "scan_id": "n/a",
                "contrast": "n/a",
                "modality": "MR",
                "plane": "n/a",
                "decision": "exclude",
                "reason": reason,
            }
        )
    table = pd.DataFrame(series, columns=list(SERIES_COLUMNS)).assign(series_id=[f"s{i}" for i in range(len(series))])
    tsv.write(table if n_people else table.tail(3), results.series)
    tsv.write(pd.DataFrame(sessions, columns=["participant_id", "session_id", "age_years", "sex"]), results.sessions)
    for stage, rows in stages.items():
        tsv.write(
            pd.DataFrame(rows, columns=list(batch.COLUMNS), dtype=object).fillna(""), results.batch(stage, "0001")
        )
    columns = ["scan_id", "participant_id", "session_id", "contrast", "stage", "icv_mm3", "included", "reason",
               "decided_by", "score", "icv_litres", "noise_share"]  # fmt: skip
    tsv.write(pd.DataFrame(gate, columns=columns), results.gate)
    keys = ["participant_id", "session_id", "structure"]
    columns = ["participant_id", "session_id", "scan_id", "structure", "volume_mm3", "contrast", "spacing_mm"]
    scans = pd.DataFrame(volumes, columns=columns)
    tsv.write(scans, results.volumes)
    tsv.write(scans.groupby(keys, as_index=False)["volume_mm3"].median(), results.session_volumes)
    true = pd.DataFrame(truth, columns=[*keys, "volume_mm3"]).drop_duplicates(keys)
    tsv.write(true, root / "truth.tsv")
    return results


def make_pictures(results: Results, number: int, *, lesions: Path | None = None) -> None:
    """Run ``pictures`` on the first scans alone."""
    table = results.root.parent / "few" / "batch-0001.tsv"
    tsv.write(batch.read(results.batch("segment", "0001")).head(number), table)
    given = [] if lesions is None else ["--lesions", str(lesions)]
    assert cli.main(["pictures", str(table), "--out", str(results.root), *given]) == 0


def run_statistics(results: Results) -> None:
    """Run ageing at both levels, and agreement with the truth."""
    for level, table in (("scans", results.volumes), ("sessions", results.session_volumes)):
        arguments = ["ageing", str(table), "--participants", str(results.sessions), "--replicates", "100"]
        assert cli.main([*arguments, "--out", str(results.statistics(f"ageing-{level}"))]) == 0
    arguments = ["agreement", str(results.volumes), str(results.root / "truth.tsv")]
    assert cli.main([*arguments, "--out", str(results.statistics("agreement"))]) == 0


def _run(results: Results, name: str, *arguments: str | Path, out: str = "") -> None:
    folder = results.statistics(out or name)
    assert cli.main([name, *map(str, arguments), "--out", str(folder)]) == 0


def run_arms(results: Results, groups: Iterable[str | Path]) -> None:
    """Hold two arms of the comparison against a third, and all against each other by words that name the groups."""
    rng = np.random.default_rng(2)
    measured = tsv.read(results.session_volumes, numbers=["volume_mm3"])
    truth = tsv.read(results.root / "truth.tsv").merge(measured[["participant_id"]].drop_duplicates())
    tsv.write(truth, results.arm("real-1mm"))
    for arm, spread in (("synthsr", 0.02), ("cubic", 0.1)):
        noise = 1 + spread * rng.normal(size=len(measured))
        tsv.write(measured.assign(volume_mm3=measured["volume_mm3"] * noise), results.arm(arm))
        _run(results, "agreement", results.arm(arm), results.arm("real-1mm"), out=f"arm-{arm}")
    _run(results, "groups", *map(results.arm, ("real-1mm", "synthsr", "cubic")), *groups, out="arms")


def run_further_statistics(results: Results, *, hostile: str = "") -> None:
    """Run those that a study asks for, on made inputs; ``hostile`` becomes part of every name that data bring along."""
    inputs, rng = results.root.parent / "inputs", np.random.default_rng(1)
    sessions = tsv.read(results.sessions)
    names = list(sessions["participant_id"])
    ill, well = f"AD{hostile}", f"Control{hostile}"
    people = sessions.assign(
        diagnosis=[ill if person % 3 == 0 else well for person in range(len(names))],
        site=[f"{'ABC'[rng.integers(3)]}{hostile}" for _ in names],
        **{f"points{hostile}": rng.integers(0, 20, len(names)), "left_mm3": rng.uniform(0, 9e3, len(names))},
        right_mm3=10.0,
    )
    tsv.write(people, inputs / "people.tsv")

    run = partial(_run, results)
    groups = ("--participants", inputs / "people.tsv", "--groups", ill, well, "--replicates", "100")
    run("groups", results.session_volumes, *groups)
    run_arms(results, groups)
    run("asymmetry", results.session_volumes, "--lesions", inputs / "people.tsv")
    sites = ("--participants", inputs / "people.tsv", "--site", "site")
    run("harmonise", results.session_volumes, *sites, out="harmonise-sessions")

    errors = [
        {"pair": pair, "contrast": f"{contrast}{hostile}", "spacing_mm": spacing, "method": method,
         "landmark": landmark, "error_mm": rng.gamma(4, factor)}
        for pair in range(8) for contrast in ("T1", "T2") for spacing in (5, 10)
        for method, factor in (("direct", 0.9), ("synthsr", 0.7)) for landmark in range(3)
    ]  # fmt: skip
    tsv.write(pd.DataFrame(errors), inputs / "errors.tsv")
    run("landmarks", inputs / "errors.tsv", "--replicates", "200")

    grid = Grid((10, 12, 8), np.array([[6.0, 0, 0, -27], [0, 6, 0, -33], [0, 0, 6, -21], [0, 0, 0, 1]]))
    for person, name in enumerate(names[:24]):
        mask = np.zeros(grid.shape, np.uint8)
        mask[2:4, 3 + person % 3 : 8, 2:5] = person % 2
        mask[6:8, 4:6, 3 + person % 2 : 6] = 1
        io.save(mask, grid, inputs / "masks" / f"{name}_lesion.nii.gz")
        change = rng.normal(0, 0.1, grid.shape).astype(np.float32)
        change[3:6, 3:6, 3:6] -= 0.3 * (person % 3 == 0)
        io.save(change, grid, inputs / "jacobians" / f"{name}_logjac.nii.gz")
        for side in ("lh", "rh"):
            path = inputs / "surfaces" / name / "surf" / f"{side}.thickness.mgh"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = rng.normal(2.5 - 0.2 * (person % 3 == 0), 0.2, (60, 1, 1)).astype(np.float32)
            nib.save(nib.MGHImage(values, np.eye(4)), path)
    points = ("--participants", inputs / "people.tsv", "--score", f"points{hostile}", "--permutations", "100")
    run("lesion-map", inputs / "masks", *points, "--minimum", "5")
    run("tbm", inputs / "jacobians", "--participants", inputs / "people.tsv", "--groups", ill, well)
    contrast = ("--participants", inputs / "people.tsv", "--contrast", "diagnosis", ill, well)
    run("thickness", inputs / "surfaces" / "*" / "surf" / "*.mgh", *contrast)


def make_registration(results: Results, *, n_pairs: int = 8, hostile: str = "") -> None:
    """Longitudinal pairs of the first people: images that lie on each other but for the third's, whose space folds.

    One more pair and one more scan are rejected, with ``hostile`` in the reason.
    """
    rng = np.random.default_rng(2)
    chosen = [row for row in tsv.read(results.gate).to_dict("records") if results.synthetic(row["scan_id"]).is_file()]
    rows = []
    for number, first in enumerate(chosen[: n_pairs + 1], start=1):
        scan_id = first["scan_id"].replace("ses-01", "ses-02")
        row = {"scan_id": scan_id, "participant_id": first["participant_id"], "session_id": "ses-02",
               "contrast": first["contrast"], "status": "done"}  # fmt: skip
        if number > n_pairs:
            rows.append({**row, "status": "rejected", "reason": f"/data/x/{scan_id}.nii.gz: holds 3 % {hostile}"})
            continue
        rows.append(row)
        image = nib.load(results.synthetic(first["scan_id"]))
        data = np.asarray(image.dataobj)
        folder = results.longitudinal(scan_id)
        folder.mkdir(parents=True)
        moved = np.roll(data, 3, axis=0) if number == 3 else data
        for name, shown in (("fixed_midspace", data), ("moving_midspace", moved), ("warped", moved)):
            nib.save(nib.Nifti1Image(shown, image.affine), folder / f"{name}.nii.gz")
        quality = {
            "nmi": 1.2 + 0.01 * rng.normal(), "lncc": 0.9 + 0.01 * rng.normal(),
            "folding_fraction": 0.04 if number == 3 else 0.0, "jacobian_least": 0.6 + 0.05 * rng.normal(),
            "jacobian_largest": 1.8 + 0.1 * rng.normal(), "inverse_mean_mm": 0.1, "inverse_largest_mm": None,
        }  # fmt: skip
        facts = {"Sources": [results.synthetic(first["scan_id"]).name, "later"], "Quality": quality}
        (folder / "registration.json").write_text(json.dumps(facts))
    table = pd.DataFrame(rows, columns=list(batch.COLUMNS), dtype=object).fillna("")
    tsv.write(table, results.registered("longitudinal", 1))
    refused = {"scan_id": "sub-0001_ses-01_T2w", "status": "rejected", "reason": f"does not overlap {hostile}"}
    aligned = [{"scan_id": "sub-0001_ses-01_run-2_T2w", "status": "done"}, refused]
    table = pd.DataFrame(aligned, columns=list(batch.COLUMNS), dtype=object).fillna("")
    tsv.write(table, results.registered("align", 1))


def make_atlas(results: Results, *, hostile: str = "") -> None:
    """What the atlas leaves for the report, of three members of whom the last stands out."""
    rounds = [
        {"round": number, "kind": kind, "members": 3, "change": change, "sharpness": 0.01 + 0.001 * number,
         "variability": 0.2 - 0.01 * number, "mean_displacement_mm": 0.3 * number, "converged": number == 2}
        for number, kind, change in ((0, "start", np.nan), (1, "affine", 0.25), (2, "svf", 0.0125))
    ]  # fmt: skip
    quality = [
        {"participant_id": f"sub-{number:04d}", "scan_id": f"sub-{number:04d}_ses-01_run-1_T1w", "lncc": 0.8,
         "dice_mean": 0.9, "jacobian_p1": 0.7, "jacobian_p99": 1.4, "folding_fraction": 0.0,
         "outlier": "yes" if number == 3 else "no", "reason": f"space folds {hostile}" if number == 3 else ""}
        for number in (1, 2, 3)
    ]  # fmt: skip
    tsv.write(pd.DataFrame(rounds), results.atlas / "rounds.tsv")
    tsv.write(pd.DataFrame(quality), results.atlas / "quality.tsv")
    facts = {"members": 3, "outliers": 1, "sources": ["Joshi et al., NeuroImage 2004"]}
    (results.atlas / "atlas.json").write_text(json.dumps(facts))
    (results.atlas / "atlas.png").write_bytes(planes.encode(np.zeros((8, 8, 3), np.uint8)))
    for name in ("template_T1w", "median_FLAIR", "labels"):
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), results.atlas / f"{name}.nii.gz")


def _write_images(results, scan_id, numbers, affine, grey, rng) -> None:
    t1 = grey[numbers] + 3 * rng.normal(size=numbers.shape) * (numbers > 0)
    thick = np.diag([1, 1, 2, 1.0])
    images = {
        results.raw(scan_id): (t1[..., ::2] * 7, affine @ thick, np.float32),
        results.synthetic(scan_id): (t1, affine, np.float32),
        results.segmentation(scan_id): (np.where(numbers < 500, numbers, 0), affine, np.int16),
    }
    for path, (data, place, kind) in images.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data.astype(kind), place), path)
        facts = {"Synthetic": True, "GeneratedBy": {"Name": "synthsr-cohort", "Version": "0.1.0"},
                 "WeightsName": "synthsr", "WeightsSHA256": SHA256}  # fmt: skip
        if path == results.raw(scan_id):
            facts = {"ConversionSoftware": "dcm2niix", "ConversionSoftwareVersion": "v1.0.20250506"}
        Path(str(path).removesuffix(".nii.gz") + ".json").write_text(json.dumps(facts))
