"""Thickness: a planted group effect, the linear model's numbers, both formats, and poor input. Overlays are made."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from analysis import cli, tsv

N, VERTICES = 36, 300


def write_overlay(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".mgh", ".mgz"):
        nib.save(nib.MGHImage(values.astype(np.float32).reshape(-1, 1, 1), np.eye(4)), path)
    else:
        nib.freesurfer.write_morph_data(path, values.astype(np.float32))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Cortex that thins with age; in AD another 0.3 mm in the first 60 vertices of the left; a medial wall of zeros."""
    folder = tmp_path_factory.mktemp("thickness")
    rng = np.random.default_rng(0)
    ad, age = np.arange(N) < 16, rng.uniform(60, 85, N) + 5 * (np.arange(N) < 16)
    male = rng.permutation(N) % 2
    thickness = {}
    for side in ("lh", "rh"):
        values = 2.6 - 0.01 * (age - 70)[:, None] + 0.05 * male[:, None] + rng.normal(0, 0.15, (N, VERTICES))
        values[:, :60] -= 0.3 * ad[:, None] * (side == "lh")
        values[:, -20:] = 0
        thickness[side] = values.astype(np.float32).astype(float)
        for person in range(N):
            suffix = ".mgz" if person % 2 else ".mgh"
            write_overlay(values[person], folder / f"P{person:02d}" / "surf" / f"{side}.thickness.fsaverage{suffix}")
    people = pd.DataFrame({"participant_id": [f"P{i:02d}" for i in range(N)], "age_years": age.round(2),
                           "sex": np.where(male, "M", "F"), "diagnosis": np.where(ad, "AD", "CN")})  # fmt: skip
    tsv.write(people, folder / "people.tsv")
    return folder, thickness, people


def call(folder: Path, out: Path, *more: str, people: Path | None = None, contrast=("diagnosis", "AD", "CN")) -> int:
    table = str(people or folder / "people.tsv")
    given = [str(folder / "*" / "surf" / "*.mg?"), "--participants", table, "--contrast", *contrast, "--out", str(out)]
    return cli.main(["thickness", *given, *more])


def overlay(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).ravel()


def test_planted_thinning_is_found_and_numbers_are_the_linear_models(study, tmp_path):
    folder, thickness, people = study
    assert call(folder, tmp_path) == 0
    t, effect = overlay(tmp_path / "lh.t.mgh"), overlay(tmp_path / "lh.effect.mgh")
    design = sm.add_constant(
        np.column_stack([people["age_years"], people["sex"] == "M", people["diagnosis"] == "AD"]).astype(float)
    )
    for vertex in (0, 30, 100, 250):
        model = sm.OLS(thickness["lh"][:, vertex], design).fit()
        assert t[vertex] == pytest.approx(model.tvalues[3], rel=1e-4)
        assert effect[vertex] == pytest.approx(model.params[3], rel=1e-4)
    p = {side: overlay(tmp_path / f"{side}.p_fdr.mgh") for side in ("lh", "rh")}
    assert (p["lh"][:60] < 0.05).mean() > 0.9 and (p["lh"][60:] < 0.05).mean() < 0.03
    assert (p["rh"] < 0.05).mean() < 0.03 and effect[:60].mean() == pytest.approx(-0.3, abs=0.05)
    assert (t[-20:] == 0).all() and (p["lh"][-20:] == 1).all()
    raw = [
        2 * stats.t.sf(np.abs(overlay(tmp_path / f"{side}.t.mgh")[:-20].astype(float)), N - 4) for side in ("lh", "rh")
    ]
    expected = stats.false_discovery_control(np.concatenate(raw))
    np.testing.assert_allclose(np.concatenate([p["lh"][:-20], p["rh"][:-20]]), expected, rtol=1e-3)
    means = tsv.read(tmp_path / "thickness_means.tsv", numbers=("mean_thickness_mm", "n_vertices"))
    assert len(means) == 2 * N and (means["n_vertices"] == VERTICES - 20).all()
    first = means.query("participant_id == 'P00' and hemisphere == 'lh'").iloc[0]
    assert first["mean_thickness_mm"] == pytest.approx(thickness["lh"][0, :-20].mean(), rel=1e-5)
    effects = tsv.read(tmp_path / "thickness_effects.tsv", numbers=("mean_t", "mean_p")).set_index("hemisphere")
    mean_model = sm.OLS(thickness["lh"][:, :-20].mean(axis=1), design).fit()
    assert effects.loc["lh", "mean_t"] == pytest.approx(mean_model.tvalues[3], rel=1e-4)
    assert (tmp_path / "thickness.png").stat().st_size > 10_000


def test_slope_on_a_number(study, tmp_path):
    folder, thickness, people = study
    assert call(folder, tmp_path, "--correct", contrast=("age_years",)) == 0
    expected = stats.linregress(people["age_years"], thickness["rh"][:, 7])
    assert overlay(tmp_path / "rh.effect.mgh")[7] == pytest.approx(expected.slope, rel=1e-4)
    t = overlay(tmp_path / "rh.t.mgh")[7]
    assert 2 * stats.t.sf(abs(t), N - 2) == pytest.approx(expected.pvalue, rel=1e-3)


