"""Registration on the real programs: every convention against a known transform of an asymmetric phantom."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from registration_phantom import AFFINE, COARSE, COARSE_LIA, LIA, OBLIQUE, RIGID, bent, grey, image, label, wave
from scipy.spatial.transform import Rotation

from analysis import tsv
from analysis.cli import main
from analysis.errors import ConfigurationError, DataError
from analysis.registration import cohort, niftyreg, pairs, points, quality, store, transforms
from analysis.registration.pairs import Image, Settings
from analysis.registration.transforms import Field, Grid, Transform, move

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import measure_registration
import tumour_pairs

#: A rigid motion of 3 mm in the mean.
NUDGE = np.eye(4)
NUDGE[:3, :3] = Rotation.from_euler("xyz", [4, -3, 2], degrees=True).as_matrix()
NUDGE[:3, 3] = [1.5, -2, 1]


@pytest.fixture(scope="session")
def head() -> np.ndarray:
    """Points in the phantom's head, (n, 3), mm RAS."""
    places = LIA.points()
    return places[grey(places) > 50][::7]


def save(path: Path, scan: Image) -> Path:
    nib.save(nib.Nifti1Image(scan.data, scan.grid.affine), path)
    return path


class TestConventions:
    """What NiftyReg's files mean, without any search."""

    def test_a_matrix_takes_fixed_points_to_moving_points(self, tmp_path):
        moving = image("moving", OBLIQUE)
        transforms.write_matrix(RIGID, tmp_path / "a.txt")
        inputs = {
            "ref_file": niftyreg.write_image(np.zeros(LIA.shape, np.uint8), LIA.affine, tmp_path / "r.nii"),
            "flo_file": niftyreg.write_image(moving.data, OBLIQUE.affine, tmp_path / "f.nii"),
            "trans_file": tmp_path / "a.txt",
            "out_file": tmp_path / "o.nii",
        }
        niftyreg.call("reg_resample", tmp_path, inter_val="LIN", outputs=("out_file",),
                      **{name: str(path) for name, path in inputs.items()})  # fmt: skip
        found = np.asarray(nib.load(tmp_path / "o.nii").dataobj)
        true = grey(move(RIGID, LIA.points()))
        assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.99
        assert np.corrcoef(found.ravel(), grey(move(np.linalg.inv(RIGID), LIA.points())).ravel())[0, 1] < 0.95

    @pytest.mark.parametrize("grid", [LIA, OBLIQUE])
    def test_a_field_is_resampled_where_it_points(self, grid):
        moving = image("moving", OBLIQUE)
        field = Field(wave(grid.points()).astype(np.float32), grid)
        found = pairs.resample(moving, Transform(np.eye(4), field, AFFINE), grid)
        true = grey(bent(grid.points()))
        inside = OBLIQUE.holds(bent(grid.points()))
        assert np.abs(found - true)[inside].mean() < 0.6
        other = grey(move(AFFINE, grid.points() - wave(grid.points())))
        assert np.abs(found - other)[inside].mean() > 5

    def test_beyond_the_scan_there_is_nothing_and_no_nan(self):
        shift = np.eye(4)
        shift[:3, 3] = [40, 0, 0]
        found = pairs.resample(image("moving", OBLIQUE, of=lambda p: grey(p) + 100), transforms.linear(shift), LIA)
        outside = ~OBLIQUE.holds(move(shift, LIA.points()))
        assert np.isfinite(found).all() and outside.mean() > 0.3
        assert (found[outside] == 0).mean() > 0.9

    def test_nearest_neighbour_makes_no_new_labels(self):
        labels = image("labels", OBLIQUE, of=lambda p: 17 * label(p) + 40 * (grey(p) > 150))
        found = pairs.resample(labels, transforms.linear(AFFINE), LIA, is_labels=True)
        assert set(np.unique(found)) <= set(np.unique(labels.data)) and found.any()

    def test_a_velocity_moves_points_along_itself(self, tmp_path):
        # A constant velocity is a translation; control points hold places, positions plus velocity.
        places = Grid((14, 14, 14), np.diag([6.0, 6, 6, 1]) + np.array([[0, 0, 0, -39.0]] * 3 + [[0] * 4]))
        velocity = np.array([1.0, -2.0, 3.0])
        control = nib.Nifti1Image(
            (places.points() + velocity).astype(np.float32)[:, :, :, np.newaxis, :], places.affine
        )
        control.header.set_intent("vector", (), "NREG_TRANS")
        control.header["intent_p1"], control.header["intent_p2"] = 5, 6
        middle = Grid((8, 8, 8), np.diag([2.0, 2, 2, 1]) + np.array([[0, 0, 0, -7.0]] * 3 + [[0] * 4]))
        field = pairs.exponential(control, middle)
        assert_allclose(field.displacement_mm, np.broadcast_to(velocity, field.displacement_mm.shape), atol=0.02)


