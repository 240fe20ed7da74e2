"""One training on several devices: one process per device, gradients averaged, the first process alone writes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from .. import errors, inference

#: Longest wait of one process for the others, which validate nothing: a validation must fit in.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Group:
    """The processes of a training, seen from one of them.

    Attributes
    ----------
    rank
        Which of them this is, from 0.
    size
        How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in one exchange."""
        if self.size == 1:
            return
        own = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in own])
        distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(own, torch.split(flat, [tensor.numel() for tensor in own]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            distributed.barrier()


ALONE = Group()


def count_processes(device: torch.device, asked: int | None) -> int:
    """Processes to start: as asked, or as many as there are GPUs if the device is all of them, else one.

    Raises
    ------
    ConfigurationError
        For less than one, or more than there are GPUs.
    """
    gpus = 0
    if device.type == "cuda":
        gpus = torch.cuda.device_count() if device.index is None else 1
    processes = asked if asked is not None else max(gpus, 1)
    if processes < 1:
        raise errors.ConfigurationError(f"--processes {processes}: at least 1 is needed")
    if device.type == "cuda" and processes > gpus:
        raise errors.ConfigurationError(
            f"--processes {processes}: device {device} means {gpus} GPU{'s' * (gpus != 1)}, one process each"
        )
    return processes


def run_together(work: Callable[[torch.device, Group], None], device: torch.device, processes: int) -> None:
    """Call ``work`` in every process of a group; without others, in this one.

    Parameters
    ----------
    work
        Takes the process's device and its group; importable by name where there are several processes.
    device
        ``cuda`` gives each process its own GPU. CPU threads of this process are shared out.
    processes
        How many.

    Raises
    ------
    SynthSRError
        Of the process that failed first; the others are ended.
    ToolError
        If a process was ended from outside.
    RuntimeError
        With the traceback of any other error.
    """
    if processes == 1:
        work(device, ALONE)
        return
    threads = max(1, torch.get_num_threads() // processes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            # Daemons do not outlive this process.
            spawn(  # type: ignore[no-untyped-call]
                _process, (work, device, processes, threads, folder), processes, daemon=True
            )
        except ProcessExitedException as exited:
            if exited.signal_name is not None:
                raise errors.ToolError(
                    f"process {exited.error_index + 1} of {processes} was ended by {exited.signal_name}, by somebody "
                    "or for want of memory; the last checkpoint is sound: call the same command again"
                ) from exited
            if not (folder / "failure.json").is_file():
                raise
            failure = json.loads((folder / "failure.json").read_text(encoding="utf-8"))
            kind = getattr(errors, failure["kind"], RuntimeError)
            raise kind(failure["message"]) from exited


def _process(
    rank: int,
    work: Callable[[torch.device, Group], None],
    device: torch.device,
    processes: int,
    threads: int,
    folder: Path,
) -> None:
    """What each process does."""
    try:
        inference.prepare_process(threads)
        own = torch.device("cuda", rank) if device.type == "cuda" else device
        if device.type == "cuda":
            torch.cuda.set_device(own)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{folder / 'meeting'}",
            rank=rank,
            world_size=processes,
            timeout=PATIENCE,
            device_id=own if device.type == "cuda" else None,
        )
        work(own, Group(rank, processes))
        distributed.destroy_process_group()
    except Exception as error:
        known = isinstance(error, errors.SynthSRError)
        message = str(error) if known else f"process {rank + 1} of {processes} failed:\n{traceback.format_exc()}"
        note = folder / f"failure-{rank}.json"
        note.write_text(json.dumps({"kind": type(error).__name__ if known else "", "message": message}))
        # The first to fail is the cause; the others fail because it is gone.
        with contextlib.suppress(FileExistsError):
            os.link(note, folder / "failure.json")
        sys.stderr.flush()
        # No ordinary exit: destructors of a broken group wait for the others.
        os._exit(1)
