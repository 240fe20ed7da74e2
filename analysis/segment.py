"""Segmentations and volumes of a batch of synthetic T1s, by the embedded segmenter or another back end.

Reads the batch table of ``synthesise``, leaves ``segmentation-BACKEND/…_dseg.nii.gz``, ``…_volumes.tsv`` and
``…_volumes.json``, and the batch table of ``segment`` (of other back ends ``segment-BACKEND``), whose path is that of
the volumes. Other laboratories' tools are found by ``--home``, by FREESURFER_HOME or FSLDIR, on the PATH, or in
``--container``; ``python -m analysis doctor`` says what is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .backends.registry import BACKENDS, NAMES
from .layout import EMBEDDED

#: Raise when the output of an unchanged scan with unchanged weights changes.
ALGORITHM_VERSION = 2

Scan = Mapping[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("batch", type=Path, metavar="BATCH", help="batch table of the synthesise stage")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument("--backend", choices=NAMES, default=EMBEDDED, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all; of other tools one)")
    embedded = parser.add_argument_group("of the embedded back end")
    embedded.add_argument("--weights", default="segmentation", metavar="NAME_OR_PATH", help="default: %(default)s")
    embedded.add_argument("--device", default="auto", help="cpu, cuda … (default: a GPU if there is one)")
    others = parser.add_argument_group("of other back ends")
    others.add_argument("--home", metavar="DIR", help="folder of FreeSurfer or FSL")
    others.add_argument("--container", metavar="IMAGE", help="image that holds it, for apptainer")
    others.add_argument(
        "--licence", metavar="FILE", help="FreeSurfer's licence (default: FS_LICENSE, or in its folder)"
    )
    others.add_argument("--stages", nargs="+", default=["all"], metavar="STAGE", help="of recon-all (default: all)")
    others.add_argument("--subjects", type=Path, metavar="DIR", help="finished FreeSurfer subjects, named by scan_id: "
                        "imported, nothing is run")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Work through one batch."""
    from . import batch
    from .layout import Results, segment_stage

    results = Results(arguments.out)
    work, outputs, key = (_embedded if arguments.backend == EMBEDDED else _other)(arguments)
    batch.run(
        batch.read(arguments.batch),
        results.batches(segment_stage(arguments.backend)) / arguments.batch.name,
        root=arguments.out,
        worker=work,
        outputs=outputs,
        key=key,
    )


Worker = tuple[Callable[[Scan], None], Callable[[Scan], Sequence[Path]], Callable[[Scan], str]]


def _embedded(arguments: argparse.Namespace) -> Worker:
    """What :func:`batch.run` needs of the embedded segmenter: worker, outputs and key."""
    import numpy as np

    from synthsr import __version__, inference, io, labels, scan
    from synthsr.segment import Segmenter

    from . import quality, volumes
    from .errors import DataError
    from .layout import Results, description_of, sidecar_of

    inference.prepare_process(arguments.threads)
    results = Results(arguments.out)
    segmenter = Segmenter.load(arguments.weights, arguments.device)
    names = np.array(labels.segmentation_numbers(), dtype=np.int16)

    def work(row: Scan) -> None:
        table, _, target, _ = outputs(row)
        source, raw, is_ct = arguments.out / row["path"], results.raw(row["scan_id"]), row["contrast"] == "ct"
        image, grid = scan.read(source, ct=False)
        best, sums, entropies = segmenter.segment_with_entropy(image)
        data, affine = io.load(raw)
        seen, seen_grid = scan.prepared(raw, data, affine, ct=is_ct)
        if seen_grid.shape != grid.shape:
            raise DataError(f"{source.name}: lies on another grid than the scan; call again with --forcerun synthesise")
        # One pass tells enough of whether both agree.
        direct, _ = segmenter.segment(seen, flip=False)
        found = segmenter.write(best, sums, grid, target, source=source, ct=False, flip=True)
        measures = quality.measure(
            data,
            affine,
            image[0, 0].numpy(),
            grid=grid,
            numbers=names[best.numpy()],
            direct=names[direct.numpy()],
            entropies=entropies.numpy(),
            volumes_mm3=found,
            is_t1=description_of(row["path"]) == "synthsr",
        )
        synthesiser = volumes.synthesiser_of(sidecar_of(source))
        provenance = volumes.Provenance(EMBEDDED, __version__, segmenter.weights.sha256, *synthesiser)
        volumes.write(table, row["scan_id"], volumes.ScanVolumes(found, provenance, measures))

    def outputs(row: Scan) -> list[Path]:
        made_by = description_of(row["path"])
        target = results.segmentation(row["scan_id"], description=made_by)
        table = results.scan_volumes(row["scan_id"], description=made_by)
        return [table, volumes.json_of(table), target, sidecar_of(target)]

    def key(row: Scan) -> str:
        return f"{row['sha256']}:{segmenter.weights.sha256}:{ALGORITHM_VERSION}"

    return work, outputs, key


def _other(arguments: argparse.Namespace) -> Worker:
    """What :func:`batch.run` needs of another laboratory's tool."""
    from .backends.suites import locate
    from .backends.work import Tool
    from .layout import Results

    backend = BACKENDS[arguments.backend]
    settings = {name: getattr(arguments, name) for name in ("home", "container", "licence")}
    tool = Tool(
        backend,
        locate(backend.suite, settings),
        Results(arguments.out),
        threads=arguments.threads or 1,
        stages=tuple(arguments.stages),
        subjects=arguments.subjects,
    )
    return tool.work, tool.outputs, tool.key
