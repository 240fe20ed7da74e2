"""Sessions aligned by their headers, and a small cohort registered, again only where something changed."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from registration_phantom import COARSE, LIA, OBLIQUE, RIGID, grey, image, move

from analysis import tsv
from analysis.cli import main
from analysis.errors import ConfigurationError, DataError
from analysis.layout import Results
from analysis.registration import align, cohort, transforms
from analysis.registration.pairs import Image
from analysis.registration.transforms import Grid
from analysis.report.sections import registration
from analysis.statistics import landmarks

#: How the head has moved between two series.
MOTION = transforms.half(transforms.half(RIGID))


def other_contrast(points: np.ndarray) -> np.ndarray:
    """Dark where the phantom is bright, and the other way round."""
    value = grey(points)
    return np.where(value > 20, 230 - value, value)


def head() -> np.ndarray:
    points = LIA.points()
    return points[grey(points) > 50][::7]


class TestAlign:
    def test_header_only(self, tmp_path):
        reference, scan = (
            image("", LIA),
            image("", OBLIQUE, lambda p: move(np.linalg.inv(MOTION), p), of=other_contrast),
        )
        nib.save(nib.Nifti1Image(reference.data, LIA.affine), tmp_path / "T1w.nii.gz")
        stored = np.rint(scan.data * 10).astype(np.int16)
        before = nib.Nifti1Image(stored, OBLIQUE.affine)
        # Written as they are: 0.1 is what they mean.
        before.header.set_slope_inter(0.1, 0)
        nib.save(before, tmp_path / "FLAIR.nii.gz")
        code = main(["align", str(tmp_path / "T1w.nii.gz"), str(tmp_path / "FLAIR.nii.gz"), "--out",
                     str(tmp_path / "out")])  # fmt: skip
        assert code == 0
        matrix = transforms.read_matrix(tmp_path / "out" / "FLAIR_affine.txt")
        assert np.linalg.norm(move(matrix, head()) - move(MOTION, head()), axis=1).mean() < 0.3
        after = nib.load(tmp_path / "out" / "FLAIR.nii.gz")
        assert_allclose(after.affine, np.linalg.inv(matrix) @ OBLIQUE.affine, atol=1e-4)
        assert_allclose(after.get_qform(), after.affine, atol=1e-3)
        assert after.get_data_dtype() == np.int16 and after.dataobj.slope == pytest.approx(0.1)
        assert (after.dataobj.get_unscaled() == nib.load(tmp_path / "FLAIR.nii.gz").dataobj.get_unscaled()).all()
        # A point of the head has the reference's coordinates now: its voxel is that of the place where it was.
        assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-6)
        facts = json.loads((tmp_path / "out" / "FLAIR.json").read_text())
        assert facts["DisplacementMeanMM"] == pytest.approx(
            np.linalg.norm(move(MOTION, LIA.points()) - LIA.points(), axis=-1).mean(), abs=0.4
        )

    def test_same_input_same_output(self):
        reference, scan = image("a", LIA), image("b", OBLIQUE, of=other_contrast)
        first = align.rigid(reference, scan)
        assert_allclose(align.rigid(reference, scan), first, atol=1e-9)
        assert np.linalg.norm(move(first, head()) - head(), axis=1).mean() < 0.3

    def test_scans_that_are_not_of_one_session(self):
        away = np.eye(4)
        away[:3, 3] = [0, 0, 400]
        far = image("b", Grid(OBLIQUE.shape, away @ OBLIQUE.affine), lambda p: move(np.linalg.inv(away), p))
        with pytest.raises(DataError, match=r"b: by the headers it holds 0 % of the field of view of a"):
            align.rigid(image("a", LIA), far)
        with pytest.raises(DataError, match="every voxel has the grey level 0"):
            align.rigid(image("a", LIA), Image("b", np.zeros(LIA.shape, np.float32), LIA))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one participant with two sessions of two contrasts, of one with a single session, one excluded."""
    root = tmp_path_factory.mktemp("study") / "results"
    results = Results(root)
    rows = []

    def add(scan_id: str, contrast: str, moved: np.ndarray, *, included: str = "yes") -> None:
        participant, session = scan_id.split("_")[:2]
        rows.append({"scan_id": scan_id, "participant_id": participant, "session_id": session, "contrast": contrast,
                     "spacing_mm": 2.0, "included": included})  # fmt: skip

        def back(points: np.ndarray) -> np.ndarray:
            return move(np.linalg.inv(moved), points)

        for path, of in ((results.raw(scan_id), grey if contrast == "T1w" else other_contrast),
                         (results.synthetic(scan_id), grey)):  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(image("", COARSE, back, of=of).data, COARSE.affine), path)

    add("sub-a_ses-01_T1w", "T1w", np.eye(4))
    add("sub-a_ses-01_T2w", "T2w", MOTION)
    add("sub-a_ses-02_T1w", "T1w", RIGID)
    add("sub-a_ses-02_T2w", "T2w", RIGID, included="no")
    add("sub-b_ses-01_T1w", "T1w", np.eye(4))
    tsv.write(pd.DataFrame(rows), results.gate)
    places = np.array([[-9.0, 4, 6], [10, 6, -4], [8, -12, 8]])
    points = [
        {"participant_id": "sub-a", "session_id": session, "landmark": number, "x_mm": x, "y_mm": y, "z_mm": z}
        for session, where in (("ses-01", places), ("ses-02", move(RIGID, places)))
        for number, (x, y, z) in enumerate(where, start=1)
    ]
    tsv.write(pd.DataFrame(points), root / "points.tsv")
    return root


