"""An atlas of phantoms whose deformations are known: everybody on one place, nobody's shape, the same again."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from registration_phantom import AFFINE, COARSE, bent, grey, image, label, move

from analysis import tsv
from analysis.atlas import collect, members, prepare, rounds
from analysis.atlas.folder import Folder, kind_of
from analysis.cli import main
from analysis.errors import DataError
from analysis.layout import Results
from analysis.registration import transforms
from analysis.registration.pairs import Image
from analysis.registration.transforms import Field, Grid

#: Where a point of the member is in the phantom.
PLACES = {
    "sub-a": lambda p: p,
    "sub-b": lambda p: move(np.linalg.inv(AFFINE), p),
    "sub-c": bent,
}
BUILD = ("--voxel-mm", "3", "--rounds", "1", "1", "1", "--spacing-mm", "9", "--iterations", "12")
SMOOTHING = ("--smoothing-mm", "4")


def write(root: Path, names: dict[str, str]) -> Folder:
    """Members' images, label maps and lesions, and the table of them: by the name in the table, which phantom."""
    rows = []
    for name, which in names.items():
        place = PLACES[which]
        for kind, of in (("T1w", grey), ("dseg", lambda p: np.where(grey(p) > 50, 2 + 15 * label(p), 0)),
                         ("lesion", label), ("FLAIR", lambda p: 3 * grey(p))):  # fmt: skip
            path = root / "images" / f"{name}_{kind}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(image("", COARSE, place, of=of).data, COARSE.affine), path)
        given = {kind: f"images/{name}_{kind}.nii.gz" for kind in ("T1w", "dseg", "lesion", "FLAIR")}
        rows.append({"participant_id": name, "image": given["T1w"], "labels": given["dseg"],
                     "lesion": given["lesion"], "contrast": "FLAIR", "scan": given["FLAIR"]})  # fmt: skip
    table = pd.DataFrame(rows)
    folder = Folder(root)
    tsv.write(table[["participant_id", "image", "labels", "lesion"]], folder.members)
    scans = table[["participant_id", "contrast", "scan"]].rename(columns={"scan": "image"})
    tsv.write(scans, folder.scans)
    return folder


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Three members, one with an empty mask, and one whose image holds nothing."""
    folder = write(tmp_path_factory.mktemp("atlas"), {name: name for name in PLACES})
    empty = folder.root / "images" / "sub-e_T1w.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(COARSE.shape, np.float32), COARSE.affine), empty)
    blank = folder.root / "images" / "sub-c_lesion.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(COARSE.shape, np.uint8), COARSE.affine), blank)
    table = tsv.read(folder.members)
    tsv.write(pd.concat([table, pd.DataFrame([{"participant_id": "sub-e", "image": "images/sub-e_T1w.nii.gz",
                                               "labels": "", "lesion": ""}])]), folder.members)  # fmt: skip
    assert main(["atlas", "build", "--out", str(folder.root), *BUILD, *SMOOTHING]) == 0
    return folder


def in_phantom(folder: Folder, names: dict[str, str]) -> np.ndarray:
    """Where every member's transform leads in the phantom, over the atlas's brain; shape (members, n, 3)."""
    brain = np.asarray(nib.load(folder.root / "brain.nii.gz").dataobj) > 0
    found = []
    for name, which in names.items():
        field = Field.load(folder.displacement(name))
        found.append(PLACES[which]((field.grid.points() + field.displacement_mm)[brain]))
    return np.stack(found)


class TestBuild:
    def test_everybody_lies_on_each_other(self, atlas):
        places = in_phantom(atlas, {name: name for name in PLACES})
        apart = np.linalg.norm(places - places.mean(axis=0), axis=-1)
        assert apart.mean() < 0.8

    def test_nobody_s_shape_is_taken(self, atlas):
        """The affine parts' mean is the identity in log space, and displacements cancel."""
        last = rounds.State.load(atlas.round(3).linear)
        mean = transforms.mean([last.linear[name] for name in sorted(PLACES)])
        assert_allclose(mean, np.eye(4), atol=0.02)
        assert rounds.facts_of(atlas.round(3))["mean_displacement_mm"] < 0.2

    def test_rounds_sharpen(self, atlas):
        table = tsv.read(atlas.root / "rounds.tsv", numbers=("sharpness", "variability", "members"))
        assert table["kind"].tolist() == ["start", "rigid", "affine", "svf"]
        assert (np.diff(table["sharpness"]) > 0).all()
        assert table["variability"].iloc[-1] < 0.5 * table["variability"].iloc[0]
        assert (table["members"] == 3).all()

    def test_empty_image_is_rejected_with_its_reason(self, atlas):
        rows = tsv.read(atlas.prepared_shard(1)).set_index("participant_id")
        assert rows.loc["sub-e", "status"] == "rejected"
        assert "every voxel has the grey level 0" in rows.loc["sub-e", "reason"]
        assert json.loads((atlas.root / "atlas.json").read_text())["members"] == 3

    def test_lesions(self, atlas):
        """All have a mask, one of them empty: the others' lie on each other."""
        carried = {path.name: np.asarray(nib.load(path).dataobj) for path in (atlas.root / "lesions").iterdir()}
        assert sorted(carried) == ["sub-a_lesion.nii.gz", "sub-b_lesion.nii.gz", "sub-c_lesion.nii.gz"]
        assert not carried["sub-c_lesion.nii.gz"].any()
        first, second = carried["sub-a_lesion.nii.gz"] > 0, carried["sub-b_lesion.nii.gz"] > 0
        assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.7

    def test_medians_labels_and_quality(self, atlas):
        assert (atlas.root / "median_FLAIR.nii.gz").is_file()
        most = np.asarray(nib.load(atlas.root / "labels.nii.gz").dataobj)
        assert set(np.unique(most)) == {0, 2, 17}
        assert "17 Left-Hippocampus" in (atlas.root / "labels.txt").read_text()
        share = np.asarray(nib.load(atlas.root / "probability" / "Left-Hippocampus.nii.gz").dataobj)
        assert (
            set(np.rint(3 * np.unique(share))) == {0, 1, 2, 3} and np.abs(np.rint(3 * share) - 3 * share).max() < 1e-5
        )
        table = tsv.read(atlas.root / "quality.tsv", numbers=("dice_mean", "folding_fraction", "lncc"))
        assert (table["dice_mean"] > 0.8).all() and (table["folding_fraction"] == 0).all()

    def test_volume_changes(self, atlas):
        """Without folding, logarithms of determinants integrate to the change of volume: member b is larger."""
        brain = np.asarray(nib.load(atlas.root / "brain.nii.gz").dataobj) > 0

        def size(name: str) -> float:
            log = np.asarray(nib.load(atlas.logjac(name, affine=True)).dataobj)
            return float(np.exp(log[brain]).mean())

        assert size("sub-b") / size("sub-a") == pytest.approx(np.linalg.det(AFFINE[:3, :3]), rel=0.02)

    def test_again_nothing_is_made(self, atlas):
        """But what somebody left who is no longer a member goes: lesion-map takes the whole folder."""
        former = atlas.lesion("sub-x")
        former.touch()
        before = {path: path.stat().st_mtime_ns for path in atlas.root.rglob("*_*.*") if path != former}
        assert main(["atlas", "build", "--out", str(atlas.root), *BUILD, *SMOOTHING]) == 0
        assert not former.exists()
        changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
        assert changed <= {"template_T1w.nii.gz", "median_FLAIR.nii.gz", "mean_velocity.nii.gz"}


