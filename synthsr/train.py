"""Training: first the segmentation network, then SynthSR in front of it.

The segmenter learns cross-entropy plus soft Dice, and at last cross-entropy alone: where the network is unsure, soft
Dice is best served by posteriors of 1/Dice times the true probability, so that volumes, which are sums of posteriors,
come out too large by that factor. SynthSR learns L1 to the T1-like target plus λ·(1 − soft Dice) of the frozen
segmenter on its output, λ = 0.25 for a target with white matter at 1 (Iglesias et al., Science Advances 2023). Every
step's randomness depends on (seed, network, step) alone, so a resumed run sees the same data in the same order.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from . import __version__, files, inference, labels, losses, preprocess
from .errors import ConfigurationError, DataError
from .generator import Generated, Generator, LabelMap, load_label_map
from .generator import read_config as read_generator_config
from .generator.config import build
from .networks import UNet, UNetConfig, block_offset
from .weights.storage import load_network, save_network

NetworkName = Literal["segmentation", "synthsr"]
NETWORKS: tuple[NetworkName, ...] = ("segmentation", "synthsr")
GRADIENT_NORM_LIMIT = 1.0
#: Grey level at which predictions are clipped (reference implementation), in network units.
SYNTHETIC_MAXIMUM = 128 / 255
#: White matter of the target, in network units; the published λ belongs to a target where it is 1.
TARGET_WHITE_MATTER = 110 / 255


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
    regression
        Loss of SynthSR against its target: ``l1``, or ``l2`` for comparison [S21].
    images_per_step
        Images of one step.
    synthesiser
        SynthSR weights through which the segmenter sees every other step's images, as it does in the pipeline.
    """

    steps: int
    voxel_size_mm: int = 1
    field_mm: tuple[int, ...] = (192,)
    translation_mm: float = 12.0
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-4
    dice_weight: float = 1.0
    regression: Literal["l1", "l2"] = "l1"
    images_per_step: int = 1
    synthesiser: str | None = None


