r"""Rounds of an unbiased atlas: members registered with the template, the mean transform taken out, a new template.

Every round registers the last template (fixed) with each member's prepared brain (moving), rigidly, then affinely, then
by a stationary velocity field behind the affine of the last affine round, and averages what the members look like
through their transforms (Joshi 2004, NeuroImage 23:S151). So that the atlas has nobody's shape and pose, the mean of
the transforms is taken out in log space first. With linear parts A_i and velocities v_i:

.. math:: A_i' = A_i \exp\left(-\tfrac{1}{n} \sum_j \log A_j\right) \qquad\text{and}\qquad
   \varphi_i = A_i \circ \exp(v_i) \circ \exp\left(-\tfrac{1}{n} \sum_j v_j\right)

(Alexa, ACM Trans Graph 2002; Arsigny 2006, MICCAI). Round 0 averages the brains with their centres on each other:
nobody is chosen to begin with, and members count in the order of their names, so that their order in the table does not
matter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from synthsr import files, io

from .. import batch, tsv
from ..errors import DataError
from ..layout import sidecar_of
from ..registration import pairs, transforms
from ..registration.pairs import Image, Settings
from ..registration.transforms import Field, Grid, Matrix, Transform
from .folder import Folder, Round
from .prepare import about_centre

#: Raise when the output of unchanged input with unchanged programs changes.
ALGORITHM_VERSION = 1
#: Grey level, of white matter's, above which voxels of the template count for its measures.
BRAIN_LEVEL = 0.25
#: A kind of rounds has converged when the template's root mean square change over the brain falls below this part of
#: its root mean square.
TOLERANCE = 0.01
MATRIX_COLUMNS = tuple(f"m{row}{column}" for row in range(1, 4) for column in range(1, 5))


@dataclass(frozen=True)
class State:
    """Members' linear parts after a round.

    Attributes
    ----------
    linear
        From points of the atlas to places in the prepared brain, shape (4, 4), by participant.
    included
        Those whose registration succeeded in this round.
    """

    linear: Mapping[str, Matrix]
    included: Sequence[str]

    def save(self, path: Path) -> None:
        """Write the table."""
        rows = [
            {
                "participant_id": name,
                "included": "yes" if name in self.included else "no",
                **dict(zip(MATRIX_COLUMNS, (repr(float(v)) for v in self.linear[name][:3].ravel()), strict=True)),
            }
            for name in sorted(self.linear)
        ]
        tsv.write(pd.DataFrame(rows, columns=["participant_id", "included", *MATRIX_COLUMNS]), path)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read what :meth:`save` wrote."""
        table = tsv.read(path, columns=("participant_id", "included"), numbers=MATRIX_COLUMNS)
        matrices = table[list(MATRIX_COLUMNS)].to_numpy(dtype=float).reshape(-1, 3, 4)
        last = np.array([[0.0, 0.0, 0.0, 1.0]])
        linear = {name: np.vstack([m, last]) for name, m in zip(table["participant_id"], matrices, strict=True)}
        return cls(linear, list(table["participant_id"][table["included"] == "yes"]))


def start(folder: Folder, prepared: Sequence[str]) -> None:
    """Round 0: all brains that could be prepared, as they lie, with their centres on each other.

    Raises
    ------
    DataError
        If there are fewer than two.
    """
    if len(prepared) < 2:
        raise DataError(f"{folder.members}: {len(prepared)} of the members could be prepared; an atlas needs two")
    State({name: np.eye(4) for name in prepared}, sorted(prepared)).save(folder.round(0).linear)


def grid_of(folder: Folder, included: Sequence[str]) -> Grid:
    """Grid of the atlas: centre at 0, as large as the largest prepared brain along every axis."""
    reach, voxel_mm = np.zeros(3), 0.0
    for name in included:
        image = nib.load(folder.prepared(name))
        reach, voxel_mm = np.maximum(reach, -image.affine[:3, 3]), float(image.affine[0, 0])
    return about_centre(reach - 1e-3, voxel_mm)


def template_of(round_: Round) -> Image:
    """Template that a round left."""
    return Image.load(round_.template)


def is_settled(round_: Round) -> bool:
    """Whether a round has converged."""
    return bool(facts_of(round_)["converged"])


def facts_of(round_: Round) -> dict[str, Any]:
    """What a round measured."""
    content: dict[str, Any] = json.loads(round_.facts.read_text(encoding="utf-8"))
    return content


