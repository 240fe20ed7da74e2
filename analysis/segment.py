"""Segmentations and volumes of a batch of synthetic T1s, by the embedded segmenter or another back end.

Reads the batch table of ``synthesise``, leaves ``segmentation-BACKEND/…_dseg.nii.gz``, ``…_volumes.tsv`` and
``…_volumes.json``, and the batch table of ``segment`` (of other back ends ``segment-BACKEND``), whose path is that of
the volumes. Other laboratories' tools are found by ``--home``, by FREESURFER_HOME or FSLDIR, on the PATH, or in
``--container``; ``python -m analysis doctor`` says what is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from synthsr.threads import wait_asleep

from .backends.registry import BACKENDS, NAMES
from .layout import EMBEDDED
from .synthesise import ARITHMETIC

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from synthsr.preprocess import Grid

    from .batch import Steps

    Worker = tuple[Callable[["Scan"], None] | Steps, Callable[["Scan"], Sequence[Path]], Callable[["Scan"], str]]

#: Raise when the output of an unchanged scan with unchanged weights changes.
ALGORITHM_VERSION = 3

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
    embedded.add_argument("--arithmetic", choices=ARITHMETIC, default=ARITHMETIC[0], help="default: %(default)s")
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


@dataclass(frozen=True)
class _Read:
    """A scan's 1 mm image as the network sees it, with its grid; and the scan, as it is and as the network sees it."""

    image: Tensor
    grid: Grid
    data: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    seen: Tensor


@dataclass(frozen=True)
class _Found:
    """What :meth:`~synthsr.segment.Segmenter.segment_with_entropy` found in the image, and the labels of the scan."""

    best: Tensor
    sums: Tensor
    entropies: Tensor
    direct: Tensor


def _embedded(arguments: argparse.Namespace) -> Worker:
    """What :func:`batch.run` needs of the embedded segmenter: worker, outputs and key."""
    wait_asleep()
    import numpy as np

    from synthsr import __version__, inference, io, labels, scan
    from synthsr.segment import Segmenter

    from . import batch, quality, volumes
    from .errors import DataError
    from .layout import Results, description_of, sidecar_of

    inference.prepare_process(arguments.threads)
    results = Results(arguments.out)
    segmenter = Segmenter.load(arguments.weights, arguments.device, arithmetic=arguments.arithmetic)
    maker = segmenter.weights.sha256
    if arguments.arithmetic != ARITHMETIC[0]:
        maker += f":{arguments.arithmetic}"
    names = np.array(labels.segmentation_numbers(), dtype=np.int16)

    def read(row: Scan) -> _Read:
        source, raw = arguments.out / row["path"], results.raw(row["scan_id"])
        image, grid = scan.read(source, ct=False)
        data, affine = io.load(raw)
        seen, seen_grid = scan.prepared(raw, data, affine, ct=row["contrast"] == "ct")
        if seen_grid.shape != grid.shape:
            raise DataError(f"{source.name}: lies on another grid than the scan; call again with --forcerun synthesise")
        return _Read(image, grid, data, affine, seen)

    def work(row: Scan, read: _Read) -> tuple[_Read, _Found]:
        best, sums, entropies = segmenter.segment_with_entropy(read.image)
        # One pass tells enough of whether both agree.
        direct, _ = segmenter.segment(read.seen, flip=False)
        return read, _Found(best, sums, entropies, direct)

    def write(row: Scan, made: tuple[_Read, _Found]) -> None:
        read, found = made
        table, _, target, _ = outputs(row)
        source = arguments.out / row["path"]
        sizes = segmenter.write(found.best, found.sums, read.grid, target, source=source, ct=False, flip=True)
        measures = quality.measure(
            read.data,
            read.affine,
            read.image[0, 0].numpy(),
            grid=read.grid,
            numbers=names[found.best.numpy()],
            direct=names[found.direct.numpy()],
            entropies=found.entropies.numpy(),
            volumes_mm3=sizes,
            seen=None if row["contrast"] == "ct" else read.seen[0, 0].numpy(),
            is_t1=description_of(row["path"]) == "synthsr",
        )
        synthesiser = volumes.synthesiser_of(sidecar_of(source))
        provenance = volumes.Provenance(EMBEDDED, __version__, segmenter.weights.sha256, *synthesiser)
        volumes.write(table, row["scan_id"], volumes.ScanVolumes(sizes, provenance, measures))

    def outputs(row: Scan) -> list[Path]:
        made_by = description_of(row["path"])
        target = results.segmentation(row["scan_id"], description=made_by)
        table = results.scan_volumes(row["scan_id"], description=made_by)
        return [table, volumes.json_of(table), target, sidecar_of(target)]

    def key(row: Scan) -> str:
        return f"{row['sha256']}:{maker}:{ALGORITHM_VERSION}"

    return batch.Steps(read, work, write), outputs, key


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