@dataclass(frozen=True)
class NetworkPlan:
    """A network's size (see :class:`synthsr.networks.UNetConfig`), the weights it starts from, and its stages.

    ``start_from`` is a shipped name or a path; without it the segmenter starts at random and SynthSR from the
    segmenter's trunk.
    """

    features: int = 24
    levels: int = 5
    stride: int = 1
    norm: Literal["batch", "instance"] = "batch"
    start_from: str | None = None
    stages: tuple[Stage, ...] = ()

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class TrainingConfig:
    """Contents of a training configuration file.

    Attributes
    ----------
    run
        Folder of the run (created).
    label_maps
        Folder of label maps.
    training, validation
        File names in that folder.
    t1_targets
        Real T1s on the grids of some of these label maps, by the label map's name: SynthSR's targets for them.
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
    label_maps: Path
    training: tuple[str, ...]
    validation: tuple[str, ...]
    t1_targets: dict[str, str] = field(default_factory=dict)
    seed: int = 1
    segmentation: NetworkPlan = field(default_factory=NetworkPlan)
    synthsr: NetworkPlan = field(default_factory=NetworkPlan)
    validate_every: int = 250
    checkpoint_every: int = 250
    generator: dict[str, Any] = field(default_factory=dict)


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
    for key in ("run", "label_maps"):
        if key in values:
            values[key] = _expanded(str(values[key]), f"{path}: {key}")
    targets = values.get("t1_targets")
    if isinstance(targets, dict):
        values["t1_targets"] = {k: _expanded(str(target), f"{path}: t1_targets.{k}") for k, target in targets.items()}
    config: TrainingConfig = build(TrainingConfig, values, str(path))
    decided_by_stages = sorted({"field_mm", "voxel_size_mm"} & set(config.generator))
    if decided_by_stages:
        raise ConfigurationError(f"{path}: generator.{decided_by_stages[0]}: stages decide it; give it there")
    read_generator_config(config.generator, where=f"{path}: generator")
    for network in NETWORKS:
        plan: NetworkPlan = getattr(config, network)
        multiple = UNetConfig(levels=plan.levels, stride=plan.stride).multiple
        for stage in plan.stages:
            for field_mm in stage.field_mm:
                if field_mm // stage.voxel_size_mm % multiple:
                    raise ConfigurationError(
                        f"{path}: {network}.stages: a field of {field_mm} mm has {field_mm // stage.voxel_size_mm} "
                        f"voxels a side, no multiple of {multiple}, which this network needs"
                    )
    return config


def _expanded(path: str, where: str) -> str:
    """Path with environment variables filled in."""
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise ConfigurationError(f"{where}: {expanded}: this environment variable is not set; set it or write the path")
    return expanded


class Trainer:
    """Trains one network of a configuration, resuming from its last checkpoint if there is one.

    Parameters
    ----------
    config
        The run.
    name
        Which network.
    device
        Where to train.
    """

    def __init__(self, config: TrainingConfig, name: NetworkName, device: torch.device) -> None:
        self.config, self.name, self.device = config, name, device
        self.plan: NetworkPlan = getattr(config, name)
        self.folder = config.run / name
        out = len(labels.segmentation_numbers()) if name == "segmentation" else 1
        torch.manual_seed(config.seed)
        plan = self.plan
        self.network = UNet(UNetConfig(1, out, plan.features, plan.levels, plan.stride, plan.norm))
        self.network = self.network.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.step, self.seconds = 0, 0.0
        self.segmenter: UNet | None = None
        self.synthesiser: UNet | None = None
        self.started_from: dict[str, Any] | None = None
        if name == "synthsr":
            self.segmenter = load_network(config.run / "segmentation.safetensors").network.to(device)
            self.segmenter = self.segmenter.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            self.segmenter.requires_grad_(False).eval()
        if self.plan.start_from is not None:
            self._start_from_weights(self.plan.start_from)
        elif self.segmenter is not None:
            self._start_from_segmenter()
        self.maps = self._load(config.training)
        self.validation_maps = self._load(config.validation)
        self._resume()

    def _load(self, names: tuple[str, ...]) -> list[LabelMap]:
        paths = [self.config.label_maps / name for name in names]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise DataError(f"label maps not found: {', '.join(missing)}; check label_maps, training and validation")
        targets = {name: Path(target) for name, target in self.config.t1_targets.items()}
        return [load_label_map(path, t1=targets.get(name)) for path, name in zip(paths, names, strict=True)]

    def _start_from_weights(self, name_or_path: str) -> None:
        loaded = load_network(name_or_path)
        if loaded.network.config != self.network.config:
            raise ConfigurationError(
                f"start_from: {loaded.path} holds {loaded.network.config}, the plan asks for {self.network.config}"
            )
        self.network.load_state_dict(loaded.network.state_dict())
        self.started_from = {"sha256": loaded.sha256, **loaded.information}

    def _start_from_segmenter(self) -> None:
        """Copy the segmenter's trunk where the shapes agree: it already knows anatomy under any contrast.

        The head starts from zero, so that the first steps do not undo the trunk to get rid of random pictures.
        """
        assert self.segmenter is not None
        own = self.network.state_dict()
        for key, value in self.segmenter.state_dict().items():
            if not key.startswith("head.") and key in own and own[key].shape == value.shape:
                own[key].copy_(value)
        nn.init.zeros_(self.network.head.weight)
        if self.network.head.bias is not None:
            nn.init.zeros_(self.network.head.bias)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        state = self.folder / "state.json"
        if not state.is_file():
            for name in ("log.tsv", "validation.tsv"):
                (self.folder / name).unlink(missing_ok=True)
            return
        record = json.loads(state.read_text(encoding="utf-8"))
        tensors = load_file(self.folder / record["tensors"])
        self.network.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for index, parameter in enumerate(self.network.parameters()):
            moments = {key: tensors.get(f"adam.{index}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if moments["step"] is not None:
                self.optimiser.state[parameter] = {
                    key: value
                    if key == "step"
                    else value.to(self.device).reshape(parameter.shape).clone(memory_format=torch.preserve_format)
                    for key, value in moments.items()
                    if value is not None
                }
        self.step, self.seconds = record["step"], record["seconds"]
        for log in (self.folder / "log.tsv", self.folder / "validation.tsv"):
            drop_rows_after(log, self.step)

    def save_checkpoint(self) -> None:
        """Write model, optimiser and step; the previous checkpoint goes only when the new one is whole."""
        tensors = {f"model.{key}": value for key, value in self.network.state_dict().items()}
        for index, parameter in enumerate(self.network.parameters()):
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"adam.{index}.{key}"] = value
        name = f"checkpoint-{self.step:07d}.safetensors"
        with files.whole(self.folder / name) as temporary:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
        files.write_json(
            self.folder / "state.json", {"step": self.step, "seconds": round(self.seconds, 1), "tensors": name}
        )
        for old in self.folder.glob("checkpoint-*.safetensors"):
            if old.name != name:
                old.unlink()

    # -- steps ---------------------------------------------------------------------------------------------------

    def _generators(self, stage: Stage) -> list[Generator]:
        """One generator per field of view."""
        given = self.config.generator
        deformation = {**given.get("deformation", {}), "translation_mm": stage.translation_mm}
        decided = {**given, "deformation": deformation, "voxel_size_mm": stage.voxel_size_mm}
        return [
            Generator(read_generator_config({**decided, "field_mm": field_mm}), self.device)
            for field_mm in stage.field_mm
        ]

    def _loss(self, sample: Generated, stage: Stage, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        stride = self.plan.stride
        image = sample.image.contiguous(memory_format=torch.channels_last_3d)
        if self.name == "segmentation":
            offset = int(rng.integers(stride**3))
            if stage.synthesiser is not None and rng.random() < 0.5:
                image = self._synthesised(image, stage.synthesiser)
            with self._autocast():
                logits = self.network.forward_block(image, offset)
            target = block_offset(sample.channel, stride, offset)
            return losses.segmentation_loss(logits.float(), target, stage.dice_weight), {}
        with self._autocast():
            predicted = self.network(image)
        predicted = predicted.float()
        l1 = F.l1_loss(predicted, sample.target)
        loss = l1 if stage.regression == "l1" else F.mse_loss(predicted, sample.target)
        if not stage.dice_weight:
            return loss, {"l1": l1.item()}
        assert self.segmenter is not None
        stride = self.segmenter.config.stride
        offset = int(rng.integers(stride**3))
        seen = as_segmenter_input(predicted).contiguous(memory_format=torch.channels_last_3d)
        with self._autocast():
            logits = self.segmenter.forward_block(seen, offset)
        dice = torch.nanmean(losses.soft_dice(logits.float().softmax(1), block_offset(sample.channel, stride, offset)))
        loss = loss + stage.dice_weight * TARGET_WHITE_MATTER * (1 - dice)
        return loss, {"l1": l1.item(), "soft_dice": dice.item()}

    @torch.no_grad()
    def _synthesised(self, image: Tensor, weights: str) -> Tensor:
        """A scan's synthetic T1, as the segmenter sees it."""
        if self.synthesiser is None:
            network = inference.ready(load_network(weights).network, self.device)
            self.synthesiser = network.requires_grad_(False)
        with self._autocast():
            made = self.synthesiser(image)
        return as_segmenter_input(made.float()).contiguous(memory_format=torch.channels_last_3d)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def run(self) -> Path:
        """Train to the end of the last stage; returns the path of the weights."""
        total = self.plan.steps
        first = 0
        with tqdm(total=total, initial=self.step, desc=self.name, unit="step") as bar:
            for stage in self.plan.stages:
                generators = self._generators(stage)
                self.network.train()
                while self.step < first + stage.steps:
                    self._one_step(stage, generators, (self.step - first) / stage.steps, bar)
                first += stage.steps
        if self.step:
            self.save_checkpoint()
        weights = self.config.run / f"{self.name}.safetensors"
        information = {
            "task": self.name,
            "steps": self.step,
            "training_seconds": round(self.seconds),
            "seed": self.config.seed,
            "label_maps": list(self.config.training),
            "started_from": self.started_from,
        }
        save_network(self.network, weights, information, dtype=torch.float16)
        return weights

    def _one_step(self, stage: Stage, generators: list[Generator], progress: float, bar: tqdm[Any]) -> None:
        start = time.monotonic()
        rng = np.random.default_rng([self.config.seed, NETWORKS.index(self.name), self.step])
        generator = generators[int(rng.integers(len(generators)))]
        sources = [self.maps[int(rng.integers(len(self.maps)))] for _ in range(stage.images_per_step)]
        sample = generator.apply(sources, [generator.sample(rng) for _ in sources])
        rate = stage.final_learning_rate + (stage.learning_rate - stage.final_learning_rate) * 0.5 * (
            1 + math.cos(math.pi * progress)
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss, parts = self._loss(sample, stage, rng)
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"loss is {value}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM_LIMIT)
        if not math.isfinite(float(norm)):
            raise self._diverged(f"norm of the gradient is {float(norm)}")
        self.optimiser.step()
        self.step += 1
        self.seconds += time.monotonic() - start
        bar.update()
        bar.set_postfix(loss=f"{value:.3f}")
        row = {"step": self.step, "seconds": round(self.seconds, 1), "learning_rate": rate, "loss": value, **parts}
        append_row(self.folder / "log.tsv", row)
        if self.step % self.config.validate_every == 0:
            result = self.validate(generators[-1], stage)
            append_row(self.folder / "validation.tsv", {"step": self.step, "seconds": round(self.seconds, 1), **result})
            bar.write(f"step {self.step}: " + ", ".join(f"{key} {number:.4f}" for key, number in result.items()))
        if self.step % self.config.checkpoint_every == 0:
            self.save_checkpoint()

    def _diverged(self, what: str) -> DataError:
        return DataError(
            f"{what} at step {self.step} of {self.name}; the last checkpoint in {self.folder} is sound: "
            "lower the learning rate and start again"
        )

    @torch.inference_mode()
    def validate(self, generator: Generator, stage: Stage, repeats: int = 2) -> dict[str, float]:
        """Mean over fixed synthetic images of the validation maps, with the network as at inference."""
        modes = {module: module.training for module in self.network.modules()}
        self.network.eval()
        scores: list[dict[str, float]] = []
        for position, source in enumerate(self.validation_maps):
            for repeat in range(repeats):
                rng = np.random.default_rng([99, position, repeat])
                sample = generator.apply([source], [generator.sample(rng)])
                image = sample.image.contiguous(memory_format=torch.channels_last_3d)
                if self.name == "segmentation":
                    with self._autocast():
                        logits = self.network.forward_block(image, 0)
                    target = block_offset(sample.channel, self.plan.stride, 0)
                    channels = len(labels.segmentation_numbers())
                    dice = losses.hard_dice(logits.argmax(1), target, channels)[main_channels()]
                    scores.append({"dice": float(torch.nanmean(dice))})
                else:
                    _, parts = self._loss(sample, stage, rng)
                    scores.append(parts)
        for module, training in modes.items():
            module.training = training
        return {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}


#: The 23 labels over which a mean Dice is quoted.
MAIN_NUMBERS = (2, 3, 4, 7, 8, 10, 11, 12, 13, 16, 17, 18, 41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54)


def main_channels() -> list[int]:
    """Segmentation channels of :data:`MAIN_NUMBERS`."""
    numbers = labels.segmentation_numbers()
    return [numbers.index(number) for number in MAIN_NUMBERS]


def as_segmenter_input(predicted: Tensor) -> Tensor:
    """SynthSR's output as the segmenter sees it: clipped as at inference, then scaled to [0, 1]."""
    return preprocess.scale_to_unit(predicted.clamp(0, SYNTHETIC_MAXIMUM))


def drop_rows_after(path: Path, step: int) -> None:
    """Forget logged steps that come after a checkpoint: a resumed run takes them again."""
    if path.is_file():
        header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        files.write_text(path, header + "".join(row for row in rows if int(row.split("\t", 1)[0]) <= step))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append to a TSV, writing its header first if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, row.keys(), delimiter="\t", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})


