"""How often the voxel-wise tests reject where nothing is there to find, at α = 0.05.

    python benchmarks/null_voxelwise.py --out FILE.json

Small cohorts are drawn without the effect in question and go through the commands' own functions: smooth log-Jacobians
of two groups, lesions and a skewed score, lesions and a score that goes with lesion volume only, thickness with age and
sex, and volumes of two sites that ComBat harmonises before the groups are compared. "one voxel" is the rate at which a
voxel named beforehand is significant by itself; "any voxel" that of finding anything at all after correction, which
both the family-wise error and, where nothing is there, the false discovery rate keep at α or below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import null_rates
import numpy as np
from null_rates import ALPHA, Row
from scipy import ndimage, stats

from analysis.statistics import combat, lesion_map, lesion_symptom, thickness, univariate, voxelwise

SHAPE = (12, 12, 12)
PERMUTATIONS = 199


def jacobians(rng: np.random.Generator) -> Row:
    """Two groups' smooth fields, unequal in number."""
    first = np.arange(50) < 20
    fields = ndimage.gaussian_filter(rng.standard_normal((50, *SHAPE)), [0, 1.5, 1.5, 1.5])
    z, _ = voxelwise.rank_sum(fields.reshape(50, -1).T, first)
    p = voxelwise.two_sided_p(z)
    return {
        "one voxel": p[p.size // 2] <= ALPHA,
        "any voxel, FDR": (univariate.false_discovery_rates(p) <= ALPHA).any(),
    }


def lesions(rng: np.random.Generator, n: int = 80) -> tuple[list[bytes], Any]:
    """Balls of random place and size, packed, and their volumes in voxels."""
    size = int(np.prod(SHAPE))
    places = np.indices(SHAPE).reshape(3, -1).T
    balls = [
        np.flatnonzero(((places - rng.integers(2, 10, 3)) ** 2).sum(axis=1) < rng.uniform(2, 6) ** 2) for _ in range(n)
    ]
    return [lesion_symptom.pack(ball, size) for ball in balls], np.array([float(len(ball)) for ball in balls])


def scores(test: str, *, by_volume: bool) -> Callable[[np.random.Generator], Row]:
    """A skewed score with many ties, of itself or with lesion volume, which is then corrected for."""

    def experiment(rng: np.random.Generator) -> Row:
        packed, volume = lesions(rng)
        lean = volume / volume.std() if by_volume else 0
        score = np.floor(3 * np.exp(0.8 * rng.standard_normal(len(packed))) + 2 * lean)
        settings = lesion_map.Settings(test, 10, PERMUTATIONS, int(rng.integers(2**31)), by_volume)
        found, _ = lesion_symptom.map_scores(packed, SHAPE, score, volume, settings)
        assert found is not None
        return {
            "one voxel": found.p[len(found.p) // 2] <= ALPHA,
            "any voxel, FDR": (found.p_fdr <= ALPHA).any(),
            "any voxel, permutation": (found.p_fwe <= ALPHA).any(),
        }

    return experiment


def cortex(rng: np.random.Generator) -> Row:
    """Thickness that falls with age, in groups of different age."""
    n = 40
    group = (np.arange(n) < 15).astype(float)
    age, male = 60 + 10 * group + 8 * rng.standard_normal(n), rng.permutation(np.arange(n) % 2)
    values = 2.5 - 0.01 * (age - 60) + 0.2 * ndimage.gaussian_filter1d(rng.standard_normal((500, n)), 3, axis=0)
    effect, row = thickness.fit(values, group, np.column_stack([age, male]), "lh")
    return {
        "one vertex": effect.p[250] <= ALPHA,
        "mean": row["mean_p"] <= ALPHA,
        "any vertex, FDR": (univariate.false_discovery_rates(effect.p) <= ALPHA).any(),
    }


def sites(shares: tuple[float, float], *, keep: bool) -> Callable[[np.random.Generator], Row]:
    """Two sites with shifts and scales of their own, and these shares of patients; groups compared after ComBat."""

    def experiment(rng: np.random.Generator) -> Row:
        site = np.repeat([0, 1], 30)
        patient = np.concatenate([np.arange(30) < share * 30 for share in shares])
        shift, scale = rng.normal(0, 1, (2, 20)), rng.uniform(0.7, 1.5, (2, 20))
        values = 100 + shift[site] + scale[site] * rng.standard_normal((60, 20))
        covariates = patient[:, None].astype(float) if keep else np.empty((60, 0))
        harmonised = combat.harmonise(values, site, covariates).values
        return {
            "one structure, rank sum": stats.mannwhitneyu(harmonised[patient, 0], harmonised[~patient, 0]).pvalue
            <= ALPHA
        }

    return experiment


EXPERIMENTS: null_rates.Experiments = {
    "log-Jacobians, 20 and 30": jacobians,
    "score, rank": scores("rank", by_volume=False),
    "score, t": scores("t", by_volume=False),
    "score of lesion volume, rank, corrected": scores("rank", by_volume=True),
    "score of lesion volume, t, corrected": scores("t", by_volume=True),
    "thickness, 15 and 25": cortex,
    "ComBat, half patients at both sites": sites((0.5, 0.5), keep=True),
    "ComBat, a fifth and four fifths patients, diagnosis kept": sites((0.2, 0.8), keep=True),
    "ComBat, a fifth and four fifths patients, diagnosis not kept": sites((0.2, 0.8), keep=False),
}


if __name__ == "__main__":
    null_rates.main(EXPERIMENTS, __doc__, cohorts=1000)
