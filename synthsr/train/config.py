"""What a training configuration file (YAML) holds."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from .. import labels
from ..errors import ConfigurationError
from ..generator import read_config as read_generator_config
from ..generator.config import build
from ..networks import UNetConfig

NetworkName = Literal["segmentation", "synthsr"]
#: In the order in which they are trained.
NETWORKS: tuple[NetworkName, ...] = ("segmentation", "synthsr")
#: Says in ``start_from`` that a network starts at random.
RANDOM = "random"


@dataclass(frozen=True)
class Stage:
    """A run of steps under one setting.

    Attributes
    ----------
    steps
        Number of optimiser steps.
    voxel_size_mm, field_mm
        Grid of the generated images; with several fields, one is drawn per step.
    translation_mm
        Largest offset of the field's centre from the cerebrum's.
    learning_rate, final_learning_rate
        Adam's learning rate at the start and end of the stage, cosine between.
    dice_weight
        Weight of 1 − soft Dice: beside the cross-entropy of the segmenter, or λ beside the L1 of SynthSR, in units of
        a target with white matter at 1. With 0 it is left out.
    tissue_weight
        Weight of cross-entropy + (1 − soft Dice) of the classes of a SynthSR with ``tissues``, beside its L1.
    regression
        Loss of SynthSR against its target: ``l1``, or ``l2`` for comparison [S21].
    images_per_step
        Images of one step, on each device; the loss is their mean.
    synthesiser
        SynthSR weights through which the segmenter sees every other step's images, as it does in the pipeline.
    distance_weight
        Weight of the squared error (mm²) of the distance to the brain's boundary, where the segmenter tells it.
    """

    steps: int
    voxel_size_mm: int = 1
    field_mm: tuple[int, ...] = (192,)
    translation_mm: float = 12.0
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-4
    dice_weight: float = 1.0
    tissue_weight: float = 0.0
    regression: Literal["l1", "l2"] = "l1"
    images_per_step: int = 1
    synthesiser: str | None = None
    distance_weight: float = 0.02


@dataclass(frozen=True)
class NetworkPlan:
    """A network's size (see :class:`synthsr.networks.UNetConfig`), the weights it starts from, and its stages.

    Attributes
    ----------
    features
        Features of the first level; they double per level.
    levels
        Number of levels.
    stride
        1 for the published network; 2 to work on blocks of 2×2×2 voxels.
    norm
        ``batch`` or ``instance``.
    distance
        The segmenter also tells the distance to the brain's boundary (``synthsr strip``).
    last_features
        Features that the head reads; by default ``features``.
    tissues
        SynthSR averages the T1 grey levels of the segmentation's labels, and adds a remainder. It starts as its
        segmenter then.
    residual
        Channel to which SynthSR predicts the difference.
    reliability
        SynthSR sees the reliability maps behind the scans.
    start_from
        A shipped name, a path or ``random``; without it the segmenter starts at random and SynthSR from the segmenter's
        trunk. A segmenter without stages is what it names.
    stages
        One after the other.
    """

    features: int = 24
    levels: int = 5
    stride: int = 1
    norm: Literal["batch", "instance"] = "batch"
    last_features: int | None = None
    distance: bool = False
    tissues: bool = False
    residual: int | None = None
    reliability: bool = False
    start_from: str | None = None
    stages: tuple[Stage, ...] = ()

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def network(self, *, scans: int, out_channels: int) -> UNetConfig:
        """Size of the network that sees so many scans of a session."""
        return UNetConfig(
            in_channels=scans * (1 + self.reliability),
            out_channels=out_channels,
            features=self.features,
            levels=self.levels,
            stride=self.stride,
            norm=self.norm,
            last_features=self.last_features,
            tissues=len(labels.segmentation_numbers()) if self.tissues else 0,
            residual=self.residual,
            distance=self.distance,
        )

    @property
    def steps_before_last_stage(self) -> int:
        """Of all stages but the last."""
        return sum(stage.steps for stage in self.stages[:-1])


@dataclass(frozen=True)
class ValidationScan:
    """A real scan that is looked at during training, and never decides anything.

    Attributes
    ----------
    scan
        NIfTI or MGZ.
    labels
        Its reference segmentation, on any grid.
    names
        What the numbers in ``labels`` stand for (see :func:`synthsr.labels.read_segmentation_names`); without it they
        are the numbers of ``labels.tsv``.
    ct
        The scan is computed tomography in Hounsfield units.
    """

    scan: Path
    labels: Path | None = None
    names: Path | None = None
    ct: bool = False


@dataclass(frozen=True)
class TrainingConfig:
    """Contents of a training configuration file.

    Attributes
    ----------
    run
        Folder of the run (created).
    label_maps
        Folder of label maps, or several: the first that has a name counts.
    training, validation
        File names in these folders. A name listed twice is drawn twice as often.
    t1_targets
        Real T1s of some of these heads, by the label map's name: SynthSR's targets for them.
    scans
        Real scans of some of these heads, by the label map's name: what the generator's step ``real_scan`` shows
        instead of a synthetic scan.
    validation_scans
        Real scans looked at at every validation.
    seed
        Seed of everything random.
    segmentation, synthsr
        Plans of the two networks.
    validate_every, checkpoint_every
        Steps between validations and between checkpoints.
    generator
        The generator (see :mod:`synthsr.generator.config`), except what a stage decides.
    """

    run: Path
    label_maps: tuple[Path, ...]
    training: tuple[str, ...]
    validation: tuple[str, ...]
    t1_targets: dict[str, str] = field(default_factory=dict)
    scans: dict[str, str] = field(default_factory=dict)
    validation_scans: tuple[ValidationScan, ...] = ()
    seed: int = 1
    segmentation: NetworkPlan = field(default_factory=NetworkPlan)
    synthsr: NetworkPlan = field(default_factory=NetworkPlan)
    validate_every: int = 250
    checkpoint_every: int = 250
    generator: dict[str, Any] = field(default_factory=dict)

    def plan(self, name: NetworkName) -> NetworkPlan:
        """Plan of a network."""
        return self.segmentation if name == "segmentation" else self.synthsr


def read_config(path: Path) -> TrainingConfig:
    """Read a training configuration (YAML); relative paths start at the working directory, and
    environment variables in paths are filled in.

    Raises
    ------
    ConfigurationError
        For an unknown or missing key, or a value of the wrong type.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"{path}: no such file; give a training configuration such as config/train.yaml")
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: expected a mapping of keys, found {type(values).__name__}")
    for key in ("run", "label_maps", "t1_targets", "scans", "validation_scans"):
        if key in values:
            values[key] = _expanded(values[key], f"{path}: {key}")
    config: TrainingConfig = build(TrainingConfig, values, str(path))
    for key in ("t1_targets", "scans"):
        unused = sorted(set(getattr(config, key)) - {*config.training, *config.validation})
        if unused:
            raise ConfigurationError(f"{path}: {key}: {', '.join(unused)} is neither in training nor in validation")
    decided_by_stages = sorted({"field_mm", "voxel_size_mm"} & set(config.generator))
    if decided_by_stages:
        raise ConfigurationError(f"{path}: generator.{decided_by_stages[0]}: stages decide it; give it there")
    _check_plans(config, str(path))
    for network in NETWORKS:
        plan = config.plan(network)
        multiple = UNetConfig(levels=plan.levels, stride=plan.stride).multiple
        for stage in plan.stages:
            for field_mm in stage.field_mm:
                if field_mm // stage.voxel_size_mm % multiple:
                    raise ConfigurationError(
                        f"{path}: {network}.stages: a field of {field_mm} mm has {field_mm // stage.voxel_size_mm} "
                        f"voxels a side, no multiple of {multiple}, which this network needs"
                    )
    return config