def register(folder: Folder, number: int, participant: str, *, settings: Settings) -> None:
    """Register the last round's template with a member; what has converged is taken over from there.

    Parameters
    ----------
    folder, number, participant
        Whose transform in which round, from 1.
    settings
        Kind of the round, and how.
    """
    before, now = folder.round(number - 1), folder.round(number)
    outputs = [now.affine(participant)]
    if settings.kind == "svf":
        outputs.append(now.velocity(participant))
    if is_settled(before) and facts_of(before)["kind"] == settings.kind:
        for path in outputs:
            with files.whole(path) as temporary:
                temporary.write_bytes((before.root / path.relative_to(now.root)).read_bytes())
        return
    template, member = template_of(before), Image.load(folder.prepared(participant))
    linear = State.load(before.linear).linear[participant]
    if settings.kind == "svf":
        # On the template's own grid, as NiftyReg's lattice of control points spans both images: that of all members is
        # then the same, and velocities can be averaged. Nothing but the registration sees these voxels.
        moved = pairs.resample(member, transforms.linear(linear), template.grid, threads=settings.threads)
        aligned = Image(member.name, moved.clip(min=0), template.grid)
        found = pairs.bend(template, aligned, np.eye(4), settings=settings)
        with files.whole(now.velocity(participant)) as temporary:
            nib.save(found.velocity, temporary)
    else:
        linear = pairs.register(template, member, settings=settings, initial=linear).forward.linear
    transforms.write_matrix(linear, now.affine(participant))


def average(folder: Folder, number: int, included: Sequence[str], *, kind: str) -> None:
    """Take the mean of a round's transforms out of them.

    Parameters
    ----------
    folder, number
        The round, from 1.
    included
        Members whose registration succeeded.
    kind
        Of the round.

    Raises
    ------
    DataError
        If fewer than two succeeded.
    """
    before, now = folder.round(number - 1), folder.round(number)
    if len(included) < 2:
        raise DataError(f"{now.root}: {len(included)} registrations succeeded; an atlas needs two; see {now.shard(1)}")
    linear = dict(State.load(before.linear).linear)
    if kind == "svf":
        _mean_velocity(now, sorted(included))
    else:
        found = {name: transforms.read_matrix(now.affine(name)) for name in sorted(included)}
        undo = transforms.inverse(transforms.mean(list(found.values())))
        # Who failed keeps the last transform, in the new space as well, and may succeed from there.
        linear = {name: found.get(name, matrix) @ undo for name, matrix in linear.items()}
    State(linear, sorted(included)).save(now.linear)


def _mean_velocity(round_: Round, included: Sequence[str]) -> None:
    images = [nib.load(round_.velocity(name)) for name in included]
    total = np.zeros(images[0].shape)
    for image in images:
        total += np.asarray(image.dataobj, dtype=np.float64)
    mean = nib.Nifti1Image((total / len(images)).astype(np.float32), images[0].affine, images[0].header)
    # NiftyReg's number of squarings, as many as any member's needs.
    mean.header["intent_p2"] = max(float(image.header["intent_p2"]) for image in images)
    with files.whole(round_.mean_velocity) as temporary:
        nib.save(mean, temporary)


def negative(velocity: nib.Nifti1Image) -> nib.Nifti1Image:
    """The velocity field that undoes another; NiftyReg's control points hold their places plus the velocities."""
    values = np.asarray(velocity.dataobj, dtype=np.float64)
    index = np.stack(np.meshgrid(*map(np.arange, values.shape[:3]), indexing="ij"), axis=-1)
    places = transforms.move(velocity.affine, index)[:, :, :, np.newaxis]
    return nib.Nifti1Image((2 * places - values).astype(np.float32), velocity.affine, velocity.header)