def write_provenance(config: TrainingConfig) -> None:
    """Write ``provenance.json`` into the run's folder: configuration, data hashes, versions, commit of the code."""
    code = Path(__file__).parents[1]
    git = shutil.which("git")
    asked = [git or "git", "-C", str(code), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False) if git else None
    names = sorted({*config.training, *config.validation})
    data = [config.label_maps / name for name in names] + [Path(target) for target in config.t1_targets.values()]
    content = {
        "configuration": json.loads(json.dumps(asdict(config), default=str)),
        "sha256": {path.name: files.sha256(path) for path in data if path.is_file()},
        "versions": {"synthsr-cohort": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "commit": commit.stdout.strip() if commit is not None and commit.returncode == 0 else None,
    }
    files.write_json(config.run / "provenance.json", content)


def train(config: TrainingConfig, *, device: torch.device) -> list[Path]:
    """Train what the configuration plans; networks already finished are left alone.

    Returns
    -------
    Paths of the weights.
    """
    config.run.mkdir(parents=True, exist_ok=True)
    write_provenance(config)
    trained = []
    for name in NETWORKS:
        plan: NetworkPlan = getattr(config, name)
        weights, state = config.run / f"{name}.safetensors", config.run / name / "state.json"
        if not plan.stages:
            continue
        done = json.loads(state.read_text(encoding="utf-8"))["step"] if state.is_file() else 0
        if not (weights.is_file() and done >= plan.steps):
            weights = Trainer(config, name, device).run()
        trained.append(weights)
    return trained
