"""Synthetic 1 mm T1s of a batch of converted scans.

Reads the batch table of ``convert``, leaves ``synthsr/…_desc-synthsr_T1w.nii.gz`` with sidecars and the batch table of
``synthesise``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

#: Raise when the output of an unchanged scan with unchanged weights changes.
ALGORITHM_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("batch", type=Path, metavar="BATCH", help="batch table of the convert stage")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument("--weights", default="synthsr", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="cpu, cuda … (default: a GPU if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")


def run(arguments: argparse.Namespace) -> None:
    """Work through one batch."""
    from synthsr import inference
    from synthsr.predict import Predictor

    from . import batch
    from .layout import Results, sidecar_of

    inference.prepare_process(arguments.threads)
    results = Results(arguments.out)
    predictor = Predictor.load(arguments.weights, arguments.device)

    def work(scan: Mapping[str, str]) -> None:
        target = results.synthetic(scan["scan_id"])
        predictor(arguments.out / scan["path"], target, ct=scan["contrast"] == "ct")

    def outputs(scan: Mapping[str, str]) -> list[Path]:
        target = results.synthetic(scan["scan_id"])
        return [target, sidecar_of(target)]

    batch.run(
        batch.read(arguments.batch),
        results.batches("synthesise") / arguments.batch.name,
        root=arguments.out,
        worker=work,
        outputs=outputs,
        key=lambda scan: f"{scan['sha256']}:{predictor.weights.sha256}:{ALGORITHM_VERSION}",
    )
