"""What a training writes down while it runs: ``log.tsv``, ``validation.tsv`` and events for TensorBoard."""

from __future__ import annotations

import csv
import math
import shutil
import statistics
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboardX import SummaryWriter

from .. import files

LOG, VALIDATION, EVENTS = "log.tsv", "validation.tsv", "tensorboard"
#: Losses of which the running median is taken, and how many there must be.
MEDIAN_STEPS, FEWEST_STEPS = 101, 20
#: Multiple of the running median at which a rising loss is worth a word.
STEEP_RISE = 3.0


class Record:
    """Tables and events of one network.

    Parameters
    ----------
    folder
        The network's folder in the run.
    step
        Step that the training goes on from. Whatever was written after it is forgotten: those steps are taken again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for table in (LOG, VALIDATION):
            drop_rows_after(folder / table, step)
        if not step:
            shutil.rmtree(folder / EVENTS, ignore_errors=True)
        # The suffix keeps two files of the same second apart, in the order of their steps.
        self._events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1, filename_suffix=f".{step:07d}")

    def log(self, row: Mapping[str, Any]) -> None:
        """Write down one step."""
        append_row(self.folder / LOG, row)
        self._scalars("training", row)

    def validation(self, row: Mapping[str, Any], pictures: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        """Write down one validation, with pictures of shape (height, width, 3) by name."""
        append_row(self.folder / VALIDATION, row)
        self._scalars("validation", row)
        for name, picture in pictures.items():
            self._events.add_image(f"validation/{name}", picture, row["step"], dataformats="HWC")
        self._events.flush()

    def close(self) -> None:
        """Write out what is still in memory."""
        self._events.close()

    def _scalars(self, group: str, row: Mapping[str, Any]) -> None:
        for key, value in row.items():
            if key not in ("step", "seconds"):
                self._events.add_scalar(f"{group}/{key}", value, row["step"])


def drop_rows_after(path: Path, step: int) -> None:
    """Forget rows that come after a checkpoint; without one, the whole table."""
    if not step:
        path.unlink(missing_ok=True)
    elif path.is_file():
        header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        files.write_text(path, header + "".join(row for row in rows if int(row.split("\t", 1)[0]) <= step))


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append to a TSV, writing its header first if it is new.

    A stage may have other columns than the one before: the table then gets them all, n/a where there is no value.
    """
    written = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in row.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        with path.open("w", encoding="utf-8") as stream:
            stream.write("\t".join(written) + "\n")
    with path.open(newline="", encoding="utf-8") as stream:
        columns = next(csv.reader(stream, delimiter="\t"))
        added = [key for key in written if key not in columns]
        if added:
            rows = list(csv.DictReader(stream, columns, delimiter="\t"))
            columns += added
            lines = ["\t".join(columns), *("\t".join(old.get(key) or "n/a" for key in columns) for old in rows)]
            files.write_text(path, "\n".join(lines) + "\n")
    with path.open("a", encoding="utf-8") as stream:
        stream.write("\t".join(written.get(key, "n/a") for key in columns) + "\n")


class LossWatch:
    """Notices once when a loss rises steeply: before it is no number, there is often time to stop."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=MEDIAN_STEPS)
        self._quiet = True

    def median_left_behind(self, loss: float) -> float | None:
        """Running median, the first time that a loss is over :data:`STEEP_RISE` times it; else ``None``."""
        median = statistics.median(self._recent) if len(self._recent) >= FEWEST_STEPS else math.inf
        self._recent.append(loss)
        if self._quiet and loss > STEEP_RISE * median:
            self._quiet = False
            return median
        return None
