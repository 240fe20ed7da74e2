"""ComBat: neuroCombat's numbers, planted sites taken out and people kept, and poor input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import cli, tsv
from analysis.statistics import cohort, combat

REFERENCE = Path(__file__).parents[1] / "data" / "neurocombat_reference.json"
STRUCTURES = ("Left-Hippocampus", "Right-Hippocampus", "Left-Thalamus", "Right-Thalamus", "Brain-Stem", "ICV")


def test_numbers_are_neurocombats():
    reference = json.loads(REFERENCE.read_text())
    site = np.unique(reference["site"], return_inverse=True)[1]
    values = np.array(reference["values"])
    covariates = np.column_stack([reference["age_years"], np.array(reference["sex"]) == "M"]).astype(float)
    # neuroCombat keeps ages in single precision.
    np.testing.assert_allclose(combat.harmonise(values, site, covariates).values, reference["harmonised"], atol=1e-4)
    plain = combat.harmonise(values, site, covariates[:, :0]).values
    np.testing.assert_allclose(plain, reference["harmonised_without_covariates"], atol=1e-6)
    assert np.abs(plain - values).max() > 50


def simulate(seed: int, *, n: int = 60) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Volumes with an effect of age, in three sites with shifts and scales: long table, people, volumes without."""
    rng = np.random.default_rng(seed)
    site, age = rng.permutation(np.arange(n) % 3), rng.uniform(20, 90, n)
    level = np.array([4000.0, 4100, 7000, 7100, 20000, 1.45e6])
    own = level * (1 - 0.002 * (age - 55)[:, None] + 0.06 * rng.standard_normal((n, 6)))
    shift, scale = rng.normal(0, 0.08, (3, 6)), rng.uniform(0.7, 1.4, (3, 6))
    measured = level * (1 + shift[site]) + scale[site] * (own - level)
    names = [f"sub-{i:03d}" for i in range(n)]
    people = pd.DataFrame({"participant_id": names, "scanner": np.array(["A", "B", "C"])[site],
                           "age_years": age.round(3), "sex": rng.choice(["M", "F"], n)})  # fmt: skip
    long = pd.DataFrame(
        [
            {"participant_id": name, "session_id": "ses-1", "structure": structure, "volume_mm3": volume, "extra": "x"}
            for name, row in zip(names, measured, strict=True)
            for structure, volume in zip(STRUCTURES, row, strict=True)
        ]
    )
    return long, people, own


def call(folder: Path, long: pd.DataFrame, people: pd.DataFrame, *more: str) -> int:
    tsv.write(long, folder / "volumes.tsv")
    tsv.write(people, folder / "people.tsv")
    return cli.main(["harmonise", str(folder / "volumes.tsv"), "--participants", str(folder / "people.tsv"), "--site",
                     "scanner", "--out", str(folder / "out"), *more])  # fmt: skip


def notes(folder: Path) -> str:
    return " ".join(json.loads((folder / "out" / "harmonise.json").read_text())["notes"])


def test_planted_sites_are_taken_out_and_people_are_kept(tmp_path):
    long, people, own = simulate(0, n=120)
    assert call(tmp_path, long, people) == 0
    before = cohort.read_sided_volumes(tmp_path / "volumes.tsv").set_index("participant_id")
    after = cohort.read_sided_volumes(tmp_path / "out" / "volumes.tsv").set_index("participant_id")
    site = people.set_index("participant_id")["scanner"]
    age = people.set_index("participant_id")["age_years"]
    unequal, likeness = {"before": [], "after": []}, {"before": [], "after": []}
    for place, name in enumerate(STRUCTURES):
        spread = after[name].std()
        for when, table in (("before", before), ("after", after)):
            scatter = (table[name] - np.polyval(np.polyfit(age, table[name], 1), age)).groupby(site).std()
            unequal[when].append(scatter.max() / scatter.min())
            likeness[when].append(np.corrcoef(table[name], own[:, place])[0, 1])
        gap = np.ptp(after[name].groupby(site).mean()) / spread
        assert gap < 0.5 < np.ptp(before[name].groupby(site).mean()) / spread
        slopes = [np.polyfit(age, values, 1)[0] for values in (after[name], own[:, place])]
        assert slopes[0] == pytest.approx(slopes[1], rel=0.4)
    assert np.mean(likeness["after"]) > 0.95 > 0.9 > np.mean(likeness["before"])
    assert np.mean(unequal["after"]) < 1.25 < 1.4 < np.mean(unequal["before"])
    sites = tsv.read(tmp_path / "out" / "harmonise_sites.tsv", numbers=("shift_mm3", "scale", "n_rows"))
    assert len(sites) == 18 and sites["n_rows"].sum() == 6 * 120
    assert (tmp_path / "out" / "harmonise.png").stat().st_size > 10_000


