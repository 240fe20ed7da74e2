"""Speed and memory of the generator and of training.

    SYNTHSR_TEST_DATA=... python benchmarks/measure_speed.py --out DIR [--device cuda] [--threads N]

Generated images per second of every preset; training steps per second of every grid that the shipped training
configuration uses, and of networks of the published size (24 features, 5 levels, batch norm, every voxel), with the
share of the step that passes before the network sees the image. Medians; every figure comes from a process of its own,
so that its peak memory is its own. Prints a table and leaves ``speed.json``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from synthsr import files, inference
from synthsr.generator import PRESETS, Generator, LabelMap, load_label_map, read_config
from synthsr.train import NetworkPlan, Stage, Trainer, TrainingConfig
from synthsr.train import read_config as read_training_config
from synthsr.train.data import find_label_map

#: Before anything is timed: caches, kernels, memory.
WARM_UP = 2
#: Longer than any measurement.
NEVER = 10**9
PUBLISHED = NetworkPlan(features=24, levels=5, stride=1, norm="batch")
#: Seconds of a step of the published size, by kind of device and field in voxels, that the project set itself.
STEP_GOAL_S = {("cpu", 96): 2.0, ("cuda", 128): 0.1}
#: Largest share of a step that may pass in the generator on a GPU.
GENERATOR_SHARE_GOAL = 0.2
Figures = dict[str, Any]


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory of this process so far: the device's on a GPU, else the process's own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6


def now(device: torch.device) -> float:
    """Seconds, once the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def generated(preset: str, *, source: LabelMap, size: int, repeats: int, device: torch.device) -> Figures:
    """Seconds per image of a preset's generator, one channel of 1 mm."""
    make = Generator(read_config({"preset": preset, "field_mm": size}), device)
    seconds = []
    for position in range(WARM_UP + repeats):
        start = now(device)
        make.apply([source], [make.sample(np.random.default_rng([1, position]))])
        seconds.append(now(device) - start)
    return {"image_s": float(np.median(seconds[WARM_UP:])), "peak_memory_mb": peak_memory_mb(device)}


def trained(config: TrainingConfig, *, repeats: int, device: torch.device) -> Figures:
    """Seconds per step of the last network that a configuration plans, and of its part before the network.

    The trainer is asked for what it does anyway, and watched: the optimiser says when a step ends, the network's first
    level when the image has been generated.
    """
    last: Literal["segmentation", "synthsr"] = "synthsr" if config.synthsr.stages else "segmentation"
    marks: list[tuple[str, float]] = []
    # The trainer's bars would break up the table.
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        config = replace(config, run=Path(folder), validate_every=NEVER, checkpoint_every=NEVER)
        if last == "synthsr":
            # It needs a segmenter to stand behind it: one step's will do.
            plan = of_steps(config.segmentation, 1)
            Trainer(replace(config, segmentation=plan), "segmentation", device).run()
            config = replace(config, synthsr=of_steps(config.synthsr, WARM_UP + repeats + 1))
        else:
            config = replace(config, segmentation=of_steps(config.segmentation, WARM_UP + repeats + 1))
        trainer = Trainer(config, last, device)
        trainer.network.down[0].register_forward_pre_hook(lambda *_: marks.append(("network", now(device))))
        trainer.optimiser.register_step_post_hook(lambda *_: marks.append(("end", now(device))))
        trainer.run()
    ends = [at for what, at in marks if what == "end"]
    starts = [at for what, at in marks if what == "network"]
    steps_s = np.diff(ends)[WARM_UP:]
    before_s = (np.array(starts[1:]) - np.array(ends[:-1]))[WARM_UP:]
    return {
        "step_s": float(np.median(steps_s)),
        "generator_share": float(np.median(before_s / steps_s)),
        "peak_memory_mb": peak_memory_mb(device),
    }


def of_steps(plan: NetworkPlan, steps: int) -> NetworkPlan:
    """The plan's first stage for so many steps, from nothing."""
    return replace(plan, start_from=None, stages=(replace(plan.stages[0], steps=steps, synthesiser=None),))


