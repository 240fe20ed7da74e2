"""What the measuring scripts make of what they measured."""

from __future__ import annotations

import sys

import measure_inference
import process
import pytest


def test_cost_of_a_command() -> None:
    lines = ("import time", "held = bytearray(200_000_000)", "while time.process_time() < 0.4: pass", "print('done')")
    one = process.cost([sys.executable, "-c", "\n".join(lines)])
    assert one.output == "done\n"
    assert 0.4 <= one.cpu_s <= 3 and one.wall_s >= one.cpu_s * 0.9
    assert 200 < one.peak_mb < 300
    with pytest.raises(SystemExit, match="ended with code 3"):
        process.cost([sys.executable, "-c", "raise SystemExit(3)"])


def test_projection_counts_the_large_batches_and_every_pass() -> None:
    stages = {
        "convert, batches of 4": {"wall_s": 1.0, "cpu_s": 1.0, "peak_mb": 1.0},
        "segment, batches of 4": {"wall_s": 8.0, "cpu_s": 13.0, "peak_mb": 1.0},
        "convert, batches of 1": {"wall_s": 99.0, "cpu_s": 99.0, "peak_mb": 1.0},
    }
    networks = {f"{name}, equivalent": {"cpu_s": 4.0} for name in ("synthsr", "segmentation")}
    found = measure_inference.project(stages, networks, 400, n_cores=2)
    hours = 400 / 3600
    assert list(found.values()) == pytest.approx([hours * 14 / 2, hours * 14 / 40, hours * (14 - 10) / 2])
