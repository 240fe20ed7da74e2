"""Scans whose truth is known: deformed label maps that look like a T1, T2, FLAIR or CT, in slices of a chosen distance.

What is measured on them is measured on anatomy that no network was trained on, if the label maps are not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synthsr import labels, preprocess, resample
from synthsr.generator import Generated, Generator, LabelMap, Params, read_config
from synthsr.generator.deformation import Deformation

#: Grey levels per tissue: background, white, grey, CSF, bone, soft tissue. Deep grey matter lies between the first two.
CONTRASTS = {
    "T1": (2, 110, 75, 25, 15, 65),
    "T2": (2, 60, 85, 200, 10, 70),
    "FLAIR": (2, 95, 120, 25, 15, 80),
    "CT": (0, 28, 36, 10, 250, 45),
}
TISSUES = ("background", "white", "grey", "csf", "bone", "soft")
#: Standard deviations of a label's level about its tissue's, and of the voxels about their label's.
LABEL_SD_GREY, VOXEL_SD_GREY = 3.0, 5.0
ORIENTATIONS = ("sagittal", "coronal", "axial")
#: Of the slice profile, as a share of the slice thickness (reference implementation).
PROFILE = 0.42
#: Draws depend on it and on their number alone: every map gets the same.
SEED = 0x692E677A


def generator(
    device: torch.device, *, field_mm: int = 192, voxel_size_mm: int = 1, scaling: float = Deformation.scaling
) -> Generator:
    """Deforms as in training, but for ``scaling``; nothing else is random but noise and a mild bias field."""
    steps = [
        {"mixture": {"sd_grey": [0, 0]}},
        {"bias": {"log_sd": [0.1, 0.1]}},
        {"normalise": {}},
        {"blur": {"sd_mm": [0.5, 0.5]}},
        {"acquire": {"fixed_spacing_mm": [[1, 1, 1]], "gaps": False, "profile_jitter": [1, 1]}},
    ]
    grid = {"field_mm": field_mm, "voxel_size_mm": voxel_size_mm}
    return Generator(
        read_config({**grid, "deformation": {"translation_mm": 5, "scaling": scaling}, "steps": steps}), device
    )


def levels(contrast: str) -> npt.NDArray[np.float64]:
    """Grey level per label of a contrast, in the order of the table of labels."""
    level: dict[str, float] = dict(zip(TISSUES, CONTRASTS[contrast], strict=True))
    level["deep_grey"] = 0.5 * (level["grey"] + level["white"])
    return np.array([level[label.tissue] for label in labels.table()], dtype=np.float64)


def looking_like(params: Params, contrast: str, rng: np.random.Generator) -> Params:
    """The draw with the grey levels of a contrast; labels of a tissue differ by a few levels."""
    mean = (levels(contrast) + LABEL_SD_GREY * rng.standard_normal(len(labels.table()))).clip(0, 255)
    mean = 0.5 * (mean + mean[labels.mirror_of_index()])
    mixture = {**params.steps[0], "mean_grey": mean[None], "sd_grey": np.full((1, mean.size), VOXEL_SD_GREY)}
    return replace(params, steps=(mixture, *params.steps[1:]))


def head(make: Generator, source: LabelMap, draw: int, contrast: str) -> Generated:
    """One deformed head at the grid's own resolution; all contrasts of a draw share anatomy, bias field and noise."""
    rng = np.random.default_rng([2023, draw, SEED])
    return make.apply([source], [looking_like(make.sample(rng), contrast, rng)])


def contrast_of(draw: int) -> str:
    """The draws take turns."""
    return list(CONTRASTS)[draw % len(CONTRASTS)]


def scanned(image: Tensor, spacing_mm: float, orientation: str, *, voxel_size_mm: float = 1.0) -> Tensor:
    """The image scanned in touching slices and brought back to its grid; in [0, 1].

    Parameters
    ----------
    image
        Shape (1, 1, size, size, size).
    spacing_mm
        Distance of the slices; no coarser than the grid, the image stays as it is.
    orientation
        One of :data:`ORIENTATIONS`.
    voxel_size_mm
        Of the grid.
    """
    spacing = spacing_mm / voxel_size_mm
    if spacing <= 1:
        return image
    axis = 2 + ORIENTATIONS.index(orientation)
    operator = resample.acquisition(image.shape[axis], spacing, PROFILE * spacing, (spacing - 1) / 2)
    return preprocess.scale_to_unit(resample.apply(image, operator, axis))