class TestTransforms:
    def test_the_whole_is_its_parts_in_order(self, head):
        field = Field(wave(LIA.points()).astype(np.float32), LIA)
        shift = np.eye(4)
        shift[:3, 3] = [1, 2, 3]
        transform = Transform(shift, field, AFFINE)
        assert_allclose(transform.carry(head), bent(head + np.array([1, 2, 3])), atol=0.05)
        assert_allclose(transform.linear, AFFINE @ shift)
        total = transform.on(OBLIQUE)
        assert_allclose(OBLIQUE.points() + total.displacement_mm, transform.carry(OBLIQUE.points()), atol=1e-4)

    def test_the_jacobian_of_an_affine_is_its_determinant(self):
        for grid in (LIA, OBLIQUE):
            assert_allclose(transforms.linear(AFFINE).on(grid).jacobian(), np.linalg.det(AFFINE), rtol=1e-4)

    def test_the_jacobian_is_that_of_the_formula(self):
        # x → x + a sin(x / b): determinant 1 + a/b cos(x / b), on axes that are turned and swapped.
        a, b = 4.0, 12.0
        for grid in (LIA, OBLIQUE):
            x = grid.points()[..., 0]
            displacement = np.zeros((*grid.shape, 3), np.float32)
            displacement[..., 0] = a * np.sin(x / b)
            found = transforms.jacobian(displacement, grid)[1:-1, 1:-1, 1:-1]
            assert_allclose(found, (1 + a / b * np.cos(x / b))[1:-1, 1:-1, 1:-1], atol=0.006)

    def test_a_half_applied_twice_is_the_whole(self):
        half = transforms.half(RIGID)
        assert_allclose(half @ half, RIGID, atol=1e-9)
        assert_allclose(half[:3, :3] @ half[:3, :3].T, np.eye(3), atol=1e-9)
        assert_allclose(transforms.mean([RIGID, np.linalg.inv(RIGID)]), np.eye(4), atol=1e-9)
        assert_allclose(transforms.mean([AFFINE, AFFINE]), AFFINE, atol=1e-9)
        with pytest.raises(DataError, match="half a circle"):
            transforms.half(np.diag([-1.0, 1, 1, 1]))

    def test_files_hold_what_was_written(self, tmp_path):
        transforms.write_matrix(AFFINE, tmp_path / "a.txt")
        assert_allclose(transforms.read_matrix(tmp_path / "a.txt"), AFFINE, atol=1e-8)
        field = Field(wave(OBLIQUE.points()).astype(np.float32), OBLIQUE)
        field.save(tmp_path / "d.nii.gz")
        loaded = Field.load(tmp_path / "d.nii.gz")
        assert_allclose(loaded.displacement_mm, field.displacement_mm)
        assert loaded.grid.is_same(OBLIQUE) and not loaded.grid.is_same(LIA)
        (tmp_path / "b.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n")
        with pytest.raises(DataError, match=r"b\.txt: holds no affine matrix"):
            transforms.read_matrix(tmp_path / "b.txt")


