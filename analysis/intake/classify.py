"""Decides what a series shows and whether it is used: physics first, text second.

Sites name their series as they like; repetition, echo and inversion times are what was measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .geometry import Stack

#: Fewer slices than this are no scan of a brain.
FEWEST_SLICES = 10
#: Least field of view in the slice (a head is 150 mm wide) and across the slices (thick slices may miss the vertex).
LEAST_IN_PLANE_MM = 140.0
LEAST_COVERAGE_MM = 90.0
#: Fluid is nulled at 1500 ms and later, fat at 80–350 ms.
FLAIR_TI_MS = 1500.0
STIR_TI_MS = (80.0, 350.0)
#: FLAIR is T2-weighted besides.
FLAIR_TE_MS, FLAIR_TR_MS = 70.0, 4000.0
#: Spin echo: up to this TR it is T1-weighted, from the second on it is not.
T1_TR_MS, T2_TR_MS = 1200.0, 1500.0
#: Below the first echo time T1 or proton density show, from the second on T2; between, text decides.
SHORT_TE_MS, T2_TE_MS = 45.0, 60.0
#: Gradient echoes later than this are T2*-weighted.
GRADIENT_T1_TE_MS = 12.0
#: Steady-state free precession without spoiling, as used for nerves and vessels, has at least this flip angle.
BALANCED_FLIP_DEGREES = 25.0
#: Diffusion weightings from here on are no anatomical scan.
LEAST_B_VALUE_S_PER_MM2 = 1.0

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DERIVED_TYPES = {"PROJECTION IMAGE", "MIP", "MIN IP", "MNIP", "CPR", "CSA MPR", "CSA RESAMPLED", "SCREEN SAVE"}
PARAMETER_MAPS = {"ADC", "FA", "TRACEW", "EADC", "T1 MAP", "T2 MAP", "T2_STAR", "RCBV", "RCBF", "MTT", "TTP", "CBF"}
NOT_MAGNITUDE = {"P", "PHASE", "PHASE MAP", "REAL", "IMAGINARY"}
DIFFUSION_TYPES = {"DIFFUSION", "TENSOR", "DFC"}
OTHER_BODY_PARTS = {
    *("SPINE", "CSPINE", "TSPINE", "LSPINE", "SSPINE", "LSSPINE", "NECK", "CHEST", "THORAX", "HEART", "BREAST"),
    *("ABDOMEN", "PELVIS", "HIP", "KNEE", "ANKLE", "FOOT", "SHOULDER", "ELBOW", "WRIST", "HAND", "PROSTATE", "LIVER"),
}

_LOCALIZER = re.compile(r"\b(loc|localizers?|localisers?|scout|survey|(3|tri)[- ]?plane|plane[- ]?loc)\b")
_DIFFUSION = re.compile(r"\b(dwi|dti|diff|diffusion|adc|trace|tracew)\b")
_TIME_SERIES = re.compile(r"\b(bold|fmri|rest|resting|perf|perfusion|pwi|dsc|dce|asl|pcasl|pasl)\b")
_OTHER = re.compile(
    r"\b(tof|mra|mrv|angio|swi|swan|venobold|hemo|t2star|ciss|fiesta|trufi|stir|dir|mrs|svs|csi|"
    r"fieldmap|field map|gre field mapping|b0 ?map|b1 ?map|mip|minip|spine|orbits?|iac|pituitary|sella)\b|t2\*"
)
_BY_TEXT = (
    ("T1w", re.compile(r"\b(t1|t1w|mprage|mp ?rage|bravo|spgr|fspgr|tfl3d)\b")),
    ("FLAIR", re.compile(r"flair|dark[- ]?fluid|tirm")),
    ("PDw", re.compile(r"\b(pd|pdw|proton)\b")),
    ("T2w", re.compile(r"\b(t2|t2w)\b")),
)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a header says about how the images were made; NaN and empty where it says nothing.

    Attributes
    ----------
    modality, sop_class, image_type, body_part, samples_per_pixel
        Kind of image; words in upper case.
    scanning_sequence, sequence_variant, sequence_name, is_angiography
        Kind of sequence.
    text
        Series description and protocol name in lower case. Private: it may hold anything.
    tr_ms, te_ms, ti_ms, flip_degrees, b_value_s_per_mm2
        Physics.
    """

    modality: str = ""
    sop_class: str = ""
    image_type: tuple[str, ...] = ()
    body_part: str = ""
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    sequence_name: str = ""
    is_angiography: bool = False
    samples_per_pixel: int = 1
    text: str = ""
    tr_ms: float = math.nan
    te_ms: float = math.nan
    ti_ms: float = math.nan
    flip_degrees: float = math.nan
    b_value_s_per_mm2: float = math.nan

    @property
    def words(self) -> str:
        """The text with underscores and the like as spaces, so that words have boundaries."""
        return re.sub(r"[^a-z0-9*]+", " ", self.text).strip()


@dataclass(frozen=True)
class Verdict:
    """What a series shows, and why it is left out (empty: it is kept)."""

    contrast: str
    reason: str = ""


def judge(protocol: Protocol, stack: Stack | None, *, rows: int, columns: int, in_plane_mm: Sequence[float]) -> Verdict:
    """Contrast and decision of a series; the first rule that objects gives the reason.

    Parameters
    ----------
    protocol
        How it was made.
    stack
        Where its slices lie; None if the header does not say.
    rows, columns, in_plane_mm
        Size of a slice, and its row and column spacing.
    """
    if protocol.modality not in ("MR", "CT"):
        return Verdict("other", f"modality {protocol.modality or '(unknown)'} is neither MR nor CT")
    if rows == 0 or columns == 0:
        return Verdict("other", "holds no image")
    for rule in (_kind_of_image, _kind_of_sequence):
        if verdict := rule(protocol):
            return verdict
    if stack is None:
        return Verdict("derived", "the header gives no position, orientation or pixel size")
    if stack.n_orientations > 1:
        return Verdict("localizer", f"localizer: slices in {stack.n_orientations} orientations")
    contrast = "ct" if protocol.modality == "CT" else contrast_of(protocol)
    return Verdict(contrast, geometry_fault(stack, rows, columns, in_plane_mm) or _contrast_fault(contrast))


