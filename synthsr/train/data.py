"""The label maps of a training, with the real images that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..generator import LabelMap, load_label_map
from .config import TrainingConfig


def find_label_map(config: TrainingConfig, name: str) -> Path:
    """Path of a label map: in the first of the folders that has it.

    Raises
    ------
    DataError
        If none has it.
    """
    for folder in config.label_maps:
        if (folder / name).is_file():
            return folder / name
    folders = ", ".join(str(folder) for folder in config.label_maps)
    raise DataError(f"label map {name} not found in {folders}; check label_maps, training and validation")


def load_label_maps(config: TrainingConfig, names: Sequence[str]) -> list[LabelMap]:
    """Label maps by name, each with its real T1 and its real scan if it has them; read once however often named."""
    paths = {name: find_label_map(config, name) for name in names}

    def belonging(images: dict[str, str], name: str) -> Path | None:
        return Path(images[name]) if name in images else None

    loaded = {
        name: load_label_map(path, t1=belonging(config.t1_targets, name), scan=belonging(config.scans, name))
        for name, path in paths.items()
    }
    return [loaded[name] for name in names]
