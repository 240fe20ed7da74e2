"""What tissues are made of at 1.5 T and in X-rays, and the signal equations of the simulated sequences.

This module and :mod:`.render` share no code with ``synthsr.generator``: a renderer made of the training generator would
let the networks be examined by their own teacher.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import numpy.typing as npt

from synthsr import labels

Kind = Literal["spin_echo", "inversion_recovery", "gradient_echo", "prepared_gradient_echo", "echo_planar", "x_ray"]

#: Shortening of T1 and T2 by a gadolinium chelate at 1.5 T, in l/(mmol s): Magnevist in plasma (Rohrer 2005,
#: Investigative Radiology 40:715).
RELAXIVITY_T1, RELAXIVITY_T2 = 4.1, 4.6
#: What X-rays see of nothing, in Hounsfield units.
AIR_HU = -1000.0
#: Numbers in masks of lesions, and the tissues they stand for.
LESIONS = {1: "Tumour-Core", 2: "Oedema", 3: "Enhancing-Rim", 4: "Cavity", 5: "Infarct", 6: "Gliosis"}
#: In images of labels: what is added to the numbers of lesions, and the number of venous sinuses.
BEYOND, SINUS = 1000, 1100


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
    gadolinium_mmol_per_l
        Concentration some minutes after a usual dose of contrast agent.
    hounsfield
        Attenuation of X-rays: typical values of textbooks.
    """

    proton_density: float
    t1_ms: float
    t2_ms: float
    t2star_ms: float
    adc_um2_per_ms: float
    texture: float
    gadolinium_mmol_per_l: float
    hounsfield: float


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
    echo_spacing_ms, echoes
        Of the train of gradient echoes after each inversion.
    has_gadolinium
        Whether contrast agent was given.
    """

    kind: Kind
    repetition_ms: float
    echo_ms: float
    inversion_ms: float = 0.0
    flip_deg: float = 90.0
    b_value_s_per_mm2: float = 0.0
    echo_spacing_ms: float = 0.0
    echoes: int = 0
    has_gadolinium: bool = False


@cache
def table() -> dict[str, Tissue]:
    """Tissues by structure name without its side."""
    text = resources.files(__package__).joinpath("tissues.tsv").read_text(encoding="utf-8")
    return {
        row["structure"]: Tissue(**{field: float(row[field]) for field in Tissue.__dataclass_fields__})
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
    }


def signal(tissue: Tissue, sequence: Sequence) -> float:
    """Magnitude of the signal of a pure tissue, in units of its fully relaxed water; of X-rays Hounsfield units.

    Textbook equations (Bernstein, King, Zhou: Handbook of MRI Pulse Sequences, 2004, chapters 14.1, 14.2 and 16):
    spin echo PD·(1 − e^(−TR/T1))·e^(−TE/T2); inversion recovery PD·\\|1 − 2e^(−TI/T1) + e^(−TR/T1)\\|·e^(−TE/T2);
    spoiled gradient echo PD·sin α·(1 − E1)/(1 − E1·cos α)·e^(−TE/T2*); diffusion adds e^(−b·ADC). Contrast agent of
    concentration C: 1/T1 + r1·C, 1/T2 + r2·C. For MPRAGE see :func:`prepared`.
    """
    if sequence.kind == "x_ray":
        return tissue.hounsfield
    if sequence.has_gadolinium:
        tissue = _enhanced(tissue)
    e1 = np.exp(-sequence.repetition_ms / tissue.t1_ms)
    decay = tissue.t2_ms
    if sequence.kind == "gradient_echo":
        angle = np.deg2rad(sequence.flip_deg)
        recovered = np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle))
        decay = tissue.t2star_ms
    elif sequence.kind == "prepared_gradient_echo":
        recovered = abs(prepared(tissue.t1_ms, sequence))
        decay = tissue.t2star_ms
    elif sequence.kind == "inversion_recovery":
        recovered = abs(1 - 2 * np.exp(-sequence.inversion_ms / tissue.t1_ms) + e1)
    else:
        recovered = 1 - e1
    diffusion = np.exp(-sequence.b_value_s_per_mm2 * tissue.adc_um2_per_ms * 1e-3)
    return float(tissue.proton_density * recovered * np.exp(-sequence.echo_ms / decay) * diffusion)


def prepared(t1_ms: float, sequence: Sequence) -> float:
    """Transverse magnetisation at the middle of MPRAGE's train of echoes, in the steady state, before decay.

    After an inversion M recovers to its equilibrium 1 during TI − N·τ/2; each of the N excitations by α, τ apart,
    leaves cos α of it, which recovers during τ; then M recovers until the next inversion, TR after the last. The steady
    state is where M before the inversion repeats itself (as in Wang 2014, PLoS ONE 9:e96899); TI is counted to the
    middle of the train, which is the middle of k-space.
    """
    angle, half = np.deg2rad(sequence.flip_deg), sequence.echoes // 2
    before_ms = sequence.inversion_ms - half * sequence.echo_spacing_ms
    after_ms = sequence.repetition_ms - before_ms - sequence.echoes * sequence.echo_spacing_ms
    between = np.exp(-sequence.echo_spacing_ms / t1_ms)
    kept = np.cos(angle) * between
    driven = (1 - between) / (1 - kept)

    # Each step turns M into a·M + b; the whole cycle's a and b give the M that repeats itself.
    steps = [
        (-np.exp(-before_ms / t1_ms), 1 - np.exp(-before_ms / t1_ms)),
        (kept**half, driven * (1 - kept**half)),
        (kept ** (sequence.echoes - half), driven * (1 - kept ** (sequence.echoes - half))),
        (np.exp(-after_ms / t1_ms), 1 - np.exp(-after_ms / t1_ms)),
    ]
    factor, offset = 1.0, 0.0
    for a, b in steps:
        factor, offset = a * factor, a * offset + b
    magnetisation = offset / (1 - factor)
    for a, b in steps[:2]:
        magnetisation = a * magnetisation + b
    return float(np.sin(angle) * magnetisation)


def _enhanced(tissue: Tissue) -> Tissue:
    """The tissue with contrast agent in it."""
    concentration = tissue.gadolinium_mmol_per_l
    r1, r2 = (relaxivity * concentration / 1000 for relaxivity in (RELAXIVITY_T1, RELAXIVITY_T2))
    return replace(
        tissue,
        t1_ms=1 / (1 / tissue.t1_ms + r1),
        t2_ms=1 / (1 / tissue.t2_ms + r2),
        t2star_ms=1 / (1 / tissue.t2star_ms + r2),
    )


def signals(sequence: Sequence) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Signal and its texture's amplitude for every number of an image of labels, as two lookup arrays."""
    level = np.full(SINUS + 1, AIR_HU if sequence.kind == "x_ray" else 0.0, dtype=np.float32)
    texture = np.zeros_like(level)
    for number, name in names().items():
        level[number] = signal(table()[name], sequence)
        texture[number] = abs(level[number]) * table()[name].texture
    return level, texture


@cache
def names() -> dict[int, str]:
    """Row of ``tissues.tsv`` by number in an image of labels."""
    known = {label.number: structure(label.number) for label in labels.table()}
    known |= {BEYOND + number: name for number, name in LESIONS.items()} | {SINUS: "Sinus"}
    return {number: name for number, name in known.items() if name in table()}


def structure(number: int) -> str:
    """Name of a label without its side, e.g. ``Hippocampus`` for 17 and 53."""
    return labels.by_number()[number].name.removeprefix("Left-").removeprefix("Right-")
