"""What is shipped for other machines: the cluster's profile, files of environments, the offline bundle's installer."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = "\n".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")])


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_profiles_name_rules_that_exist(profile: str) -> None:
    content = yaml.safe_load((ROOT / "profiles" / profile / "config.yaml").read_text())
    named = {*content.get("set-resources", {}), *content.get("set-threads", {})}
    named |= {entry.split("=")[0] for entry in content.get("groups", [])}
    existing = set(re.findall(r"^ *(?:rule|checkpoint) (\w+):", RULES, flags=re.MULTILINE))
    assert {"segment", "train_networks"} <= named & existing
    assert named <= existing


def test_every_environment_is_there_and_pinned() -> None:
    used = {Path(name).name for name in re.findall(r'conda:\n +"(.*)"', RULES)}
    there = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / "envs").glob("*.yaml")}
    assert used and used <= set(there)
    for name, environment in there.items():
        assert environment["dependencies"], name
        assert all(re.fullmatch(r"[a-z0-9_-]+=\d[\w.]*", one) for one in environment["dependencies"]), name


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose repository's set-up says which wheels pip is to use."""
    folder, repository = tmp_path / "bundle", tmp_path / "synthsr-cohort"
    repository.mkdir()
    (repository / "Makefile").write_text('setup:\n\t@echo "$(PYTHON) $$PIP_NO_INDEX $$PIP_FIND_LINKS" > said\n')
    (folder / "wheels").mkdir(parents=True)
    shutil.copy(ROOT / "envs" / "offline" / "install.sh", folder)
    subprocess.run(["tar", "-C", tmp_path, "-cf", folder / "repository.tar", "synthsr-cohort"], check=True)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in folder.glob("*.*")]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return folder


def install(bundle: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", bundle / "install.sh", target, "/some/python"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_bundle_is_set_up_from_its_own_wheels(bundle: Path, tmp_path: Path) -> None:
    done = install(bundle, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "site" / "synthsr-cohort" / "said").read_text()
    assert said.split() == ["/some/python", "1", str(bundle / "wheels")]
    again = install(bundle, tmp_path / "site")
    assert again.returncode == 64 and "is there already" in again.stderr


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    with (bundle / "repository.tar").open("ab") as stream:
        stream.write(b"\0")
    done = install(bundle, tmp_path / "site")
    assert done.returncode == 65 and "repository.tar" in done.stdout + done.stderr
    assert not (tmp_path / "site").exists()