class TestCohort:
    def test_align(self, study):
        assert main(["register-cohort", "align", "--out", str(study)]) == 0
        table = tsv.read(Results(study).registered("align", 1))
        assert list(table["scan_id"]) == ["sub-a_ses-01_T2w"] and list(table["status"]) == ["done"]
        path = Results(study).aligned("sub-a_ses-01_T2w")
        assert path.name == "sub-a_ses-01_desc-aligned_T2w.nii.gz"
        found = nib.load(path).affine @ np.linalg.inv(COARSE.affine)
        assert np.linalg.norm(move(found, head()) - move(np.linalg.inv(MOTION), head()), axis=1).mean() < 0.5

    def test_longitudinal_and_again_only_what_changed(self, study):
        results = Results(study)
        call = ["register-cohort", "longitudinal", "--out", str(study), "--transform", "rigid"]
        assert main(call) == 0
        folder = results.longitudinal("sub-a_ses-02_T1w")
        matrix = transforms.read_matrix(folder / "affine.txt")
        # From the first session to the later one.
        assert np.linalg.norm(move(matrix, head()) - move(RIGID, head()), axis=1).mean() < 1.5
        times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert main(call) == 0
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
        assert (folder / "fixed_midspace.nii.gz").is_file()
        section = registration.registration_section(results)
        assert section is not None and section.tables[0].rows[-1][2:] == ["1", "0"]
        measured = json.loads((folder / "registration.json").read_text())["Quality"]
        assert section.data["registration_pairs"]["nmi"].tolist() == [measured["nmi"]]
        assert set(section.data["registration_pairs"]["outlier"]) == {"no"}
        (shown,) = section.gallery
        assert callable(shown.picture) and shown.picture().startswith(b"\x89PNG")

    def test_landmark_errors_reach_the_comparison(self, study):
        call = ["register-cohort", "landmarks", "--out", str(study), "--transform", "rigid", "--spacing-mm", "20",
                "--points", str(study / "points.tsv")]  # fmt: skip
        assert main(call) == 0
        assert main(["register-cohort", "collect", "--out", str(study)]) == 0
        errors, notes = landmarks.read_errors(Results(study).landmark_errors)
        assert not notes and list(errors["landmark"]) == ["1", "2", "3"]
        assert set(errors["pair"]) == {"sub-a"} and set(errors["contrast"]) == {"T1w"}
        # The head moved by about 6 mm.
        assert (errors[["direct", "synthsr"]].to_numpy() < 3).all()

    def test_shards_deal_everybody_once(self):
        people = [f"sub-{number:03d}" for number in range(60)]
        dealt = [[name for name in people if cohort.of_shard(name, shard, 4)] for shard in range(1, 5)]
        assert sorted(name for part in dealt for name in part) == people and all(dealt)
        assert cohort.read_shard("2/4") == (2, 4)
        for text in ("0/4", "5/4", "1", "a/b"):
            with pytest.raises(ConfigurationError, match="expected K/N"):
                cohort.read_shard(text)

    def test_reference_is_the_plain_fine_t1(self):
        scans = [
            {"scan_id": name, "contrast": contrast, "kind": kind, "spacing_mm": mm}
            for name, contrast, kind, mm in (
                ("f", "FLAIR", "FLAIR", 1.0),
                ("c", "T1w", "T1CE", 1.0),
                ("t", "T1w", "T1w", 5.0),
                ("m", "T1w", "T1w", 1.0),
            )
        ]
        assert cohort.reference(scans)["scan_id"] == "m"
        assert cohort.reference(scans[:2])["scan_id"] == "c"

    def test_points_of_brats_reg(self, tmp_path):
        folder = tmp_path / "BraTSReg_007"
        folder.mkdir()
        for session, number in (("00_0000", 1.0), ("01_0106", 2.0)):
            (folder / f"BraTSReg_007_{session}_landmarks.csv").write_text(f"Landmark,X,Y,Z\n1,{number},-3,4\n")
        found = cohort.read_points(tmp_path)
        assert set(found) == {("sub-BraTSReg007", "ses-00"), ("sub-BraTSReg007", "ses-01")}
        assert_allclose(found["sub-BraTSReg007", "ses-01"].points_mm, [[-2, 3, 4]])
        with pytest.raises(DataError, match="BraTSReg"):
            cohort.read_points(folder)

    def test_points_of_the_hospitals_studies(self, tmp_path):
        (tmp_path / "points.tsv").write_text(
            "study_uid\tlandmark\tx_mm\ty_mm\tz_mm\n1.2\t1\t3\t4\t5\n9.9\t1\t0\t0\t0\n"
        )
        (tmp_path / "links.tsv").write_text("participant_id\tsession_id\tstudy_uid\nsub-q\tses-01\t1.2\n")
        found = cohort.read_points(tmp_path / "points.tsv", tmp_path / "links.tsv")
        assert list(found) == [("sub-q", "ses-01")]
        assert_allclose(found["sub-q", "ses-01"].points_mm, [[3, 4, 5]])
        with pytest.raises(DataError, match="lacks the column participant_id, session_id"):
            cohort.read_points(tmp_path / "points.tsv")

    def test_nothing_to_collect(self, tmp_path, capsys):
        assert main(["register-cohort", "collect", "--out", str(tmp_path)]) == 65
        assert "holds no table of a shard" in capsys.readouterr().err
