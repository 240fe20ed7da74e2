"""Build an unbiased atlas of many people, and carry their scans, lesions and volume changes into its space.

DIR holds ``members.tsv``: ``participant_id``, ``image`` (a 1 mm T1, synthetic or not), and if there are any ``labels``
(its segmentation) and ``lesion`` (a mask in its space); other scans of that space in ``scans.tsv``: ``participant_id``,
``contrast``, ``image``. ``members`` writes both from a study's results. ``build`` then does everything; its steps are
tasks of their own, so that a cluster can share them out, and what is done is not done again:

``prepare`` (shards), and for every ``--round`` from 0: ``register`` (shards; not of 0), ``average``, ``add`` (shards),
``finish``; then ``carry`` (shards) and ``collect``. ``--shard K/N`` takes the members that fall to it by their names.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..registration.pairs import Settings
    from .folder import Folder

TASKS = ("members", "prepare", "register", "average", "add", "finish", "carry", "collect", "build")
ROUNDS = (1, 3, 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("task", choices=TASKS, help="what to do")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the atlas")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="part of the members (default: all)")
    parser.add_argument("--round", type=int, metavar="N", help="which round")
    parser.add_argument("--rounds", type=int, nargs=3, default=ROUNDS, metavar=("RIGID", "AFFINE", "SVF"),
                        help="how many of each kind, at most: rounds of a kind end early when the template changes "
                        "by less than 1 %% (default %(default)s)")  # fmt: skip
    parser.add_argument("--voxel-mm", type=float, default=1.0, metavar="MM", help="voxels (default %(default)s)")
    parser.add_argument("--spacing-mm", type=float, default=5.0, metavar="MM",
                        help="distance of the velocity fields' control points (default %(default)s)")  # fmt: skip
    parser.add_argument("--iterations", type=int, metavar="N", help="most iterations of the velocity fields' last "
                        "level (default: NiftyReg's 150)")  # fmt: skip
    parser.add_argument("--smoothing-mm", type=float, default=8.0, metavar="MM",
                        help="smoothing of log-Jacobians, full width at half maximum (default 8)")  # fmt: skip
    parser.add_argument("--mni", metavar="IMAGE", help="template of MNI space without skull to report coordinates in, "
                        "or nilearn for the one that comes with nilearn")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    study = parser.add_argument_group("members")
    study.add_argument("--results", type=Path, metavar="RESULTS", help="results folder of a study")
    study.add_argument("--lesions", type=Path, metavar="TABLE", help="participant_id, session_id (or study_uid), "
                       "lesion_mask: paths from the table's folder")  # fmt: skip
    study.add_argument("--links", type=Path, metavar="TABLE", help="participant_id, session_id, study_uid: for a table "
                       "by the last")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Do one task."""
    from ..layout import Results
    from ..registration import niftyreg
    from ..registration.cohort import read_shard
    from . import members
    from .folder import Folder

    folder = Folder(arguments.out)
    if min(arguments.rounds) < 0 or sum(arguments.rounds) < 1:
        raise ConfigurationError("--rounds: give three counts, at least one of them not 0")
    if not 0.5 <= arguments.voxel_mm <= 10 or not 0 <= arguments.smoothing_mm <= 50:
        raise ConfigurationError("--voxel-mm is 0.5 to 10, --smoothing-mm 0 to 50")
    if arguments.task == "members":
        if arguments.results is None:
            raise ConfigurationError("members: name the study's results by --results")
        members.of_study(Results(arguments.results), folder, lesions=arguments.lesions, links=arguments.links)
        return
    niftyreg.locate()
    build = Build(folder, arguments, *read_shard(arguments.shard))
    if arguments.task == "build":
        build.everything()
        return
    if arguments.task in ("register", "average", "add", "finish"):
        first = 1 if arguments.task == "register" else 0
        if arguments.round is None or not first <= arguments.round <= sum(arguments.rounds):
            raise ConfigurationError(f"{arguments.task}: give --round, {first} to {sum(arguments.rounds)}")
        getattr(build, arguments.task)(arguments.round)
    else:
        getattr(build, arguments.task)()


