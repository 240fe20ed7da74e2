"""Synthetic 1 mm T1s of a batch of converted scans.

Reads the batch table of ``convert``, leaves ``synthsr/…_desc-synthsr_T1w.nii.gz`` with sidecars and the batch table of
``synthesise``. With ``--synthesiser cubic`` nothing is synthesised: the scans themselves, interpolated to 1 mm, are
left as ``cubic/…_desc-cubic_T2w.nii.gz`` and segmented next, which is what SynthSR is compared with. With
``--synthesiser mri_synthsr`` FreeSurfer's SynthSR makes the T1s.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from synthsr.threads import wait_asleep

#: Raise when the output of an unchanged scan with unchanged weights changes.
ALGORITHM_VERSION = 2
ARITHMETIC = ("float32", "bfloat16")
SYNTHESISERS = ("synthsr", "cubic", "mri_synthsr")

Scan = Mapping[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("batch", type=Path, metavar="BATCH", help="batch table of the convert stage")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument("--synthesiser", choices=SYNTHESISERS, default="synthsr", help="default: %(default)s")
    parser.add_argument("--weights", default="synthsr", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="cpu, cuda … (default: a GPU if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--arithmetic", choices=ARITHMETIC, default=ARITHMETIC[0], help="default: %(default)s")
    freesurfer = parser.add_argument_group("of mri_synthsr")
    freesurfer.add_argument("--home", metavar="DIR", help="folder of FreeSurfer (default: FREESURFER_HOME)")
    freesurfer.add_argument("--container", metavar="IMAGE", help="image that holds it, for apptainer")
    freesurfer.add_argument("--licence", metavar="FILE", help="its licence (default: FS_LICENSE, or in its folder)")


def run(arguments: argparse.Namespace) -> None:
    """Work through one batch."""
    wait_asleep()
    from synthsr import inference
    from synthsr.predict import Predictor

    from . import batch
    from .layout import Results, sidecar_of

    inference.prepare_process(arguments.threads)
    results = Results(arguments.out)

    def outputs(scan: Scan) -> list[Path]:
        image = target(scan["scan_id"])
        return [image, sidecar_of(image)]

    def in_one(make: Callable[..., None]) -> Callable[[Scan], None]:
        return lambda scan: make(arguments.out / scan["path"], outputs(scan)[0], ct=scan["contrast"] == "ct")

    worker: Callable[[Scan], None] | batch.Steps
    if arguments.synthesiser == "cubic":
        from . import interpolate

        worker, target, maker = in_one(interpolate.to_1mm), results.interpolated, "cubic"
    elif arguments.synthesiser == "mri_synthsr":
        from .backends.suites import FREESURFER, locate
        from .backends.synthesise import Synthesiser

        places = {name: getattr(arguments, name) for name in ("home", "container", "licence")}
        tool = Synthesiser(locate(FREESURFER, places), arguments.threads or 1)
        worker, target, maker = in_one(tool), results.synthetic, tool.maker
    else:
        predictor = Predictor.load(arguments.weights, arguments.device, arithmetic=arguments.arithmetic)
        target, maker = results.synthetic, predictor.weights.sha256
        if arguments.arithmetic != ARITHMETIC[0]:
            # In float32 all engines answer the same but for rounding.
            maker += f":{arguments.arithmetic}:{predictor.weights.network.engine}"
        worker = batch.Steps(
            lambda scan: predictor.read(arguments.out / scan["path"], ct=scan["contrast"] == "ct"),
            lambda scan, seen: (seen, predictor.predict(seen)),
            lambda scan, made: predictor.write(made[0], made[1], outputs(scan)[0]),
        )

    batch.run(
        batch.read(arguments.batch),
        results.batches("synthesise") / arguments.batch.name,
        root=arguments.out,
        worker=worker,
        outputs=outputs,
        key=lambda scan: f"{scan['sha256']}:{maker}:{ALGORITHM_VERSION}",
    )
