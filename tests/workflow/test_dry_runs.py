"""The workflow's plan: dry runs of every shipped configuration, and what it says of a wrong one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_maker import make_training

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "config" / "experiments"


def snakemake(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call Snakemake as a user would; HOME is empty."""
    home = directory / "home"
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", directory, *arguments],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("configuration", [None, "demo.yaml"])
@pytest.mark.parametrize("kind", ["dicom", "bids"])
def test_fresh_study_plans_the_inventory_first(tmp_path: Path, configuration: str | None, kind: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    file = ["--configfile", str(ROOT / "config" / configuration)] if configuration else []
    truth = tmp_path / "truth.tsv"
    truth.touch()
    given = [f"{kind}={source}", *([f"truth={truth}"] if configuration else [])]
    result = snakemake(tmp_path / "study", "--dry-run", "--cores", "1", *file, "--config", *given)
    assert result.returncode == 0, result.stdout + result.stderr
    # Before the checkpoint is resolved, what follows it is planned without its batches.
    for rule in ("inventory", "gate", "tables", "ageing", "report"):
        assert f"rule {rule}:" in result.stdout or f"checkpoint {rule}:" in result.stdout
    assert ("rule agreement:" in result.stdout) is (configuration is not None)


def test_plan_after_the_inventory_names_every_output(tmp_path: Path) -> None:
    source, study = tmp_path / "source", tmp_path / "study"
    source.mkdir()
    made = [study / "results/intake" / name for name in ("series.tsv", "sessions.tsv")]
    made += [study / "results/batches/select" / f"batch-000{number}.tsv" for number in (1, 2)]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table = tmp_path / "table.tsv"
    table.touch()
    tables = [f"{key}={table}" for key in ("truth", "lesions", "landmarks")]
    common = ["--config", f"dicom={source}", *tables, f"groups={{diagnoses: {table}}}"]
    assert snakemake(study, "--cores", "1", "--touch", "--until", "inventory", *common).returncode == 0
    plan = snakemake(study, "--dry-run", "--cores", "1", *common)
    assert plan.returncode == 0, plan.stdout + plan.stderr
    outputs = set()
    for line in plan.stdout.splitlines():
        name, _, rest = line.strip().partition(": ")
        if name == "output":
            outputs |= {entry.replace(" (update)", "") for entry in rest.split(", ")}
    golden = set((Path(__file__).parent / "golden_outputs.txt").read_text(encoding="utf-8").split())
    assert outputs == golden


@pytest.mark.parametrize("kind", ["dicom", "bids"])
def test_a_study_that_joins_a_patient_schedules_the_inventory(tmp_path: Path, kind: str) -> None:
    source, study = tmp_path / "source", tmp_path / "source" / "derivatives" / "study"
    session = source / "sub-1" / "ses-1" / "anat"
    session.mkdir(parents=True)
    (session / ("1.dcm" if kind == "dicom" else "sub-1_ses-1_T1w.nii.gz")).write_text("no image\n" * 50)
    (source / "participants.tsv").write_text("participant_id\tage\nsub-1\t50\n")
    study.mkdir(parents=True)
    given = ["--cores", "1", "--config", f"{kind}={source}"]

    def plan() -> str:
        result = snakemake(study, "--dry-run", *given)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert snakemake(study, "--until", "inventory", *given).returncode == 0
    planned = plan()
    assert "checkpoint inventory:" not in planned
    # Nothing can be used: no batches, but a report of the reasons.
    assert "rule convert:" not in planned and "rule report:" in planned
    (source / "sub-1" / "ses-2").mkdir()
    assert "checkpoint inventory:" in (planned := plan()) and "Params have changed" in planned


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["dicmo=x"], "dicmo"),
        (["dicom=export.zip"], None),
        (["bids=export.zip"], "export.zip is not a folder"),
        (["dicom=.", "batch_size=many"], "batch_size"),
        (["dicom=.", "groups={levels: [AD, AD]}"], "levels"),
        (["dicom=.", "bids=."], "both are set"),
        (["batch_size=3"], "neither is set"),
        (["dicom=/nowhere/at/all"], "/nowhere/at/all is not a folder"),
    ],
)
def test_wrong_configuration_is_named(tmp_path: Path, given: list[str], expected: str | None) -> None:
    (tmp_path / "export.zip").touch()
    result = snakemake(tmp_path, "--dry-run", "--cores", "1", "--config", *given)
    if expected is None:
        assert result.returncode == 0
    else:
        assert result.returncode != 0
        assert expected in result.stdout + result.stderr
        assert not (tmp_path / "results").exists()


