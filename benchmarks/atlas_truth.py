"""An atlas of virtual patients with lesions, through the whole pipeline, held against the true deformations.

    python benchmarks/atlas_truth.py --out DIR --patients 20 --cores 2
    python benchmarks/atlas_truth.py --out DIR --clinic stroke --patients 12 --voxel-mm 2 --spacing-mm 5

simulates patients with a tumour each (two series of 5 mm slices) or a stroke (as ``config/clinic/stroke.yaml`` has it),
runs the pipeline up to the atlas and the lesion
map, and compares, over the template's brain: the lesion probability map with that of the true lesions, which are known
on the base anatomy that every patient is deformed from; and where the members' transforms lead on that base, which is
one place for every voxel if all people lie on each other. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
import yaml
from scipy import ndimage

from analysis import tsv
from analysis.atlas.folder import Folder
from analysis.atlas.members import read as members_of
from analysis.layout import Private, Results
from analysis.registration.transforms import Field
from analysis.simulate import anatomy, build, clinic, deform, heads, lesions, patients, render, vessels
from synthsr import files

ROOT = Path(__file__).parents[1]
#: Of the study.
SEED = 417
SERIES = [{"kind": "T1w", "orientation": "axial"}, {"kind": "FLAIR", "orientation": "axial"}]


def main() -> None:
    """Run the study, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clinic", choices=("tumour", "stroke"), default="tumour")
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--voxel-mm", type=float, default=3.0)
    parser.add_argument("--spacing-mm", type=float, default=10.0)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--rounds", type=int, nargs=3, default=(1, 2, 3))
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    study = arguments.out / "study"
    settings = write_settings(arguments)
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", str(arguments.cores), "--snakefile", str(ROOT / "Snakefile"),
         "--directory", str(study), "--configfile", str(settings), "--quiet", "rules", "--rerun-incomplete",
         "results/statistics/lesion-map/lesion_map.json"],
        check=True,
    )  # fmt: skip
    found = compare(study, arguments.out / "clinic.yaml")
    files.write_json(arguments.out / "atlas_truth.json", found)
    for name, value in found.items():
        print(f"{name}: {value}")


def write_settings(arguments: argparse.Namespace) -> Path:
    """Write the clinic and the study's configuration."""
    source = ROOT / "config" / "clinic" / f"{arguments.clinic}.yaml"
    people = yaml.safe_load(source.read_text(encoding="utf-8")) | {"seed": SEED, "patients": arguments.patients}
    if arguments.clinic == "tumour":
        group = {k: v for k, v in people["groups"][0].items() if k != "interval_years"} | {"sessions": 1}
        people |= {"groups": [group], "series": SERIES}
    files.write_text(arguments.out / "clinic.yaml", yaml.safe_dump(people))
    experiment = yaml.safe_load((ROOT / "config" / "experiments" / "brats-atlas.yaml").read_text(encoding="utf-8"))
    experiment["clinic"] = str((arguments.out / "clinic.yaml").resolve())
    experiment["registration"] |= {"align": False, "shards": 2}
    experiment["atlas"] |= {
        "voxel_mm": arguments.voxel_mm,
        "spacing_mm": arguments.spacing_mm,
        "iterations": arguments.iterations,
        "rounds": list(arguments.rounds),
    }
    path: Path = arguments.out / "config.yaml"
    files.write_text(path, yaml.safe_dump(experiment))
    return path


