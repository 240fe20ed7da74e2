"""One synthetic T1 of several scans of a session, and its volumes, where a session has the scans for it.

For SynthSR weights of several channels (Iglesias et al., NeuroImage 2021). Of each contrast that they take, a session's
included scan with the best score is chosen; the others are laid on the first by a rigid transform in their headers. The
network makes one T1 of them, with reliability maps if it was trained with these, and the embedded segmenter measures
it. Leaves ``multichannel/…_desc-multichannel_T1w.nii.gz``, ``…_dseg.nii.gz`` and ``…_volumes.tsv`` with sidecars, and
``multichannel/sessions.tsv``, a row per session, for ``tables --multichannel``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synthsr.threads import wait_asleep

from .layout import CONTRASTS

if TYPE_CHECKING:
    import pandas as pd

#: Raise when the output of unchanged scans with unchanged weights changes.
ALGORITHM_VERSION = 2

Session = Mapping[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RESULTS", help="results folder, with the gate's table"
    )
    parser.add_argument("--weights", required=True, metavar="NAME_OR_PATH", help="SynthSR weights of several channels")
    parser.add_argument("--contrasts", nargs="+", required=True, choices=[c for c in CONTRASTS if c != "ct"],
                        help="in the order of the channels")  # fmt: skip
    parser.add_argument("--segmentation", default="segmentation", metavar="NAME_OR_PATH", help="segmenter's weights "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda … (default: a GPU if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")


def run(arguments: argparse.Namespace) -> None:
    """Work through the sessions."""
    wait_asleep()
    import pandas as pd

    from synthsr import __version__, inference, scan
    from synthsr.predict import Predictor
    from synthsr.segment import Segmenter

    from . import batch, tsv, volumes
    from .layout import EMBEDDED, Results, sidecar_of
    from .registration import align
    from .registration.pairs import Image

    inference.prepare_process(arguments.threads)
    results = Results(arguments.out)
    predictor = Predictor.load(arguments.weights, arguments.device)
    segmenter = Segmenter.load(arguments.segmentation, arguments.device)
    gate = tsv.read(results.gate, columns=("scan_id", "contrast", "included"), numbers=("score",))
    chosen = {session["scan_id"]: (session, scans) for session, scans in choose(gate, arguments.contrasts)}
    tables = sorted(results.batches("convert").glob("batch-*.tsv"))
    hashes = {row["scan_id"]: row["sha256"] for table in tables for row in batch.rows(table)}

    def work(session: Session) -> None:
        name = session["scan_id"]
        first, *others = (results.raw(scan_id) for scan_id in chosen[name][1])
        table, _, image, _, labelled, _ = outputs(session)
        moved = {}
        with tempfile.TemporaryDirectory(prefix="multichannel-") as folder:
            reference = Image.load(first)
            for contrast, other in zip(arguments.contrasts[1:], others, strict=True):
                facts = align.write(first, reference, other, Path(folder), threads=arguments.threads or 1)
                moved[f"moved_{contrast}_mm"] = float(facts["DisplacementMeanMM"])
            predictor(first, image, also=[Path(folder) / other.name for other in others])
        seen, grid = scan.read(image, ct=False)
        best, sums = segmenter.segment(seen)
        sizes = segmenter.write(best, sums, grid, labelled, source=image, ct=False, flip=True)
        made_by = volumes.synthesiser_of(sidecar_of(image))
        provenance = volumes.Provenance(EMBEDDED, __version__, segmenter.weights.sha256, *made_by)
        volumes.write(table, name, volumes.ScanVolumes(sizes, provenance, moved))

    def outputs(session: Session) -> list[Path]:
        images = [results.multichannel(session["scan_id"], f"{suffix}.nii.gz") for suffix in ("T1w", "dseg")]
        table = results.multichannel(session["scan_id"], "volumes.tsv")
        return [table, volumes.json_of(table), *(path for image in images for path in (image, sidecar_of(image)))]

    def key(session: Session) -> str:
        sources = [hashes[scan_id] for scan_id in chosen[session["scan_id"]][1]]
        return ":".join([*sources, predictor.weights.sha256, segmenter.weights.sha256, str(ALGORITHM_VERSION)])

    batch.run(
        pd.DataFrame([session for session, _ in chosen.values()], columns=list(batch.COLUMNS[:4])),
        results.multichannel_sessions,
        root=arguments.out,
        worker=work,
        outputs=outputs,
        key=key,
    )


def choose(gate: pd.DataFrame, contrasts: Sequence[str]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Sessions that have an included scan of every contrast, and which of their scans are taken, in that order.

    Parameters
    ----------
    gate
        The gate's table.
    contrasts
        What the network takes.

    Yields
    ------
    A session's row, named by its entities (``sub-1_ses-01``) in the column ``scan_id``; and the scans, of several of
    one contrast that with the best score.
    """
    from .layout import entities

    included = gate[gate["included"] == "yes"].sort_values(["score", "scan_id"])
    for (participant, session), scans in included.groupby(["participant_id", "session_id"]):
        best = scans.drop_duplicates("contrast").set_index("contrast")["scan_id"]
        if set(contrasts) <= set(best.index):
            parts = entities(best[contrasts[0]])
            name = "_".join(f"{part}-{parts[part]}" for part in ("sub", "ses") if part in parts)
            row = {"scan_id": name, "participant_id": str(participant), "session_id": str(session), "contrast": "T1w"}
            yield row, [best[contrast] for contrast in contrasts]
