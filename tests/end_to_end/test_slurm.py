"""A small cohort on a real SLURM of one node, on which everything goes wrong that does on a cluster.

The profile is the shipped one, changed where a site changes it, and with too little memory for one rule at first. A job
is killed, one exceeds its memory, the node loses its power; the same cohort is made without SLURM beside it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from slurm import Slurm, lacking, until

from analysis import tsv
from analysis.layout import Private, Results
from synthsr import labels
from synthsr.networks import UNet, UNetConfig
from synthsr.weights.storage import save_network

ROOT = Path(__file__).parents[2]
SCANS = ("sub-1_T1w", "sub-2_T1w")
#: Generous: tests may run on busy machines.
LIMIT_S = 1800
TARGET = "results/statistics/ageing-sessions/ageing_summary.tsv"


def write_dataset(root: Path) -> None:
    """A head of shells for each of two people, as BIDS."""
    at = (np.indices((44, 44, 44)) - 21.5) * 3.0
    radius_mm = np.sqrt((at**2).sum(axis=0))
    (root / "participants.tsv").parent.mkdir(parents=True)
    (root / "participants.tsv").write_text("participant_id\tage\tsex\nsub-1\t40\tF\nsub-2\t60\tM\n")
    for number, scan in enumerate(SCANS):
        path = root / scan.split("_")[0] / "anat" / f"{scan}.nii.gz"
        path.parent.mkdir(parents=True)
        shells = np.select([radius_mm < 10 + 5 * number, radius_mm < 50, radius_mm < 58], [200.0, 800.0, 400.0], 0.0)
        noise = np.random.default_rng(number).normal(0, 5, shells.shape)
        nib.save(nib.Nifti1Image((shells + noise).astype(np.float32), np.diag([3.0, 3, 3, 1])), path)


def write_weights(folder: Path) -> dict[str, str]:
    """Tiny networks of random weights."""
    torch.manual_seed(0)
    made = {name: folder / f"{name}.safetensors" for name in ("synthsr", "segmentation")}
    for (name, path), channels in zip(made.items(), (1, len(labels.segmentation_numbers())), strict=True):
        save_network(UNet(UNetConfig(1, channels, 2, 2, 2)), path, {"task": name})
    return {name: str(path) for name, path in made.items()}


def write_profile(folder: Path) -> Path:
    """The shipped profile as a site changes it (docs/clusters.md), and too little memory for one rule at first."""
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    profile["default-resources"]["slurm_partition"] = "main"
    profile["slurm-status-command"] = "squeue"
    # The plugin's default of 40 s is for jobs that take longer; each check that finds nothing adds 10 s to the next.
    profile["slurm-init-seconds-before-status-checks"] = 3
    resources, threads = profile["set-resources"], profile["set-threads"]
    for rule in ("synthesise", "segment"):
        resources[rule], threads[rule] = {**resources[rule], "gpu": 1}, 2
    resources["synthesise"]["mem_mb"] = "250 if attempt == 1 else attempt * 2000"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(profile))
    return folder


class Cohort:
    """The same study with SLURM and without, and what SLURM remembers of its jobs."""

    def __init__(self, root: Path, cluster: Slurm) -> None:
        self.root, self._cluster = root, cluster
        write_dataset(root / "source")
        configuration = {"bids": str(root / "source"), "weights": write_weights(root)}
        (root / "config.yaml").write_text(yaml.safe_dump(configuration))
        self.results = {name: Results(root / name / "results") for name in ("local", "slurm")}
        self._local = self._start("local", "--cores", "2")
        profile = write_profile(root / "profile")
        self._controller = self._start("slurm", "--workflow-profile", str(profile))

        try:
            self.killed = self._running("convert")
            cluster.ask(f"scancel {self.killed}")
            self.without_power = self._running("segment")
            cluster.power_off()
            until(lambda: "down" in cluster.node_state(), what="SLURM to find the node down")
            cluster.power_on()
            for process, name in ((self._controller, "slurm"), (self._local, "local")):
                assert process.wait(LIMIT_S) == 0, self._said(name)
        finally:
            for process in (self._controller, self._local):
                process.kill()
        self.jobs = cluster.jobs()

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Snakemake up to one of the statistics; a person lets the scans pass the gate, though they are no heads."""
        study = self.root / name
        (study / "config").mkdir(parents=True)
        # One key for both: series are numbered in the order of their keyed names.
        private = Private(study / "private")
        private.root.mkdir(mode=0o700)
        private.key.touch(mode=0o600)
        private.key.write_text("5a" * 32 + "\n")
        decisions = pd.DataFrame({"scan_id": SCANS, "included": "yes", "reason": "test"})
        tsv.write(decisions, study / "config" / "exclusions.tsv")
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", study]
        with (self.root / f"{name}.out").open("wb") as out:
            return subprocess.Popen(
                [*command, *arguments, "--configfile", self.root / "config.yaml", "--", TARGET],
                cwd=ROOT,
                env={**self._cluster.environment, "HOME": str(self.root), "XDG_CACHE_HOME": str(self.root)},
                stdout=out,
                stderr=out,
            )

    def _said(self, name: str) -> str:
        paths = [self.root / f"{name}.out", *sorted((self.root / name).rglob("logs/**/*.log"))]
        return "\n".join(f"== {path}\n{path.read_text()}" for path in paths)

    def _running(self, rule: str) -> str:
        """Number of a job of a rule, as soon as one runs."""

        def number() -> str:
            assert self._controller.poll() is None, self._said("slurm")
            jobs = self._cluster.jobs()
            return next((job["JobId"] for job in jobs if of_rule(job, rule) and job["JobState"] == "RUNNING"), "")

        return until(number, what=f"a job of {rule}", limit_s=LIMIT_S)


