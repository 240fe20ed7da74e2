"""Small stand-ins for FreeSurfer's and FSL's programs: they check their arguments and write files of the true format.

They measure nothing. ``STAND_IN_FAULT`` makes them fail in the ways the real ones do: ``exit`` (code 1), ``nothing``
(code 0 and no output, as after an error of mri_synthseg), ``cut`` (a table that ends too early), ``zero`` and ``nan``
(volumes), ``elsewhere`` (a label map far from the image). ``STAND_IN_SEEN`` names a file for the range of grey levels
that a program was given.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

FAULT = os.environ.get("STAND_IN_FAULT", "")
SIDED = {4: "Lateral-Ventricle", 5: "Inf-Lat-Vent", 7: "Cerebellum-White-Matter", 8: "Cerebellum-Cortex",
         10: "Thalamus", 11: "Caudate", 12: "Putamen", 13: "Pallidum", 17: "Hippocampus", 18: "Amygdala",
         26: "Accumbens-area", 28: "VentralDC"}  # fmt: skip
RIGHT = {4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 28: 60}
MIDLINE = {14: "3rd-Ventricle", 15: "4th-Ventricle", 16: "Brain-Stem", 24: "CSF"}
#: SynthSeg's names of one side, and of what has none.
SYNTHSEG_SIDED = ("cerebral white matter", "cerebral cortex", "lateral ventricle", "inferior lateral ventricle",
                  "cerebellum white matter", "cerebellum cortex", "thalamus", "caudate", "putamen", "pallidum",
                  "hippocampus", "amygdala", "accumbens area", "ventral DC")  # fmt: skip
SYNTHSEG_OTHER = ("3rd ventricle", "4th ventricle", "brain-stem", "csf", "ctx-lh-bankssts", "ctx-rh-bankssts")
FIRST_NUMBERS = (10, 11, 12, 13, 16, 17, 18, 26, 49, 50, 51, 52, 53, 54, 58)


def install(home: Path, *, version: str = "stand-in 1.0") -> Path:
    """Write the stand-ins as both suites would lie below ``home``, with a licence and the files of their versions."""
    (home / "bin").mkdir(parents=True)
    for name in PROGRAMS:
        path = home / "bin" / name
        lines = [f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {str(Path(__file__).parent)!r})"]
        path.write_text("\n".join([*lines, "import stand_ins", f"stand_ins.main({name!r})", ""]))
        path.chmod(0o755)
    (home / "build-stamp.txt").write_text(f"{version}\n")
    (home / "license.txt").write_text("nobody@example.org\n1\n *abc\n def\n")
    (home / "etc").mkdir()
    (home / "etc" / "fslversion").write_text(f"{version}\n")
    return home


def main(name: str) -> None:
    """What an executable does: see that its arguments, joined, match, then write its files."""
    pattern, work = PROGRAMS[name]
    found = re.fullmatch(pattern, " ".join(sys.argv[1:]))
    if found is None:
        sys.exit(f"{name}: unexpected arguments {sys.argv[1:]}")
    if FAULT in ("exit", "nothing"):
        sys.exit(FAULT == "exit")
    work(*found.groups())


def recon_all(stage: str, image: str | None, name: str, folder: str) -> None:
    subject = Path(folder) / name
    if (image is None) != subject.exists():
        sys.exit("-i is for a new subject, and only for that")
    if image is not None:
        for part in ("mri", "scripts"):
            (subject / part).mkdir(parents=True)
        write_labels(image, subject / "mri" / "orig.mgz", [1])
    (subject / "scripts" / "build-stamp.txt").write_text("freesurfer-stand-in-7.4.1\n")
    if stage in ("all", "autorecon3"):
        write_labels(subject / "mri" / "orig.mgz", subject / "mri" / "aseg.mgz", numbers())
        aseg_stats(subject / "stats" / "aseg.stats")
        for side in ("lh", "rh"):
            aparc_stats(subject / "stats" / f"{side}.aparc.stats", side)
    with (subject / "scripts" / "recon-all-status.log").open("a") as stream:
        stream.write(f"#@# {stage}\nrecon-all -s {name} finished without error at Fri Nov 20 12:00:00 UTC 2026\n")


def recon_all_clinical(image: str, name: str, folder: str) -> None:
    subject = Path(folder) / name
    for part in ("mri", "scripts", "stats"):
        (subject / part).mkdir(parents=True)
    write_labels(image, subject / "mri" / "synthseg.mgz", numbers())
    synthseg_volumes(subject / "stats" / "synthseg.vol.csv")
    synthseg_scores(subject / "stats" / "synthseg.qc.csv")
    for side in ("lh", "rh"):
        aparc_stats(subject / "stats" / f"{side}.aparc.stats", side)
    (subject / "scripts" / "recon-all-clinical.log").write_text("#@# recon-all-clinical\nAll done!\n")


def samseg(image: str, folder: str) -> None:
    Path(folder).mkdir()
    write_labels(image, Path(folder) / "seg.mgz", numbers())
    lines = [f"# Measure {name}, {volume(number):.6f}, mm^3" for number, name in structures(cerebrum=True)]
    write_table(Path(folder) / "samseg.stats", ["# Measure Unknown, 8765432.100000, mm^3", *lines])
    (Path(folder) / "sbtiv.stats").write_text("# Measure Intra-Cranial, 1456789.123000, mm^3\n")


def synthseg(image: str, target: str, scores: str, table: str) -> None:
    write_labels(image, Path(target), numbers())
    synthseg_volumes(Path(table))
    synthseg_scores(Path(scores))


def synthsr(image: str, target: str) -> None:
    source = nib.load(image)
    grey = np.random.default_rng(0).uniform(0, 128, source.shape) * (FAULT != "zero")
    grey[0, 0, 0] = np.nan if FAULT == "nan" else grey[0, 0, 0]
    nib.save(nib.Nifti1Image(grey.astype(np.float32), source.affine), target)


def bet(image: str, target: str) -> None:
    write_labels(image, Path(target), range(1, 30))
    write_labels(image, Path(target.replace(".nii.gz", "_mask.nii.gz")), [1] * 29)


def fast(base: str, brain: str) -> None:
    write_labels(brain, Path(f"{base}_seg.nii.gz"), [1, 2, 3] * 9)
    image = nib.load(brain)
    affine = image.affine.copy()
    affine[0, 3] += 5 * (FAULT == "elsewhere")
    for k in range(2 if FAULT == "cut" else 3):
        share = np.full(image.shape, 0.0 if FAULT == "zero" else 0.2 + k / 10, np.float32)
        share[0, 0, 0] = np.nan if FAULT == "nan" else 0
        nib.save(nib.Nifti1Image(share, affine), f"{base}_pve_{k}.nii.gz")


def first(image: str, base: str) -> None:
    write_labels(image, Path(f"{base}_all_fast_firstseg.nii.gz"), FIRST_NUMBERS[: 7 if FAULT == "cut" else None])


#: Pattern of the arguments, whose groups the function takes.
PROGRAMS = {
    "recon-all": (
        r"-(all|autorecon1|autorecon2|autorecon3)(?: -i (\S+))? -openmp \d+ -subjid (\S+) -sd (\S+)",
        recon_all,
    ),
    "recon-all-clinical.sh": (r"(\S+) (\S+) \d+ (\S+)", recon_all_clinical),
    "run_samseg": (r"--input (\S+) --output (\S+) --threads \d+", samseg),
    "mri_synthseg": (
        r"--i (\S+) --o (\S+) --cpu(?: --ct)? --parc --qc (\S+) --robust --threads \d+ --vol (\S+)",
        synthseg,
    ),
    "mri_synthsr": (r"--i (\S+) --o (\S+) --cpu(?: --ct)? --threads \d+", synthsr),
    "bet": (r"(\S+) (\S+) -m -R", bet),
    "fast": (r"-t 1 -n 3 -o (\S+) -S 1 (\S+)", fast),
    "run_first_all": (r"-m auto -i (\S+) -o (\S+)", first),
}


def structures(*, cerebrum: bool = False) -> list[tuple[int, str]]:
    """Numbers and names, in rising order of number; on demand with the cerebrum's white matter and cortex."""
    names = {**({2: "Cerebral-White-Matter", 3: "Cerebral-Cortex"} if cerebrum else {}), **SIDED}
    sided = [(number, f"Left-{name}") for number, name in names.items()]
    sided += [({2: 41, 3: 42, **RIGHT}[number], f"Right-{name}") for number, name in names.items()]
    return sorted([*sided, *MIDLINE.items()])


