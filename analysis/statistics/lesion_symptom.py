"""Lesion–symptom mapping: a score tested at every voxel that enough people have lesioned, each pattern once."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from . import univariate, voxelwise

if TYPE_CHECKING:
    from .lesion_map import Settings
    from .voxelwise import Array

ALPHA = 0.05


@dataclass(frozen=True)
class SymptomMap:
    """Statistics at the tested voxels.

    Attributes
    ----------
    letter
        ``z`` or ``t``.
    shape
        Of the grid.
    voxels
        Flat indices of the tested voxels.
    statistic
        Positive where those with a lesion have the higher score.
    p, p_fdr, p_fwe
        Two-sided: at the voxel alone, false discovery rate over all tested voxels, family-wise over permutations.
    critical
        The family-wise threshold of \\|statistic\\| at 0.05.
    n_lesioned
        Participants with a lesion there, of those with a score.
    n_participants
        With mask and score.
    n_patterns
        Different sets of lesioned participants among the voxels.
    """

    letter: str
    shape: tuple[int, int, int]
    voxels: npt.NDArray[np.intp]
    statistic: Array
    p: Array
    p_fdr: Array
    p_fwe: Array
    critical: float
    n_lesioned: npt.NDArray[np.integer[Any]]
    n_participants: int
    n_patterns: int

    def spread(self, values: npt.NDArray[Any], background: float) -> npt.NDArray[np.float32]:
        """Values of the tested voxels on the grid, ``background`` elsewhere."""
        image = np.full(self.shape, background, dtype=np.float32)
        image.ravel()[self.voxels] = values
        return image

    def maps(self) -> dict[str, tuple[Array, float]]:
        """What is written, with the value of voxels that are not tested."""
        return {self.letter: (self.statistic, 0.0), "p": (self.p, 1.0), "p_fdr": (self.p_fdr, 1.0),
                "p_fwe": (self.p_fwe, 1.0)}  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Numbers for the JSON file."""
        return {
            "statistic": self.letter,
            "n_participants": self.n_participants,
            "n_voxels_tested": len(self.voxels),
            "n_patterns": self.n_patterns,
            "largest": float(self.statistic.max()),
            "smallest": float(self.statistic.min()),
            "n_voxels_significant_fdr": int((self.p_fdr <= ALPHA).sum()),
            "n_voxels_significant_fwe": int((self.p_fwe <= ALPHA).sum()),
            "family_wise_threshold": self.critical,
        }

    def picture(self) -> tuple[str, Array, dict[str, Any]]:
        """Title, map (NaN where not tested) and look for the figure."""
        reach = float(np.abs(self.statistic[np.isfinite(self.statistic)]).max(initial=1))
        found = f"{(self.p_fdr <= ALPHA).sum():,} by FDR, {(self.p_fwe <= ALPHA).sum():,} by permutation"
        title = f"{self.letter} of the score at {len(self.voxels):,} tested voxels; significant at 0.05: {found}"
        return title, self.spread(self.statistic, np.nan), {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}


def pack(voxels: npt.NDArray[np.intp], size: int) -> bytes:
    """A mask of ``size`` voxels, given by flat indices, in a few kilobytes: bits, deflated, as lesions are compact."""
    mask = np.zeros(size, dtype=bool)
    mask[voxels] = True
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def unpack(packed: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Undo :func:`pack`: 0 and 1, shape (size,)."""
    return np.unpackbits(np.frombuffer(zlib.decompress(packed), dtype=np.uint8), count=size)


def map_scores(
    packed: list[bytes], shape: tuple[int, int, int], scores: Array, volume_mm3: Array, settings: Settings
) -> tuple[SymptomMap | None, list[str]]:
    """Test the score at every voxel with enough lesioned and spared participants.

    Parameters
    ----------
    packed
        Masks by :func:`pack`.
    shape
        Of the grid.
    scores
        NaN where unknown; such participants are left out. Shape (masks,).
    volume_mm3
        Lesion volumes, shape (masks,).
    settings
        Test, least number, permutations, seed, and whether volume is taken out.

    Returns
    -------
    The map, or None with the reason among the notes.
    """
    used = np.flatnonzero(np.isfinite(scores))
    score, volume = scores[used], volume_mm3[used]
    masks = [packed[index] for index in used]
    voxels, patterns, which = lesion_patterns(masks, int(np.prod(shape)), settings.minimum)
    if not len(voxels):
        return None, [
            f"No map of the score: no voxel is lesioned in {settings.minimum} or more and spared in as many of the "
            f"{len(used)} participants with a score."
        ]
    if settings.test == "rank":
        score, volume = stats.rankdata(score), stats.rankdata(volume)
    covariates = volume[:, None] if settings.correct_volume else np.empty((len(used), 0))
    basis = voxelwise.orthonormal(covariates)
    notes = []
    if settings.correct_volume and basis.shape[1] == 1:
        notes.append("All lesion volumes are the same: nothing is corrected for volume.")
    r = voxelwise.correlations(patterns, score[None], basis)[:, 0]
    largest = voxelwise.largest_correlations(
        patterns, score, basis, permutations=settings.permutations, seed=settings.seed
    )
    freedom = len(used) - basis.shape[1] - 1

    def statistic_of(correlation: Array) -> Array:
        if settings.test == "rank":
            return np.asarray(correlation * np.sqrt(freedom + 1))
        return voxelwise.t_of(correlation, freedom)

    statistic = statistic_of(r)
    p = voxelwise.two_sided_p(statistic) if settings.test == "rank" else voxelwise.two_sided_t_p(statistic, freedom)
    critical = np.sort(largest)[::-1][int(ALPHA * (settings.permutations + 1)) - 1]
    return SymptomMap(
        letter="z" if settings.test == "rank" else "t",
        shape=shape,
        voxels=voxels,
        statistic=statistic[which],
        p=p[which],
        p_fdr=univariate.false_discovery_rates(p[which]),
        p_fwe=voxelwise.family_wise_p(r, largest)[which],
        critical=float(statistic_of(np.array([critical]))[0]),
        n_lesioned=patterns.sum(axis=1, dtype=np.int64)[which],
        n_participants=len(used),
        n_patterns=len(patterns),
    ), notes


def lesion_patterns(
    masks: list[bytes], size: int, minimum: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """Sets of lesioned participants among voxels with ``minimum`` lesioned and as many spared.

    Returns
    -------
    Flat indices of those voxels; the different sets as 0 and 1, shape (patterns, participants); and which of them each
    voxel has.
    """
    n = len(masks)
    count = np.zeros(size, dtype=np.int32)
    for mask in masks:
        count += unpack(mask, size)
    voxels = np.flatnonzero((count >= minimum) & (count <= n - minimum))
    bits = np.empty((len(voxels), -(-n // 8)), dtype=np.uint8)
    for byte in range(bits.shape[1]):
        eight = [unpack(mask, size)[voxels] for mask in masks[8 * byte : 8 * byte + 8]]
        bits[:, byte] = np.packbits(np.stack(eight, axis=1), axis=1)[:, 0]
    if not len(voxels):
        return voxels, np.empty((0, n), dtype=np.uint8), voxels
    keys = np.ascontiguousarray(bits).view(np.dtype((np.void, bits.shape[1])))[:, 0]
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return voxels, np.unpackbits(bits[first], axis=1, count=n), which