def test_order_of_the_members_does_not_matter(atlas, tmp_path):
    """They are taken by their names, and the sums that the template is made of are the same but for rounding."""
    shuffled = Folder(tmp_path)
    tsv.write(tsv.read(atlas.members).iloc[::-1], shuffled.members)
    assert [row["participant_id"] for row in members.read(shuffled)] == sorted([*PLACES, "sub-e"])
    shapes = rounds.Shapes(atlas, 3, kind="svf")
    sums = []
    for part in (["sub-a", "sub-b", "sub-c"], ["sub-c"], ["sub-a", "sub-b"]):
        rounds.add_up(shapes, part, tmp_path / "sums.nii")
        sums.append(np.asarray(nib.load(tmp_path / "sums.nii").dataobj))
    assert_allclose(sums[1] + sums[2], sums[0], atol=1e-9)


class TestTables:
    def test_members_of_a_study(self, tmp_path):
        """The first session's reference scan, included scans only, and its mask by the study's private table."""
        results, folder = Results(tmp_path / "results"), Folder(tmp_path / "results" / "atlas")
        rows = [
            ("sub-a_ses-01_T1w", "T1w", "yes"), ("sub-a_ses-01_FLAIR", "FLAIR", "yes"),
            ("sub-a_ses-02_T1w", "T1w", "yes"), ("sub-b_ses-01_T1w", "T1w", "no"),
        ]  # fmt: skip
        gate = pd.DataFrame(rows, columns=["scan_id", "contrast", "included"])
        gate["participant_id"], gate["session_id"] = gate["scan_id"].str[:5], gate["scan_id"].str[6:12]
        tsv.write(gate.assign(spacing_mm=1.0), results.gate)
        masks = tmp_path / "clinic"
        masks.mkdir()
        (masks / "mask.nii.gz").touch()
        table = {"study_uid": ["1.2", "1.2"], "lesion_mask": ["n/a", "mask.nii.gz"], "slices": ["200", "30"]}
        tsv.write(pd.DataFrame(table), masks / "scans.tsv")
        links = {"participant_id": ["sub-a"], "session_id": ["ses-01"], "study_uid": ["1.2"]}
        tsv.write(pd.DataFrame(links), tmp_path / "sessions.tsv")
        code = main(["atlas", "members", "--out", str(folder.root), "--results", str(results.root), "--lesions",
                     str(masks / "scans.tsv"), "--links", str(tmp_path / "sessions.tsv")])  # fmt: skip
        assert code == 0
        (found,) = members.read(folder)
        assert found["scan_id"] == "sub-a_ses-01_T1w" and found["lesion"] == str(masks / "mask.nii.gz")
        assert found["image"] == str(results.synthetic("sub-a_ses-01_T1w"))
        assert [scan["contrast"] for scan in members.scans(folder)["sub-a"]] == ["FLAIR", "T1w"]

    def test_masks_that_are_not_there(self, tmp_path):
        table = pd.DataFrame({"participant_id": ["a"], "session_id": ["1"], "lesion_mask": ["gone.nii"]})
        tsv.write(table, tmp_path / "masks.tsv")
        with pytest.raises(DataError, match=r"gone\.nii is not there"):
            members.lesion_masks(tmp_path / "masks.tsv", None)

    @pytest.mark.parametrize(("rows", "said"), [
        ([], "nobody is in it"),
        ([("sub-a", "x.nii"), ("sub-a", "y.nii")], "sub-a"),
    ])  # fmt: skip
    def test_tables_that_are_none(self, tmp_path, rows, said):
        folder = Folder(tmp_path)
        tsv.write(pd.DataFrame(rows, columns=["participant_id", "image"]), folder.members)
        with pytest.raises(DataError, match=said):
            members.read(folder)

    def test_one_member_is_no_atlas(self, tmp_path, capsys):
        folder = write(tmp_path, {"sub-a": "sub-a"})
        assert main(["atlas", "build", "--out", str(folder.root), *BUILD]) == DataError.exit_code
        assert "an atlas needs two" in capsys.readouterr().err


