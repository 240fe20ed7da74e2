"""Whole runs of the workflow, as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Run = Callable[..., str]


@pytest.fixture(scope="session")
def snakemake(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run Snakemake on a study; fails with its output and logs unless it succeeds. HOME is empty."""
    home = tmp_path_factory.mktemp("home")

    def run(study: Path, *arguments: str) -> str:
        study.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", study]
        result = subprocess.run(
            [*command, "--cores", "2", *arguments],
            cwd=ROOT,
            env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        logs = "\n".join(f"== {path}\n{path.read_text()}" for path in sorted((study / "logs").rglob("*.log")))
        assert result.returncode == 0, result.stdout + logs
        return result.stdout

    return run