class TestOtherFormats:
    """nitransforms against SimpleITK, and FSL's and FreeSurfer's definitions."""

    @pytest.fixture
    def scans(self, tmp_path: Path) -> tuple[Path, Path]:
        return save(tmp_path / "fixed.nii", image("", LIA)), save(tmp_path / "moving.nii", image("", OBLIQUE))

    @pytest.mark.parametrize("kind", ["itk", "fsl", "fs"])
    def test_there_and_back(self, tmp_path, scans, kind, head):
        fixed, moving = scans
        path = tmp_path / f"x{transforms.LINEAR_FORMATS[kind]}"
        transforms.export_linear(AFFINE, path, kind=kind, fixed=fixed, moving=moving)
        found = transforms.import_linear(path, kind=kind, fixed=fixed, moving=moving)
        assert_allclose(move(found, head), move(AFFINE, head), atol=1e-3)

    def test_itk_agrees_with_simpleitk(self, tmp_path, scans, head):
        import SimpleITK as sitk

        fixed, moving = scans
        transforms.export_linear(AFFINE, tmp_path / "x.txt", kind="itk", fixed=fixed, moving=moving)
        theirs = sitk.ReadTransform(str(tmp_path / "x.txt"))
        lps = np.array([-1, -1, 1])
        for point in head[:5]:
            assert_allclose(lps * theirs.TransformPoint((lps * point).tolist()), move(AFFINE, point), atol=1e-3)
        # With a centre of rotation, as ANTs writes it.
        centred = sitk.Euler3DTransform([10.0, -20, 30], 0.1, -0.2, 0.05, [3.0, 4, 5])
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(centred.GetMatrix())
        affine.SetTranslation(centred.GetTranslation())
        affine.SetCenter(centred.GetCenter())
        sitk.WriteTransform(affine, str(tmp_path / "c.txt"))
        found = transforms.import_linear(tmp_path / "c.txt", kind="itk", fixed=fixed, moving=moving)
        for point in head[:5]:
            assert_allclose(move(found, point), lps * affine.TransformPoint((lps * point).tolist()), atol=1e-3)

    def test_itk_reads_the_displacement(self, tmp_path, head):
        import SimpleITK as sitk

        field = Field((bent(OBLIQUE.points()) - OBLIQUE.points()).astype(np.float32), OBLIQUE)
        transforms.export_field(field, tmp_path / "d.nii.gz")
        theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "d.nii.gz"), sitk.sitkVectorFloat64))
        lps = np.array([-1, -1, 1])
        inner = head[np.linalg.norm(head, axis=1) < 20][::40]
        found = np.array([theirs.TransformPoint((lps * point).tolist()) for point in inner])
        assert_allclose(found * lps, bent(inner), atol=0.05)

    def test_fsl_is_as_flirt_defines_it(self, tmp_path, scans, head):
        # From scaled voxels of the moving to those of the fixed scan, the first axis reversed where the grid is
        # right-handed (NiftyReg's own converter leaves that out).
        fixed, moving = scans
        transforms.export_linear(AFFINE, tmp_path / "x.mat", kind="fsl", fixed=fixed, moving=moving)
        flirt = np.loadtxt(tmp_path / "x.mat")

        def to_fsl(grid: Grid) -> np.ndarray:
            scaled = np.diag([*grid.spacing_mm, 1.0])
            if np.linalg.det(grid.affine) > 0:
                scaled[0] *= -1
                scaled[0, 3] = (grid.shape[0] - 1) * grid.spacing_mm[0]
            return scaled @ np.linalg.inv(grid.affine)

        found = np.linalg.inv(to_fsl(OBLIQUE)) @ np.linalg.inv(flirt) @ to_fsl(LIA)
        assert_allclose(move(found, head), move(AFFINE, head), atol=1e-3)

    def test_freesurfer_maps_moving_to_fixed(self, tmp_path, scans):
        fixed, moving = scans
        transforms.export_linear(AFFINE, tmp_path / "x.lta", kind="fs", fixed=fixed, moving=moving)
        lines = (tmp_path / "x.lta").read_text().splitlines()
        start = next(i for i, line in enumerate(lines) if line.split() == ["1", "4", "4"]) + 1
        matrix = np.array([[float(v) for v in line.split()] for line in lines[start : start + 4]])
        kind = int(next(line for line in lines if line.startswith("type")).split("=")[1].split("#")[0])
        # Type 0 is voxel to voxel, 1 RAS to RAS; source is the moving scan.
        ras = matrix if kind == 1 else LIA.affine @ matrix @ np.linalg.inv(OBLIQUE.affine)
        assert_allclose(ras, np.linalg.inv(AFFINE), atol=1e-4)

    def test_what_is_none_is_named(self, tmp_path, scans):
        fixed, moving = scans
        (tmp_path / "x.txt").write_text("nothing")
        with pytest.raises(DataError, match=r"x\.txt: cannot be read as a linear transform of itk"):
            transforms.import_linear(tmp_path / "x.txt", kind="itk", fixed=fixed, moving=moving)
        with pytest.raises(ConfigurationError, match="format 'minc'"):
            transforms.import_linear(tmp_path / "x.txt", kind="minc", fixed=fixed, moving=moving)


