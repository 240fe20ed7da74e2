"""The report: complete, self-contained, deterministic, and safe against what tables may hold."""

import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from results_maker import SHA256, make_results, run_statistics

from analysis import cli, tsv
from analysis.layout import Results
from analysis.report import content, page, pictures
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
    assert cli.main(["report", str(results.root), "--pictures", "4"]) == 0
    return results


@pytest.fixture(scope="module")
def html(study) -> str:
    return study.report.read_text(encoding="utf-8")


def test_loads_nothing_and_every_link_leads_somewhere(study, html):
    found = audit(html)
    assert found.loads and all(address.startswith("data:image/png;base64,") for address in found.loads)
    assert "script" not in found.tags and "url(" not in html and "@import" not in html
    for link in found.links:
        assert link[1:] in found.ids if link.startswith("#") else (study.report.parent / link).is_file()


def test_hostile_text_is_shown_not_run(html):
    assert "<script" not in html and "<img src=http" not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html


def test_can_be_read_by_those_who_do_not_see(html):
    found = audit(html)
    assert found.tags.count("h1") == 1 and found.tags.count("table") == found.tags.count("caption")
    assert all(found.alts) and '<html lang="en">' in html


def test_unchanged_results_leave_the_page_untouched(study):
    before = study.report.stat().st_mtime_ns
    assert cli.main(["report", str(study.root), "--pictures", "4"]) == 0
    assert study.report.stat().st_mtime_ns == before


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
    assert content.without_paths(given) == shown


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
    rgb = pictures.montage(tmp_path / "raw.nii.gz", tmp_path / "t1.nii.gz", tmp_path / "seg.nii.gz")
    third = (rgb.shape[0] - 2 * pictures.GAP_PIXELS) // 3
    rows = [rgb[start : start + third] > 60 for start in (0, third + pictures.GAP_PIXELS)]
    assert rows[0].any() and (rows[0] == rows[1]).mean() > 0.99


def test_tint_uses_the_label_tables_colours():
    numbers = np.array([[0, 17]])
    painted = pictures.tint(np.zeros((1, 2, 3), np.uint8), numbers)
    assert painted[0, 0].tolist() == [0, 0, 0]
    assert painted[0, 1].tolist() == [round(channel / 2) for channel in labels.by_number()[17].colour]


def test_choice_takes_turns_over_kinds(study):
    chosen = pictures.choose(content.collect(study).included, 6)
    assert len(chosen[["contrast", "plane"]].drop_duplicates()) == 6


def test_numbers_are_written_for_people():
    assert (
        page.number("-1234.567", 1) == "−1\u202f234.6"
        and page.number("n/a") == "–"
        and page.number(float("nan")) == "–"
    )
    assert page.p_value("3e-9") == "< 0.0001" and page.p_value("0.0312") == "0.03"