class Shapes:
    """Members' transforms after a round: from points of the atlas to places in their prepared brains.

    Parameters
    ----------
    folder, number, kind
        The round.
    threads
        Of NiftyReg.
    """

    def __init__(self, folder: Folder, number: int, *, kind: str, threads: int = 1) -> None:
        self.folder, self.round, self.kind, self.threads = folder, folder.round(number), kind, threads
        self.state = State.load(self.round.linear)
        self.grid = grid_of(folder, State.load(folder.round(0).linear).included)
        self._undo: npt.NDArray[np.float64] | None = None

    def bend(self, participant: str) -> Field | None:
        """Non-linear part on the atlas's grid, ``None`` in linear rounds."""
        if self.kind != "svf":
            return None
        points = self.grid.points()
        if self._undo is None:
            mean = negative(nib.load(self.round.mean_velocity))
            self._undo = points + pairs.exponential(mean, self.grid, threads=self.threads).displacement_mm
        own = pairs.exponential(nib.load(self.round.velocity(participant)), self.grid, threads=self.threads)
        return Field((own.carry(self._undo) - points).astype(np.float32), self.grid)

    def transform(self, participant: str) -> Transform:
        """The whole."""
        return Transform(np.eye(4), self.bend(participant), self.state.linear[participant])


def add_up(shapes: Shapes, names: Sequence[str], out: Path) -> None:
    """Sum members through their transforms, for the template and its measures; see :meth:`.folder.Round.sums`."""
    total = np.zeros((*shapes.grid.shape, 5))
    for name in sorted(names):
        transform = shapes.transform(name)
        brain = Image.load(shapes.folder.prepared(name))
        image = pairs.resample(brain, transform, shapes.grid, threads=shapes.threads)
        grey = image.clip(min=0).astype(np.float64)
        total[..., 0] += grey
        total[..., 1] += grey**2
        if transform.field is not None:
            total[..., 2:] += transform.field.displacement_mm
    sums = nib.Nifti1Image(total, shapes.grid.affine)
    with files.whole(out) as temporary:
        nib.save(sums, temporary)


def finish(folder: Folder, number: int, shards: int, *, kind: str) -> dict[str, Any]:
    """Put a round's template together and measure it.

    Returns
    -------
    ``round``, ``kind``, ``members``; over the template's brain: ``change``, root mean square difference from the last
    round's template over its root mean square; ``sharpness``, mean gradient per mm; ``variability``, mean over voxels
    of the members' standard deviation of grey levels (white matter is 1); ``mean_displacement_mm``, mean length of the
    members' mean displacement by the non-linear part; ``converged``.
    """
    now = folder.round(number)
    members = len(State.load(now.linear).included)
    total: Any = 0.0
    for shard in range(1, shards + 1):
        image = nib.load(now.sums(shard))
        total = total + np.asarray(image.dataobj)
    grid = grid_of(folder, State.load(folder.round(0).linear).included)
    mean = total[..., 0] / members
    brain = mean > BRAIN_LEVEL
    if not brain.any():
        raise DataError(f"{now.root}: the members' mean is empty; do their images show brains?")
    spread = np.sqrt((total[..., 1] / members - mean**2).clip(min=0))
    slope = np.linalg.norm(np.gradient(mean, *grid.spacing_mm), axis=0)
    moved = np.linalg.norm(total[..., 2:] / members, axis=-1)
    change = float("nan")
    if number:
        last = template_of(folder.round(number - 1)).data
        change = float(np.sqrt(np.mean((mean - last)[brain] ** 2) / np.mean(last[brain] ** 2)))
    facts = {
        "round": number,
        "kind": kind,
        "members": members,
        "change": round(change, 6) if np.isfinite(change) else None,
        "sharpness": round(float(slope[brain].mean()), 6),
        "variability": round(float(spread[brain].mean()), 6),
        "mean_displacement_mm": round(float(moved[brain].mean()), 4),
        "converged": bool(number) and change < TOLERANCE,
    }
    io.save(mean.astype(np.float32), grid, now.template)
    files.write_json(now.facts, facts)
    return facts


def done(tables: Sequence[Path]) -> list[str]:
    """Participants whose rows are done, in order."""
    return sorted(row["participant_id"] for path in tables for row in batch.rows(path) if row["status"] == batch.DONE)


def key_parts(folder: Folder, number: int, participant: str, settings: Settings) -> list[str]:
    """What decides a registration of a round."""
    before = folder.round(number - 1)
    linear = State.load(before.linear).linear[participant]
    prepared = folder.prepared(participant)
    return [
        files.sha256(before.template),
        files.sha256(before.facts),
        files.sha256(prepared),
        files.sha256(sidecar_of(prepared)),
        repr(linear.tolist()),
        f"{settings.kind} {settings.spacing_mm:g} {settings.iterations}",
        str(ALGORITHM_VERSION),
    ]