def variants(config: TrainingConfig, published_voxels: list[int]) -> dict[str, TrainingConfig]:
    """What is trained, by name: the shipped networks on each of their grids, and those of the published size."""
    found = {}
    nothing = NetworkPlan()
    for name, plan in (("segmentation", config.segmentation), ("synthsr", config.synthsr)):
        for stage in plan.stages:
            for field_mm in stage.field_mm:
                stages = (replace(stage, field_mm=(field_mm,)),)
                before = replace(config.segmentation, stages=stages)
                after = replace(config.synthsr, stages=stages) if name == "synthsr" else nothing
                title = f"shipped {name}, {field_mm // stage.voxel_size_mm}³ of {stage.voxel_size_mm} mm"
                found[title] = replace(config, segmentation=before, synthsr=after)
    for voxels in published_voxels:
        plan = replace(PUBLISHED, stages=(Stage(steps=1, field_mm=(voxels,), dice_weight=0.25),))
        for name, after in (("segmentation", nothing), ("synthsr", plan)):
            found[f"published {name}, {voxels}³ of 1 mm"] = replace(config, segmentation=plan, synthsr=after)
    return found


def alone(measure: Callable[..., Figures], threads: int | None, *arguments: Any, **keywords: Any) -> Figures:
    """The measurement in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=inference.prepare_process, initargs=(threads,)) as pool:
        return pool.submit(measure, *arguments, **keywords).result()


def goal(name: str, figures: Figures, device: torch.device) -> str:
    """How a measurement compares with what was aimed at; empty where nothing was."""
    found = []
    for (kind, voxels), goal_s in STEP_GOAL_S.items():
        if kind == device.type and name.startswith("published") and f" {voxels}³ " in name:
            found.append(f"{figures['step_s'] / goal_s:.2f} × goal of {goal_s:g} s a step")
    if device.type == "cuda" and "generator_share" in figures:
        found.append(f"generator {figures['generator_share'] / GENERATOR_SHARE_GOAL:.2f} × goal of 20 %")
    return "; ".join(found)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("config/train.yaml"), help="(default: %(default)s)")
    parser.add_argument("--label-map", type=Path, help="default: the configuration's first for training")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--repeats", type=int, default=10, help="timed images or steps (default: %(default)s)")
    parser.add_argument("--image-voxels", type=int, default=160, help="side of generated images (default: %(default)s)")
    parser.add_argument(
        "--published-voxels", type=int, nargs="*", default=[96, 128], help="fields of the published size"
    )
    given = parser.parse_args()
    device = inference.choose_device(given.device)
    config = read_training_config(given.config)
    label_map = given.label_map or find_label_map(config, config.training[0])
    config = replace(config, label_maps=(label_map.parent,), training=(label_map.name,), validation=())
    config = replace(config, t1_targets={}, scans={}, validation_scans=())
    # Reading it takes more memory than generating from it, so that is not done in the measured process.
    source = load_label_map(label_map)
    timed = {"repeats": given.repeats, "device": device}
    threads = given.threads or len(os.sched_getaffinity(0))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads"
    report: dict[str, Any] = {
        "device": where,
        "processor": platform.machine(),
        "torch": torch.__version__,
        "repeats": given.repeats,
        "generator": {},
        "training": {},
    }
    print(f"{where}, torch {torch.__version__}")
    print(f"{'generated images of ' + str(given.image_voxels) + '³':45s} images/s  peak MB")
    for preset in PRESETS:
        figures = alone(generated, threads, preset, source=source, size=given.image_voxels, **timed)
        report["generator"][preset] = {**figures, "voxels": given.image_voxels}
        print(f"{preset:45s} {1 / figures['image_s']:8.2f} {figures['peak_memory_mb']:8.0f}", flush=True)
    print(f"{'training':45s}  steps/s  peak MB  generator")
    for name, one in variants(config, given.published_voxels).items():
        figures = alone(trained, threads, one, **timed)
        report["training"][name] = {**figures, "goal": goal(name, figures, device)}
        rates = f"{1 / figures['step_s']:8.2f} {figures['peak_memory_mb']:8.0f} {figures['generator_share']:9.0%}"
        print(f"{name:45s} {rates}  {goal(name, figures, device)}", flush=True)
    files.write_json(given.out / "speed.json", report)


if __name__ == "__main__":
    main()
