"""The report: complete, self-contained, deterministic, and safe against what tables may hold."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from results_maker import (
    SHA256,
    make_atlas,
    make_pictures,
    make_registration,
    make_results,
    run_further_statistics,
    run_statistics,
)

from analysis import cli, gate, tsv
from analysis.layout import Results
from analysis.report import content, pictures, planes, sections, text
from analysis.report.sections import registration
from analysis.statistics import figures
from synthsr import labels

HOSTILE = "<script>alert('x')</script> \"quoted\" & <img src=http://evil/x.png>"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Audit(HTMLParser):
    """Collects what a browser would load, and checks that elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.loads, self.links, self.alts, self.ids = [], [], [], [], [], set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids.add(given.get("id"))
        self.loads += [given[name] for name in ("src", "srcset", "data", "action", "poster") if name in given]
        if tag == "a":
            self.links.append(given["href"])
        elif "href" in given:
            self.loads.append(given["href"])
        if tag == "img":
            self.alts.append(given.get("alt", ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def audit(text: str) -> Audit:
    found = Audit()
    found.feed(text)
    assert not found.open
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Results:
    results = make_results(tmp_path_factory.mktemp("study") / "results", hostile=HOSTILE)
    run_statistics(results)
    make_pictures(results, 3)
    assert cli.main(["report", str(results.root), "--pictures", "60"]) == 0
    return results


@pytest.fixture(scope="module")
def html(study) -> str:
    return study.report.read_text(encoding="utf-8")


def leads_somewhere(link: str, page: Path, ids: set[str]) -> bool:
    if link.startswith("#"):
        return link[1:] in ids
    return (page.parent / unquote(link.split("#")[0])).is_file()


def test_loads_nothing_and_every_link_leads_somewhere(study, html):
    found = audit(html)
    assert found.loads and all(address.startswith("data:image/png;base64,") for address in found.loads)
    assert "script" not in found.tags and "url(" not in html and "@import" not in html
    assert all(leads_somewhere(link, study.report, found.ids) for link in found.links)
    assert html.count('loading="lazy"') == 3


def test_hostile_text_is_shown_not_run(html):
    assert "<script" not in html and "<img src=http" not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html


def test_can_be_read_by_those_who_do_not_see(html):
    found = audit(html)
    assert found.tags.count("h1") == 1 and found.tags.count("table") == found.tags.count("caption")
    assert all(found.alts) and '<html lang="en">' in html


def test_unchanged_results_leave_the_page_untouched(study):
    site = [path for path in study.report.parent.rglob("*.*") if path.is_file()]
    before = [path.stat().st_mtime_ns for path in site]
    assert cli.main(["report", str(study.root), "--pictures", "60"]) == 0
    assert [path.stat().st_mtime_ns for path in site] == before


def test_counts_follow_the_scans(study):
    cohort = content.collect(study)
    counts = {step.name: step.count for step in cohort.flow}
    assert counts["series found"] - counts["chosen"] == 3
    assert counts["chosen"] - counts["converted"] == 1 and counts["segmented"] - counts["included"] == 1
    assert sum(step.lost for step in cohort.flow) == sum(reason.count for reason in cohort.reasons) == 5
    assert cohort.mix["scans"].sum() == len(cohort.included) == counts["included"]


def test_a_scan_that_the_intake_excluded_later_is_counted_once(tmp_path):
    results = make_results(tmp_path / "results", n_people=9)
    series = tsv.read(results.series)
    (broken,) = tsv.read(results.batch("convert", "0001")).query("status == 'rejected'")["scan_id"]
    late = {"decision": "exclude", "reason": "constant image", "scan_id": tsv.MISSING}
    tsv.write(series.mask(series["scan_id"] == broken, pd.Series(late), axis=1), results.series)
    cohort = content.collect(results)
    assert [reason.stage for reason in cohort.reasons if reason.text == "constant image"] == ["intake"]
    assert sum(step.lost for step in cohort.flow) == sum(reason.count for reason in cohort.reasons)


def test_sections_and_provenance_are_there(html):
    for words in ("Not for diagnosis", "Measured against true", "Science Advances 2023", "Koike 2025", SHA256):
        assert words in html
    assert re.search(r"dcm2niix v1\.0\.\d+", html)


def test_machine_paths_stay_out(study, html):
    assert str(study.root) not in html


@pytest.fixture(scope="module")
def further(tmp_path_factory) -> Results:
    """Every statistic that a study can ask for, with hostile names of groups, sites, contrasts and scores."""
    results = make_results(tmp_path_factory.mktemp("further") / "results", n_people=30)
    run_further_statistics(results, hostile=HOSTILE)
    make_registration(results, hostile=HOSTILE)
    make_atlas(results, hostile=HOSTILE)
    assert cli.main(["report", str(results.root), "--pictures", "0"]) == 0
    return results


ANCHORS = (
    *("groups", "arms", "asymmetry", "registration", "landmarks", "atlas", "lesion-map", "tbm", "thickness"),
    "harmonise",
)


def test_every_statistic_has_a_section_with_figure_table_method_and_limits(further):
    page = further.report.read_text(encoding="utf-8")
    found = audit(page)
    made = sections.collect(further)
    assert tuple(section.anchor for section in made) == ANCHORS and found.ids >= set(ANCHORS)
    assert found.links.count("#groups") == 1
    for section in made:
        assert section.figures and section.tables and section.method and section.sources and section.limits
        for table in section.tables:
            assert table.rows and all(len(row) == len(table.head) for row in table.rows), section.anchor
    assert all(address.startswith("data:image/png;base64,") for address in found.loads)
    assert found.tags.count("caption") == found.tags.count("table") > len(ANCHORS) and all(found.alts)
    assert all(leads_somewhere(link, further.report, found.ids) for link in found.links)


def test_names_that_data_bring_along_are_shown_not_run(further):
    page = further.report.read_text(encoding="utf-8")
    found = audit(page)
    assert "script" not in found.tags and "<img src=http" not in page
    for name in ("AD", "Control", "T1", "A", "points"):
        assert f"{name}&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page


def test_numbers_are_those_of_the_tables(further):
    by_anchor = {section.anchor: section for section in sections.collect(further)}
    wanted = tsv.read(further.statistics("groups") / "groups.tsv").set_index("structure").loc["Hippocampus"]
    (table,) = by_anchor["groups"].tables
    shown = dict(zip(table.head, next(row for row in table.rows if row[0] == "Hippocampus"), strict=True))
    value, low, high = (f"{float(wanted[name]):.2f}" for name in ("auroc", "auroc_low", "auroc_high"))
    assert shown["AUROC"] == f"{value} ({low} to {high})"
    assert shown["People"] == f"{wanted['n']} / {wanted['other_n']}" and "Note" not in shown
    against, by_arm = by_anchor["arms"].tables
    assert [row[0] for row in against.rows] == ["synthsr", "cubic"]
    assert [row[1] for row in by_arm.rows[:3]] == ["real-1mm", "synthsr", "cubic"]
    held = tsv.read(further.statistics("arm-cubic") / "agreement.tsv").set_index("structure").loc["Hippocampus"]
    expected = f"{float(held['pearson_r']):.2f} · {float(held['mean_absolute_error_percent']):.1f} %"
    assert dict(zip(against.head, against.rows[1], strict=True))["Hippocampus"] == expected


def test_registration_tells_what_was_done_and_which_pairs_stand_out(further):
    section = next(section for section in sections.collect(further) if section.anchor == "registration")
    tasks, measures, outliers = section.tables
    assert [row[2:] for row in tasks.rows] == [["1", "1"], ["8", "1"]]
    assert tasks.rows[1][1].startswith("1 × sub-") and ".nii.gz: holds 3 %" in tasks.rows[1][1]
    assert (
        "/data" not in further.report.read_text() + (further.report.parent / "data/registration_tasks.tsv").read_text()
    )
    by_name = {row[0]: row for row in measures.rows}
    assert by_name["Part of voxels where space folds"][3:] == ["0.0001", "1"]
    assert by_name["Normalised mutual information"][1] == "8" and len(by_name) == 6, "one was never measured"
    ((scan, why),) = outliers.rows
    assert why == "part of voxels where space folds 0.0400, limit 0.0001"
    pairs = tsv.read(further.report.parent / "data" / "registration_pairs.tsv").set_index("scan_id")
    assert list(pairs.index[pairs["outlier"] == "yes"]) == [scan]
    assert len(section.gallery) == 8 and section.gallery[0].caption == f"{scan} with ses-01: {why}"
    assert further.report.read_text().count('loading="lazy"') == 8


def test_limits_are_robust_and_need_pairs():
    measures = dict.fromkeys(registration.MEASURES, [np.nan] * 7)
    pairs = pd.DataFrame({**measures, "nmi": [1.2, 1.21, 1.19, 1.2, 1.22, 1.0, 1.5]})
    table, limits = registration.judged(pairs)
    # Median 1.2, median absolute deviation 0.02 of 0, 0.01, 0.01, 0, 0.02, 0.2, 0.3 → 0.01.
    assert limits.set_index("measure").loc["nmi", "limit"] == pytest.approx(1.2 - 5 * 1.4826 * 0.01)
    assert list(table["outlier"]) == [*["no"] * 5, "yes", "no"], "a high similarity is not bad"
    few, limits = registration.judged(pairs.tail(4))
    assert set(few["outlier"]) == {"no"} and limits["limit"].isna().all()


def test_atlas_tells_rounds_and_outliers(further):
    section = next(section for section in sections.collect(further) if section.anchor == "atlas")
    rounds, measures, outliers, images = section.tables
    assert [row[:4] for row in rounds.rows] == [
        ["0", "start", "3", "–"],
        ["1", "affine", "3", "25.00"],
        ["2", "svf", "3", "1.25"],
    ]
    assert rounds.rows[-1][-1] == "yes" and measures.rows[0][2] == "0.800 (0.800 to 0.800)"
    assert [row[0] for row in outliers.rows] == ["sub-0003"]
    assert [row[0] for row in images.rows] == ["template_T1w.nii.gz", "median_FLAIR.nii.gz", "labels.nii.gz"]
    assert section.lead.startswith("3 members; the registration of 1")


def test_fields_of_a_checkerboard_are_of_one_image_and_the_other(tmp_path):
    numbers = np.zeros((50, 60, 50), np.float32)
    numbers[10:40, 10:50, 10:40] = 50
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = [-98, -118, -98]
    for name, data in (("one", numbers), ("same", 9 * numbers), ("inverse", 50 - numbers)):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}.nii.gz")
    pairs = [(tmp_path / "one.nii.gz", tmp_path / f"{name}.nii.gz") for name in ("same", "inverse")]
    board = planes.checkerboards(pairs)
    half = (board.shape[1] - planes.GAP_PIXELS) // 2
    same, inverse = board[:, :half, 0], board[:, -half:, 0]
    assert set(np.unique(same)) >= {0, 255} and (same[80:130, 90:120] == 255).all(), "nothing shows where they agree"
    field = int(planes.FIELD_MM)
    # Two neighbouring fields in the middle of the head: the one image's and its inverse.
    rows = slice(field * 4 + 2, field * 5 - 2)
    left = (half - int(2 * planes.HALF_MM[0])) // 2
    fields = [inverse[rows, left + field * n + 2 : left + field * (n + 1) - 2] for n in (3, 4)]
    assert sorted(np.unique(part).tolist() for part in fields) == [[0], [255]]


def test_the_middle_of_a_head_is_found_above_its_neck():
    data = np.zeros((60, 60, 90), np.float32)
    data[20:40, 15:45, 50:85] = 100  # 140 mm high
    data[25:35, 20:40, :50] = 100
    affine = np.diag([4.0, 4, 4, 1])
    upside_down = np.diag([1.0, -1, -1, 1])
    upside_down[1:3, 3] = [59, 89]
    for voxels, place in ((data, affine), (data[:, ::-1, ::-1], affine @ upside_down)):
        x, y, z = planes.head_centre(voxels, place, (0.0, 100.0))
        assert abs(x - 118) < 6 and abs(y - 118) < 6 and 255 < z < 280
    assert planes.head_centre(0 * data, affine, (0.0, 1.0)).tolist() == [118, 118, 178]


def test_agreement_is_shown_by_slice_distance(study):
    (section,) = sections.collect(study)
    assert section.anchor == "agreement" and len(section.figures) == 2
    overall, by_distance = section.tables
    assert by_distance.head[:2] == ("Structure", "All (n = 55)") and len(by_distance.head) == 5
    assert {row[0] for row in by_distance.rows} == {row[0] for row in overall.rows}


def test_an_arm_without_synthsr_does_not_call_its_images_synthetic(tmp_path):
    results = make_results(tmp_path / "results", n_people=9)
    table = results.batch("synthesise", "0001")
    rows = tsv.read(table)
    for scan_id in rows["scan_id"]:
        segmentation = results.segmentation(scan_id), results.segmentation(scan_id, description="cubic")
        for made, named in ((results.synthetic(scan_id), results.interpolated(scan_id)), segmentation):
            if made.is_file():
                named.parent.mkdir(parents=True, exist_ok=True)
                made.rename(named)
    rows["path"] = [results.interpolated(scan_id).relative_to(results.root).as_posix() for scan_id in rows["scan_id"]]
    tsv.write(rows, table)
    segmented = tsv.read(results.batch("segment", "0001"))
    segmented["path"] = segmented["path"].str.replace("desc-synthsr", "desc-cubic")
    tsv.write(segmented, results.batch("segment", "0001"))
    make_pictures(results, 2)
    assert cli.main(["report", str(results.root)]) == 0
    page = results.report.read_text(encoding="utf-8")
    assert "without SynthSR" in page and "became synthetic" not in page and "the same at 1 mm" in page
    assert page.count('loading="lazy"') == 2


def test_nothing_included_is_said_at_the_top(tmp_path):
    results = make_results(tmp_path / "results", n_people=0)
    assert cli.main(["report", str(results.root)]) == 0
    text = results.report.read_text()
    audit(text)
    assert "Nothing was included" in text and "3 series were found" in text


def test_an_empty_folder_gives_a_page_and_a_missing_one_an_error(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "No series was found" in Results(tmp_path).report.read_text()
    assert cli.main(["report", str(tmp_path / "absent")]) == 65
    assert "no such folder" in capsys.readouterr().err


def test_without_truth_there_is_no_agreement(tmp_path):
    results = make_results(tmp_path / "results", n_people=9)
    assert cli.main(["report", str(results.root), "--pictures", "0"]) == 0
    text = results.report.read_text()
    assert "Measured against true" not in text and "simulated" not in text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/data/patients/x/scan.nii.gz: constant image", "scan.nii.gz: constant image"),
        ("results/rawdata/sub-1/scan.nii.gz: constant", "scan.nii.gz: constant"),
        ("neither T1w/T2w nor FLAIR", "neither T1w/T2w nor FLAIR"),
    ],
)
def test_reasons_lose_their_folders(given, shown):
    assert text.without_paths(given) == shown