def test_rounds_are_of_their_kinds():
    assert [kind_of(number, (1, 0, 2)) for number in (1, 2, 3)] == ["rigid", "svf", "svf"]


def test_labels_on_another_grid_are_refused(tmp_path):
    folder = write(tmp_path, {"sub-a": "sub-a"})
    path = folder.root / "images" / "sub-a_dseg.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.int16), COARSE.affine), path)
    (member,) = members.read(folder)
    with pytest.raises(DataError, match="lies on another grid"):
        prepare.prepare(member, folder.prepared("sub-a"), voxel_mm=3)


def test_images_are_blurred_along_axes_that_become_coarser():
    """Which keeps what there is of everything; a thick axis, and an image of the atlas's voxels, stay as they are."""
    data = np.zeros((15, 15, 15), dtype=np.float32)
    data[7, 7, 7] = 1
    image = Image("scan", data, Grid(data.shape, np.diag([1.0, 2.0, 5.0, 1.0])))
    assert prepare.blurred_for(image, 1.0) is image
    found = prepare.blurred_for(image, 3.0).data
    assert found.sum() == pytest.approx(1, abs=1e-4)
    variances = [float((found.sum(others) * (np.arange(15) - 7) ** 2).sum()) for others in ((1, 2), (0, 2), (0, 1))]
    assert variances == pytest.approx([(0.42 * 3) ** 2, (0.42 * 3 / 2) ** 2, 0], rel=0.05, abs=1e-6)


def test_outliers():
    """One of ten whose similarity is far below, one whose space folds; of a few nothing but folding is judged."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"participant_id": [f"sub-{n}" for n in range(10)], "scan_id": "x",
                          "lncc": 0.9 + 0.01 * rng.normal(size=10), "folding_fraction": 0.0})  # fmt: skip
    table.loc[3, "lncc"], table.loc[7, "folding_fraction"] = 0.5, 0.05
    found = collect.judged(table)
    assert found["outlier"].tolist() == ["yes" if n in (3, 7) else "no" for n in range(10)]
    assert found["reason"][3].startswith("lncc 0.5, of the others 0.9") and "space folds in 5 %" in found["reason"][7]
    assert collect.judged(table.iloc[2:5])["outlier"].tolist() == ["no", "no", "no"]


@pytest.mark.parametrize(("words", "said"), [
    (["members"], "--results"),
    (["register", "--round", "0"], "give --round, 1 to 8"),
    (["add"], "give --round, 0 to 8"),
    (["build", "--rounds", "0", "0", "0"], "three counts"),
    (["build", "--voxel-mm", "0"], "--voxel-mm is 0.5 to 10"),
    (["build", "--shard", "1/2"], "build takes all members"),
])  # fmt: skip
def test_options_that_cannot_be(tmp_path, capsys, words, said):
    write(tmp_path, {"sub-a": "sub-a", "sub-b": "sub-b"})
    assert main(["atlas", *words, "--out", str(tmp_path)]) == 78
    assert said in capsys.readouterr().err