class Build:
    """The tasks of one atlas.

    Parameters
    ----------
    folder
        Of the atlas.
    options
        Of the command.
    shard, shards
        Which of how many parts of the members.
    """

    def __init__(self, folder: Folder, options: argparse.Namespace, shard: int, shards: int) -> None:
        from ..registration.pairs import Settings
        from . import members

        self.folder, self.options, self.shard, self.shards = folder, options, shard, shards
        self.rounds: tuple[int, int, int] = tuple(options.rounds)
        self.last = sum(self.rounds)
        self.members = {member["participant_id"]: member for member in members.read(folder)}
        self.settings: Callable[[str], Settings] = lambda kind: Settings(
            kind, options.spacing_mm, options.threads, options.iterations
        )

    def everything(self) -> None:
        """All tasks, one after the other."""
        if self.shards != 1:
            raise ConfigurationError("build takes all members; --shard is for its tasks")
        self.prepare()
        for number in range(self.last + 1):
            if number:
                self.register(number)
            self.average(number)
            self.add(number)
            self.finish(number)
            self.folder.round(number).sums(self.shard).unlink()
        self.carry()
        self.collect()

    def kind(self, number: int) -> str:
        """Kind of a round."""
        from .folder import kind_of

        return kind_of(number, self.rounds) if number else "start"

    def prepare(self) -> None:
        """Cut the shard's brains out."""
        from synthsr import files

        from ..layout import sidecar_of
        from . import prepare

        def key(scan: Any) -> str:
            member = self.members[scan["participant_id"]]
            sources = [member["image"], member["labels"]]
            parts = [files.sha256(Path(path)) if Path(path).is_file() else "" for path in sources if path]
            return _digest([*parts, f"{self.options.voxel_mm:g}", str(prepare.ALGORITHM_VERSION)])

        def worker(scan: Any) -> None:
            out = self.folder.prepared(scan["participant_id"])
            member = self.members[scan["participant_id"]]
            prepare.prepare(member, out, voxel_mm=self.options.voxel_mm, threads=self.options.threads)

        def outputs(scan: Any) -> Sequence[Path]:
            out = self.folder.prepared(scan["participant_id"])
            return [out, sidecar_of(out)]

        self._batch(list(self.members), self.folder.prepared_shard(self.shard), worker, outputs, key)

    def register(self, number: int) -> None:
        """Register the shard's members with the last round's template."""
        from ..registration import niftyreg
        from . import rounds

        settings, now = self.settings(self.kind(number)), self.folder.round(number)

        def key(scan: Any) -> str:
            parts = rounds.key_parts(self.folder, number, scan["participant_id"], settings)
            return _digest([*parts, niftyreg.locate().version])

        def worker(scan: Any) -> None:
            rounds.register(self.folder, number, scan["participant_id"], settings=settings)

        def outputs(scan: Any) -> Sequence[Path]:
            name = scan["participant_id"]
            return [now.affine(name), *([now.velocity(name)] if settings.kind == "svf" else [])]

        known = rounds.State.load(self.folder.round(number - 1).linear).linear
        self._batch(list(known), now.shard(self.shard), worker, outputs, key)

    def average(self, number: int) -> None:
        """Take the mean out of a round's transforms."""
        from . import rounds

        shards = range(1, self.shards + 1)
        if number:
            now = self.folder.round(number)
            rounds.average(self.folder, number, rounds.done([now.shard(s) for s in shards]), kind=self.kind(number))
        else:
            rounds.start(self.folder, rounds.done([self.folder.prepared_shard(s) for s in shards]))

    def add(self, number: int) -> None:
        """Sum the shard's members."""
        from . import rounds

        shapes = rounds.Shapes(self.folder, number, kind=self.kind(number), threads=self.options.threads)
        rounds.add_up(shapes, self._mine(shapes.state.included), self.folder.round(number).sums(self.shard))

    def finish(self, number: int) -> None:
        """Put the template of a round together."""
        from . import rounds

        facts = rounds.finish(self.folder, number, self.shards, kind=self.kind(number))
        change = "" if facts["change"] is None else f"changed by {100 * facts['change']:.2g} %, "
        sharpness, moved = f"{facts['sharpness']:.4f}", f"{facts['mean_displacement_mm']:.2f}"
        print(f"atlas: round {number} ({facts['kind']}), {facts['members']} members, {change}sharpness {sharpness}, "
              f"mean displacement {moved} mm", flush=True)  # fmt: skip

    def carry(self) -> None:
        """Carry everything of the shard's members into the atlas."""
        from synthsr import files

        from . import carry, members, rounds

        others = members.scans(self.folder)
        shapes = rounds.Shapes(self.folder, self.last, kind=self.kind(self.last), threads=self.options.threads)

        def given(scan: Any) -> tuple[dict[str, str], list[dict[str, str]]]:
            return self.members[scan["participant_id"]], others.get(scan["participant_id"], [])

        def key(scan: Any) -> str:
            member, scans = given(scan)
            name, now = scan["participant_id"], self.folder.round(self.last)
            sources = [member["image"], member["labels"], member["lesion"], *(scan["image"] for scan in scans)]
            paths = [*(Path(path) for path in sources if path), now.linear, now.template, now.affine(name)]
            paths += [now.velocity(name), now.mean_velocity] if shapes.kind == "svf" else []
            parts = [files.sha256(path) if path.is_file() else str(path) for path in paths]
            return _digest([*parts, f"{self.options.smoothing_mm:g}", str(carry.ALGORITHM_VERSION)])

        def worker(scan: Any) -> None:
            carry.carry(self.folder, *given(scan), shapes, smoothing_mm=self.options.smoothing_mm)

        def outputs(scan: Any) -> Sequence[Path]:
            return carry.outputs(self.folder, *given(scan))

        self._batch(shapes.state.included, self.folder.carried_shard(self.shard), worker, outputs, key)

    def collect(self) -> None:
        """Write the atlas."""
        from . import carry, collect, members, rounds

        others = members.scans(self.folder)
        carried = rounds.done([self.folder.carried_shard(shard) for shard in range(1, self.shards + 1)])
        if not carried:
            raise DataError(f"{self.folder.carried_shard(1)}: nobody could be carried; see its reasons")
        outputs = {name: carry.outputs(self.folder, self.members[name], others.get(name, [])) for name in carried}
        facts = collect.collect(self.folder, outputs, rounds=self.last, mni=self.options.mni)
        left_out = len(self.members) - len(carried)
        print(f"atlas: {len(carried)} members, {left_out} left out, {facts['outliers']} outliers → {self.folder.root}")

    def _mine(self, names: Sequence[str]) -> list[str]:
        """Those of the shard, in order."""
        from ..registration.cohort import of_shard

        return [name for name in sorted(names) if of_shard(name, self.shard, self.shards)]

    def _batch(
        self,
        names: Sequence[str],
        table: Path,
        worker: Callable[[Any], None],
        outputs: Callable[[Any], Sequence[Path]],
        key: Callable[[Any], str],
    ) -> None:
        """Work through the shard's members, as every stage does."""
        from .. import batch
        from . import members

        rows = members.rows([self.members[name] for name in self._mine(names) if name in self.members])
        done = batch.run(rows, table, root=self.folder.root, worker=worker, outputs=outputs, key=key)
        rejected = done[done["status"] == batch.REJECTED]
        if len(rejected):
            print(f"atlas: {len(rejected)} of {len(done)} rejected; reasons in {table}", flush=True)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
