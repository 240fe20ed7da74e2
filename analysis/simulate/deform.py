"""Diffeomorphisms that give every structure a wanted volume.

A deformation is the flow of a stationary velocity field ``v`` (Arsigny 2006, MICCAI, eq. 2), on a coarse grid. Volume
changes along a flow by the divergence of its velocity, so a field wanted to multiply the volume of structure *s* by
``exp(d_s)`` is ``v = ∇p`` with ``Δp = d_s`` inside *s* (a Poisson equation, solved by cosine transform with no flux
through the box), on top of a random divergence-bearing field for the subject's shape. Neighbouring structures share
blocks of the grid, and what swells leaves the blocks that swell, so what is reached differs from what is wanted, and
``d`` is corrected by what was measured: Anderson's iteration (Walker 2011, SIAM J Numer Anal 49:1715).

Around a lesion that swells or shrinks, ``v = κ∇p`` with ``∇·(κ∇p) = d_s``, where κ is small outside the skull.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import fft, ndimage, sparse
from torch.nn import functional

Array = npt.NDArray[np.float32]

#: Halvings of the velocity before the flow is composed with itself as often.
SQUARINGS = 5
#: A correction is made larger than what was found lacking, because neighbours take part of it.
GAIN = 1.5
#: Singular values of past errors below this part of the largest are not trusted.
SMALLEST = 1e-3
#: Iterations for a confined flow, each time the divergence is corrected.
ROUNDS = 8


def sample(
    fields: torch.Tensor, points: torch.Tensor, *, outside: str = "border", mode: str = "bilinear"
) -> torch.Tensor:
    """Trilinear (or ``nearest``) values of ``fields`` (C, X, Y, Z) at ``points`` (…, 3) in voxels; gives (C, …).

    Beyond the grid the ``border`` value goes on, or there is nothing (``zeros``).
    """
    last = torch.tensor(fields.shape[1:], dtype=points.dtype) - 1
    grid = (2 * points / last - 1).flip(-1).reshape(1, 1, 1, -1, 3)
    values = functional.grid_sample(fields[None], grid, mode=mode, padding_mode=outside, align_corners=True)
    return values.reshape(fields.shape[0], *points.shape[:-1])


def lattice(shape: tuple[int, ...]) -> torch.Tensor:
    """Voxel coordinates of every node, (X, Y, Z, 3)."""
    return torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"), dim=-1)


def flow(velocity: Array) -> Array:
    """Displacement, in nodes, that following ``velocity`` (3, X, Y, Z; nodes) for unit time makes."""
    nodes = lattice(velocity.shape[1:])
    displacement = torch.from_numpy(velocity / 2**SQUARINGS)
    for _ in range(SQUARINGS):
        displacement = displacement + sample(displacement, nodes + displacement.movedim(0, -1))
    return displacement.numpy()


def jacobian(displacement: Array) -> Array:
    """Determinant of the Jacobian of ``x + displacement(x)`` (3, X, Y, Z; nodes) at every node."""
    gradient = [np.gradient(component) for component in displacement]
    (a, b, c), (d, e, f), (g, h, i) = gradient
    a, e, i = a + 1, e + 1, i + 1
    determinant: Array = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return determinant


def gradient_flow(divergence: Array) -> Array:
    """Velocity (3, X, Y, Z) of the given divergence (less its mean), without curl and without flux through the box."""
    return np.asarray(np.gradient(_potential(divergence)), dtype=np.float32)


def _potential(laplacian: Array) -> Array:
    """Potential of the given Laplacian (less its mean), without flux through the box."""
    spectrum = fft.dctn(laplacian, type=2)
    waves = [2 * np.cos(np.pi * np.arange(n, dtype=np.float32) / n) - 2 for n in laplacian.shape]
    symbol = waves[0][:, None, None] + waves[1][None, :, None] + waves[2][None, None, :]
    symbol[0, 0, 0] = 1
    spectrum /= symbol
    spectrum[0, 0, 0] = 0
    return np.asarray(fft.idctn(spectrum, type=2))


def confined_potential(divergence: Array, ease: Array, start: Array, *, rounds: int) -> Array:
    """Potential *p* whose flow ``ease``·∇p has the given divergence (less its mean): it goes where it goes easily.

    Conjugate gradients for −∇·(ease·∇p), preconditioned by the Laplacian's inverse.

    Parameters
    ----------
    divergence
        Wanted divergence (X, Y, Z).
    ease
        How easily every node moves (X, Y, Z), positive.
    start
        A potential from which to go on.
    rounds
        Iterations.
    """

    def resistance(p: Array) -> Array:
        out = np.zeros_like(p)
        for axis in range(3):
            ahead, behind = (tuple(part if i == axis else slice(None) for i in range(3)) for part in (
                slice(1, None), slice(None, -1)))  # fmt: skip
            flux = np.diff(p, axis=axis) * (ease[ahead] + ease[behind]) / 2
            out[behind] -= flux
            out[ahead] += flux
        return out

    p = start.copy()
    residual = (divergence.mean() - divergence) - resistance(p)
    search: Array | None = None
    last = 0.0
    for _ in range(rounds):
        preconditioned = -_potential(residual)
        strength = float(np.vdot(residual, preconditioned))
        if strength <= 0:
            break
        search = preconditioned if search is None else preconditioned + strength / last * search
        last = strength
        resisted = resistance(search)
        length = strength / float(np.vdot(search, resisted))
        p += length * search
        residual -= length * resisted
    return p


def random_velocity(rng: np.random.Generator, shape: tuple[int, ...], *, sd: float, length: float) -> Array:
    """Smooth random velocity (3, X, Y, Z) of standard deviation ``sd`` and Gaussian smoothness ``length``, in nodes."""
    white = rng.standard_normal((3, *shape), dtype=np.float32)
    field = ndimage.gaussian_filter(white, (0, length / 2, length / 2, length / 2), mode="reflect")
    return np.asarray(field * (sd / max(float(field.std()), 1e-6)), dtype=np.float32)


def fit(
    fractions: sparse.csr_array,
    log_ratio: npt.NDArray[np.float64],
    variation: Array,
    *,
    steps: int,
    ease: Array | None = None,
) -> Array:
    """Find the flow that multiplies the volume of every structure by ``exp(log_ratio)``.

    Parameters
    ----------
    fractions
        Volume of every structure (row) in every node's block (column), blocks in C order of the grid. One that has
        none (a lesion took it) stays so.
    log_ratio
        Wanted logarithm of new over old volume, per structure.
    variation
        Velocity (3, X, Y, Z), in nodes, that the flow shall have besides.
    steps
        Corrections. The volumes are measured by the Jacobian, ∫_s det D(exp v).
    ease
        How easily nodes (X, Y, Z) move: less outside a skull that withstands a mass effect.

    Returns
    -------
    Displacement (3, X, Y, Z), in nodes, from a point of the patient to the point of the base that lies there.
    """
    shape = variation.shape[1:]
    before = np.asarray(fractions.sum(axis=1)).ravel()
    block = max(float(np.asarray(fractions.sum(axis=0)).max()), 1.0)
    divergence = log_ratio.copy()
    tried: list[npt.NDArray[np.float64]] = []
    lacking: list[npt.NDArray[np.float64]] = []
    potential = np.zeros(shape, dtype=np.float32)
    for step in range(steps + 1):
        wanted = np.asarray(fractions.T @ divergence).reshape(shape).astype(np.float32) / block
        if ease is None:
            velocity = variation + gradient_flow(wanted)
        else:
            potential = confined_potential(wanted, ease, potential, rounds=ROUNDS)
            velocity = variation + ease * np.asarray(np.gradient(potential), dtype=np.float32)
        # The last correction is made and not measured, so that `steps` counts flows.
        if step < steps:
            after = fractions @ jacobian(flow(velocity)).ravel()
            tried.append(divergence)
            made = np.divide(np.maximum(after, 1e-3 * before), before, out=np.exp(log_ratio), where=before > 0)
            lacking.append(log_ratio - np.log(made))
            divergence = _next(tried, lacking)
    return flow(-velocity)


def _next(tried: list[npt.NDArray[np.float64]], lacking: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """What to try after what was tried: the mixture of it that would lack least were all linear, and its correction."""
    last, error = tried[-1], lacking[-1]
    if len(tried) > 1:
        steps = np.stack([last - one for one in tried[:-1]], axis=1)
        gains = np.stack([error - one for one in lacking[:-1]], axis=1)
        shares = np.linalg.lstsq(gains, error, rcond=SMALLEST)[0]
        last, error = last - steps @ shares, error - gains @ shares
    return np.asarray(last + GAIN * error)
