"""Pictures of a batch of scans for the report: three planes of input, synthetic T1 and outlines, and the viewer's data.

Reads the batch table of ``segment``, leaves ``report/scans/….png`` and ``….js`` and the batch table of ``pictures``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from analysis.layout import PICTURES

#: Raise when the pictures of an unchanged scan change.
ALGORITHM_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("batch", type=Path, metavar="BATCH", help="batch table of the segment stage")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument("--lesions", type=Path, metavar="DIR", help="lesion masks in the scans' own space, for the "
                        "viewer: files SCAN_ID….nii.gz at any depth")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Work through one batch."""
    from analysis import batch
    from analysis.errors import DataError
    from analysis.layout import Results, description_of
    from synthsr import files

    from . import planes, viewed

    results = Results(arguments.out)
    masks = sorted(arguments.lesions.rglob("*.nii.gz")) if arguments.lesions is not None else []

    def lesion(scan_id: str) -> Path | None:
        return next((mask for mask in masks if mask.name.startswith(scan_id)), None)

    def key(scan: Mapping[str, str]) -> str:
        mask = lesion(scan["scan_id"])
        parts = [scan["key"], scan["sha256"], files.sha256(mask) if mask else "", str(ALGORITHM_VERSION)]
        return ":".join(part for part in parts if part)

    def work(scan: Mapping[str, str]) -> None:
        scan_id, made_by = scan["scan_id"], description_of(scan["path"])
        is_synthetic = made_by == "synthsr"
        images = {
            "raw": results.raw(scan_id),
            "at_1mm": results.synthetic(scan_id) if is_synthetic else results.interpolated(scan_id),
            "segmentation": results.segmentation(scan_id, description=made_by),
        }
        for image in images.values():
            if not image.is_file():
                raise DataError(f"{image.name}: is gone; call again with --forcerun convert synthesise segment")
        picture, script = outputs(scan)
        with files.whole(picture) as temporary:
            temporary.write_bytes(planes.encode(planes.montage(*images.values(), is_synthetic=is_synthetic)))
        files.write_text(script, viewed.script(scan_id, **images, is_synthetic=is_synthetic, lesion=lesion(scan_id)))

    def outputs(scan: Mapping[str, str]) -> list[Path]:
        return [results.scan_page(scan["scan_id"], kind=kind) for kind in ("png", "js")]

    batch.run(
        batch.read(arguments.batch),
        results.batches(PICTURES) / arguments.batch.name,
        root=arguments.out,
        worker=work,
        outputs=outputs,
        key=key,
    )