class TestRegister:
    @pytest.mark.parametrize(("kind", "matrix"), [("rigid", RIGID), ("affine", AFFINE)])
    def test_known_matrices_are_found(self, head, kind, matrix):
        fixed = image("fixed", LIA, lambda p: move(matrix, p))
        rng = np.random.default_rng(0)
        moving = image("moving", OBLIQUE)
        noisy = Image("moving", moving.data + rng.normal(0, 2, moving.data.shape).astype(np.float32), OBLIQUE)
        found = pairs.register(fixed, noisy, settings=Settings(kind))
        # A fifth of a voxel; without the pass at half voxels it is 0.5 and 0.4 mm.
        assert np.linalg.norm(found.forward.carry(head) - move(matrix, head), axis=1).mean() < 0.35
        assert_allclose(found.inverse.carry(found.forward.carry(head)), head, atol=1e-6)
        assert found.velocity is None

    @pytest.mark.parametrize("degrees", [90, 180])
    def test_start_of_another_tool(self, head, degrees):
        # Farther than block matching finds by itself; at half a circle it cannot even start.
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
        turn[:3, 3] = [2, -1, 0]
        near = turn @ NUDGE
        fixed = image("fixed", COARSE_LIA, lambda p: move(near, p))
        moving = image("moving", COARSE)
        lost = pairs.register(fixed, moving, settings=Settings("rigid"))
        masks = {
            "fixed_mask": image("mask", COARSE_LIA, lambda p: move(near, p), of=lambda p: grey(p) > 30),
            "moving_mask": image("mask", COARSE, of=lambda p: grey(p) > 30),
        }
        found = pairs.register(fixed, moving, settings=Settings("rigid"), initial=turn, **masks)
        assert np.linalg.norm(lost.forward.carry(head) - move(near, head), axis=1).mean() > 10
        assert np.linalg.norm(found.forward.carry(head) - move(near, head), axis=1).mean() < 0.6
        # The start alone is not the answer.
        assert np.linalg.norm(move(turn, head) - move(near, head), axis=1).mean() > 2

    def test_a_scan_far_away_is_found_by_its_centre(self, head):
        away = np.eye(4)
        away[:3, 3] = [300, 0, -200]
        far = Grid(COARSE.shape, away @ COARSE.affine)
        moving = image("moving", far, lambda p: move(np.linalg.inv(away), p))
        found = pairs.register(image("fixed", COARSE_LIA), moving, settings=Settings("rigid"))
        assert np.linalg.norm(found.forward.carry(head) - move(away, head), axis=1).mean() < 0.8