def test_montage_shows_all_three_at_the_same_place_whatever_the_orientation(tmp_path):
    numbers = np.zeros((40, 50, 40), np.int16)
    numbers[10:30, 10:40, 10:30] = 2
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = [-80, -100, -80]
    image = nib.Nifti1Image(numbers, affine)
    nib.save(image, tmp_path / "seg.nii.gz")
    nib.save(nib.Nifti1Image((numbers * 50).astype(np.float32), affine), tmp_path / "t1.nii.gz")
    turned = nib.Nifti1Image((numbers * 9).astype(np.float32), affine).as_reoriented(
        nib.orientations.axcodes2ornt("PIL")
    )
    nib.save(turned, tmp_path / "raw.nii.gz")
    rgb = planes.montage(tmp_path / "raw.nii.gz", tmp_path / "t1.nii.gz", tmp_path / "seg.nii.gz")
    quarter = (rgb.shape[1] - 3 * planes.GAP_PIXELS) // 4
    columns = [rgb[:, start : start + quarter] > 60 for start in (0, quarter + planes.GAP_PIXELS)]
    assert columns[0].mean() > 0.1 and (columns[0] == columns[1]).mean() > 0.99
    # Outlines, in the colour of label 2, lie on the same border in both.
    outlines = [
        (rgb[:, -2 * quarter - planes.GAP_PIXELS :][:, start : start + quarter] == 245).all(axis=-1)
        for start in (0, quarter + planes.GAP_PIXELS)
    ]
    assert 500 < outlines[0].sum() < 5000 and (outlines[0] == outlines[1]).all()