def test_curv_format_one_hemisphere(study, tmp_path):
    _, thickness, people = study
    for person in range(N):
        write_overlay(thickness["lh"][person], tmp_path / f"P{person:02d}" / "surf" / "lh.thickness")
    tsv.write(people, tmp_path / "people.tsv")
    assert cli.main(["thickness", str(tmp_path / "*" / "surf"), "--participants", str(tmp_path / "people.tsv"),
                     "--contrast", "diagnosis", "AD", "CN", "--out", str(tmp_path / "out")]) == 0  # fmt: skip
    assert (tmp_path / "out" / "lh.t.mgh").is_file() and not (tmp_path / "out" / "rh.t.mgh").exists()


def test_missing_values_are_left_out_and_said(study, tmp_path):
    folder, _, people = study
    changed = people.astype(str)
    changed["diagnosis"] += " "
    changed.loc[0, "diagnosis"], changed.loc[1, "age_years"], changed.loc[2, "sex"] = "n/a", "n/a", "O"
    tsv.write(changed, tmp_path / "people.tsv")
    assert call(folder, tmp_path / "out", people=tmp_path / "people.tsv") == 0
    content = json.loads((tmp_path / "out" / "thickness.json").read_text())
    assert content["n_participants"] == N - 3
    assert any("1 of 36 participants in neither group" in note for note in content["notes"])
    assert any("2 participants without age_years or sex" in note for note in content["notes"])


@pytest.mark.parametrize(
    ("columns", "contrast", "code", "message"),
    [
        ({"diagnosis": "AD"}, ("diagnosis", "AD", "CN"), 65, "diagnosis is CN for none"),
        ({"diagnosis": "n/a"}, ("diagnosis", "AD", "CN"), 65, "diagnosis is AD for none"),
        ({"age_years": "n/a"}, ("diagnosis", "AD", "CN"), 65, "of 0 participants"),
        ({"score": 3}, ("score",), 65, "cannot be tested"),
        ({"score": "many"}, ("score",), 65, "is not a number"),
        ({"age_years": [str(60 + i) for i in range(N - 1)] + ["old"]}, ("diagnosis", "AD", "CN"), 65, "'old' is not a"),
        ({"participant_id": "P00"}, ("diagnosis", "AD", "CN"), 65, "lines 2 and 3"),
        ({}, ("diagnosis", "AD"), 78, "two different values"),
        ({}, ("sex", "M", "F"), 78, "not one of --correct"),
    ],
)
def test_poor_tables_are_refused(study, tmp_path, capsys, columns, contrast, code, message):
    folder, _, people = study
    tsv.write(people.assign(**columns), tmp_path / "people.tsv")
    assert call(folder, tmp_path / "out", people=tmp_path / "people.tsv", contrast=contrast) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_group_that_is_its_sex_cannot_be_told_apart(study, tmp_path, capsys):
    folder, _, people = study
    tsv.write(people.assign(diagnosis=people["sex"].map({"M": "AD", "F": "CN"})), tmp_path / "people.tsv")
    assert call(folder, tmp_path / "out", people=tmp_path / "people.tsv") == 65
    assert "cannot be told from age_years, sex" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "name", "message"),
    [
        (np.ones(299), "lh.thickness.mgh", "299 vertices, where most overlays have 300"),
        (np.full(300, np.nan), "lh.thickness.mgh", "300 vertices are NaN"),
        (np.ones(300), "thickness.mgh", "tells no hemisphere"),
    ],
)
def test_unusable_overlays_are_named(study, tmp_path, capsys, values, name, message):
    for person in range(5):
        write_overlay(study[1]["lh"][person], tmp_path / f"P{person:02d}" / "surf" / "lh.thickness.mgh")
    write_overlay(values, tmp_path / "P05" / "surf" / name)
    assert call(tmp_path, tmp_path / "out", people=study[0] / "people.tsv") == 65
    error = capsys.readouterr().err
    assert message in error and "P05" in error
    (tmp_path / "P05" / "surf" / name).write_text("no overlay")
    assert call(tmp_path, tmp_path / "out", people=study[0] / "people.tsv") == 65


def test_cortex_alike_in_everybody_is_not_tested(study, tmp_path):
    for person in range(N):
        write_overlay(np.full(50, 2.0), tmp_path / f"P{person:02d}" / "surf" / "lh.thickness.mgh")
    assert call(tmp_path, tmp_path / "out", people=study[0] / "people.tsv") == 0
    row = tsv.read(tmp_path / "out" / "thickness_effects.tsv").iloc[0]
    assert row["n_vertices_tested"] == "0" and row["mean_t"] == "n/a"
    assert not overlay(tmp_path / "out" / "lh.t.mgh").any()