@pytest.fixture(scope="session")
def bent_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of the whole command: a bent head, with everything that may go along."""
    folder = tmp_path_factory.mktemp("bent")
    places = np.array([[-9.0, 4, 6], [10, 6, -4], [8, -12, 8], [-6, -14, -8], [-4, 16, -2]])
    for name, where in (("points", places), ("truth", bent(places))):
        rows = [f"{n},{x:.4f},{y:.4f},{z:.4f}" for n, (x, y, z) in enumerate(where * [-1, -1, 1], start=1)]
        (folder / f"{name}.csv").write_text("\n".join(["Landmark,X,Y,Z", *rows]) + "\n")
    paths = {
        "fixed": save(folder / "fixed.nii.gz", image("", LIA, bent)),
        "moving": save(folder / "moving.nii.gz", image("", OBLIQUE)),
        "other": save(folder / "other.nii.gz", image("", LIA, of=lambda p: 200 - grey(p))),
        "labels": save(folder / "labels.nii.gz", image("", OBLIQUE, of=label)),
        "fixed_labels": save(folder / "fixed_labels.nii.gz", image("", LIA, bent, of=label)),
    }
    code = main(["register", str(paths["fixed"]), str(paths["moving"]), "--out", str(folder / "out"), "--spacing-mm",
                 "8", "--iterations", "25", "--also", str(paths["other"]), "--labels", str(paths["labels"]),
                 "--fixed-labels", str(paths["fixed_labels"]), "--points", str(folder / "points.csv"),
                 "--moving-points", str(folder / "truth.csv"), "--export", "itk"])  # fmt: skip
    assert code == 0
    return folder


class TestCommand:
    def test_the_field_is_found(self, bent_pair, head):
        field = Field.load(bent_pair / "out" / "displacement.nii.gz")
        assert field.grid.is_same(LIA)
        # From each fixed voxel to its place in the moving scan.
        error = np.linalg.norm(field.carry(head) - bent(head), axis=1)
        assert error.mean() < 0.3
        # By the affine alone it is not.
        affine = transforms.read_matrix(bent_pair / "out" / "affine.txt")
        assert np.linalg.norm(move(affine, head) - bent(head), axis=1).mean() > 2 * error.mean()

    def test_the_inverse_undoes_it(self, bent_pair, head):
        there = Field.load(bent_pair / "out" / "displacement.nii.gz")
        back = Field.load(bent_pair / "out" / "inverse_displacement.nii.gz")
        assert back.grid.is_same(OBLIQUE)
        assert np.linalg.norm(back.carry(there.carry(head)) - head, axis=1).mean() < 0.02

    def test_images_labels_and_points_go_along(self, bent_pair):
        out = bent_pair / "out"
        warped, other, labels = (
            np.asarray(nib.load(out / name).dataobj)
            for name in ("warped.nii.gz", "other_warped.nii.gz", "labels_warped.nii.gz")
        )
        inside = grey(bent(LIA.points())) > 50
        assert np.corrcoef(warped[inside], grey(bent(LIA.points()))[inside])[0, 1] > 0.97
        assert np.corrcoef(other[inside], warped[inside])[0, 1] < -0.95
        assert set(np.unique(labels)) == {0, 1}
        facts = json.loads((out / "registration.json").read_text())
        assert facts["Dice"]["1"] > 0.88 and facts["Quality"]["folding_fraction"] == 0
        assert max(facts["LandmarkErrorsMM"].values()) < 0.3
        assert facts["Quality"]["inverse_mean_mm"] < 0.02 and facts["Quality"]["ncc"] > 0.99
        assert facts["SoftwareVersions"]["NiftyReg"] == niftyreg.locate().version
        assert (out / "points.csv").read_text().startswith("Landmark,X,Y,Z\n1,")
        assert (out / "affine_itk.txt").is_file()

    def test_left_stays_left(self, bent_pair):
        labels = nib.load(bent_pair / "out" / "labels_warped.nii.gz")
        centre = move(labels.affine, np.argwhere(np.asarray(labels.dataobj) == 1).mean(axis=0))
        assert centre[0] > 3

    def test_a_folder_is_read_as_it_was(self, bent_pair, head):
        loaded = store.load(bent_pair / "out")
        field = Field.load(bent_pair / "out" / "displacement.nii.gz")
        assert_allclose(loaded.forward.carry(head), field.carry(head), atol=0.01)
        assert_allclose(loaded.forward.linear, transforms.read_matrix(bent_pair / "out" / "affine.txt"))
        again = pairs.exponential(loaded.velocity, LIA).displacement_mm
        assert_allclose(again, loaded.forward.field.displacement_mm, atol=1e-3)

    def test_jacobians_are_of_the_known_field(self, bent_pair, head):
        field = Field.load(bent_pair / "out" / "displacement.nii.gz")
        exact = transforms.jacobian((bent(LIA.points()) - LIA.points()).astype(np.float32), LIA)
        inside = grey(bent(LIA.points())) > 50
        assert np.abs(field.jacobian() - exact)[inside].mean() < 0.03


class TestMidspace:
    def test_both_scans_move_alike(self, tmp_path, head):
        fixed, moving = image("a", COARSE_LIA, lambda p: move(RIGID, p)), image("b", COARSE)
        found, to_first, to_second, grid = pairs.register_midway(fixed, moving, settings=Settings("rigid"))
        assert np.linalg.norm(found.forward.carry(head) - move(RIGID, head), axis=1).mean() < 0.8
        middle = transforms.half(RIGID)
        assert_allclose(to_second.carry(to_first.carry(head)), head, atol=1e-6)
        assert np.linalg.norm(to_second.carry(head) - move(middle, head), axis=1).mean() < 0.5
        for scan, transform in ((fixed, to_first), (moving, to_second)):
            shown = pairs.resample(scan, transform, grid)
            inside = grey(move(middle, grid.points())) > 50
            assert np.corrcoef(shown[inside], grey(move(middle, grid.points()))[inside])[0, 1] > 0.95

    def test_roles_exchanged_give_the_inverse(self, head):
        first, second = image("a", COARSE_LIA, bent), image("b", COARSE)
        settings = Settings("svf", spacing_mm=10, iterations=8)
        there, *_ = pairs.register_midway(first, second, settings=settings)
        back, *_ = pairs.register_midway(second, first, settings=settings)
        assert_allclose(there.forward.linear, np.linalg.inv(back.forward.linear), atol=1e-6)
        assert np.linalg.norm(there.forward.carry(head) - back.inverse.carry(head), axis=1).mean() < 0.01
        assert np.linalg.norm(there.inverse.carry(there.forward.carry(head)) - head, axis=1).mean() < 0.02


class TestQuality:
    def test_folding_is_counted(self):
        grid = Grid((16, 16, 16), np.eye(4))
        displacement = np.zeros((16, 16, 16, 3), np.float32)
        displacement[8:10, :, :, 0] = [[[-3.0]], [[3.0]]]
        field = Field(displacement, grid)
        scan = Image("s", np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid)
        forward = Transform(np.eye(4), field, np.eye(4))
        found = quality.measure(scan, scan, scan.data, pairs.Registration(forward, forward), field)
        folded = field.jacobian() <= 0
        held = grid.holds(forward.carry(grid.points()))
        assert 0 < found.folding_fraction == pytest.approx(folded[held].mean())
        assert found.jacobian_least < 0 and found.ncc == pytest.approx(1, abs=1e-4)
        assert found.inverse_largest_mm > 1

    def test_dice(self):
        first = np.array([0, 1, 1, 2, 2, 5])
        assert quality.dice(first, np.array([0, 1, 2, 2, 2, 0])) == {1: 2 / 3, 2: 0.8, 5: 0}
        assert quality.dice(first, first) == {1: 1, 2: 1, 5: 1}


class TestFailures:
    def test_programs_missing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NIFTYREGDIR", str(tmp_path))
        with pytest.raises(ConfigurationError, match=r"reg_aladin, reg_f3d.* is not in .*which NIFTYREGDIR names"):
            niftyreg.locate()

    @pytest.mark.parametrize(("script", "message"), [
        ("echo 1.3.9", "1.3.9 in .* is too old; 1.5.30 is the oldest"),
        ("echo 'libgomp.so.1: cannot open' >&2; exit 127", "tells no version .*libgomp1"),
    ])  # fmt: skip
    def test_programs_that_do_not_serve(self, tmp_path, monkeypatch, script, message):
        for name in niftyreg.PROGRAMS:
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("NIFTYREGDIR", str(tmp_path))
        with pytest.raises(ConfigurationError, match=message):
            niftyreg.locate()

    def test_a_program_that_leaves_nothing(self, tmp_path, monkeypatch):
        for name in niftyreg.PROGRAMS:
            (tmp_path / name).write_text("#!/bin/sh\necho 1.5.58\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("NIFTYREGDIR", str(tmp_path))
        with pytest.raises(DataError, match="reg_aladin ended without an error, but left no aff"):
            pairs.register(image("a", LIA), image("b", LIA), settings=Settings("rigid"))

    def test_masks_and_scans_that_cannot_serve(self):
        scan = image("scan.nii", LIA)
        cases = (
            (image("mask.nii", OBLIQUE), r"mask.nii: lies on another grid \(40 × 41 × 37 voxels"),
            (Image("mask.nii", np.zeros(LIA.shape, np.float32), LIA), "mask.nii: this mask is empty"),
        )
        for mask, message in cases:
            with pytest.raises(DataError, match=message):
                pairs.register(scan, scan, settings=Settings("rigid"), fixed_mask=mask)
        empty = Image("empty.nii", np.zeros(LIA.shape, np.float32), LIA)
        with pytest.raises(DataError, match=r"empty\.nii: every voxel has the grey level 0"):
            pairs.register(scan, empty, settings=Settings("rigid"))

    def test_no_overlap(self):
        away = np.eye(4)
        away[:3, 3] = [300, 0, 0]
        with pytest.raises(DataError, match=r"holds 0 % of the field of view of fixed.*do not overlap"):
            pairs.register(image("fixed", LIA), image("moving", OBLIQUE), settings=Settings("rigid"), initial=away)

    def test_nan_padding_is_refused_with_its_count(self, tmp_path, capsys):
        scan = image("", LIA)
        scan.data[:2] = np.nan
        path = save(tmp_path / "padded.nii.gz", scan)
        good = save(tmp_path / "good.nii.gz", image("", LIA))
        assert main(["register", str(good), str(path), "--out", str(tmp_path / "out")]) == 65
        assert "padded.nii.gz: 2888 voxels are NaN" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_settings_out_of_range(self):
        for settings, message in ((("warp",), "'warp': expected one of rigid"), (("svf", 0.2), "spacing_mm 0.2")):
            with pytest.raises(ConfigurationError, match=message):
                Settings(*settings)


class TestPoints:
    def test_brats_reg_is_lps(self, tmp_path):
        (tmp_path / "p.csv").write_text("Landmark,X,Y,Z\n1,116.5,-120.5,85.1\n2,103.4,-124.8,67.2\n")
        found = points.read(tmp_path / "p.csv")
        assert_allclose(found.points_mm, [[-116.5, 120.5, 85.1], [-103.4, 124.8, 67.2]])
        points.write(found, tmp_path / "q.csv")
        assert (tmp_path / "q.csv").read_text().splitlines()[1] == "1,116.500,-120.500,85.100"

    def test_errors_are_distances_of_the_same_landmark(self, tmp_path):
        (tmp_path / "p.tsv").write_text("landmark\tx_mm\ty_mm\tz_mm\na\t0\t0\t0\nb\t1\t1\t1\n")
        (tmp_path / "q.tsv").write_text("landmark\tx_mm\ty_mm\tz_mm\nb\t1\t1\t1\na\t3\t4\t0\nc\t9\t9\t9\n")
        found, true = points.read(tmp_path / "p.tsv"), points.read(tmp_path / "q.tsv")
        assert points.errors_mm(found, true) == {"a": 5, "b": 0}

    @pytest.mark.parametrize(("text", "message"), [
        ("a,b\n1,2\n", "has the columns a, b; expected landmark"),
        ("Landmark,X,Y,Z\n", "holds no landmarks"),
        ("Landmark,X,Y,Z\n1,2,x,4\n", "line 2, Y: 'x' is no coordinate; write mm"),
        ("Landmark,X,Y,Z\n1,2,3,4\n1,2,3,4\n", "the landmark '1' is there twice; name every one"),
    ])  # fmt: skip
    def test_bad_tables(self, tmp_path, text, message):
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            points.read(tmp_path / "p.csv")


class TestMeasuring:
    """Parts of the scripts that measure registration (the whole runs: benchmarks/)."""

    def test_cutting_keeps_places(self):
        places = np.array([[-4.0, 0, 2], [6, 3, -3]])
        piece = measure_registration.cut(image("scan", LIA), places)
        assert piece.grid.holds(places).all() and np.prod(piece.grid.shape) < 0.2 * np.prod(LIA.shape)
        assert_allclose(piece.data, grey(piece.grid.points()), atol=1e-3)

    def test_a_brain_lies_where_it_lay(self, tmp_path):
        path = save(tmp_path / "scan.nii.gz", image("", OBLIQUE))
        mask = image("mask", OBLIQUE, of=lambda p: grey(p) > 50)
        found = tumour_pairs.brain(path, mask, voxel_mm=2.0)
        true = grey(found.grid.points())
        assert np.corrcoef(found.data[found.data > 0], true[found.data > 0])[0, 1] > 0.97
        assert not found.data[true < 5].any() and (found.data[true > 90] > 0).all()

    def test_errors_are_collected_and_compared(self, tmp_path):
        for number in range(4):
            for method, mm in (("direct", 2.0), ("synthsr", 1.0)):
                errors = {str(n): mm + 0.1 * number + 0.01 * n for n in range(3)}
                record = {"pair": f"sub-{number}", "contrast": "FLAIR", "spacing_mm": 10.0, "method": method}
                record |= {
                    "folding_fraction": 0.0,
                    "errors_mm": dict.fromkeys(("unregistered", "affine", "svf"), errors),
                }
                path = tmp_path / f"sub-{number}_{method}.json"
                done = measure_registration.once(path, lambda record=record: record)
                assert measure_registration.once(path, pytest.fail) == done
        tumour_pairs.tell(tmp_path)
        shown = (tmp_path / "landmarks.md").read_text()
        assert "| FLAIR | 10 | 4 | 2.16 ± 0.12 | 1.16 ± 0.12 | -46 (" in shown
        assert len(tsv.read(tmp_path / "errors.tsv", columns=cohort.ERROR_COLUMNS)) == 24
