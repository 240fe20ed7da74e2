"""A whole training run: the networks of a configuration, one after the other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from .card import write_card
from .config import NETWORKS, NetworkName, TrainingConfig
from .devices import Group, run_together
from .provenance import NAME as PROVENANCE
from .provenance import steps_taken, write_provenance
from .trainer import Trainer


def train(config: TrainingConfig, *, device: torch.device, processes: int = 1) -> list[Path]:
    """Train what the configuration plans; networks already finished are left alone.

    Parameters
    ----------
    config
        The run.
    device
        Where to train; ``cuda`` with several processes gives each its own GPU.
    processes
        Processes that share each step (see :func:`synthsr.train.devices.count_processes`).

    Returns
    -------
    Paths of the weights. Beside them lies the run's model card.
    """
    config.run.mkdir(parents=True, exist_ok=True)
    planned = {name: config.run / f"{name}.safetensors" for name in NETWORKS if config.plan(name).stages}
    taken = steps_taken(config.run)
    # Decided once: processes that looked for themselves could see each other's files.
    todo = [name for name, path in planned.items() if not path.is_file() or taken[name] < config.plan(name).steps]
    if todo:
        write_provenance(config, device, processes)
        run_together(partial(_train_networks, config, todo), device, processes)
    if (config.run / PROVENANCE).is_file():
        write_card(config.run)
    return list(planned.values())


def _train_networks(config: TrainingConfig, names: list[NetworkName], device: torch.device, group: Group) -> None:
    """What every process does."""
    for name in names:
        Trainer(config, name, device, group).run()