def test_outlines_are_where_labels_change_and_have_the_label_tables_colours():
    numbers = np.zeros((7, 7), int)
    numbers[1:6, 1:6] = 17
    painted = planes.outlined(np.zeros((7, 7, 3), np.uint8), numbers)
    is_painted = (painted == labels.by_number()[17].colour).all(axis=-1)
    inner = np.zeros((7, 7), bool)
    inner[2:5, 2:5] = True
    assert (is_painted == ((numbers == 17) & ~inner)).all() and not painted[~is_painted].any()


def shown_values(axis) -> list[float]:
    """What the marks of a panel stand at, without its limits."""
    return sorted(float(x) for line in axis.lines if line.get_marker() in "oD" for x in line.get_xdata())


def test_few_values_are_shown_one_by_one_and_many_as_bars_that_can_be_seen():
    rng = np.random.default_rng(0)
    for values, limits in (([0.01, 0.012, 0.02], [0.4]), ([0.0, 0.0], [0.5]), ([1.0, 0.9], [0.5]), ([3.0], [])):
        _, (axis,) = figures.panels(1)
        given = [pd.Series(values[:1]), pd.Series(values[1:], dtype=float)]
        pictures.draw_distribution(axis, given, np.array(limits), ("good", "bad"))
        assert shown_values(axis) == sorted(values) and not axis.patches
        low, high = axis.get_xlim()
        assert 0 <= low <= min([*values, *limits]) and max([*values, *limits]) <= high
        assert high <= 1 or max(values) > 1
    _, (axis,) = figures.panels(1)
    groups = [pd.Series(rng.normal(0.03, 0.001, 50)), pd.Series([], dtype=float)]
    pictures.draw_distribution(axis, groups, np.array([0.4]), ("good", "bad"))
    low, high = axis.get_xlim()
    assert sum(bar.get_height() for bar in axis.patches) == 50
    assert all(bar.get_width() > (high - low) / 50 for bar in axis.patches)
    assert axis.get_legend_handles_labels()[1] == ["good", "limit"]