def test_the_result_has_the_same_form_and_feeds_a_statistic(tmp_path):
    long, people, _ = simulate(1)
    assert call(tmp_path, long, people) == 0
    given, found = tsv.read(tmp_path / "volumes.tsv"), tsv.read(tmp_path / "out" / "volumes.tsv")
    pd.testing.assert_frame_equal(given.drop(columns="volume_mm3"), found.drop(columns="volume_mm3"))
    assert cli.main(["ageing", str(tmp_path / "out" / "volumes.tsv"), "--participants", str(tmp_path / "people.tsv"),
                     "--replicates", "100", "--out", str(tmp_path / "ageing")]) == 0  # fmt: skip
    # Ages and sexes may stand in the table of volumes instead.
    carried = long.merge(people.drop(columns="scanner"), on="participant_id")
    (tmp_path / "other").mkdir()
    assert call(tmp_path / "other", carried, people[["participant_id", "scanner"]]) == 0
    np.testing.assert_allclose(
        tsv.read(tmp_path / "other" / "out" / "volumes.tsv", numbers=("volume_mm3",))["volume_mm3"],
        found["volume_mm3"].astype(float),
        rtol=1e-5,
    )


def test_without_site_effects_little_changes(tmp_path):
    _, people, own = simulate(2, n=300)
    site = np.unique(people["scanner"], return_inverse=True)[1]
    covariates = people[["age_years"]].to_numpy()
    change = combat.harmonise(own, site, covariates).values - own
    assert (change.std(axis=0) / own.std(axis=0)).max() < 0.15


def test_scans_of_a_session_are_harmonised_by_session(tmp_path):
    long, people, _ = simulate(3)
    twice = pd.concat([long.assign(scan_id=long["participant_id"] + f"_{run}") for run in (1, 2)])
    assert call(tmp_path, twice, people.assign(session_id="ses-1")) == 0
    assert "60 rows more than participants" in notes(tmp_path)


