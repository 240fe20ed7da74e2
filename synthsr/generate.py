"""Synthetic scans written to files, for looking at what the networks are trained on."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import files, io, labels, preprocess
from .errors import ConfigurationError
from .generator import Generator, load_label_map, read_config
from .progress import tracked

GREY_SCALE = 255.0


def generate(source: Path, output: Path, *, number: int, seed: int, preset: str = "clinical") -> list[Path]:
    """Write ``number`` synthetic scans with their target, label map and parameters.

    Parameters
    ----------
    source
        Label map, or a folder of them, used in turn.
    output
        Folder; files are ``NNNN_image.nii.gz``, ``NNNN_target.nii.gz``, ``NNNN_dseg.nii.gz``, ``NNNN.json``.
    number
        How many.
    seed
        Image n depends on (preset, seed, n) alone.
    preset
        One of :data:`synthsr.generator.PRESETS`.

    Returns
    -------
    Paths of the images.
    """
    if number < 1:
        raise ConfigurationError(f"--number {number}: at least 1 is needed")
    maps = [load_label_map(path) for path in io.list_images(source)]
    generator = Generator(read_config({"preset": preset}))
    numbers = np.array(labels.segmentation_numbers(), dtype=np.int16)
    size = generator.config.size
    affine = np.diag([float(generator.config.voxel_size_mm)] * 3 + [1.0])
    affine[:3, 3] = -(size - 1) / 2 * generator.config.voxel_size_mm
    grid = preprocess.Grid((size, size, size), affine)
    written = []
    for position in tracked(range(number), what="images", total=number):
        label_map = maps[position % len(maps)]
        params = generator.sample(np.random.default_rng([seed, position]))
        made = generator.apply([label_map], [params])
        name = f"{position:04d}"
        io.save((made.image[0, 0] * GREY_SCALE).numpy(), grid, output / f"{name}_image.nii.gz")
        io.save((made.target[0, 0] * GREY_SCALE).numpy(), grid, output / f"{name}_target.nii.gz")
        io.save(numbers[made.channel[0].numpy()], grid, output / f"{name}_dseg.nii.gz")
        files.write_json(
            output / f"{name}.json",
            {
                "Synthetic": True,
                "LabelMap": label_map.path.name,
                "Preset": preset,
                "Seed": [seed, position],
                **_plain(params),
            },
        )
        written.append(output / f"{name}_image.nii.gz")
    return written


def _plain(value: Any) -> Any:
    """JSON-able: dataclasses and arrays opened up."""
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
