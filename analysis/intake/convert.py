"""Convert the chosen scans of one batch to NIfTI with a de-identified sidecar.

DICOM series go through dcm2niix, images of a BIDS dataset are checked and linked. A scan that cannot be used is a
row with the reason; the others go on. Dates in ``*_scans.tsv`` are moved; docs/intake.md says what is done to all else.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.layout import Private, Results, sidecar_of
from synthsr.threads import wait_asleep

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Raised only when the converted files change.
ALGORITHM_VERSION = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "batch", type=Path, metavar="BATCH_TSV", help="batch of chosen scans, as the inventory wrote it"
    )
    parser.add_argument(
        "--private", type=Path, metavar="DIR", help="folder of the linking tables (default: private beside --out)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument(
        "--deface",
        metavar="NAME_OR_PATH",
        help="remove faces, as segmentation weights find the head (shipped: segmentation); a minute per scan on a CPU",
    )
    parser.add_argument("--device", default="auto", help="device of that network (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from analysis import batch, tsv
    from analysis.errors import DataError
    from synthsr import files

    from . import dataset, nifti, pseudonyms
    from .series import to_path

    results = Results(arguments.out)
    scans = tsv.read(arguments.batch, columns=("scan_id", "series_id", "source_key"))
    private = Private(arguments.private or arguments.out.absolute().parent / "private")
    rows = {row["series_id"]: row for row in pseudonyms.read_series(private)}
    texts = pseudonyms.read_paths(private, set(scans["series_id"]))

    defacer = None
    if arguments.deface:
        wait_asleep()
        from .deface import Defacer

        defacer = Defacer(arguments.deface, arguments.device)

    def paths(scan: Mapping[str, str]) -> list[Path]:
        return [to_path(text) for text in texts[scan["series_id"]]]

    def key(scan: Mapping[str, str]) -> str:
        content = scan["source_key"]
        if rows[scan["series_id"]]["source"] == "bids":
            content = files.sha256(path) if (path := paths(scan)[0]).is_file() else "missing"
        return f"{content}:{ALGORITHM_VERSION}{f':{defacer.segmenter.weights.sha256}' if defacer else ''}"

    def worker(scan: Mapping[str, str]) -> None:
        row, target = rows[scan["series_id"]], results.raw(scan["scan_id"])
        if row["decision"] == pseudonyms.EXCLUDE:
            raise DataError(row["reason"])
        if row["source"] == "bids":
            nifti.from_bids(paths(scan)[0], target, defacer=defacer)
        else:
            nifti.from_dicom(
                paths(scan),
                target,
                n_slices=int(row["n_slices"]),
                spacing_mm=float(row["spacing_mm"]),
                is_ct=row["contrast"] == "ct",
                record=private.conversion(scan["scan_id"]),
                defacer=defacer,
            )

    def outputs(scan: Mapping[str, str]) -> list[Path]:
        target = results.raw(scan["scan_id"])
        return [target, sidecar_of(target)]

    unknown = [series_id for series_id in scans["series_id"] if series_id not in texts]
    if unknown:
        raise DataError(f"{arguments.batch}: {unknown[0]} is not in {private.root}; run the inventory again")
    table = results.batch("convert", arguments.batch.stem.removeprefix("batch-"))
    done = batch.run(scans, table, root=results.root, worker=worker, outputs=outputs, key=key)
    sessions = {(rows[scan]["participant_id"], rows[scan]["session_id"]) for scan in scans["series_id"]}
    links = [row for row in rows.values() if row["scan_id"] and (row["participant_id"], row["session_id"]) in sessions]
    dataset.write_scans(links, results, private)
    rejected = done[done["status"] == batch.REJECTED]
    for scan in rejected.itertuples():
        print(f"rejected {scan.scan_id}: {scan.reason}")
    print(f"{len(done) - len(rejected)} of {len(done)} scans converted; {table}")