def _check_plans(config: TrainingConfig, where: str) -> None:
    """Raise :class:`ConfigurationError` where the plans contradict the generator or each other."""
    generator = read_generator_config(config.generator, where=f"{where}: generator")
    of_synthsr = (
        config.segmentation.residual is not None or config.segmentation.reliability or config.segmentation.tissues
    )
    if of_synthsr or config.synthsr.distance:
        raise ConfigurationError(
            f"{where}: residual, reliability and tissues are of synthsr, distance is of segmentation; move them there"
        )
    if not config.synthsr.tissues and any(stage.tissue_weight for stage in config.synthsr.stages):
        raise ConfigurationError(f"{where}: synthsr.stages: tissue_weight goes with tissues: true")
    try:
        config.synthsr.network(scans=generator.channels, out_channels=1)
    except ValueError as error:
        raise ConfigurationError(f"{where}: synthsr: {error}") from error
    if generator.target.kind == "channel" and any(stage.dice_weight for stage in config.synthsr.stages):
        raise ConfigurationError(
            f"{where}: with generator.target.kind channel the target is no T1 for the segmenter to look at; set "
            "dice_weight: 0 in every stage of synthsr"
        )
    if generator.channels > 1 and config.synthsr.stages and config.validation_scans:
        raise ConfigurationError(
            f"{where}: validation_scans are single scans, synthsr here takes {generator.channels} of a session; leave "
            "them out"
        )


def _expanded(value: Any, where: str) -> Any:
    """Value with environment variables filled in, in every text that it holds."""
    if isinstance(value, list):
        return [_expanded(entry, where) for entry in value]
    if isinstance(value, dict):
        return {key: _expanded(entry, f"{where}.{key}") for key, entry in value.items()}
    if not isinstance(value, str):
        return value
    expanded = os.path.expandvars(value)
    if "$" in expanded:
        raise ConfigurationError(f"{where}: {expanded}: this environment variable is not set; set it or write the path")
    return expanded
