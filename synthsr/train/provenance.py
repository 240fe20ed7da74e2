"""``provenance.json``: configuration, hashes of the data, versions and commit of a run, of now and of earlier calls."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__, files
from ..generator import read_config as read_generator_config
from ..generator.lesions import find_masks
from .checkpoint import STATE
from .config import NETWORKS, TrainingConfig
from .data import find_label_map

NAME = "provenance.json"


def write_provenance(config: TrainingConfig, device: torch.device, processes: int) -> None:
    """Write down what a call is about to do; what earlier calls did otherwise is kept under ``earlier``.

    ``from_step`` says with which step of each network the call began.

    Parameters
    ----------
    config
        The run.
    device, processes
        Where it is trained.
    """
    path = config.run / NAME
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    earlier = before.pop("earlier", [])
    now = {
        "configuration": json.loads(json.dumps(asdict(config), default=str)),
        "sha256": hashes(config),
        "versions": {"synthsr-cohort": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": processes,
    }
    if before and {key: value for key, value in before.items() if key != "from_step"} == now:
        return
    earlier = [*earlier, before] if before else earlier
    files.write_json(path, {**now, "from_step": steps_taken(config.run), "earlier": earlier})


def steps_taken(run: Path) -> dict[str, int]:
    """Steps of each network of a run up to its last checkpoint."""
    states = {name: run / name / STATE for name in NETWORKS}
    return {
        name: int(json.loads(path.read_text(encoding="utf-8"))["step"]) if path.is_file() else 0
        for name, path in states.items()
    }


def hashes(config: TrainingConfig) -> dict[str, Any]:
    """SHA-256 of all data of a run.

    Returns
    -------
    ``label_maps``, ``t1_targets`` and ``scans`` by the label map's name; ``validation_scans`` in the configuration's
    order; of ``lesion_masks`` the number, and one hash over all.
    """
    names = sorted({*config.training, *config.validation})
    masks = find_masks(read_generator_config(config.generator).lesions.masks)
    return {
        "label_maps": {name: files.sha256(find_label_map(config, name)) for name in names},
        "t1_targets": {name: files.sha256(Path(image)) for name, image in sorted(config.t1_targets.items())},
        "scans": {name: files.sha256(Path(image)) for name, image in sorted(config.scans.items())},
        "validation_scans": [
            {
                key: None if path is None else files.sha256(path)
                for key, path in (("scan", entry.scan), ("labels", entry.labels), ("names", entry.names))
            }
            for entry in config.validation_scans
        ],
        "lesion_masks": {"number": len(masks), "sha256": sha256_of_all(masks)},
    }


def sha256_of_all(images: Iterable[Path]) -> str:
    """One SHA-256 over names and contents, wherever the images lie."""
    lines = sorted(f"{path.name}  {files.sha256(path)}\n" for path in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _commit() -> str | None:
    """Commit of the code, if it lies in a git repository."""
    git = shutil.which("git")
    if git is None:
        return None
    code = Path(__file__).parents[2]
    asked = subprocess.run([git, "-C", str(code), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None
