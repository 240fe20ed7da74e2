"""Magnetic properties of tissues at 1.5 T and the signal equations of the simulated sequences.

This module and :mod:`.render` share no code with ``synthsr.generator``: a renderer made of the training generator would
let the networks be examined by their own teacher.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import numpy.typing as npt

from synthsr import labels

Kind = Literal["spin_echo", "inversion_recovery", "gradient_echo", "echo_planar"]


@dataclass(frozen=True)
class Tissue:
    """One row of ``tissues.tsv``; its ``source`` column names where the figures come from.

    Attributes
    ----------
    proton_density
        Relative to water.
    t1_ms, t2_ms, t2star_ms
        Relaxation times at 1.5 T.
    adc_um2_per_ms
        Apparent diffusion coefficient.
    texture
        Standard deviation of the signal within the tissue, as a fraction of it.
    """

    proton_density: float
    t1_ms: float
    t2_ms: float
    t2star_ms: float
    adc_um2_per_ms: float
    texture: float


@dataclass(frozen=True)
class Sequence:
    """What the scanner plays out.

    Attributes
    ----------
    kind
        Which signal equation holds.
    repetition_ms, echo_ms, inversion_ms
        TR, (effective) TE, TI; no inversion: 0.
    flip_deg
        Excitation angle.
    b_value_s_per_mm2
        Diffusion weighting.
    """

    kind: Kind
    repetition_ms: float
    echo_ms: float
    inversion_ms: float = 0.0
    flip_deg: float = 90.0
    b_value_s_per_mm2: float = 0.0


@cache
def table() -> dict[str, Tissue]:
    """Tissues by structure name without its side."""
    text = resources.files(__package__).joinpath("tissues.tsv").read_text(encoding="utf-8")
    return {
        row["structure"]: Tissue(**{field: float(row[field]) for field in Tissue.__dataclass_fields__})
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
    }


def signal(tissue: Tissue, sequence: Sequence) -> float:
    """Magnitude of the signal of a pure tissue, in units of its fully relaxed water.

    Textbook equations (Bernstein, King, Zhou: Handbook of MRI Pulse Sequences, 2004, chapters 14.1, 14.2 and 16):
    spin echo PD·(1 − e^(−TR/T1))·e^(−TE/T2); inversion recovery PD·\\|1 − 2e^(−TI/T1) + e^(−TR/T1)\\|·e^(−TE/T2);
    spoiled gradient echo PD·sin α·(1 − E1)/(1 − E1·cos α)·e^(−TE/T2*); diffusion adds e^(−b·ADC).
    """
    e1 = np.exp(-sequence.repetition_ms / tissue.t1_ms)
    if sequence.kind == "gradient_echo":
        angle = np.deg2rad(sequence.flip_deg)
        recovered = np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle))
        decay = tissue.t2star_ms
    elif sequence.kind == "inversion_recovery":
        recovered = abs(1 - 2 * np.exp(-sequence.inversion_ms / tissue.t1_ms) + e1)
        decay = tissue.t2_ms
    else:
        recovered = 1 - e1
        decay = tissue.t2_ms
    diffusion = np.exp(-sequence.b_value_s_per_mm2 * tissue.adc_um2_per_ms * 1e-3)
    return float(tissue.proton_density * recovered * np.exp(-sequence.echo_ms / decay) * diffusion)


def signals(sequence: Sequence) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Signal and its texture's amplitude for every label number, as two lookup arrays (air: 0)."""
    level = np.zeros(labels.table()[-1].number + 1, dtype=np.float32)
    texture = np.zeros_like(level)
    for label in labels.table():
        tissue = table().get(structure(label.number))
        if tissue is not None:
            level[label.number] = signal(tissue, sequence)
            texture[label.number] = level[label.number] * tissue.texture
    return level, texture


def structure(number: int) -> str:
    """Name of a label without its side, e.g. ``Hippocampus`` for 17 and 53."""
    return labels.by_number()[number].name.removeprefix("Left-").removeprefix("Right-")
