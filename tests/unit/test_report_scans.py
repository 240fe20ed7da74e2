"""Pages of single scans, their pictures in batches, the viewer's data, and what a person decided."""

import base64
import gzip
import json
import math

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from results_maker import SHA256, make_pictures, make_results

from analysis import cli, gate, tsv
from analysis.layout import Results
from analysis.report import content, measures, scans, site, viewed
from analysis.statistics import figures
from synthsr import labels

HOSTILE = "<script>alert('x')</script>"
N_PICTURES = 2


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Results:
    """People with a scan each, centiles as the ageing model leaves them, and hostile text wherever data bring it."""
    results = make_results(tmp_path_factory.mktemp("study") / "results", n_people=30)
    first = sorted(tsv.read(results.gate).query("included == 'yes'")["scan_id"])[0]
    folder = results.statistics("ageing-scans")
    score = {"scan_id": first, "structure": "Hippocampus", "centile": 7.5, "note": ""}
    tsv.write(pd.DataFrame([score]), folder / "ageing_scores.tsv")
    tsv.write(pd.DataFrame(columns=["structure"]), folder / "ageing_summary.tsv")
    facts = {"n_rows": 1, "n_participants": 1, "notes": [], "method": "", "sources": []}
    (folder / "ageing.json").write_text(json.dumps(facts))
    (folder / "ageing.png").write_bytes(b"")
    sidecar = results.raw(first).with_name(f"{first}.json")
    told = json.loads(sidecar.read_text()) | {
        "Manufacturer": HOSTILE,
        "SeriesDescription": HOSTILE,
        "ConversionWarnings": [HOSTILE],
        "EchoTime": 0.09,
    }
    sidecar.write_text(json.dumps(told))
    sessions = tsv.read(results.sessions)
    tsv.write(sessions.assign(sex=[HOSTILE, *sessions["sex"][1:]], comment=HOSTILE), results.sessions)
    table = tsv.read(results.gate)
    table.loc[table["scan_id"] == first, ["decided_by", "reason"]] = ["person", HOSTILE]
    tsv.write(table, results.gate)
    make_pictures(results, N_PICTURES)
    assert cli.main(["report", str(results.root)]) == 0
    return results


@pytest.fixture(scope="module")
def pages(study) -> dict[str, scans.ScanPage]:
    return {page.scan_id: page for page in scans.Scans(content.collect(study))}


@pytest.fixture(scope="module")
def first(pages) -> scans.ScanPage:
    return next(page for page in pages.values() if page.included)


def test_every_scan_that_came_behind_the_intake_has_a_page(study, pages):
    rows = tsv.read(study.gate)
    assert sorted(pages) == sorted(rows["scan_id"])
    assert all(study.scan_page(scan_id).is_file() for scan_id in pages)
    assert sum(page.has_pictures for page in pages.values()) == N_PICTURES
    (unconverted,) = (page for page in pages.values() if page.stage == "converted")
    text = study.scan_page(unconverted.scan_id).read_text()
    assert "constant image" in text and "Nothing was measured" in text and not unconverted.files


def test_volumes_are_the_tables_and_ranks_are_among_the_included(study, pages, first):
    table = tsv.read(study.volumes, numbers=["volume_mm3"])
    wide = table.pivot(index="scan_id", columns="structure", values="volume_mm3")
    both = wide["Left-Hippocampus"] + wide["Right-Hippocampus"]
    shown = {row.structure: row for row in first.volumes}
    row = shown["Hippocampus"]
    assert row.both_mm3 == pytest.approx(both[first.scan_id], rel=1e-5)
    assert row.left_mm3 + row.right_mm3 == pytest.approx(row.both_mm3)
    shares = both / wide["ICV"]
    below = (shares < shares[first.scan_id]).mean() + 0.5 / len(shares)
    assert row.rank_percent == pytest.approx(100 * below, abs=1e-6)
    assert row.centile == row.shown_percent == 7.5 and math.isnan(shown["Thalamus"].centile)
    assert shown["Thalamus"].shown_percent == shown["Thalamus"].rank_percent
    ranks = [one.rank_percent for page in pages.values() for one in page.volumes if one.structure == "ICV"]
    assert np.mean(ranks) == pytest.approx(50) and min(ranks) > 0 and max(ranks) < 100


def test_few_scans_are_no_cohort_to_be_ranked_in(tmp_path):
    results = make_results(tmp_path / "results", n_people=7)
    page = next(iter(scans.Scans(content.collect(results))))
    assert page.volumes and all(math.isnan(row.rank_percent) for row in page.volumes)
    assert page.no_ranks == "the cohort has 9 included scans with volumes, 20 are the least"
    assert page.no_centiles == "the ageing analysis has not run"
    assert cli.main(["report", str(results.root), "--pictures", "0"]) == 0
    told = results.scan_page(page.scan_id).read_text()
    assert f"No centiles: {page.no_centiles}. No ranks: {page.no_ranks}." in told
    assert not any(f">{head}</th>" in told for head in ("Centile", "Rank", "0 to 100")) and "Of the ICV (%)" in told


