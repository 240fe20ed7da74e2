"""Statistics that a study asks for by a key: harmonised volumes reach the others, maps are planned from patterns."""

from pathlib import Path

import pytest
from test_dry_runs import snakemake


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name in ("source/x", "masks/sub-1_lesion.nii.gz", "masks/sub-2_lesion.nii.gz", "maps/sub-1.nii.gz",
                 "s/P1/surf/lh.thickness.mgh", "people table.tsv"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def plan(study: Path, configuration: str, *targets: str) -> str:
    (study / "study.yaml").write_text(f"dicom: {study / 'source'}\n{configuration}")
    result = snakemake(study / "run", "--dry-run", "--printshellcmds", "--cores", "1", *targets, "--configfile",
                       str(study / "study.yaml"))  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_harmonised_volumes_are_what_statistics_read(study):
    people = study / "people table.tsv"
    configuration = f"""
harmonise: {{sites: "{people}", column: scanner, keep: [age_years, sex, diagnosis]}}
groups: {{diagnoses: "{people}"}}
lesions: "{people}"
truth: "{people}"
"""
    planned = plan(study, configuration)
    commands = [line for line in planned.splitlines() if "python -m analysis" in line]
    for name, level in (("ageing", "scans"), ("ageing", "sessions"), ("groups", "sessions"), ("asymmetry", "sessions")):
        assert any(f"analysis {name} results/statistics/harmonise-{level}/volumes.tsv" in line for line in commands)
    assert any("analysis agreement results/tables/volumes.tsv" in line for line in commands)
    harmonise = next(line for line in commands if "analysis harmonise results/tables/volumes.tsv" in line)
    assert f"--participants '{people}'" in harmonise and "--links private/sessions.tsv" in harmonise
    assert "--site scanner --keep age_years sex diagnosis" in harmonise
    assert "analysis harmonise" not in plan(study, "")


def test_maps_are_planned_from_patterns(study):
    configuration = f"""
lesion_map: {{masks: "{study}/masks/*.nii.gz", participants: "{study}/people table.tsv", score: nihss}}
tbm: {{images: "{study}/maps/*.nii.gz", participants: "{study}/people table.tsv"}}
thickness: {{overlays: "{study}/s/*/surf/?h.thickness.mgh", participants: "{study}/people table.tsv"}}
"""
    planned = plan(study, configuration)
    commands = [line for line in planned.splitlines() if "python -m analysis" in line]
    lesions = next(line for line in commands if "analysis lesion-map" in line)
    assert f"{study}/masks/sub-1_lesion.nii.gz {study}/masks/sub-2_lesion.nii.gz --participants '" in lesions
    assert "--score nihss --out results/statistics/lesion-map" in lesions and "--atlas" not in lesions
    assert any("--groups AD Control  --out results/statistics/tbm" in line for line in commands)
    assert any("--contrast diagnosis AD Control --correct age_years sex --out" in line for line in commands)


def test_a_pattern_that_matches_nothing_is_named(study):
    result = snakemake(study / "run", "--dry-run", "--cores", "1", "--config", f"dicom={study / 'source'}",
                       "tbm={images: nowhere/*.nii.gz}")  # fmt: skip
    assert result.returncode != 0 and "tbm.images: no file matches nowhere/*.nii.gz" in result.stdout + result.stderr
