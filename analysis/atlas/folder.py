"""Where everything lies below the folder of an atlas.

``members.tsv``
    Who takes part: ``participant_id``, ``scan_id``, ``session_id``, ``contrast``, ``image``, ``labels``, ``lesion``.
``scans.tsv``
    Other scans in the space of a member's image: ``participant_id``, ``contrast``, ``image``.
``prepared/``
    Members' brains on the atlas's voxels, their centre at 0 (:mod:`.prepare`), with tables of shards.
``round-00/``, ``round-01/`` …
    Rounds of construction (:mod:`.rounds`).
``transforms/``, ``warped/``, ``labels/``, ``lesions/``, ``logjac/``, ``logjac_affine/``, ``quality/``
    Everything of a member through the last round's transforms (:mod:`.carry`), with tables of shards.
``template_T1w.nii.gz``, ``median_T2w.nii.gz`` …, ``brain.nii.gz``, ``labels.nii.gz``, ``labels.txt``, ``probability/``
    The atlas (:mod:`.collect`): medians, brain mask, most frequent label and how frequent every label is.
``rounds.tsv``, ``quality.tsv``, ``outliers.tsv``, ``atlas.json``, ``atlas.png``, ``mni_affine.txt``
    What became of it.

Paths in tables are relative to the table's folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..layout import shard_name

#: Kinds of rounds, in order.
KINDS = ("rigid", "affine", "svf")
#: Folders of what was carried of every member.
CARRIED = ("transforms", "warped", "labels", "lesions", "logjac", "logjac_affine", "quality")


@dataclass(frozen=True)
class Folder:
    """Paths of one atlas.

    Attributes
    ----------
    root
        The folder.
    """

    root: Path

    @property
    def members(self) -> Path:
        """Table of who takes part."""
        return self.root / "members.tsv"

    @property
    def scans(self) -> Path:
        """Table of members' other scans; may be missing."""
        return self.root / "scans.tsv"

    def prepared(self, participant: str) -> Path:
        """A member's brain, its centre at 0; beside it a JSON file with that centre."""
        return self.root / "prepared" / f"{participant}_T1w.nii.gz"

    def prepared_shard(self, shard: int) -> Path:
        """Table of prepared members."""
        return self.root / "prepared" / shard_name(shard)

    def round(self, number: int) -> Round:
        """Paths of one round; 0 is the start."""
        return Round(self.root / f"round-{number:02d}")

    def carried_shard(self, shard: int) -> Path:
        """Table of members carried into the atlas."""
        return self.root / "carried" / shard_name(shard)

    def affine(self, participant: str) -> Path:
        """Linear part of a member's transform, from mm of the atlas to mm of the image."""
        return self.root / "transforms" / f"{participant}_affine.txt"

    def displacement(self, participant: str) -> Path:
        """Whole transform: mm, RAS, from each atlas voxel to its place in the member's image."""
        return self.root / "transforms" / f"{participant}_displacement.nii.gz"

    def warped(self, participant: str, name: str) -> Path:
        """A member's image of a contrast in the atlas's space; the one it was built from is ``synthetic_T1w``."""
        return self.root / "warped" / f"{participant}_{name}.nii.gz"

    def labels_of(self, participant: str) -> Path:
        """A member's label map in the atlas's space."""
        return self.root / "labels" / f"{participant}_dseg.nii.gz"

    def lesion(self, participant: str) -> Path:
        """A member's lesion mask in the atlas's space."""
        return self.root / "lesions" / f"{participant}_lesion.nii.gz"

    def logjac(self, participant: str, *, affine: bool) -> Path:
        """Logarithm of the Jacobian determinant, with or without the affine part."""
        return self.root / ("logjac_affine" if affine else "logjac") / f"{participant}_logjac.nii.gz"

    def quality_of(self, participant: str) -> Path:
        """Measures of a member's registration."""
        return self.root / "quality" / f"{participant}.json"

    def relative(self, path: Path) -> str:
        """A path as the tables have it."""
        return Path(os.path.relpath(path, self.root)).as_posix()


@dataclass(frozen=True)
class Round:
    """Paths of one round.

    Attributes
    ----------
    root
        Its folder.
    """

    root: Path

    def shard(self, shard: int) -> Path:
        """Table of registered members."""
        return self.root / shard_name(shard)

    def affine(self, participant: str) -> Path:
        """Linear part as it was found."""
        return self.root / "transforms" / f"{participant}_affine.txt"

    def velocity(self, participant: str) -> Path:
        """Control points of the velocity field as it was found."""
        return self.root / "transforms" / f"{participant}_velocity.nii.gz"

    @property
    def linear(self) -> Path:
        """Members' linear parts without the mean: ``participant_id``, ``included``, ``m11`` … ``m34``."""
        return self.root / "linear.tsv"

    @property
    def mean_velocity(self) -> Path:
        """Control points of the mean velocity field that is taken out."""
        return self.root / "mean_velocity.nii.gz"

    def sums(self, shard: int) -> Path:
        """Sums over a shard's members: image, its square, displacement (x, y, z, 5), float64."""
        return self.root / f"sums-{shard:04d}.nii"

    @property
    def template(self) -> Path:
        """Mean of the members' brains."""
        return self.root / "template.nii.gz"

    @property
    def facts(self) -> Path:
        """Measures of the round, and whether it has converged."""
        return self.root / "round.json"


def kind_of(number: int, rounds: tuple[int, int, int]) -> str:
    """Kind of a round, counted from 1, where there are so many of each of :data:`KINDS`."""
    kinds = [kind for kind, count in zip(KINDS, rounds, strict=True) for _ in range(count)]
    return kinds[number - 1]