def of_rule(job: dict[str, str], rule: str) -> bool:
    return job["Comment"] == f"rule_{rule}" or job["Comment"].startswith(f"rule_{rule}_wildcards_")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cohort]:
    if lacking():
        pytest.skip(lacking())
    cluster = Slurm(tmp_path_factory.mktemp("slurm") / "cluster")
    try:
        yield Cohort(tmp_path_factory.mktemp("cohort"), cluster)
    finally:
        cluster.stop()


def test_tables_are_those_of_a_local_run(cohort: Cohort) -> None:
    local, on_slurm = cohort.results["local"], cohort.results["slurm"]
    tables = [path.relative_to(local.root) for path in sorted(local.root.rglob("*.tsv"))]
    assert local.volumes.relative_to(local.root) in tables
    assert len(tsv.read(on_slurm.volumes)) == len(SCANS) * len(tsv.read(on_slurm.volumes)["structure"].unique())
    for table in tables:
        assert (on_slurm.root / table).read_text() == (local.root / table).read_text(), table


def test_a_killed_job_is_made_again(cohort: Cohort) -> None:
    killed, again = [job for job in cohort.jobs if of_rule(job, "convert")]
    assert (killed["JobId"], killed["JobState"]) == (cohort.killed, "CANCELLED")
    assert again["JobState"] == "COMPLETED"


def test_a_job_that_exceeded_its_memory_is_given_more(cohort: Cohort) -> None:
    exceeded, again = [job for job in cohort.jobs if of_rule(job, "synthesise")]
    assert exceeded["MinMemoryNode"] == "250M" and exceeded["JobState"] in ("FAILED", "OUT_OF_MEMORY", "CANCELLED")
    assert (again["MinMemoryNode"], again["JobState"]) == ("4000M", "COMPLETED")
    said = (cohort.root / "slurm").glob(f".snakemake/slurm_logs/rule_synthesise/*/{exceeded['JobId']}.log")
    assert "exceeded memory limit" in next(said).read_text()


def test_a_job_of_a_node_without_power_starts_again(cohort: Cohort) -> None:
    (job,) = [job for job in cohort.jobs if of_rule(job, "segment")]
    assert (job["JobId"], job["Restarts"], job["JobState"]) == (cohort.without_power, "1", "COMPLETED")


def test_networks_have_a_gpu_and_small_rules_share_a_job(cohort: Cohort) -> None:
    gpus = {job["Comment"].removesuffix("_wildcards_0001"): job.get("TresPerJob", "") for job in cohort.jobs}
    # The plugin calls a group's job by the rules in it.
    without = {"rule_inventory", "rule_convert", "rule_gate", "rule_statistics_ageing_tables"}
    with_gpu = {"rule_synthesise", "rule_segment"}
    assert gpus == {**dict.fromkeys(without, ""), **dict.fromkeys(with_gpu, "gres:gpu:1")}
