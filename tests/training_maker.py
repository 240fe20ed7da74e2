"""A miniature training: a head of nested boxes, and a configuration of a few steps of tiny networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from synthsr import labels

SIZE = 24


def head() -> np.ndarray:
    """Label map of nested boxes: skin, CSF, cortex, white matter and a hippocampus in the middle."""
    numbers = np.zeros((SIZE,) * 3, np.int16)
    for margin, number in ((1, 511), (3, 24), (4, 3), (7, 2), (9, 17)):
        inside = (slice(margin, -margin),) * 3
        numbers[inside] = number
    right = numbers[SIZE // 2 :]
    for number in (2, 3, 17):
        right[right == number] = labels.mirror_number(number)
    return numbers


def save(volume: np.ndarray, path: Path) -> Path:
    """Write a volume of 1 mm voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), path)
    return path


def make_training(folder: Path, **changes: Any) -> Path:
    """Write a label map and ``train.yaml``: four steps of each network.

    Parameters
    ----------
    folder
        Where to.
    changes
        Keys of the configuration.
    """
    save(head(), folder / "maps" / "head.nii.gz")
    stage = {"steps": 4, "field_mm": [16, 24], "translation_mm": 2, "learning_rate": 1.0e-2}
    network = {"features": 2, "levels": 2, "stride": 2, "norm": "instance", "stages": [stage]}
    content = {
        "run": str(folder / "run"),
        "label_maps": str(folder / "maps"),
        "training": ["head.nii.gz"],
        "validation": ["head.nii.gz"],
        "validate_every": 2,
        "checkpoint_every": 2,
        "segmentation": network,
        "synthsr": network,
        **changes,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