def test_quality_is_named_alike_in_figure_and_table(study, html, monkeypatch):
    titles = []
    drawn = pictures.draw_distribution
    monkeypatch.setattr(pictures, "draw_distribution", lambda axis, *given: [titles.append(axis), drawn(axis, *given)])
    pictures.quality(content.collect(study).gate, gate.read_limits())
    told = [axis.get_title().replace("\n", " ") for axis in titles]
    section = html.split('<section id="quality"')[1].split("</section>")[0].replace("&#39;", "'")
    assert told == list(dict.fromkeys(re.findall(r'<tr><th scope="row">(.*?)</th>', section))) and len(told) == 2
    assert "at least 1.10" in section and "at most 2.20" in section


def test_a_station_names_every_reason_that_there_is_room_for():
    reasons = [content.Reason("intake", f"reason {number}", 2) for number in range(5)]
    four, five = (content.Step("chosen", 9, 2 * number, reasons[:number]) for number in (4, 5))
    assert len(four.shown) == 4 and four.n_others == 0
    assert len(five.shown) == 3 and five.n_others == 4


def test_what_a_person_decided_is_said_so_in_flow_and_head(tmp_path):
    results = make_results(tmp_path / "results", n_people=3)
    table = tsv.read(results.gate)
    table.loc[0, ["included", "decided_by", "reason"]] = ["no", "person", "motion"]
    tsv.write(table, results.gate)
    assert cli.main(["report", str(results.root), "--pictures", "0"]) == 0
    page = results.report.read_text()
    assert "1 × motion (decided by a person)" in page
    assert "4 scans became synthetic 1 mm T1s; 3 of them, of 3 sessions and 3 people, are included." in page
    assert "Cortical thickness" not in page, "nobody measured it"


def test_choice_takes_turns_over_kinds(study):
    chosen = pictures.choose(content.collect(study).included, 6)
    assert len(chosen[["contrast", "plane"]].drop_duplicates()) == 6


def test_captions_of_snakemakes_own_report_are_there_and_used():
    workflow = Path(__file__).parents[2] / "workflow"
    rules = "".join(path.read_text(encoding="utf-8") for path in (workflow / "rules").glob("*.smk"))
    used = re.findall(r'caption="\.\./report/(\w+\.rst)"', rules)
    assert {*used, "workflow.rst"} == {path.name for path in (workflow / "report").iterdir()}


def test_numbers_are_written_for_people():
    assert (
        text.number("-1234.567", 1) == "−1\u202f234.6"
        and text.number("n/a") == "–"
        and text.number(float("nan")) == "–"
    )
    assert text.number("-0.001") == "0.00" and text.millilitres("3512", 1) == "3.5"
    assert text.with_interval("0.81", "0.7", "0.9") == "0.81 (0.7 to 0.9)" and text.with_interval("1", "–", "–") == "1"
    assert text.p_value("3e-9") == "< 0.0001" and text.p_value("0.0312") == "0.03"