def geometry_fault(stack: Stack, rows: int, columns: int, in_plane_mm: Sequence[float]) -> str:
    """Why a stack of slices is no scan of a whole brain, or empty."""
    if stack.n_volumes > 1:
        return f"more than three dimensions: {stack.n_volumes} images at one position"
    if stack.n_slices < FEWEST_SLICES:
        return f"{stack.n_slices} slices, fewer than {FEWEST_SLICES}"
    if stack.missing_slices:
        return f"{stack.missing_slices} slices are missing"
    if not stack.is_even:
        return "slices are unevenly spaced"
    width_mm = min(rows * in_plane_mm[0], columns * in_plane_mm[1])
    if width_mm < LEAST_IN_PLANE_MM:
        return f"field of view {width_mm:.0f} mm in the slice, less than {LEAST_IN_PLANE_MM:.0f} mm"
    coverage_mm = stack.n_slices * stack.spacing_mm
    if coverage_mm < LEAST_COVERAGE_MM:
        return f"field of view {coverage_mm:.0f} mm across the slices, less than {LEAST_COVERAGE_MM:.0f} mm"
    return ""


def contrast_of(protocol: Protocol) -> str:
    """Contrast of an anatomical MR series as a BIDS suffix, or ``other``."""
    return _contrast_by_physics(protocol) or _contrast_by_text(protocol) or "other"


def _kind_of_image(protocol: Protocol) -> Verdict | None:
    types = set(protocol.image_type)
    if "LOCALIZER" in types or _LOCALIZER.search(protocol.words):
        return Verdict("localizer", "localizer")
    if protocol.b_value_s_per_mm2 >= LEAST_B_VALUE_S_PER_MM2 or types & DIFFUSION_TYPES:
        return Verdict("DWI", "more than three dimensions: diffusion weighting")
    if protocol.sop_class.startswith(SECONDARY_CAPTURE) or "SECONDARY" in types:
        return Verdict("derived", "secondary capture, not an acquired image")
    if "DERIVED" in types or types & DERIVED_TYPES:
        return Verdict("derived", "derived from other images (reformatted or projected)")
    if protocol.samples_per_pixel != 1:
        return Verdict("derived", "colours, not grey levels")
    if types & PARAMETER_MAPS:
        return Verdict("derived", "parameter map")
    if types & NOT_MAGNITUDE:
        return Verdict("other", "phase, real or imaginary image, not magnitude")
    if "MOSAIC" in types:
        return Verdict("other", "more than three dimensions: mosaic of a time series")
    if protocol.body_part.replace(" ", "") in OTHER_BODY_PARTS:
        return Verdict("other", "body part is not the head")
    return None


def _kind_of_sequence(protocol: Protocol) -> Verdict | None:
    if protocol.modality != "MR":
        return None
    if _DIFFUSION.search(protocol.words):
        return Verdict("DWI", "more than three dimensions: diffusion weighting")
    if _TIME_SERIES.search(protocol.words):
        return Verdict("other", "more than three dimensions: time series")
    if "EP" in protocol.scanning_sequence:
        return Verdict("other", "echo-planar, not an anatomical scan")
    if protocol.is_angiography or "fi3d" in protocol.sequence_name:
        return Verdict("other", "angiography")
    if _OTHER.search(protocol.words):
        return Verdict("other", "contrast is none of T1w, T2w, FLAIR, PDw")
    return None


def _contrast_by_physics(protocol: Protocol) -> str:
    """Contrast from the times, or empty where they do not decide (comparisons with NaN are false)."""
    tr, te, ti = protocol.tr_ms, protocol.te_ms, protocol.ti_ms
    is_spin = "SE" in protocol.scanning_sequence
    is_gradient = "GR" in protocol.scanning_sequence and not is_spin
    is_inversion = ti > 0 or "IR" in protocol.scanning_sequence
    variant = protocol.sequence_variant
    if is_gradient and "SS" in variant and "SP" not in variant and protocol.flip_degrees >= BALANCED_FLIP_DEGREES:
        return "other"
    if is_gradient:
        return "other" if te > GRADIENT_T1_TE_MS or ti >= FLAIR_TI_MS else "T1w" if te > 0 else ""
    if is_inversion and STIR_TI_MS[0] <= ti <= STIR_TI_MS[1]:
        return "other"
    if is_inversion and not ti < FLAIR_TI_MS and te >= FLAIR_TE_MS and tr >= FLAIR_TR_MS:
        return "FLAIR"
    if STIR_TI_MS[1] < ti < FLAIR_TI_MS and te < SHORT_TE_MS:
        return "T1w"
    if is_inversion:
        return ""
    if tr <= T1_TR_MS:
        return "T1w" if te < SHORT_TE_MS else ""
    if tr >= T2_TR_MS:
        return "T2w" if te >= T2_TE_MS else "PDw" if te < SHORT_TE_MS else ""
    return ""


def _contrast_by_text(protocol: Protocol) -> str:
    return next((contrast for contrast, pattern in _BY_TEXT if pattern.search(protocol.words)), "")


def _contrast_fault(contrast: str) -> str:
    return "contrast is none of T1w, T2w, FLAIR, PDw" if contrast == "other" else ""
