"""Segmentations and volumes of a batch of synthetic T1s, by the embedded segmenter.

Reads the batch table of ``synthesise``, leaves ``segmentation-embedded/…_dseg.nii.gz`` and ``…_volumes.tsv`` with
sidecars, and the batch table of ``segment``, whose path is that of the volumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

#: Raise when the output of an unchanged scan with unchanged weights changes.
ALGORITHM_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("batch", type=Path, metavar="BATCH", help="batch table of the synthesise stage")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument("--weights", default="segmentation", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="cpu, cuda … (default: a GPU if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")


def run(arguments: argparse.Namespace) -> None:
    """Work through one batch."""
    from synthsr import inference
    from synthsr.segment import Segmenter, write_volumes

    from . import batch
    from .layout import Results, sidecar_of

    inference.prepare_process(arguments.threads)
    results = Results(arguments.out)
    segmenter = Segmenter.load(arguments.weights, arguments.device)

    def work(scan: Mapping[str, str]) -> None:
        volumes = segmenter(arguments.out / scan["path"], results.segmentation(scan["scan_id"]))
        write_volumes({scan["scan_id"]: volumes}, results.scan_volumes(scan["scan_id"]))

    def outputs(scan: Mapping[str, str]) -> list[Path]:
        target = results.segmentation(scan["scan_id"])
        return [results.scan_volumes(scan["scan_id"]), target, sidecar_of(target)]

    batch.run(
        batch.read(arguments.batch),
        results.batches("segment") / arguments.batch.name,
        root=arguments.out,
        worker=work,
        outputs=outputs,
        key=lambda scan: f"{scan['sha256']}:{segmenter.weights.sha256}:{ALGORITHM_VERSION}",
    )
