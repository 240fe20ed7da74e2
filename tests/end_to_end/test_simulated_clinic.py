"""From simulated DICOM to the report, with bad files among them; run again, and repaired."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import leaks
import pydicom
import pytest

from analysis import cli, tsv
from analysis.layout import Results

Run = Callable[..., str]


CLINIC = """\
seed: 45
patients: 3
series:
  - {kind: localizer, share: 0.4}
  - {kind: [T1w, T2w, FLAIR]}
  - {kind: [T1w, T2w, FLAIR], share: 0.4}
  - {kind: DWI, share: 0.4}
  - {kind: [MIP, duplicate], share: 0.7}
truth_mm: 1
"""


class Study:
    """A clinic, the study made of it, and the command that makes it."""

    def __init__(self, root: Path, snakemake: Run) -> None:
        self.root, self.study, self.clinic = root, root / "study", root / "clinic"
        self.results, self._snakemake = Results(self.study / "results"), snakemake

    def run(self, *arguments: str, config: Sequence[str] = ()) -> str:
        given = [f"dicom={self.clinic / 'dicom'}", f"truth={self.clinic / 'truth.tsv'}", "batch_size=2", *config]
        return self._snakemake(self.study, *arguments, "--config", *given)

    def state(self) -> dict[str, tuple[int, str]]:
        """Time and hash of every file of the scans."""
        folders = [self.results.root / name for name in ("rawdata", "synthsr", "segmentation-embedded")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {
            path.relative_to(self.results.root).as_posix(): (
                path.stat().st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in files
        }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, snakemake: Run) -> Study:
    """Three patients, a scan of each and a second of one, what else an archive holds, and two files that are none."""
    made = Study(tmp_path_factory.mktemp("clinic"), snakemake)
    config = made.root / "clinic.yaml"
    config.write_text(CLINIC)
    assert cli.main(["simulate", str(config), "--out", str(made.clinic), "--jobs", "2"]) == 0
    (made.clinic / "dicom" / "notes.dcm").write_text("This is a text file.\n")
    some = sorted((made.clinic / "dicom").rglob("*.dcm"))[-1]
    (made.clinic / "dicom" / "cut.dcm").write_bytes(some.read_bytes()[:200])
    made.run()
    return made


def test_every_series_has_a_decision(study: Study) -> None:
    series = tsv.read(study.results.series)
    included = series[series["decision"] == "include"]
    made = tsv.read(study.clinic / "scans.tsv")
    assert set(made["kind"]) == {"T1w", "FLAIR", "localizer", "DWI", "MIP", "duplicate"}
    assert len(included) == made["kind"].isin(["T1w", "FLAIR"]).sum() == 4
    assert (series.loc[series["decision"] == "exclude", "reason"] != "").all()
    gate = tsv.read(study.results.gate)
    assert set(gate["scan_id"]) == set(included["scan_id"])
    assert (gate["included"] == "yes").all(), gate


def test_intracranial_volume_is_near_the_truth(study: Study) -> None:
    agreement = tsv.read(study.results.statistics("agreement") / "agreement.tsv", numbers=["bias_percent"])
    icv = agreement.set_index("structure").loc["ICV"]
    assert abs(icv["bias_percent"]) < 10


def secrets(clinic: Path) -> set[str]:
    """Names, identifiers, dates and UIDs in the headers of a clinic."""
    keywords = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber")
    keywords += ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    found = set()
    for path in (clinic / "dicom").rglob("*/*.dcm"):
        header = pydicom.dcmread(path, specific_tags=list(keywords), stop_before_pixels=True)
        found |= {str(header[keyword].value) for keyword in keywords}
    return found


def test_nothing_outside_private_names_a_patient(study: Study) -> None:
    wanted = secrets(study.clinic)
    assert any("Simulated^" in secret for secret in wanted) and len(wanted) > 20
    places = [study.study / name for name in ("results", "logs", "benchmarks", ".snakemake")]
    assert leaks.find(places, wanted) == []


def test_every_scan_has_a_page_with_pictures(study: Study) -> None:
    for scan_id in tsv.read(study.results.gate)["scan_id"]:
        assert all(study.results.scan_page(scan_id, kind=kind).is_file() for kind in ("html", "png", "js"))


def test_second_run_does_nothing(study: Study) -> None:
    before = study.state()
    assert "Nothing to be done" in study.run()
    assert study.state() == before


def test_a_deleted_table_is_made_again(study: Study) -> None:
    tables = [study.results.volumes, study.results.statistics("ageing-scans") / "ageing_summary.tsv"]
    before = [table.read_bytes() for table in tables]
    for table in tables:
        table.unlink()
    study.run()
    assert [table.read_bytes() for table in tables] == before
    assert "Nothing to be done" in study.run()


def test_a_back_end_that_is_added_will_measure_all_scans(study: Study) -> None:
    said = study.run("--dry-run", config=["backends=[embedded,first]"])
    assert "rule segment_by_tool:" in said and "rule tables:" in said and "rule segment:" not in said
    if shutil.which("run_first_all") is None:
        assert "The back end first cannot run on this machine: FSL: run_first_all is not in the PATH" in said


def test_repair_remakes_what_was_deleted_and_nothing_else(study: Study) -> None:
    before = study.state()
    scan_id = tsv.read(study.results.gate)["scan_id"].iloc[0]
    deleted = study.results.synthetic(scan_id)
    deleted.unlink()
    study.run("--forcerun", "convert", "synthesise", "segment")
    after = study.state()
    name = deleted.relative_to(study.results.root).as_posix()
    assert after[name][1] == before[name][1]
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {name}
    assert "Nothing to be done" in study.run()
