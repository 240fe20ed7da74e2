"""Synthetic scans from label maps: ``sample(rng) → Params``, then ``apply(label maps, params) → images``."""

from .config import PRESETS, GeneratorConfig, read_config
from .model import Generated, Generator, Params
from .source import LabelMap, load_label_map

__all__ = [
    "PRESETS",
    "Generated",
    "Generator",
    "GeneratorConfig",
    "LabelMap",
    "Params",
    "load_label_map",
    "read_config",
]