def numbers() -> list[int]:
    return [number for number, _ in structures()]


def volume(number: int) -> float:
    """In mm³."""
    return {"zero": 0.0, "nan": float("nan")}.get(FAULT, 100.0 * number + 0.5)


def write_labels(source: str | Path, target: Path, chosen: Iterable[int]) -> None:
    """A voxel line per label, about the middle of the image."""
    image = nib.load(source)
    if seen := os.environ.get("STAND_IN_SEEN"):
        grey = np.asarray(image.dataobj)
        Path(seen).write_text(f"{grey.min()} {grey.max()}")
    data = np.zeros(image.shape, np.int32)
    x, y, z = np.array(image.shape) // 2
    for k, number in enumerate(chosen):
        data[x + k % 4, y + k // 4 - 4, z - 2 : z + 3] = 0 if FAULT == "zero" else number
    affine = image.affine.copy()
    affine[:3, 3] += 500 * (FAULT == "elsewhere")
    kind = nib.MGHImage if target.suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(data, affine), target)


def write_table(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines[: len(lines) // 2] if FAULT == "cut" else lines) + "\n")


def synthseg_volumes(path: Path) -> None:
    names = [f"{side} {name}" for side in ("left", "right") for name in SYNTHSEG_SIDED]
    names += SYNTHSEG_OTHER
    sizes = [f"{volume(k + 1):.3f}" for k in range(len(names))]
    header = ",".join(["subject", "total intracranial", *names])
    write_table(path, [header, ",".join(["input", "1456789.123", *sizes])])


def synthseg_scores(path: Path) -> None:
    header = "subject,general white matter,general grey matter,general csf,cerebellum,brainstem,thalamus,"
    header += "putamen+pallidum,hippocampus+amygdala"
    write_table(path, [header, "input,0.87,0.85,0.83,0.9,0.88,0.91,0.86,0.84"])


def aseg_stats(path: Path) -> None:
    measures = [
        ("BrainSeg, BrainSegVol, Brain Segmentation Volume", 1234567.0),
        ("lhCortex, lhCortexVol, Left hemisphere cortical gray matter volume", volume(2300)),
        ("rhCortex, rhCortexVol, Right hemisphere cortical gray matter volume", volume(2310)),
        ("Cortex, CortexVol, Total cortical gray matter volume", volume(4610)),
        ("lhCerebralWhiteMatter, lhCerebralWhiteMatterVol, Left hemisphere cerebral white matter volume", volume(2200)),
        (
            "rhCerebralWhiteMatter, rhCerebralWhiteMatterVol, Right hemisphere cerebral white matter volume",
            volume(2210),
        ),
        ("EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume", 1487654.321),
    ]
    header = ["# Title Segmentation Statistics ", "# ", "# generating_program mri_segstats", "# anatomy_type volume"]
    header += [f"# Measure {what}, {value:.6f}, mm^3" for what, value in measures]
    header += ["# NTableCols 10", "# TableCol  1 ColHeader Index "]
    header += [
        "# ColHeaders  Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange  "
    ]
    rows = [(number, volume(number), name.replace("Thalamus", "Thalamus-Proper")) for number, name in structures()]
    rows += [(251, 1000.0, "CC_Posterior")]
    lines = [
        f"{k:3d} {number:3d}  {1000:8d}  {size:9.1f}  {name:30s} 60.0000    10.0000    10.0000    90.0000    80.0000 "
        for k, (number, size, name) in enumerate(rows, start=1)
    ]
    write_table(path, [*header, *lines])


def aparc_stats(path: Path, side: str) -> None:
    lines = ["# Table of FreeSurfer cortical parcellation anatomical statistics ", "# ", f"# hemi {side}",
             "# Measure Cortex, NumVert, Number of Vertices, 130000, unitless",
             "# Measure Cortex, WhiteSurfArea, White Surface Total Area, 85000.5, mm^2",
             "# Measure Cortex, MeanThickness, Mean Thickness, 2.51234, mm",
             "# NTableCols 10", "# TableCol  1 ColHeader StructName",
             "# ColHeaders StructName NumVert SurfArea GrayVol ThickAvg ThickStd MeanCurv GausCurv FoldInd CurvInd",
             "bankssts                 1458  1006  2545  2.573 0.432  0.100  0.018  11  1.1",
             "caudalanteriorcingulate   955   648  1830  2.500 0.540  0.120  0.020  13  0.8"]  # fmt: skip
    write_table(path, lines)
