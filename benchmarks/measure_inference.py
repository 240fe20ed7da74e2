"""Seconds and memory of inference: networks by route, whole commands, and stages 1 to 3 of the pipeline.

    python benchmarks/measure_inference.py --out DIR [--threads N] [--parts PART ...] [--compare SCAN ...]
        [--keras-python .venv-keras/bin/python]

original: two passes of the published network by TensorFlow (``original_network.py``, run by ``--keras-python``), of
whose time and memory the others are then told as shares. networks: two passes (the scan and its mirror image) of the
shipped networks and of one of the published size (random weights, which take the same time) on a scan of 192 x 224 x
192 mm, as the network is written, by the equivalent graph, by OpenVINO where that is used, and in bfloat16. commands:
``synthsr predict`` and ``segment``, from the start of the process to the written file. stages: convert, synthesise and
segment on a batch of made-up thick scans, and one by one. With scans to
compare: how far the volumes of structures are by bfloat16, and by other numbers of threads.

Every figure is from a process of its own: seconds by the clock, seconds of the processor (which count when the machine
is shared), and the largest memory. Prints tables and leaves ``inference.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import process
import torch

from synthsr import files, inference, preprocess
from synthsr.equivalent import EquivalentUNet
from synthsr.networks import UNet, UNetConfig
from synthsr.openvino import OpenVinoUNet, suits
from synthsr.predict import Predictor
from synthsr.segment import Segmenter, volumes_mm3
from synthsr.weights.storage import load_network, save_network

SHAPE = (192, 224, 192)
THICK_MM = 5
#: Scans of the hospital of Iglesias et al., Science Advances 2023.
COHORT = 9146
#: By which answers are compared, the first with the others.
THREADS = (1, 2, 4)
NETWORKS = ("published", "synthsr", "segmentation")
#: By arithmetic, in the order of speed.
ROUTES: dict[str, tuple[type[UNet], torch.dtype]] = {
    "as written": (UNet, torch.float32),
    "equivalent": (EquivalentUNet, torch.float32),
    "equivalent, bfloat16": (EquivalentUNet, torch.bfloat16),
    "OpenVINO": (OpenVinoUNet, torch.float32),
    "OpenVINO, bfloat16": (OpenVinoUNet, torch.bfloat16),
}
Figures = dict[str, float]


def head(shape: tuple[int, int, int] = SHAPE, *, seed: int = 0) -> npt.NDArray[np.int16]:
    """A noisy ellipsoid of a head's size in a field of view of so many millimetres."""
    axes = np.meshgrid(*(np.linspace(-1.1, 1.1, size) for size in shape), indexing="ij", sparse=True)
    inside = sum(axis**2 for axis in axes) < 1
    noise = np.random.default_rng(seed).normal(0, 20, shape)
    return (np.where(inside, 400, 0) + np.abs(noise)).astype(np.int16)


def weights_of(name: str, folder: Path) -> str:
    """Weights by name; those of the published size are made up."""
    if name != "published":
        return name
    path = folder / "published.safetensors"
    if not path.is_file():
        torch.manual_seed(1)
        save_network(UNet(UNetConfig()), path, {})
    return str(path)


