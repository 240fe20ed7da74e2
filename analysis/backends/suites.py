"""Where FreeSurfer and FSL are: a folder, an environment that is set up already (module), or a container."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError, ToolError

#: Programs that run a container image, the preferred first.
CONTAINER_PROGRAMS = ("apptainer", "singularity")
VERSION_LIMIT_S = 60
UNKNOWN = "unknown"
LICENCE_PAGE = "https://surfer.nmr.mgh.harvard.edu/registration.html"


@dataclass(frozen=True)
class Suite:
    """A collection of tools that is installed as a whole.

    Attributes
    ----------
    name, title
        In the configuration, and in messages.
    home_variable
        Environment variable that names its folder.
    setup, stamp
        Below that folder: script that sets up the shell, and file of the version.
    bins
        Below that folder: where the programs are.
    licences
        Below that folder: where a licence may lie; none if it needs none.
    variables
        Environment of its programs.
    """

    name: str
    title: str
    home_variable: str
    setup: str
    stamp: str
    bins: tuple[str, ...]
    licences: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


FREESURFER = Suite(
    "freesurfer",
    "FreeSurfer",
    "FREESURFER_HOME",
    "SetUpFreeSurfer.sh",
    "build-stamp.txt",
    ("bin",),
    ("license.txt", ".license"),
)
FSL = Suite(
    "fsl",
    "FSL",
    "FSLDIR",
    "etc/fslconf/fsl.sh",
    "etc/fslversion",
    ("bin", "share/fsl/bin"),
    # On a cluster run_first_all would submit its parts as jobs and end before them; this makes it run them itself.
    variables=(("FSLOUTPUTTYPE", "NIFTI_GZ"), ("FSLSUBALREADYRUN", "true")),
)
SUITES = (FREESURFER, FSL)


@dataclass(frozen=True)
class Installation:
    """Where a suite is.

    Attributes
    ----------
    suite
        Which.
    home
        Its folder; ``None`` where its programs are on the PATH, or in a container.
    container
        Image that holds it, for apptainer.
    licence
        Licence file, if one is given or found.
    """

    suite: Suite
    home: Path | None
    container: Path | None
    licence: Path | None

    def program(self, name: str) -> Path | None:
        """Where a program is outside of containers; ``None`` if it is not there."""
        if self.home is not None:
            places = [self.home / folder / name for folder in self.suite.bins]
            return next((place for place in places if os.access(place, os.X_OK)), None)
        found = shutil.which(name)
        return Path(found) if found else None

    def command(self, arguments: Sequence[str], folder: Path) -> list[str]:
        """The command line that runs ``arguments`` where the suite is.

        Parameters
        ----------
        arguments
            Program and its arguments.
        folder
            All files that the program reads and writes lie below it.
        """
        if self.container is not None:
            binds, variables = [str(folder)], list(self.suite.variables)
            if self.licence is not None:
                binds.append(f"{self.licence}:/licence.txt:ro")
                variables.append(("FS_LICENSE", "/licence.txt"))
            words = [word for bind in binds for word in ("--bind", bind)]
            words += [word for name, value in variables for word in ("--env", f"{name}={value}")]
            # The image's own variables: FREESURFER_HOME or PYTHONPATH of this machine would come before them.
            return [
                _container_program(),
                "exec",
                "--cleanenv",
                *words,
                "--pwd",
                str(folder),
                str(self.container),
                *arguments,
            ]
        if self.home is not None and (self.home / self.suite.setup).is_file():
            # The script's own exit status says nothing.
            return ["bash", "-c", '. "$0" > /dev/null; exec "$@"', str(self.home / self.suite.setup), *arguments]
        return list(arguments)

    def environment(self) -> dict[str, str]:
        """Variables of the command's process."""
        variables = dict(os.environ)
        if self.home is not None and self.container is None:
            variables[self.suite.home_variable] = str(self.home)
            folders = [str(self.home / folder) for folder in self.suite.bins]
            variables["PATH"] = os.pathsep.join([*folders, variables.get("PATH", "")])
        if self.licence is not None:
            variables["FS_LICENSE"] = str(self.licence)
        return variables | dict(self.suite.variables)

    def version(self) -> str:
        """What the suite's own file says of its version; :data:`UNKNOWN` where there is none."""
        if self.container is not None:
            script = f'cat "${self.suite.home_variable}/{self.suite.stamp}"'
            try:
                command = self.command(["sh", "-c", script], Path.cwd())
                said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=VERSION_LIMIT_S)
            except (OSError, ToolError, subprocess.TimeoutExpired):
                return UNKNOWN
            return said.stdout.strip() or UNKNOWN
        home = self.home or self._home_of_path()
        stamp = home / self.suite.stamp if home is not None else None
        return stamp.read_text(encoding="utf-8").strip() if stamp is not None and stamp.is_file() else UNKNOWN

    def require(self, programs: Sequence[str]) -> None:
        """See that the programs can be called, before any scan waits for them.

        Raises
        ------
        ConfigurationError
            If container, program or licence is missing.
        """
        reason = self.obstacle(programs)
        if reason:
            raise ConfigurationError(reason)

    def obstacle(self, programs: Sequence[str]) -> str:
        """What keeps the programs from being called; empty if nothing does."""
        suite = self.suite
        if self.container is not None:
            if not self.container.exists():
                return f"tools.{suite.name}.container: {self.container} does not exist; give the image file"
            if not any(shutil.which(name) for name in CONTAINER_PROGRAMS):
                return f"tools.{suite.name}.container is given, but {' or '.join(CONTAINER_PROGRAMS)} is not installed"
        else:
            lacking = [name for name in programs if self.program(name) is None]
            if lacking:
                place = f"{self.home} (its folder {' or '.join(suite.bins)})" if self.home else "the PATH"
                return (
                    f"{suite.title}: {', '.join(lacking)} is not in {place}; give its folder as "
                    f"tools.{suite.name}.home or {suite.home_variable}, load its module, or give "
                    f"tools.{suite.name}.container"
                )
        if suite.licences and (self.licence is None or not self.licence.is_file()):
            where = f"{self.licence} does not exist" if self.licence else "none was found"
            return (
                f"{suite.title} needs a licence file and {where}; get one at {LICENCE_PAGE} and give it as "
                f"tools.{suite.name}.licence or FS_LICENSE"
            )
        return ""

    def _home_of_path(self) -> Path | None:
        named = os.environ.get(self.suite.home_variable)
        return Path(named) if named else None


def locate(suite: Suite, settings: Mapping[str, str | None]) -> Installation:
    """Find a suite; nothing is called.

    Parameters
    ----------
    suite
        Which.
    settings
        ``home``, ``container`` and ``licence`` of the configuration. Without the first two its environment variable
        counts, then the PATH.
    """
    container = settings.get("container")
    home = settings.get("home") or os.environ.get(suite.home_variable)
    folder = Path(home).resolve() if home and not container else None
    given = settings.get("licence") or os.environ.get("FS_LICENSE")
    licence = Path(given).resolve() if given and suite.licences else None
    if licence is None and folder is not None:
        licence = next((folder / name for name in suite.licences if (folder / name).is_file()), None)
    return Installation(suite, folder, Path(container).resolve() if container else None, licence)


def _container_program() -> str:
    for name in CONTAINER_PROGRAMS:
        if shutil.which(name):
            return name
    raise ToolError(f"{' or '.join(CONTAINER_PROGRAMS)} is not installed, and the configuration names a container")
