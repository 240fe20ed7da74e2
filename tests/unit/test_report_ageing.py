"""The ageing section: trends beside the true ones, a warning where these are not known, one sentence without curves."""

import re
from pathlib import Path

import pandas as pd
import pytest
import results_maker
from results_maker import make_results

from analysis import cli, tsv
from analysis.layout import Results
from analysis.report import ageing, starter, text
from analysis.statistics import figures
from synthsr.weights.registry import registered

DOCS = Path(__file__).parents[2] / "docs"


def run_ageing(results: Results) -> None:
    arguments = ["ageing", str(results.session_volumes), "--participants", str(results.sessions)]
    out = str(results.statistics("ageing-sessions"))
    assert cli.main([*arguments, "--replicates", "100", "--out", out]) == 0


@pytest.fixture(scope="module")
def aged(tmp_path_factory) -> Results:
    """Enough people for curves, measured by the shipped weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_maker, "SHA256", registered()["synthsr"].sha256)
        results = make_results(tmp_path_factory.mktemp("study") / "results", n_people=24)
    run_ageing(results)
    return results


def section_of(results: Results) -> str:
    """The ageing section of the page."""
    assert cli.main(["report", str(results.root), "--pictures", "0"]) == 0
    page = results.report.read_text(encoding="utf-8")
    return page.split('<section id="ageing"')[1].split("</section>")[0]


def write_slopes(results: Results, rows: dict[str, tuple[float, ...]]) -> None:
    """Table of slopes of the agreement: true, measured and difference with their ends, mm³ per year."""
    ends = ("", "_low", "_high")
    columns = [f"{which}{end}_mm3_per_year" for which in ("true", "measured", "difference") for end in ends]
    table = pd.DataFrame(rows.values(), columns=columns)
    table.insert(0, "structure", list(rows))
    tsv.write(table, results.statistics("agreement") / "agreement_slopes.tsv")


@pytest.mark.parametrize(
    ("true", "measured", "difference", "verdict"),
    [
        ((-2006, -2270, -1742), (-161, -251, -71), (1845, 1609, 2082), "too flat"),
        ((-18, -33, -4), (39, 27, 51), (57, 38, 76), "in the wrong direction"),
        ((-59, -67, -52), (-90, -100, -79), (-30, -44, -17), "too steep"),
        ((-8, -12, -4), (-11, -17, -6), (-3, -11, 4), "not clearly different"),
        # Hardly measured to grow: that nothing is seen is not that the opposite is.
        ((-18, -33, -4), (1, -2, 4), (19, 10, 28), "too flat"),
    ],
)
def test_verdicts_follow_the_intervals(true, measured, difference, verdict):
    trend = ageing.Trend("X", *(ageing.Slope(*given) for given in (true, measured, difference)))
    assert trend.verdict == verdict and verdict in ageing.VERDICTS


def test_measured_trends_stand_beside_the_true_ones(aged):
    write_slopes(
        aged,
        {
            "Hippocampus": (-23.4, -30, -16, 38.8, 27, 51, 62.2, 40, 80),
            "Thalamus": (-59, -67, -52, -55, -66, -44, 4, -10, 18),
            "ICV": (float("nan"),) * 9,
        },
    )
    section = section_of(aged)
    (aged.statistics("agreement") / "agreement_slopes.tsv").unlink()
    assert "Do these trends hold?" in section and "Do not trust" not in section
    assert (
        "wrong direction in 1 (hippocampus); it is not clearly different from the true one in 1 (thalamus)" in section
    )
    assert "Of 2 structures" in section, "one has no true slope"
    row = re.search(r'<tr class="beyond"><th scope="row">Hippocampus</th>(.*?)</tr>', section)[1]
    cells = ["−0.023 (−0.030 to −0.016)", "0.039 (0.027 to 0.051)", "0.062 (0.040 to 0.080)", "in the wrong direction"]
    assert re.findall(r"<td[^>]*>(.*?)</td>", row) == cells
    table = section.split("Change with age per structure")[1]
    assert "in the wrong direction" in re.search(r">Hippocampus</th>(.*?)</tr>", table)[1]
    assert "agreement_slopes.tsv" in section


def test_trends_by_starter_weights_are_not_to_be_trusted_and_their_errors_are_told(aged):
    section = section_of(aged)
    assert "Do not trust these trends" in section and "Do these trends hold?" not in section
    assert "cerebral cortex falls by 92 ml and was measured with SynthSR to fall by 7 ml" in section
    page = aged.report.read_text(encoding="utf-8")
    assert "2 % (ICV), 14 % (cerebral white matter)" in page and "25 % (hippocampus)" in page
    assert "docs/validation.md" in page and "measured against true volumes" not in page


def test_other_weights_bear_no_warning_of_the_starter_weights(tmp_path):
    results = make_results(tmp_path / "results", n_people=3)
    assert "trust" not in section_of(results) and "starter" not in results.report.read_text(encoding="utf-8")


def test_nothing_fitted_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(results_maker, "SHA256", registered()["synthsr"].sha256)
    results = make_results(tmp_path / "results", n_people=3)
    run_ageing(results)
    section = section_of(results)
    assert "<p>No curve was fitted: 3 participants, 20 are the least.</p>" in section
    for told in ("<table", "<figure", "knots", "trust", "<li>"):
        assert told not in section


def test_figures_of_the_starter_weights_are_those_of_the_validation():
    told = (DOCS / "validation.md").read_text(encoding="utf-8").replace("−", "-")
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in told.splitlines()]
    by_synthsr: dict[str, str] = {}
    for row in rows:
        if len(row) == 8 and "·" in row[1]:
            by_synthsr.setdefault(row[0], row[1])
    for name, percent in starter.ERRORS_PERCENT.items():
        assert float(by_synthsr[figures.readable(name)].split("·")[1]) == percent
    assert set(by_synthsr) == set(map(figures.readable, starter.ERRORS_PERCENT))
    medians = {row[0]: row for row in rows if len(row) == 10 and row[0] in by_synthsr}
    for name, (true_ml, measured_ml) in starter.FALLS_ML.items():
        cells = [float(cell) for cell in medians[figures.readable(name)][1:]]
        young, old = (cells[place : place + 2] for place in (0, 6))
        assert young[0] - old[0] == pytest.approx(true_ml, abs=0.06)
        measured = [median * (1 + percent / 100) for median, percent in (young, old)]
        assert measured[0] - measured[1] == pytest.approx(measured_ml, abs=0.06)
    assert f"{starter.N_PATIENTS} sessions" in told
    for name in ("segmentation", "synthsr"):
        assert f"{name} {registered()[name].sha256[:12]}" in told, "the validation is of other weights"


def test_numbers_have_their_nouns_and_limits_their_side():
    assert text.number_of(1, "scan") == "1 scan" and text.number_of(0, "scan") == "0 scans"
    assert text.number_of(1, "woman", "women") == "1 woman" and text.number_of(2, "woman", "women") == "2 women"
    assert text.bound(1.1, 1.5) == "at least 1.10" and text.bound(2.2, 1.5) == "at most 2.20"