def test_training_is_a_target_of_its_own(tmp_path: Path) -> None:
    """A shipped configuration is found from any study, and the run is one job."""
    shipped = ["--config", "training=config/train.yaml"]
    result = snakemake(tmp_path / "study", "train", "--dry-run", "--cores", "4", *shipped)
    assert result.returncode == 0, result.stdout + result.stderr
    run = "results/training/train"
    made = ", ".join(f"{run}/{name}" for name in ("segmentation.safetensors", "synthsr.safetensors", "MODEL_CARD.md"))
    assert f"output: {made}" in result.stdout
    assert "checkpoint inventory:" not in result.stdout


def test_training_runs(tmp_path: Path) -> None:
    """Four steps of a tiny segmenter; a configuration of the study comes before a shipped one of that name."""
    study = tmp_path / "study"
    make_training(study / "config", synthsr={})
    given = ["--config", "training=config/train.yaml", "device=cpu"]
    result = snakemake(study, "train", "--cores", "1", *given)
    assert result.returncode == 0, result.stdout + result.stderr
    run = study / "results" / "training" / "train"
    assert (run / "segmentation.safetensors").is_file()
    assert "Not for diagnosis" in (run / "MODEL_CARD.md").read_text()
    assert not (study / "config" / "run").exists()
    again = snakemake(study, "train", "--dry-run", "--cores", "1", *given)
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["bids=."], "The target train needs a training configuration: --config training=config/train.yaml"),
        (["batch_size=3"], "Networks are trained by the target train with --config training=FILE"),
        (["training=nowhere.yaml"], "nowhere.yaml is a file. Give a training configuration"),
    ],
)
def test_training_without_its_file_says_what_to_do(tmp_path: Path, given: list[str], expected: str) -> None:
    result = snakemake(tmp_path, "train", "--dry-run", "--cores", "1", "--config", *given)
    assert result.returncode != 0
    assert expected in result.stdout + result.stderr


#: Rules of an atlas whose sessions are aligned first.
ATLAS = {"register_cohort", *(f"atlas_{task}" for task in ("members", "prepare", "register", "average", "add", "finish",
                                                           "carry", "collect"))}  # fmt: skip