def two_passes(weights: str, route: str, threads: int) -> Figures:
    """One scan through one network, as a fresh process does it; without loading."""
    inference.prepare_process(threads)
    loaded, cpu_device = load_network(weights), torch.device("cpu")
    network = inference.ready(loaded.network, cpu_device)
    kind, dtype = ROUTES[route]
    if issubclass(kind, EquivalentUNet):
        network = kind(network, dtype)
    image = torch.from_numpy(head().astype(np.float32))[None, None] / 500
    segmenter = Segmenter(replace(loaded, network=network), cpu_device)
    wall, cpu = time.perf_counter(), time.process_time()
    if network.config.out_channels > 1:
        segmenter.segment_with_entropy(image)
    else:
        inference.run(network, image)
    taken = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return {**taken, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def alone(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The measurement in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def measure_original(python: Path, threads: int) -> Figures:
    """Two passes of the TensorFlow original; seconds and memory of its whole process as ``process_…``."""
    one = process.cost([python, Path(__file__).with_name("original_network.py"), "--threads", str(threads)])
    found: Figures = json.loads(one.output.splitlines()[-1])
    print(f"{'original, two passes':30s} {told(found)}")
    return {**found, "process_wall_s": one.wall_s, "process_peak_mb": one.peak_mb}


def measure_networks(names: Sequence[str], folder: Path, threads: int, original: Figures) -> dict[str, Figures]:
    """Two passes, by network and route."""
    print(f"\n{'two passes':30s} {'seconds':>8s} {'processor s':>12s} {'MB':>6s}  of the original's")
    found = {}
    for name in names:
        weights = weights_of(name, folder)
        for route, (kind, _) in ROUTES.items():
            if kind is OpenVinoUNet and not suits(load_network(weights).network.config):
                continue
            one = found[f"{name}, {route}"] = alone(two_passes, weights, route, threads)
            print(f"{name + ', ' + route:30s} {told(one)} {share(one, original)}", flush=True)
    return found


def share(one: Figures, original: Figures, kind: str = "") -> str:
    """Of the original's time and memory, if they were measured."""
    if not original:
        return ""
    return f" {one['wall_s'] / original[f'{kind}wall_s']:6.2f} {one['peak_mb'] / original[f'{kind}peak_mb']:6.2f}"


def told(one: Figures) -> str:
    """Columns of the tables."""
    return f"{one['wall_s']:8.2f} {one['cpu_s']:12.2f} {one['peak_mb']:6.0f}"


def cost(*command: str | Path) -> Figures:
    """Time and memory of a command."""
    one = process.cost(command)
    return {"wall_s": one.wall_s, "cpu_s": one.cpu_s, "peak_mb": one.peak_mb}


def measure_commands(folder: Path, threads: int, original: Figures) -> dict[str, Figures]:
    """``synthsr``, from process start to written file; the original's process neither reads nor writes one."""
    source = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(head(), np.diag([1.0, 1, 1, 1])), source)
    print(f"\n{'command':30s} {'seconds':>8s} {'processor s':>12s} {'MB':>6s}")
    found = {}
    for action, name, *extra in (
        ("predict", "published"),
        ("predict", "published", "--bfloat16"),
        ("predict", "synthsr"),
        ("segment", "segmentation"),
    ):
        words = ["synthsr", action, source, folder / "out.nii.gz", "--weights", weights_of(name, folder), *extra]
        one = found[", ".join((action, name, *extra))] = cost(sys.executable, "-m", *words, "--threads", str(threads))
        print(f"{' '.join((action, name, *extra)):30s} {told(one)} {share(one, original, 'process_')}", flush=True)
    return found


def measure_stages(folder: Path, threads: int, n_scans: int) -> dict[str, Figures]:
    """Stages 1 to 3, per scan, in a batch of so many and one by one."""
    source = folder / "source"
    for number in range(n_scans):
        anat = source / f"sub-{number:02d}" / "anat"
        anat.mkdir(parents=True, exist_ok=True)
        thick = head((220, 250, 190 // THICK_MM), seed=number)
        affine = np.diag([0.9, 0.9, THICK_MM, 1])
        nib.save(nib.Nifti1Image(thick, affine), anat / f"sub-{number:02d}_T1w.nii.gz")
    print(f"\n{'stage, per scan':30s} {'seconds':>8s} {'processor s':>12s} {'MB':>6s}")
    found = {}
    for size in (n_scans, 1):
        results = folder / f"batches-of-{size}" / "results"
        command = [sys.executable, "-m", "analysis"]
        process.cost([*command, "inventory", source, "--format", "bids", "--out", results, "--batch-size", str(size)])
        before, batches = "select", range(1, n_scans // size + 1)
        for stage in ("convert", "synthesise", "segment"):
            given = ["--threads", str(threads)] if stage != "convert" else []
            costs = [
                cost(
                    *command, stage, results / "batches" / before / f"batch-{number:04d}.tsv", "--out", results, *given
                )
                for number in batches
            ]
            before = stage
            one = {key: sum(each[key] for each in costs) / n_scans for key in ("wall_s", "cpu_s")}
            one["peak_mb"] = max(each["peak_mb"] for each in costs)
            found[f"{stage}, batches of {size}"] = one
            print(f"{f'{stage}, batches of {size}':30s} {told(one)}", flush=True)
    for size in (n_scans, 1):
        wall_s = sum(one["wall_s"] for name, one in found.items() if name.endswith(f"of {size}"))
        print(f"batches of {size}: {3600 / wall_s:.0f} scans per hour")
    return found


def compare(path: Path, threads: int) -> dict[str, Any]:
    """Volumes of a scan by both kinds of arithmetic."""
    inference.prepare_process(threads)
    volumes: dict[str, dict[str, float]] = {}
    cpu_s = {}
    for arithmetic in inference.ARITHMETIC:
        predictor = Predictor.load(device="cpu", arithmetic=arithmetic)
        segmenter = Segmenter.load(device="cpu", arithmetic=arithmetic)
        seen = predictor.read(path)
        cpu = time.process_time()
        grey = torch.from_numpy(predictor.predict(seen))[None, None]
        volumes[arithmetic] = volumes_mm3(segmenter.segment(preprocess.scale_to_unit(grey))[1])
        cpu_s[arithmetic] = time.process_time() - cpu
    exact, other = volumes.values()
    return {"cpu_s": cpu_s, "difference": {name: other[name] / size - 1 for name, size in exact.items() if size > 0}}


def compare_threads(path: Path) -> dict[str, float]:
    """Largest difference of a structure's volume by so many threads from that by one, as a share."""
    predictor, segmenter = Predictor.load(device="cpu"), Segmenter.load(device="cpu")
    seen = predictor.read(path)
    volumes = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        grey = torch.from_numpy(predictor.predict(seen))[None, None]
        volumes[threads] = volumes_mm3(segmenter.segment(preprocess.scale_to_unit(grey))[1])
    by_one = volumes[THREADS[0]]
    return {
        str(threads): max(abs(found[name] / size - 1) for name, size in by_one.items() if size > 0)
        for threads, found in volumes.items()
    }


def measure_differences(paths: Sequence[Path], threads: int) -> dict[str, Any]:
    """How far volumes by bfloat16, or by more threads, are from the others; SynthSR and segmenter both."""
    print(f"\n{'volumes by other numbers of threads':40s} largest difference from one thread")
    threaded = {}
    for path in paths:
        threaded[path.name] = alone(compare_threads, path)
        shares = "  ".join(f"{threads}: {share:.1e}" for threads, share in threaded[path.name].items())
        print(f"{path.name:40s} {shares}", flush=True)
    print(f"\n{'bfloat16 against float32':40s} {'processor s':>17s}  largest difference of a volume")
    found = {}
    for path in paths:
        one = found[path.name] = alone(compare, path, threads)
        structure, difference = max(one["difference"].items(), key=lambda item: abs(item[1]))
        exact_s, other_s = one["cpu_s"].values()
        print(f"{path.name:40s} {other_s:8.2f} {exact_s:8.2f}  {difference:+.2%} {structure}", flush=True)
    return {"arithmetic": found, "threads": threaded}


def project(
    stages: dict[str, Figures], networks: dict[str, Figures], n_scans: int, *, n_cores: int
) -> dict[str, float]:
    """Hours of stages 1 to 3 for a cohort, from the processor's seconds that were measured, all cores at work.

    Parameters
    ----------
    stages, networks
        From :func:`measure_stages` and :func:`measure_networks`.
    n_scans
        Of the cohort.
    n_cores
        Of this machine.

    Returns
    -------
    By machine. That of a GPU is a bound: the processor's part of a scan, in one reading and one writing thread, with
    networks that take no time; no GPU was measured.
    """
    largest = max(int(name.rpartition(" ")[2]) for name in stages)
    batch = [one for name, one in stages.items() if name.endswith(f"of {largest}")]
    cpu_s = sum(one["cpu_s"] for one in batch)
    # SynthSR and segmenter look twice at a scan, and the segmenter once more at the scan itself.
    network_s = networks["synthsr, equivalent"]["cpu_s"] + 1.5 * networks["segmentation, equivalent"]["cpu_s"]
    hours = n_scans / 3600
    return {
        f"this machine, {n_cores} cores": hours * cpu_s / n_cores,
        "20 such machines": hours * cpu_s / n_cores / 20,
        "one GPU, at the least": hours * max(cpu_s - network_s, 0) / 2,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="(default: all)")
    parser.add_argument("--parts", nargs="*", default=["networks", "commands", "stages"], metavar="PART")
    parser.add_argument("--keras-python", type=Path, metavar="PYTHON", help="with TensorFlow, for the part 'original'")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NAME", help="(default: all)"
    )
    parser.add_argument(
        "--compare", type=Path, nargs="*", default=[], metavar="SCAN", help="volumes by bfloat16 and by threads, too"
    )
    parser.add_argument("--scans", type=int, default=4, help="of the batch (default: %(default)s)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    target = given.out / "inference.json"
    report: dict[str, Any] = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    now = {"torch": torch.__version__, "threads": given.threads}
    if any(key in report and report[key] != value for key, value in now.items()):
        parser.error(f"{target} is of other threads or another torch; take another folder")
    report |= {"torch": torch.__version__, "threads": given.threads, "bfloat16": torch.cpu._is_avx512_bf16_supported()}
    print(f"CPU, {given.threads} threads, torch {torch.__version__}")
    if "original" in given.parts:
        if given.keras_python is None:
            parser.error("the part 'original' needs --keras-python")
        report["original"] = measure_original(given.keras_python, given.threads)
    original: Figures = report.get("original", {})
    if "networks" in given.parts:
        found = measure_networks(given.networks, given.out, given.threads, original)
        report["networks"] = report.get("networks", {}) | found
    if "commands" in given.parts:
        report["commands"] = measure_commands(given.out, given.threads, original)
    if "stages" in given.parts:
        report["stages"] = measure_stages(given.out, given.threads, given.scans)
    if given.compare:
        report["compared"] = measure_differences(given.compare, given.threads)
    files.write_json(target, report)
    needed = {f"{name}, equivalent" for name in ("synthsr", "segmentation")}
    if "stages" in report and needed <= report.get("networks", {}).keys():
        n_cores = len(os.sched_getaffinity(0))
        report["projection"] = project(report["stages"], report["networks"], COHORT, n_cores=n_cores)
        print(f"\nhours of stages 1 to 3 for {COHORT} scans")
        for machine, hours in report["projection"].items():
            print(f"{machine:30s} {hours:8.1f}")
    files.write_json(target, report)


if __name__ == "__main__":
    main()
