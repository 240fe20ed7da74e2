"""Synthetic scans from label maps: ``sample(rng) → Params``, then ``apply(labels, params) → images``."""

from .model import Generated, Generator, GeneratorConfig, Params
from .source import LabelMap, load_label_map

__all__ = ["Generated", "Generator", "GeneratorConfig", "LabelMap", "Params", "load_label_map"]