def planned(result: subprocess.CompletedProcess[str]) -> set[str]:
    """Rules of a dry run."""
    assert result.returncode == 0, result.stdout + result.stderr
    return set(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", result.stdout, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("experiment", "statistics"),
    [
        ("mgh-ageing", set()),
        ("adni-volumetry", {"groups"}),
        ("adni-superresolution", {"groups"}),
        ("brats-registration", {"register_cohort", "collect_landmark_errors", "landmarks"}),
        ("brats-atlas", ATLAS | {"lesion_map"}),
        ("atlas-stroke", ATLAS | {"lesion_map", "asymmetry"}),
    ],
)
def test_experiments_are_planned_with_virtual_patients(tmp_path: Path, experiment: str, statistics: set[str]) -> None:
    """Twice: before the study of the other arms has run, which is said, and after."""
    file = EXPERIMENTS / f"{experiment}.yaml"
    options = ["--dry-run", "--cores", "1", "--printshellcmds", "--configfile", str(file)]
    first = snakemake(tmp_path / "synthsr", *options)
    rules = planned(first)
    usual = {"simulate", "inventory", "gate", "tables", "ageing", "agreement", "report", "all"}
    assert rules == usual | statistics
    arms = yaml.safe_load(file.read_text(encoding="utf-8")).get("arms")
    assert ("Not compared: the arms" in first.stdout + first.stderr) is bool(arms)
    if not arms:
        return
    table = tmp_path / "cubic" / "results" / "tables" / "volumes.tsv"
    table.parent.mkdir(parents=True)
    table.touch()
    second = snakemake(tmp_path / "synthsr", *options)
    comparison = {"compare_arms"} if "groups" in statistics else set()
    assert planned(second) == usual | statistics | {"select_arm", "agree_arm"} | comparison
    commands = [line for line in second.stdout.splitlines() if "python -m analysis" in line]
    others = ("without-segmentation-loss", "without-lesions", "known-protocol", "supervised", "fsl-synthsr")
    lacking = [name for name in others if name in arms]
    assert not lacking or f"Not compared: the arms {', '.join(lacking)}. " in second.stdout + second.stderr
    arms = {name: arm for name, arm in arms.items() if name not in lacking}
    reference = "results/arms/real-1mm.tsv"
    selected = f"analysis arm ../cubic/results/tables/volumes.tsv --contrast T1w --spacing-mm 0 2 --out {reference}"
    assert any(selected in line for line in commands)
    for name in list(arms)[1:]:
        held = f"analysis agreement results/arms/{name}.tsv {reference} --participants results/intake/sessions.tsv"
        assert any(held in line and f"--out results/statistics/arm-{name}" in line for line in commands)
    compared = " ".join(f"results/arms/{name}.tsv" for name in arms)
    assert any(f"analysis groups {compared} " in line for line in commands) is bool(comparison)


def documented() -> Iterator[tuple[str, dict[str, Any]]]:
    """Experiments of config/experiments/README.md, and what it has a user write for the real data."""
    sections = (EXPERIMENTS / "README.md").read_text(encoding="utf-8").split("\n### ")[1:]
    for section in sections:
        (block,) = re.findall(r"```yaml\n(.*?)```", section, flags=re.DOTALL)
        for name in section.splitlines()[0].split(", "):
            yield name, yaml.safe_load(block)


def put(value: Any, root: Path, key: str = "") -> Any:
    """The same with /data below another folder, where all that is named lies (a pattern by one example)."""
    if isinstance(value, dict):
        return {name: put(one, root, name) for name, one in value.items()}
    if not isinstance(value, str) or not value.startswith("/data"):
        return value
    path = root / value.removeprefix("/")
    example = Path(str(path).replace("*", "1"))
    example.parent.mkdir(parents=True, exist_ok=True)
    if key in ("dicom", "bids"):
        example.mkdir(exist_ok=True)
    else:
        example.touch()
    return str(path)


def test_every_experiment_is_documented() -> None:
    assert {name for name, _ in documented()} == {path.stem for path in EXPERIMENTS.glob("*.yaml")}


@pytest.mark.parametrize(("experiment", "real"), list(documented()))
def test_documented_real_data_are_planned(tmp_path: Path, experiment: str, real: dict[str, Any]) -> None:
    mine = tmp_path / "config.yaml"
    mine.write_text(yaml.safe_dump(put(real, tmp_path)), encoding="utf-8")
    files = ["--configfile", str(EXPERIMENTS / f"{experiment}.yaml"), str(mine)]
    result = snakemake(tmp_path / "synthsr", "--dry-run", "--cores", "1", *files)
    expected = {
        "adni-volumetry": {"groups"},
        "adni-superresolution": {"groups"},
        "brats-registration": {"register_cohort", "collect_landmark_errors", "landmarks"},
        "brats-atlas": (ATLAS - {"register_cohort"}) | {"lesion_map"},
        "atlas-stroke": {"lesion_map", "asymmetry"},
    }
    usual = {"inventory", "gate", "tables", "ageing", "report", "all"}
    assert planned(result) == usual | expected.get(experiment, set())
