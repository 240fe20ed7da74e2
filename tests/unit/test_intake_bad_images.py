"""Every kind of damaged or impossible NIfTI file: rejected or repaired as docs/intake.md says, the others go on."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from analysis import batch, tsv
from analysis.cli import main
from analysis.intake import acceptance
from analysis.layout import Results, sidecar_of
from synthsr.errors import DataError

SIZE, SPACING_MM = 20, 9.0
AFFINE = np.diag([SPACING_MM] * 3 + [1.0])
#: Places of fields in a NIfTI-1 header.
DIM, SCL_SLOPE, QFORM_CODE, SFORM_CODE, SROW_X = 40, 112, 252, 254, 280


def head(size: int = SIZE) -> np.ndarray:
    """A bright ball in the dark, with noise: 160 mm of it."""
    x = (np.indices((size,) * 3) - (size - 1) / 2) * SPACING_MM
    ball = (x**2).sum(axis=0) < 80**2
    return (1000 * ball + np.random.default_rng(0).normal(0, 10, ball.shape)).astype(np.float32)


def nifti(data: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> bytearray:
    return bytearray(nib.Nifti1Image(head() if data is None else data, affine).to_bytes())


def with_field(place: int, form: str, *values: float) -> bytearray:
    content = nifti()
    struct.pack_into(f"<{len(values)}{form}", content, place, *values)
    return content


def with_places(qform: np.ndarray, sform: np.ndarray, qform_code: int = 1, sform_code: int = 1) -> bytes:
    image = nib.Nifti1Image(head(), None)
    image.set_qform(qform, qform_code)
    image.set_sform(sform, sform_code)
    return image.to_bytes()


def moved(*millimetres: float) -> np.ndarray:
    return nib.affines.from_matvec(AFFINE[:3, :3], millimetres)


def bomb() -> bytes:
    """A small header, and 300 MB of zeros behind the voxels it claims."""
    return gzip.compress(nifti() + bytes(300 << 20), compresslevel=6)


def scan(content: bytes) -> bytes:
    return gzip.compress(bytes(content), compresslevel=1)


NAN_PLACE = np.where(np.eye(4) > 0, np.nan, 0)
COLOURS = np.zeros((SIZE,) * 3, [(channel, "u1") for channel in "RGB"])
#: What is wrong → content of the file, and what its reason says.
REJECTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "flipped": (lambda: scan(with_places(AFFINE, np.diag([-SPACING_MM, SPACING_MM, SPACING_MM, 1]))), "left and right"),
    "sizes": (lambda: scan(with_places(AFFINE, np.diag([SPACING_MM * 1.2] * 3 + [1]))), "voxel sizes"),
    "nocodes": (lambda: scan(with_places(AFFINE, AFFINE, 0, 0)), "left and right are unknown"),
    "singular": (lambda: scan(with_field(SROW_X + 16, "f", SPACING_MM, 0, 0, 0)), "affine does not describe a volume"),
    "fourth": (lambda: scan(nifti(np.stack([head(), head()], axis=-1))), "20 x 20 x 20 x 2 voxels"),
    "colours": (lambda: scan(nifti(COLOURS)), "colours or complex"),
    "complex": (lambda: scan(nifti(head().astype(np.complex64))), "colours or complex"),
    "three": (lambda: scan(nifti(head()[..., 8:11], np.diag([9, 9, 40, 1]))), "3 slices, fewer than 10"),
    "constant": (lambda: scan(nifti(np.full_like(head(), 7))), "constant, every voxel is 7"),
    "nan": (lambda: scan(nifti(np.where(head() > 900, np.nan, head()))), "not finite"),
    "huge": (lambda: scan(with_field(DIM, "h", 3, 10_000, 10_000, 10_000)), "claims 1e+12 voxels"),
    "hugetail": (lambda: scan(with_field(DIM, "h", 3, 700, 700, 700)), "truncated"),
    "bomb": (bomb, "goes on after the last voxel"),
    "truncated": (lambda: scan(nifti())[:-2000], "truncated"),
    "checksum": (lambda: scan(nifti())[:-8] + bytes(8), "cannot be read"),
    "wide": (lambda: scan(nifti(affine=np.diag([SPACING_MM, 25.6, SPACING_MM, 1]))), "voxels of"),
    "fov": (lambda: scan(nifti(head(57)[:, :20, :20])), "field of view 513 mm"),
    "narrow": (lambda: scan(nifti(affine=np.diag([9, 9, 4, 1]))), "field of view 80 mm"),
    "empty": (lambda: b"", "cannot be read"),
    "text": (lambda: b"<script>alert(1)</script>", "cannot be read"),
    "offset": (lambda: scan(with_field(108, "f", 1e9)), "begin at byte 1000000000"),
    "partial": (lambda: scan(nifti(np.where(np.indices((SIZE,) * 3)[2] < 8, head(), 0))), "not covered"),
    "dark": (lambda: scan(nifti(head() * (np.indices((SIZE,) * 3).max(axis=0) < 6))), "less than a head's"),
}
REPAIRED: dict[str, tuple[Callable[[], bytes], str]] = {
    "shifted": (lambda: scan(with_places(AFFINE, moved(0, 5, 0))), "qform differed by 5.0 mm"),
    "slope": (lambda: scan(with_field(SCL_SLOPE, "f", np.nan, np.nan)), "scl_slope is no number"),
    "plain": (lambda: bytes(nifti()), "read as .nii"),
}
SOUND: dict[str, Callable[[], bytes]] = {
    "good": lambda: scan(nifti()),
    "qonly": lambda: scan(with_places(AFFINE, AFFINE, 1, 0)),
    "sonly": lambda: scan(with_places(AFFINE, AFFINE, 0, 2)),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, pd.DataFrame, pd.DataFrame]:
    root = tmp_path_factory.mktemp("bad")
    made = {name: make for name, (make, _) in (REJECTED | REPAIRED).items()} | SOUND
    for name, make in made.items():
        path = root / "export" / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(make())
    formula = "=cmd|' /C calc'!A0"
    (root / "export" / "participants.tsv").write_text(f"participant_id\tsex\tnote\nsub-good\t{formula}\t{formula}\n")
    folders = ["--out", str(root / "results"), "--private", str(root / "private")]
    assert main(["inventory", str(root / "export"), "--format", "bids", "--batch-size", "100", *folders]) == 0
    results = Results(root / "results")
    assert main(["convert", str(results.batch("select", "0001")), *folders]) == 0
    return results, tsv.read(results.series), batch.read(results.batch("convert", "0001"))


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_with_its_reason(study: tuple[Results, pd.DataFrame, pd.DataFrame], name: str) -> None:
    results, series, converted = study
    reasons = [
        *series.loc[(series.participant_id == f"sub-{name}") & (series.decision == "exclude"), "reason"],
        *converted.loc[(converted.participant_id == f"sub-{name}") & (converted.status == batch.REJECTED), "reason"],
    ]
    assert len(reasons) == 1 and REJECTED[name][1] in reasons[0] and f"sub-{name}_T1w.nii.gz" in reasons[0]
    assert not results.raw(f"sub-{name}_T1w").exists()


@pytest.mark.parametrize("name", REPAIRED)
def test_repaired_and_said_so(study: tuple[Results, pd.DataFrame, pd.DataFrame], name: str) -> None:
    results, _, converted = study
    assert list(converted.loc[converted.participant_id == f"sub-{name}", "status"]) == [batch.DONE]
    path = results.raw(f"sub-{name}_T1w")
    assert not path.is_symlink()
    (repair,) = json.loads(sidecar_of(path).read_text())["IntakeRepairs"]
    assert REPAIRED[name][1] in repair
    image = nib.load(path)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), head())
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    np.testing.assert_allclose(image.affine, moved(0, 5, 0) if name == "shifted" else AFFINE, atol=1e-4)


@pytest.mark.parametrize("name", SOUND)
def test_sound_images_are_linked(study: tuple[Results, pd.DataFrame, pd.DataFrame], name: str) -> None:
    results, _, converted = study
    assert list(converted.loc[converted.participant_id == f"sub-{name}", "status"]) == [batch.DONE]
    path = results.raw(f"sub-{name}_T1w")
    assert path.is_symlink() and "IntakeRepairs" not in sidecar_of(path).read_text()


def test_formulas_of_the_source_stay_there(study: tuple[Results, pd.DataFrame, pd.DataFrame]) -> None:
    results, _, _ = study
    tables = [*results.root.rglob("*.tsv"), *(results.root.parent / "private").rglob("*.tsv")]
    assert len(tables) > 5 and not any("=cmd" in path.read_text() for path in tables)


def ct(values: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(values.astype(np.float32), AFFINE)


def test_ct_must_be_in_hounsfield_units() -> None:
    inside = head() > 500
    hounsfield = np.where(inside, 35.0, -1000.0)
    assert acceptance.check(ct(hounsfield), "ct", is_ct=True) == []
    for wrong, reason in (
        (hounsfield + 1000, "no Hounsfield units"),  # rescale intercept lost
        (np.clip(hounsfield, 0, 80), "no Hounsfield units"),  # windowed
        (np.where(inside, 1000.0, -1000.0), "soft tissue"),  # a phantom, or bone
    ):
        with pytest.raises(DataError, match=reason):
            acceptance.check(ct(wrong), "ct", is_ct=True)