def test_a_scan_without_centiles_says_why(study, pages, first):
    assert first.no_centiles == first.no_ranks == ""
    told = study.scan_page(first.scan_id).read_text()
    assert "Centile: of 100 people of the same age" in told and "Rank: of 100 of the cohort" in told
    others = {page.no_centiles for page in pages.values() if page.volumes and page is not first}
    assert others == {"no ageing curve was fitted (there are no volumes)"}


def test_remarks_of_the_converter_are_provenance_and_no_warnings(study, first):
    told = study.scan_page(first.scan_id).read_text()
    assert '<h2 id="warnings-title">' not in told and first.files[0].remarks == [HOSTILE]
    assert "<q>&lt;script&gt;" in told.split('id="provenance-title"')[1]


def test_outlines_have_a_legend_in_their_colours(study, first):
    named = site.legend()
    assert named["Hippocampus"] == "#dcd814" and "ICV" not in named and len(named) == 12
    for side in ("Left-", "Right-"):
        colours = {figures.readable(one.name.removeprefix(side)): one.colour for one in labels.table()}
        assert all(colours[name] == tuple(bytes.fromhex(named[name][1:])) for name in named)
    for page in (study.scan_page(first.scan_id), study.report, study.report.with_name("scans.html")):
        assert page.read_text().count('<rect x="1" y="1"') == len(named)


def test_measures_stand_against_their_limits(pages):
    (small,) = (page for page in pages.values() if page.stage == "segmented" and not page.included)
    by_name = {(measure.name, measure.limit): measure for measure in small.measures}
    limits = gate.read_limits().set_index("measure")["limit"]
    icv = by_name[measures.NAMES["icv_litres"], 1.1]
    assert icv.verdict == "beyond the limit" and icv.badness == pytest.approx((icv.value - 1.5) / (1.1 - 1.5))
    assert by_name[measures.NAMES["noise_share"], limits["noise_share"]].verdict == "within"
    assert set(limits.index) == set(measures.NAMES)


def test_provenance_names_weights_hashes_and_command(study, first):
    assert [file.what for file in first.files] == ["converted scan", "synthetic T1", "segmentation"]
    made = first.files[1]
    assert made.weights_sha256 == SHA256 and (study.root / made.path).is_file()
    assert made.command == (
        "python -m analysis synthesise RESULTS/batches/convert/batch-0001.tsv --out RESULTS --weights synthsr"
    )
    text = study.scan_page(first.scan_id).read_text()
    assert SHA256 in text and "dcm2niix v1.0.20250506" in text and str(study.root) not in text


def test_text_from_data_is_shown_not_run_and_what_could_identify_is_not_shown(study, first):
    text = study.scan_page(first.scan_id).read_text()
    assert "<script" not in text and text.count("&lt;script&gt;") == 3  # manufacturer, warning, reason
    everything = [path.read_text() for path in study.report.parent.rglob("*.html")]
    assert not any("SeriesDescription" in page or "comment" in page for page in everything)
    assert not any("<script>alert" in page for page in everything)


def test_a_scan_that_is_gone_takes_its_page_along(tmp_path):
    results = make_results(tmp_path / "results", n_people=3)
    old = [results.scan_page("sub-9999_T1w", kind=kind) for kind in ("html", "png", "js")]
    old[0].parent.mkdir(parents=True)
    for path in old:
        path.touch()
    assert cli.main(["report", str(results.root)]) == 0
    assert not any(path.exists() for path in old) and len(list(old[0].parent.iterdir())) == 4


def test_pictures_are_remade_only_for_what_changed(study, tmp_path):
    done = tsv.read(study.batch("pictures", "0001"))
    assert list(done["status"]) == ["done"] * N_PICTURES
    pictures = [study.scan_page(scan_id, kind="png") for scan_id in done["scan_id"]]
    times = [path.stat().st_mtime_ns for path in pictures]
    table = study.root.parent / "few" / "batch-0001.tsv"
    rows = tsv.read(table)
    rows.loc[0, "sha256"] = "f" * 64
    tsv.write(rows, table)
    assert cli.main(["pictures", str(table), "--out", str(study.root)]) == 0
    now = [path.stat().st_mtime_ns for path in pictures]
    assert [time != before for time, before in zip(now, times, strict=True)] == [True, False]
    # A lesion mask of the other scan comes.
    scan_id = done["scan_id"][1]
    mask = tmp_path / "masks" / "by hand" / f"{scan_id}_label-lesion_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.symlink_to(study.segmentation(scan_id))
    assert cli.main(["pictures", str(table), "--out", str(study.root), "--lesions", str(tmp_path / "masks")]) == 0
    later = [path.stat().st_mtime_ns for path in pictures]
    assert [time != before for time, before in zip(later, now, strict=True)] == [False, True]
    scripts = [study.scan_page(name, kind="js").read_text() for name in done["scan_id"]]
    assert ['"lesion"' in script for script in scripts] == [False, True]