def compare(study: Path, configuration: Path) -> dict[str, Any]:
    """Pearson's correlation of the lesion probability with the truth, and how far members lie from each other."""
    results = Results(study / "results")
    folder = Folder(results.atlas)
    brain = np.asarray(nib.load(folder.root / "brain.nii.gz").dataobj) > 0
    known = tsv.read(Private(study / "private").sessions, columns=("participant_id", "study_uid"))
    people = tsv.read(study / "clinic" / "sessions.tsv", columns=("patient_id", "study_uid"))
    linked = known[["participant_id", "study_uid"]].merge(people[["patient_id", "study_uid"]], on="study_uid")
    names = linked.set_index("patient_id")["participant_id"]
    configured = clinic.read(configuration)
    loaded = anatomy.load(build.find_anatomies(anatomy.DEFAULT)[0], grid_mm=configured.grid_mm)
    sinus = vessels.superior_sinus(loaded)
    members = {}
    for patient in patients.draw(configured):
        name = names.get(patient.identifier)
        if name is None or not folder.displacement(name).is_file():
            print(f"{patient.identifier} is not in the atlas", file=sys.stderr)
            continue
        members[name] = head_of(configured, loaded, sinus, patient)
    fields = {name: Field.load(folder.displacement(name)) for name in members}
    points = {name: (field.grid.points() + field.displacement_mm)[brain] for name, field in fields.items()}
    every = np.stack([base_places(head, points[name]) for name, head in members.items()])
    middle = every.mean(axis=0)
    apart = np.linalg.norm(every - middle, axis=-1)
    masks = {member["participant_id"]: Path(member["lesion"]) for member in members_of(folder)}
    # Both on the atlas's grid, each through the true deformations: the tissue that a lesion took or grew from, and the
    # masks as drawn.
    origin = np.mean([sampled(np.asarray(head.lesion) > 0, middle) for head in members.values()], axis=0)
    true_masks = np.mean([nearest(masks[name], head.carried_mm(middle)) for name, head in members.items()], axis=0)
    share = np.asarray(nib.load(results.statistics("lesion-map") / "lesion_probability.nii.gz").dataobj, dtype=float)[
        brain
    ]
    rounds = tsv.read(folder.root / "rounds.tsv").to_dict("records")
    return {
        "members": len(members),
        "pearson_r_masks_by_true_deformations": float(np.corrcoef(share, true_masks)[0, 1]),
        "pearson_r_tissue_of_the_lesions": float(np.corrcoef(share, origin)[0, 1]),
        "pearson_r_of_these_two_truths": float(np.corrcoef(true_masks, origin)[0, 1]),
        "mean_probability": {
            name: float(values.mean())
            for name, values in (("atlas", share), ("true_masks", true_masks), ("origin", origin))
        },
        "apart_mean_mm": float(apart.mean()),
        "apart_p95_mm": float(np.percentile(apart, 95)),
        "outliers": len(tsv.read(folder.root / "outliers.tsv")),
        "rounds": rounds,
    }


def head_of(configured: clinic.Clinic, loaded: anatomy.Anatomy, sinus: Any, patient: patients.Patient) -> render.Head:
    """A patient's head at the first visit, as the simulation made it."""
    visit = patient.visits[0]
    lesion = lesions.draw(configured, loaded, patient)
    prescribed = heads.prescribed(configured, loaded, patient, visit, lesion)
    return heads.deformed(configured, loaded, patient, visit, log_ratio=prescribed, lesion=lesion, sinus=sinus)


def base_places(head: render.Head, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where points of the scanner (N, 3) lie in the base, in its voxels of 1 mm."""
    grid = head.anatomy.grid_mm
    undeformed = points_mm @ head.to_base[:, :3].T + head.to_base[:, 3]
    nodes = torch.from_numpy(((undeformed - (grid - 1) / 2) / grid).astype(np.float32))
    return np.asarray(undeformed + deform.sample(head.pull_mm, nodes).movedim(0, -1).numpy())


def sampled(inside: npt.NDArray[np.bool_], places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A mask of the base at places in its voxels (N, 3), nearest voxel."""
    return np.asarray(ndimage.map_coordinates(inside.astype(np.float32), places.T, order=0))


def nearest(path: Path, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Whether a mask's file is not 0 at points of the scanner (N, 3), nearest voxel."""
    image = nib.load(path)
    voxels = (points_mm - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T
    return np.asarray(ndimage.map_coordinates(np.asarray(image.dataobj, dtype=np.float32), voxels.T, order=0) > 0)


if __name__ == "__main__":
    main()
