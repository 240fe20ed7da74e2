"""Checkpoints: everything that a network's training needs to go on exactly where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import files
from ..errors import ConfigurationError
from ..networks import UNet

STATE = "state.json"


@dataclass(frozen=True)
class Best:
    """The best validation of the last stage.

    Attributes
    ----------
    step
        When.
    measure
        Column of ``validation.tsv`` that decides; of ``dice`` the largest is best, of all others the smallest.
    score
        Its value.
    tensors
        The network then, on the CPU.
    """

    step: int
    measure: str
    score: float
    tensors: dict[str, Tensor]

    def beaten_by(self, score: float) -> bool:
        """Whether a later score is as good or better."""
        return score >= self.score if self.measure == "dice" else score <= self.score


@dataclass(frozen=True)
class Progress:
    """How far a training has come: steps, seconds spent on them, best validation."""

    step: int = 0
    seconds: float = 0.0
    best: Best | None = None


def save_checkpoint(folder: Path, progress: Progress, network: UNet, optimiser: torch.optim.Optimizer) -> None:
    """Write ``checkpoint-STEP.safetensors`` and ``state.json``; the previous checkpoint goes when these are whole."""
    tensors = {f"model.{key}": value for key, value in network.state_dict().items()}
    for index, parameter in enumerate(network.parameters()):
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"adam.{index}.{key}"] = value
    state: dict[str, Any] = {"step": progress.step, "seconds": round(progress.seconds, 1)}
    if progress.best is not None:
        tensors |= {f"best.{key}": value for key, value in progress.best.tensors.items()}
        state["best"] = {key: getattr(progress.best, key) for key in ("step", "measure", "score")}
    name = f"checkpoint-{progress.step:07d}.safetensors"
    with files.whole(folder / name) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
    files.write_json(folder / STATE, {**state, "tensors": name})
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_checkpoint(folder: Path, network: UNet, optimiser: torch.optim.Optimizer) -> Progress:
    """Fill network and optimiser from a folder's last checkpoint, if it has one.

    Raises
    ------
    ConfigurationError
        If it is of another network.
    """
    if not (folder / STATE).is_file():
        return Progress()
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    tensors = load_file(folder / state["tensors"])
    try:
        network.load_state_dict(_below("model.", tensors))
    except RuntimeError as error:
        raise ConfigurationError(
            f"{folder / state['tensors']}: is not of the network that is now planned ({error}); plan the same as "
            "before, or give another run"
        ) from error
    for index, parameter in enumerate(network.parameters()):
        moments = {key: tensors.get(f"adam.{index}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
        if moments["step"] is not None:
            optimiser.state[parameter] = {
                key: value
                if key == "step"
                else value.to(parameter.device).reshape(parameter.shape).clone(memory_format=torch.preserve_format)
                for key, value in moments.items()
                if value is not None
            }
    best = state.get("best")
    return Progress(
        step=state["step"],
        seconds=state["seconds"],
        best=None if best is None else Best(**best, tensors=_below("best.", tensors)),
    )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entries of a checkpoint under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