def test_sites_known_by_the_hospitals_names(tmp_path):
    long, people, _ = simulate(4)
    links = people[["participant_id"]].assign(
        session_id="ses-1", patient_id=lambda table: "H" + table["participant_id"]
    )
    tsv.write(links, tmp_path / "links.tsv")
    hospital = people.assign(patient_id="H" + people["participant_id"]).drop(columns="participant_id")
    assert call(tmp_path, long, hospital, "--links", str(tmp_path / "links.tsv")) == 0
    assert not any(b"Hsub" in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_one_participant_sites_missing_sites_and_covariates_are_left_out_and_said(tmp_path):
    long, people, _ = simulate(5)
    people.loc[0, "scanner"], people.loc[1, "scanner"], people.loc[2, "age_years"] = "Z", "n/a", np.nan
    assert call(tmp_path, long, people) == 0
    found = tsv.read(tmp_path / "out" / "volumes.tsv")
    assert set(people["participant_id"][:3]).isdisjoint(found["participant_id"]) and len(found) == 57 * 6
    told = notes(tmp_path)
    assert "1 row left out, of sites with one participant" in told and ": Z." in told
    assert "1 row without scanner" in told and "1 row without age_years or sex" in told


def test_missing_and_constant_volumes(tmp_path):
    long, people, _ = simulate(6)
    stem, left = long["structure"] == "Brain-Stem", long["structure"] == "Left-Thalamus"
    at_a = long["participant_id"].isin(people.loc[people["scanner"] == "A", "participant_id"])
    long.loc[stem, "volume_mm3"] = 20000.0
    long.loc[left & at_a, "volume_mm3"] = np.nan
    kept = long.index[left & at_a][0]
    long.loc[kept, "volume_mm3"] = 7000.0
    gone = long["participant_id"].eq("sub-007") & (long["structure"] == "ICV")
    assert call(tmp_path, long[~gone], people) == 0
    found = tsv.read(tmp_path / "out" / "volumes.tsv", numbers=("volume_mm3",))
    assert (found.loc[found["structure"] == "Brain-Stem", "volume_mm3"] == 20000).all()
    assert len(found) == len(long) - 1
    lost = found[found["volume_mm3"].isna()]
    assert set(lost["structure"]) == {"Left-Thalamus"} and len(lost) == (left & at_a).sum()
    assert "do not vary within sites: Brain-Stem" in notes(tmp_path) and "1 volumes are n/a now" in notes(tmp_path)
    sites = tsv.read(tmp_path / "out" / "harmonise_sites.tsv").set_index(["structure", "site"])
    assert sites.loc[("Left-Thalamus", "A"), "note"] == "too few values at this site"
    assert sites.loc[("Brain-Stem", "B"), "note"] == "left as it is"


def test_a_missing_value_changes_nothing_for_other_structures_but_the_pooling():
    rng = np.random.default_rng(0)
    values, site = rng.normal(100, 10, (40, 20)), np.arange(40) % 2
    holed = values.copy()
    holed[0, 0] = np.nan
    one, two = (combat.harmonise(table, site, np.empty((40, 0))).values for table in (values, holed))
    assert np.isnan(two[0, 0]) and np.isfinite(two[1:]).all()
    assert np.abs(one[1:, 1:] - two[1:, 1:]).max() < 0.3


def test_few_structures_are_not_pooled():
    rng = np.random.default_rng(0)
    values, site = np.concatenate([rng.normal(100, 10, (30, 1)), rng.normal(150, 20, (30, 1))]), np.repeat([0, 1], 30)
    found = combat.harmonise(values, site, np.empty((60, 0))).values[:, 0]
    assert found[:30].mean() == pytest.approx(found[30:].mean())
    assert found[:30].std() == pytest.approx(found[30:].std())


@pytest.mark.parametrize(
    ("change", "more", "code", "message"),
    [
        (lambda table: table.assign(scanner="A"), (), 65, "leaves 1 site"),
        (lambda table: table.assign(scanner="n/a"), (), 65, "leaves 0 site"),
        (lambda table: table.assign(sex=table["scanner"].map({"A": "M", "B": "F", "C": "F"})), (), 65, "told apart"),
        (lambda table: table.drop(columns="scanner"), (), 65, "lacks the column scanner"),
        (lambda table: table.assign(age_years=["forty", *["50", "60"] * 29, "70"]), (), 65, "'forty' is not a number"),
        (lambda table: table, ("--keep", "diagnosis"), 65, "lacks the column diagnosis, and so does"),
        (lambda table: table, ("--keep", "scanner"), 78, "is the site"),
        (lambda table: pd.concat([table, table[:1]]), (), 65, "lines 2 and 62 are both for participant_id sub-000"),
        (lambda table: table[:1], (), 65, "leaves 0 site"),
    ],
)
def test_poor_input_is_refused(tmp_path, capsys, change, more, code, message):
    long, people, _ = simulate(7)
    assert call(tmp_path, long, change(people), *more) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_duplicate_volumes_are_refused(tmp_path, capsys):
    long, people, _ = simulate(8)
    assert call(tmp_path, pd.concat([long, long[:1]]), people) == 65
    assert "are both for" in capsys.readouterr().err