def test_a_scan_without_its_files_is_told_and_the_others_go_on(tmp_path):
    results = make_results(tmp_path / "results", n_people=2)
    scan_id = tsv.read(results.batch("segment", "0001"))["scan_id"][0]
    results.raw(scan_id).unlink()
    make_pictures(results, 2)
    table = tsv.read(results.batch("pictures", "0001"))
    assert list(table["status"]) == ["rejected", "done"] and "is gone" in table["reason"][0]


def test_the_viewers_volumes_are_the_scans_at_2_mm(tmp_path):
    """A block of 20 × 24 × 28 mm at a known place, in an image of another orientation than the grid's."""
    numbers = np.zeros((40, 40, 40), np.int16)
    numbers[15:25, 14:26, 13:27] = 17
    affine = np.diag([-2.0, 2, 2, 1])
    affine[:3, 3] = [40, -40, -40]
    image = nib.Nifti1Image(numbers, affine)
    nib.save(image, tmp_path / "seg.nii.gz")
    nib.save(nib.Nifti1Image((numbers * 4).astype(np.float32), affine), tmp_path / "t1.nii.gz")
    raw = image.as_reoriented(nib.orientations.axcodes2ornt("PSL"))
    nib.save(raw, tmp_path / "raw.nii.gz")
    text = viewed.script(
        "sub-1_T1w",
        raw=tmp_path / "raw.nii.gz",
        at_1mm=tmp_path / "t1.nii.gz",
        segmentation=tmp_path / "seg.nii.gz",
        lesion=tmp_path / "seg.nii.gz",
    )
    scan_id, volumes = json.loads("[" + text.removeprefix("synthsrVolumes(").removesuffix(");\n") + "]")
    found = {
        name: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data))) for name, data in volumes.items()
    }
    assert scan_id == "sub-1_T1w" and list(found) == ["input", "synthetic", "segmentation", "lesion"]
    seen = np.asarray(found["segmentation"].dataobj) == 17
    assert seen.sum() * 8 == 20 * 24 * 28
    centre = nib.affines.apply_affine(found["segmentation"].affine, np.argwhere(seen).mean(axis=0))
    assert centre == pytest.approx(nib.affines.apply_affine(affine, np.argwhere(numbers).mean(axis=0)), abs=1e-5)
    assert {image.shape for image in found.values()} == {tuple(n // 2 + 1 for n in (18 + 32, 22 + 32, 26 + 32))}
    for name, level in (("input", 252), ("synthetic", 17 * 4 * 255 / 128 // 4 * 4), ("lesion", 1)):
        data = np.asarray(found[name].dataobj)
        assert data.dtype == np.uint8 and (data[seen] == level).all() and not data[~seen].any(), name


def test_the_viewers_colours_are_the_label_tables():
    given = site.colours()
    for place, number in enumerate(given["I"]):
        label = labels.by_number()[number]
        assert (given["R"][place], given["G"][place], given["B"][place]) == tuple(label.colour)
        assert given["labels"][place] == label.name and (given["A"][place] == 0) == (number == 0)


def data_of(results: Results) -> dict:
    text = (results.report.parent / "scans.data.js").read_text()
    return json.loads(text.removeprefix("window.synthsrScans = ").removesuffix(";\n"))


def test_decisions_on_the_page_are_those_of_the_studys_file(study, first, tmp_path):
    assert data_of(study)["decisions"] == {first.scan_id: {"included": "yes", "reason": HOSTILE}}
    given = pd.DataFrame([("sub-5_T1w", "no", "moved")], columns=list(gate.EXCLUSION_COLUMNS))
    tsv.write(given, tmp_path / "exclusions.tsv")
    read = site.decisions(content.collect(study), tmp_path / "exclusions.tsv")
    assert read == {"sub-5_T1w": {"included": "no", "reason": "moved"}}


def test_vendored_files_are_what_their_packages_hold():
    from synthsr import files

    viewer = site.ASSETS["niivue.umd.js"]
    told = json.loads(viewer.with_name("vendored.json").read_text())
    assert files.sha256(viewer) == told["sha256"] and told["package"] == "@niivue/niivue"
    assert "BSD 2-Clause" in viewer.with_name("LICENSES.txt").read_text()
