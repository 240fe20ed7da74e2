"""Training of one network.

The segmenter learns cross-entropy plus soft Dice, and at last cross-entropy alone: where the network is unsure, soft
Dice is best served by posteriors of 1/Dice times the true probability, so that volumes, which are sums of posteriors,
come out too large by that factor. SynthSR learns L1 to the T1-like target plus λ·(1 − soft Dice) of the frozen
segmenter on its output, λ = 0.25 for a target with white matter at 1 (Iglesias et al., Science Advances 2023).

Image k of a step depends on (seed, network, step, k) alone, counted over all processes, so that a resumed run sees the
same data in the same order, and several devices see what one would with as many images a step.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .. import inference, labels, losses, preprocess
from ..errors import ConfigurationError, DataError
from ..generator import Generated, Generator, Params
from ..generator import read_config as read_generator_config
from ..networks import UNet, block_offset, grown, unfold
from ..weights.storage import INTENSITIES_OF, RELIABILITY_MAPS, load_network, save_network
from . import data, pictures, scans
from .checkpoint import Best, Progress, load_checkpoint, save_checkpoint
from .config import NETWORKS, RANDOM, NetworkName, NetworkPlan, Stage, TrainingConfig
from .devices import ALONE, Group
from .record import LossWatch, Record

GRADIENT_NORM_LIMIT = 1.0
#: White matter of the target, in network units; the published λ belongs to a target where it is 1.
TARGET_WHITE_MATTER = 110 / 255
#: Draws of each validation map at a validation.
VALIDATION_DRAWS = 2
#: Opens the seeds of validation images, the same at every validation of every run.
VALIDATION_SEED = 99
#: The 23 labels over which a mean Dice is quoted.
MAIN_NUMBERS = (2, 3, 4, 7, 8, 10, 11, 12, 13, 16, 17, 18, 41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54)


def main_channels() -> list[int]:
    """Segmentation channels of :data:`MAIN_NUMBERS`."""
    numbers = labels.segmentation_numbers()
    return [numbers.index(number) for number in MAIN_NUMBERS]


@dataclass(frozen=True)
class StepDraw:
    """All that is random in one step, as one process sees it.

    Attributes
    ----------
    generator
        Decides the field of view; the same for all processes.
    images
        Position among the training maps, and parameters, of each of this process's images.
    offset
        Voxel of each block that the prediction is compared at; the same for all processes.
    through_synthesiser
        The segmenter sees this step's images through the synthesiser; the same for all processes.
    """

    generator: Generator
    images: tuple[tuple[int, Params], ...]
    offset: int
    through_synthesiser: bool


@dataclass(frozen=True)
class Outcome:
    """What a network made of a batch.

    Attributes
    ----------
    loss
        Scalar.
    parts
        Numbers to log beside it.
    prediction
        The segmenter's logits, or SynthSR's image, at one voxel of each block; with a segmentation loss behind it
        SynthSR's whole image. float32.
    """

    loss: Tensor
    parts: dict[str, float]
    prediction: Tensor


@dataclass(frozen=True)
class Validation:
    """Mean scores by column, and pictures of shape (height, width, 3) by name."""

    scores: dict[str, float]
    pictures: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)


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
    group
        The processes that train it together.
    """

    def __init__(self, config: TrainingConfig, name: NetworkName, device: torch.device, group: Group = ALONE) -> None:
        self.config, self.name, self.device, self.group = config, name, device, group
        self.plan: NetworkPlan = config.plan(name)
        self.folder = config.run / name
        torch.manual_seed(config.seed)
        generator = read_generator_config(config.generator)
        #: Where the target is one of the scans, which.
        self.intensities_of = generator.target.channel if generator.target.kind == "channel" else None
        if name == "segmentation":
            size = self.plan.network(scans=1, out_channels=len(labels.segmentation_numbers()))
        else:
            size = self.plan.network(scans=generator.channels, out_channels=1)
        self.network = UNet(size)
        if self.plan.tissues:
            grey = [labels.by_number()[number].t1_grey for number in labels.segmentation_numbers()]
            self.network.tissue_grey.data = torch.tensor(grey) / preprocess.FULL_SCALE_GREY
        self.network = self.network.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.step, self.seconds = 0, 0.0
        self.best: Best | None = None
        numbers = labels.segmentation_numbers()
        self._brain = torch.tensor([number in labels.brain_numbers() for number in numbers])
        self.segmenter: UNet | None = None
        self.synthesiser: UNet | None = None
        #: Of the weights that this network starts from, and of the frozen segmenter behind it.
        self.started_from: dict[str, Any] | None = None
        self.segmenter_sha256: str | None = None
        if name == "synthsr":
            loaded = load_network(self._segmenter_weights())
            self.segmenter_sha256 = loaded.sha256
            self.segmenter = inference.ready(loaded.network, device).requires_grad_(False)
        if self.plan.start_from is None:
            self._start_from_segmenter()
        elif self.plan.start_from != RANDOM:
            self._start_from_weights(self.plan.start_from)
        self.maps = data.load_label_maps(config, config.training)
        # Validation is the first process's business.
        self.validation_maps = data.load_label_maps(config, config.validation) if group.leads else []
        self.validation_scans = [scans.read(entry) for entry in config.validation_scans] if group.leads else []
        self._resume()

    def _segmenter_weights(self) -> str | Path:
        """The run's own segmenter, or the one it would have started from."""
        own, plan = self.config.run / "segmentation.safetensors", self.config.segmentation
        if own.is_file():
            return own
        if plan.stages or plan.start_from is None:
            raise ConfigurationError(
                f"{own}: not there, and synthsr learns in front of a segmenter; plan segmentation.stages, or name "
                "weights by segmentation.start_from"
            )
        return plan.start_from

    def _start_from_weights(self, name_or_path: str) -> None:
        loaded = load_network(name_or_path)
        try:
            network = grown(loaded.network, last_features=self.plan.last_features, distance=self.plan.distance)
        except ValueError:
            network = loaded.network
        if network.config != self.network.config:
            raise ConfigurationError(
                f"start_from: {loaded.path} holds {loaded.network.config}, the plan asks for {self.network.config}"
            )
        self.network.load_state_dict(network.state_dict())
        self.started_from = {"sha256": loaded.sha256, **loaded.information}

    def _start_from_segmenter(self) -> None:
        """Copy the trunk of SynthSR's segmenter where the shapes agree: it already knows anatomy under any contrast.

        The head starts from zero, so that the first steps do not undo the trunk to get rid of random pictures; with
        ``tissues`` its classes start as the segmenter's, and only the remainder from zero.
        """
        if self.segmenter is None:
            return
        segmenter = self.segmenter
        if (self.plan.last_features or 0) > (segmenter.config.last_features or segmenter.config.features):
            distance = segmenter.config.distance
            segmenter = grown(segmenter, last_features=self.plan.last_features, distance=distance)
        own = self.network.state_dict()
        nn.init.zeros_(self.network.head.weight)
        if self.network.head.bias is not None:
            nn.init.zeros_(self.network.head.bias)
        for key, value in segmenter.state_dict().items():
            if not key.startswith("head.") and key in own and own[key].shape == value.shape:
                own[key].copy_(value)
        if not self.plan.tissues:
            return
        fits = own["head.weight"].shape[1:] == segmenter.head.weight.shape[1:]
        if not fits or self.plan.stride != segmenter.config.stride:
            raise ConfigurationError(
                f"synthsr with tissues starts as its segmenter, which is {segmenter.config}; give synthsr the same "
                "stride, features and last_features, or start_from: random"
            )
        classes = slice(self.network.config.tissues * self.plan.stride**3)
        for key in ("head.weight", "head.bias"):
            own[key][classes] = segmenter.state_dict()[key][classes]

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        progress = load_checkpoint(self.folder, self.network, self.optimiser)
        self.step, self.seconds, best = progress.step, progress.seconds, progress.best
        # A stage added since then is now the last, and has its own best.
        if best is not None and best.measure == self.measure and best.step > self.plan.steps_before_last_stage:
            self.best = best

    def save_checkpoint(self) -> None:
        """Write all that is needed to go on from here, and the best network so far for use."""
        save_checkpoint(self.folder, Progress(self.step, self.seconds, self.best), self.network, self.optimiser)
        if self.best is not None:
            self._save_weights(self.folder / "best.safetensors")

    def _save_weights(self, path: Path) -> None:
        """Write the network of the best validation, or without one the network as it is, for use."""
        network = self.network
        if self.best is not None:
            network = UNet(self.network.config)
            network.load_state_dict(self.best.tensors)
        information = {
            "task": self.name,
            "steps": self.step,
            "best_step": None if self.best is None else self.best.step,
            "training_seconds": round(self.seconds),
            "seed": self.config.seed,
            "label_maps": list(self.config.training),
            "started_from": self.started_from,
            "segmenter_sha256": self.segmenter_sha256,
        }
        if self.plan.reliability:
            information[RELIABILITY_MAPS] = True
        if self.name == "synthsr" and self.intensities_of is not None:
            information[INTENSITIES_OF] = self.intensities_of
        save_network(network, path, information, dtype=torch.float16)

    # -- draws ---------------------------------------------------------------------------------------------------

    def _generators(self, stage: Stage) -> list[Generator]:
        """One generator per field of view."""
        given = self.config.generator
        deformation = {**given.get("deformation", {}), "translation_mm": stage.translation_mm}
        decided = {**given, "deformation": deformation, "voxel_size_mm": stage.voxel_size_mm}
        return [
            Generator(read_generator_config({**decided, "field_mm": field_mm}), self.device)
            for field_mm in stage.field_mm
        ]

    def draw(self, stage: Stage, generators: list[Generator]) -> StepDraw:
        """Draw the next step. What all processes share comes from the stream of image 0."""
        seed = [self.config.seed, NETWORKS.index(self.name), self.step]
        shared = np.random.default_rng(seed)
        generator = generators[int(shared.integers(len(generators)))]

        def image(rng: np.random.Generator) -> tuple[int, Params]:
            return int(rng.integers(len(self.maps))), generator.sample(rng)

        first = image(shared)
        offset = self._draw_offset(stage, shared)
        through_synthesiser = stage.synthesiser is not None and bool(shared.random() < 0.5)
        start = self.group.rank * stage.images_per_step
        own = range(start, start + stage.images_per_step)
        images = tuple(image(np.random.default_rng([*seed, k])) if k else first for k in own)
        return StepDraw(generator, images, offset, through_synthesiser)

    def _draw_offset(self, stage: Stage, rng: np.random.Generator) -> int:
        """Voxel of each block that the prediction is compared at, or SynthSR's segmentation."""
        stride = self.plan.stride
        if self.name == "synthsr" and stage.dice_weight:
            assert self.segmenter is not None
            stride = self.segmenter.config.stride
        return int(rng.integers(stride**3))

    def generate(self, draw: StepDraw) -> Generated:
        """This process's images of a step."""
        return draw.generator.apply([self.maps[k] for k, _ in draw.images], [params for _, params in draw.images])

    # -- losses --------------------------------------------------------------------------------------------------

    def _loss(self, sample: Generated, stage: Stage, offset: int, through_synthesiser: bool = False) -> Outcome:
        """Loss of a batch: the mean of its images' losses."""
        if self.name == "synthsr":
            seen = torch.cat([sample.image, sample.reliability], dim=1) if self.plan.reliability else sample.image
            return self._synthsr_loss(seen.contiguous(memory_format=torch.channels_last_3d), sample, stage, offset)
        # The segmenter looks at one scan, also where there are several of a session.
        image = sample.image[:, :1].contiguous(memory_format=torch.channels_last_3d)
        if through_synthesiser:
            assert stage.synthesiser is not None
            image = self._synthesised(image, stage.synthesiser)
        return self._segmentation_loss(image, sample, stage, offset)

    def _segmentation_loss(self, image: Tensor, sample: Generated, stage: Stage, offset: int) -> Outcome:
        with self._autocast():
            maps = self.network.forward_block(image, offset)
        channels, stride = self.network.config.out_channels, self.plan.stride
        logits, target = maps[:, :channels].float(), block_offset(sample.channel, stride, offset)
        loss = over_images(lambda x, y: losses.segmentation_loss(x, y, stage.dice_weight), logits, target)
        if not self.plan.distance:
            return Outcome(loss, {}, logits)
        inside = self._brain.to(self.device)[sample.channel]
        true_mm = losses.truncated_distance(inside, voxel_size_mm=stage.voxel_size_mm)
        squared = losses.distance_loss(maps[:, channels].float(), block_offset(true_mm, stride, offset))
        return Outcome(loss + stage.distance_weight * squared, {"distance_mm2": squared.item()}, logits)

    def _synthsr_loss(self, image: Tensor, sample: Generated, stage: Stage, offset: int) -> Outcome:
        # The segmenter needs the whole image, the regression alone does not.
        whole = bool(stage.dice_weight)
        network, stride = self.network, self.plan.stride
        with self._autocast():
            trunk = network.trunk(image)
            predicted = (
                unfold(network.read_folded(trunk, image), stride) if whole else network.read_block(trunk, image, offset)
            )
        predicted = predicted.float()
        target = sample.target if whole else block_offset(sample.target, stride, offset)
        l1 = F.l1_loss(predicted, target)
        loss = l1 if stage.regression == "l1" else F.mse_loss(predicted, target)
        parts = {"l1": l1.item()}
        if stage.tissue_weight:
            with self._autocast():
                logits = network.tissue_logits(trunk, offset)
            tissue = over_images(losses.segmentation_loss, logits.float(), block_offset(sample.channel, stride, offset))
            loss = loss + stage.tissue_weight * tissue
            parts["tissue_loss"] = tissue.item()
        if not whole:
            return Outcome(loss, parts, predicted)
        assert self.segmenter is not None
        seen = scans.as_segmenter_input(predicted).contiguous(memory_format=torch.channels_last_3d)
        with self._autocast():
            logits = self.segmenter.forward_block(seen, offset)[:, : self.segmenter.config.out_channels]
        true = block_offset(sample.channel, self.segmenter.config.stride, offset)
        dice = over_images(lambda x, y: torch.nanmean(losses.soft_dice(x, y)), logits.float().softmax(1), true)
        loss = loss + stage.dice_weight * TARGET_WHITE_MATTER * (1 - dice)
        return Outcome(loss, {**parts, "soft_dice": dice.item()}, predicted)

    @torch.no_grad()
    def _synthesised(self, image: Tensor, weights: str) -> Tensor:
        """A scan's synthetic T1, as the segmenter sees it."""
        if self.synthesiser is None:
            network = inference.ready(load_network(weights).network, self.device)
            self.synthesiser = network.requires_grad_(False)
        with self._autocast():
            made = self.synthesiser(image)
        return scans.as_segmenter_input(made.float()).contiguous(memory_format=torch.channels_last_3d)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    # -- steps ---------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the end of the last stage; returns the path of the weights."""
        record = Record(self.folder, self.step) if self.group.leads else None
        first = 0
        try:
            with tqdm(
                total=self.plan.steps, initial=self.step, desc=self.name, unit="step", disable=record is None
            ) as bar:
                for stage in self.plan.stages:
                    generators = self._generators(stage)
                    watch = LossWatch()
                    self.network.train()
                    while self.step < first + stage.steps:
                        row = self._one_step(stage, generators, (self.step - first) / stage.steps)
                        bar.update()
                        bar.set_postfix(loss=f"{row['loss']:.3f}")
                        if record is not None:
                            self._after_step(row, stage, generators[-1], record, watch, bar)
                    first += stage.steps
        finally:
            if record is not None:
                record.close()
        weights = self.config.run / f"{self.name}.safetensors"
        if self.group.leads:
            if self.step:
                self.save_checkpoint()
            self._save_weights(weights)
        self.group.wait()
        return weights

    def _one_step(self, stage: Stage, generators: list[Generator], progress: float) -> dict[str, Any]:
        """Take one step together with the other processes; returns its row of the log."""
        start = time.monotonic()
        draw = self.draw(stage, generators)
        rate = stage.final_learning_rate + (stage.learning_rate - stage.final_learning_rate) * 0.5 * (
            1 + math.cos(math.pi * progress)
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        outcome = self._loss(self.generate(draw), stage, draw.offset, draw.through_synthesiser)
        numbers = self._mean_over_processes({"loss": outcome.loss.item(), **outcome.parts})
        if not math.isfinite(numbers["loss"]):
            raise self._diverged(f"loss is {numbers['loss']}")
        self.optimiser.zero_grad(set_to_none=True)
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        self.group.average_(p.grad for p in self.network.parameters() if p.grad is not None)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM_LIMIT)
        if not math.isfinite(float(norm)):
            raise self._diverged(f"norm of the gradient is {float(norm)}")
        self.optimiser.step()
        self.step += 1
        self.seconds += time.monotonic() - start
        return {"step": self.step, "seconds": round(self.seconds, 1), "learning_rate": rate, **numbers}

    def _mean_over_processes(self, numbers: dict[str, float]) -> dict[str, float]:
        """Of numbers that every process has of its own images."""
        mean = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.device)
        self.group.average_([mean])
        return dict(zip(numbers, mean.tolist(), strict=True))

    def _after_step(
        self, row: dict[str, Any], stage: Stage, generator: Generator, record: Record, watch: LossWatch, bar: tqdm[Any]
    ) -> None:
        """What the first process does besides: log, validate, write checkpoints."""
        record.log(row)
        median = watch.median_left_behind(row["loss"])
        if median is not None:
            bar.write(
                f"synthsr train: loss of {self.name} is {row['loss']:.3g} at step {self.step}, its running median was "
                f"{median:.3g}: if it does not fall again, lower the learning rate",
                file=sys.stderr,
            )
        due = self.step % self.config.validate_every == 0 or self.step == self.plan.steps
        if due and (self.validation_maps or self.validation_scans):
            made = self.validate(generator, stage)
            record.validation({"step": self.step, "seconds": row["seconds"], **made.scores}, made.pictures)
            self._compare(made.scores)
            bar.write(f"step {self.step}: " + ", ".join(f"{key} {number:.4f}" for key, number in made.scores.items()))
        if self.step % self.config.checkpoint_every == 0:
            self.save_checkpoint()

    def _diverged(self, what: str) -> DataError:
        return DataError(
            f"{what} at step {self.step} of {self.name}; the last checkpoint in {self.folder} is sound: "
            "lower the learning rate and start again"
        )

    # -- validation ----------------------------------------------------------------------------------------------

    @property
    def measure(self) -> str:
        """Column of ``validation.tsv`` by which the best network of the last stage is chosen: what it learns."""
        if self.name == "synthsr":
            return "loss"
        return "dice" if self.plan.stages and self.plan.stages[-1].dice_weight else "cross_entropy"

    def _compare(self, scores: dict[str, float]) -> None:
        """Keep the network if it is the best of the last stage so far."""
        score = scores.get(self.measure, math.nan)
        if self.step <= self.plan.steps_before_last_stage or not math.isfinite(score):
            return
        if self.best is None or self.best.beaten_by(score):
            tensors = {key: value.detach().cpu().clone() for key, value in self.network.state_dict().items()}
            self.best = Best(self.step, self.measure, score, tensors)

    @torch.inference_mode()
    def validate(self, generator: Generator, stage: Stage) -> Validation:
        """Means over fixed synthetic images of the validation maps, and over the real scans, the network as it will be
        used.
        """
        modes = {module: module.training for module in self.network.modules()}
        self.network.eval()
        scores: list[dict[str, float]] = []
        shown: dict[str, npt.NDArray[np.uint8]] = {}
        for position, source in enumerate(self.validation_maps):
            for repeat in range(VALIDATION_DRAWS):
                rng = np.random.default_rng([VALIDATION_SEED, position, repeat])
                sample = generator.apply([source], [generator.sample(rng)])
                offset = 0 if self.name == "segmentation" else self._draw_offset(stage, rng)
                outcome = self._loss(sample, stage, offset)
                scores.append(self._scores(outcome, sample, offset))
                if not shown:
                    shown["label_map"] = self._picture(outcome, sample, offset)
        means = {key: float(np.mean([score[key] for score in scores])) for key in (scores[0] if scores else ())}
        real, looks = self._look_at_scans()
        for module, training in modes.items():
            module.training = training
        return Validation(means | real, shown | looks)

    def _scores(self, outcome: Outcome, sample: Generated, offset: int) -> dict[str, float]:
        """Row of one synthetic image."""
        if self.name == "synthsr":
            return {**outcome.parts, "loss": outcome.loss.item()}
        target = block_offset(sample.channel, self.plan.stride, offset)
        dice = losses.hard_dice(outcome.prediction.argmax(1), target, len(labels.segmentation_numbers()))
        return {
            **outcome.parts,
            "dice": float(torch.nanmean(dice[main_channels()])),
            "cross_entropy": losses.segmentation_loss(outcome.prediction, target, 0.0).item(),
        }

    def _picture(self, outcome: Outcome, sample: Generated, offset: int) -> npt.NDArray[np.uint8]:
        """Input, truth and prediction, at one voxel of each block where only that is predicted."""
        image, made = sample.image[0, 0], outcome.prediction[0]
        if self.name == "segmentation":
            truth, made = sample.channel[0], made.argmax(0)
        else:
            truth, made = sample.target[0, 0], made[0].clamp(0, preprocess.SYNTHETIC_MAXIMUM)
        if made.shape != image.shape:
            image, truth = (block_offset(volume, self.plan.stride, offset) for volume in (image, truth))
        return pictures.montage([volume.cpu().numpy() for volume in (image, truth, made)])

    def _look_at_scans(self) -> tuple[dict[str, float], dict[str, npt.NDArray[np.uint8]]]:
        """Mean Dice on the real scans that have a reference, and pictures of input and output of all."""
        numbers = np.array(labels.segmentation_numbers())
        dice: list[float] = []
        shown: dict[str, npt.NDArray[np.uint8]] = {}
        for position, scan in enumerate(self.validation_scans, start=1):
            made: pictures.Volume
            if self.segmenter is None:
                made = channel = scans.segment(self.network, scan.image, self.device)
            else:
                synthetic = scans.synthesise(self.network, scan.image)
                made = synthetic[0, 0].numpy()
                channel = scans.segment(self.segmenter, scans.as_segmenter_input(synthetic), self.device)
            if scan.reference is not None:
                dice.append(scan.dice(numbers[channel]))
            shown[f"scan-{position}"] = pictures.montage([scan.image[0, 0].numpy(), made])
        return ({"real_dice": float(np.mean(dice))} if dice else {}), shown


def over_images(loss: Callable[[Tensor, Tensor], Tensor], predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over a batch of a loss that is no mean over voxels: processes can then share the batch."""
    pairs = zip(torch.split(predicted, 1), torch.split(target, 1), strict=True)
    return torch.stack([loss(one, other) for one, other in pairs]).mean()
