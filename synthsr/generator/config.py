"""Configuration of the generator: a grid, a deformation, lesions, a target, and steps in the order they are listed.

A configuration is a mapping (YAML). ``preset: NAME`` starts from one of the shipped files in ``presets/``; keys given
beside it replace the preset's. The steps of a preset are changed one by one under ``change``::

    preset: synthsr-2023
    field_mm: 160
    change:
      bias: {log_sd: [0, 0.5]}

Every key is an attribute documented at its class.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import ConfigurationError
from . import artefacts, steps
from .deformation import Deformation
from .lesions import Lesions
from .steps import Step

#: Every step by the name it has in configurations.
STEPS: dict[str, type[Step]] = {
    "mixture": steps.Mixture,
    "real_scan": steps.RealScan,
    "bias": steps.Bias,
    "attenuation": steps.Attenuation,
    "normalise": steps.Normalise,
    "gamma": steps.Gamma,
    "blur": steps.Blur,
    "noise": steps.Noise,
    "misalign": steps.Misalign,
    "acquire": steps.Acquire,
    "realign": steps.Realign,
    "cut_field_of_view": steps.CutFieldOfView,
    "drop_channels": artefacts.DropChannels,
    "clear_slices": artefacts.ClearSlices,
    "skull_strip": artefacts.SkullStrip,
    "rician_noise": artefacts.RicianNoise,
    "gibbs_ringing": artefacts.GibbsRinging,
    "motion_ghosting": artefacts.MotionGhosting,
    "fractal_field": artefacts.FractalField,
}
PRESETS = ("clinical", "synthsr-2021", "synthsr-2023", "synthseg", "tutorial")


@dataclass(frozen=True)
class Target:
    """What the network is to make of the image.

    Attributes
    ----------
    kind
        ``t1``: the real 1 mm T1 of the label map where there is one, else a T1 with one grey level per label.
        ``channel``: the synthetic image of :attr:`channel` before it was acquired, bias field included, normalised as
        the acquired one is (super-resolution alone [S21]).
    channel
        For ``kind: channel``.
    white_matter
        Statistic of a real T1's white matter that is scaled to 1: ``median`` [S21] or ``mean`` [S23].
    """

    kind: Literal["t1", "channel"] = "t1"
    channel: int = 0
    white_matter: Literal["median", "mean"] = "mean"


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything that decides what is generated.

    Attributes
    ----------
    steps
        From the deformed label map to the image, in order.
    field_mm
        Side of the cubic field of view, mm.
    voxel_size_mm
        Voxel size of the generated grid, mm.
    channels
        Images per head.
    deformation, lesions, target
        Their ranges.
    """

    steps: tuple[Step, ...]
    field_mm: int = 192
    voxel_size_mm: int = 1
    channels: int = 1
    deformation: Deformation = field(default_factory=Deformation)
    lesions: Lesions = field(default_factory=Lesions)
    target: Target = field(default_factory=Target)

    @property
    def size(self) -> int:
        """Voxels per side."""
        return self.field_mm // self.voxel_size_mm


def read_config(values: Mapping[str, Any] | None = None, *, where: str = "generator") -> GeneratorConfig:
    """Configuration from a mapping, on top of its preset (``clinical`` unless named).

    Raises
    ------
    ConfigurationError
        For an unknown preset, step or key, or a value of the wrong type; names it.
    """
    given = dict(values or {})
    name = given.pop("preset", "clinical")
    if name not in PRESETS:
        raise ConfigurationError(f"{where}: no preset {name!r}; there are {', '.join(PRESETS)}")
    merged = {**_preset(name), **{key: value for key, value in given.items() if key != "change"}}
    for part in ("deformation", "lesions", "target"):
        if part in given and part in _preset(name):
            merged[part] = {**_preset(name)[part], **given[part]}
    merged["steps"] = [_build_step(entry, f"{where}.steps") for entry in _changed(merged["steps"], given, where)]
    merged.pop("source", None)
    config: GeneratorConfig = build(GeneratorConfig, merged, where)
    if any(isinstance(step, steps.Realign) for step in config.steps) != any(
        isinstance(step, steps.Misalign) for step in config.steps
    ):
        raise ConfigurationError(f"{where}.steps: misalign and realign belong together; list both or neither")
    if config.target.kind == "channel" and any(isinstance(step, artefacts.DropChannels) for step in config.steps):
        raise ConfigurationError(
            f"{where}.steps: drop_channels may take away the channel that target.kind is to restore"
        )
    return config


@cache
def _preset(name: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _changed(entries: list[Any], given: Mapping[str, Any], where: str) -> list[Any]:
    """Steps with the keys of ``change`` replaced."""
    change = given.get("change") or {}
    listed = [_step_name(entry) for entry in entries]
    unknown = sorted(set(change) - set(listed))
    if unknown:
        raise ConfigurationError(f"{where}.change: {', '.join(unknown)} not among the steps {', '.join(listed)}")
    return [
        {name: {**(entry[name] or {} if isinstance(entry, dict) else {}), **change.get(name, {})}}
        for name, entry in zip(listed, entries, strict=True)
    ]


def _step_name(entry: Any) -> str:
    return str(next(iter(entry)) if isinstance(entry, dict) else entry)


def _build_step(entry: dict[str, Any], where: str) -> Step:
    ((name, values),) = entry.items()
    if name not in STEPS:
        raise ConfigurationError(f"{where}: no step {name!r}; there are {', '.join(STEPS)}")
    step: Step = build(STEPS[name], values, f"{where}.{name}")
    return step


def build(cls: type, values: Any, where: str) -> Any:
    """Dataclass from a mapping: lists become tuples, strings paths where the class says so, mappings nested classes.

    One value will do for a list of any length.

    Raises
    ------
    ConfigurationError
        For an unknown key or a value the class cannot hold.
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where}: expected a mapping, found {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    known = [entry.name for entry in fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigurationError(f"{where}: unknown key {', '.join(unknown)}; known keys: {', '.join(known)}")
    try:
        return cls(**{key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Value as the type hint wants it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _convert(next(kind for kind in inner if kind is not type(None)), value, where)
    if origin is Literal:
        if value not in inner:
            raise ConfigurationError(f"{where}: {value!r} is none of {', '.join(map(str, inner))}")
        return value
    if origin is tuple:
        if inner[-1] is Ellipsis and not isinstance(value, (list, tuple)):
            value = [value]
        if not isinstance(value, (list, tuple)) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            raise ConfigurationError(f"{where}: expected a list of {len(inner)}, found {value!r}")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        return tuple(_convert(kind, entry, where) for kind, entry in zip(kinds, value, strict=True))
    if is_dataclass(hint):
        return value if isinstance(value, hint) else build(typing.cast(type, hint), value, where)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, Step):
        return value
    if hint is Path:
        return Path(str(value)).expanduser()
    if origin is dict and not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: expected a mapping, found {value!r}")
    wanted_types: dict[Any, tuple[type, ...]] = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}
    if hint in wanted_types and (
        not isinstance(value, wanted_types[hint]) or (isinstance(value, bool) != (hint is bool))
    ):
        raise ConfigurationError(f"{where}: expected {hint.__name__}, found {value!r}")
    return hint(value) if hint in wanted_types else value
