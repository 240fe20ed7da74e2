"""Kill an intake (inventory, conversion) at random moments and compare what a rerun leaves with an undisturbed one.

The source is simulated patients' DICOM or any other; both intakes have the same key, so that their pseudonyms agree.
After every kill, each file under its final name must be whole; in the end every file of results/ and every table of
private/ must be the same, byte by byte. Exit code 1 if one is not.

python benchmarks/kill_intake.py clinic/dicom --kills 10 --out kills.tsv
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import cli, tsv
from analysis.intake.key import Key
from analysis.layout import Private, Results

#: Names of files that are being written, which a kill leaves behind.
UNFINISHED = ".part-"


def intake(source: Path, root: Path, *, batch_size: int) -> None:
    """Inventory and conversion of every batch, in this process.

    Raises
    ------
    RuntimeError
        If a command fails.
    """
    folders = ["--out", str(root / "results"), "--private", str(root / "private")]
    commands = [["inventory", str(source), "--batch-size", str(batch_size), *folders]]
    for command in commands:
        if (code := cli.main(command)) != 0:
            raise RuntimeError(f"{command[0]} ended with code {code}")
        if command[0] == "inventory":
            batches = sorted(Results(root / "results").batches("select").glob("batch-*.tsv"))
            commands += [["convert", str(batch), *folders] for batch in batches]


def killed(source: Path, root: Path, *, after_s: float, batch_size: int) -> bool:
    """Run an intake in processes of its own and kill them all; False if it had ended before."""
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(source, root, batch_size))
    process.start()
    # From both sides, as shells do it: whichever of the two is first, the group stands before it is killed.
    os.setpgid(process.pid or 0, 0)
    process.join(after_s)
    is_running = process.exitcode is None
    if is_running:
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return is_running


def _quietly(source: Path, root: Path, batch_size: int) -> None:
    os.setpgid(0, 0)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        intake(source, root, batch_size=batch_size)


def contents(root: Path) -> dict[str, bytes]:
    """Every finished file of results/ and every table and record of private/, by its path."""
    private = [path for ending in ("*.tsv", "*.json", "*.key") for path in (root / "private").rglob(ending)]
    paths = [*(path for path in (root / "results").rglob("*") if path.is_file()), *private]
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in paths if not path.name.startswith(UNFINISHED)
    }


def half_written(root: Path) -> Iterator[str]:
    """Files under their final name that are not whole."""
    for name, content in contents(root).items():
        try:
            if name.endswith(".gz"):
                gzip.decompress(content)
            elif name.endswith(".json"):
                json.loads(content)
            elif name.endswith(".tsv") and not content.endswith(b"\n"):
                raise ValueError
        except (OSError, EOFError, ValueError):
            yield name


def compare(source: Path, folder: Path, *, n_kills: int, batch_size: int, seed: int = 0) -> pd.DataFrame:
    """Kill an intake ``n_kills`` times, let it end, and compare it with another.

    Returns
    -------
    One row per kill (``after_s``, ``n_files`` there, ``half_written``), and a last one for the end, in which
    ``differing`` counts files that are not as those of the undisturbed intake.
    """
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    Key.of(Private(undisturbed / "private").key)
    (disturbed / "private").mkdir(parents=True, mode=0o700)
    (disturbed / "private" / "pseudonyms.key").hardlink_to(undisturbed / "private" / "pseudonyms.key")
    start = time.perf_counter()
    intake(source, undisturbed, batch_size=batch_size)
    needed_s = time.perf_counter() - start
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < n_kills:
        # What is done is not done again: kills spread over the whole, on average.
        after_s = rng.uniform(0, 2 * needed_s / n_kills)
        if not killed(source, disturbed, after_s=after_s, batch_size=batch_size):
            needed_s *= 0.8
            continue
        rows.append({"after_s": round(after_s, 2), "n_files": len(contents(disturbed)), "differing": tsv.MISSING})
        rows[-1]["half_written"] = len(list(half_written(disturbed)))
    intake(source, disturbed, batch_size=batch_size)
    expected, found = contents(undisturbed), contents(disturbed)
    differing = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    rows.append({"after_s": tsv.MISSING, "n_files": len(found), "differing": len(differing), "half_written": 0})
    for name in sorted(differing):
        print(f"differs: {name}")
    return pd.DataFrame(rows)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of DICOM files")
    parser.add_argument("--kills", type=int, default=10, help="how often (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=20, help="scans per batch (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="table to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-intake-") as folder:
        table = compare(arguments.source, Path(folder), n_kills=arguments.kills, batch_size=arguments.batch_size)
    tsv.write(table, arguments.out)
    print(table.to_string(index=False))
    return int(table["half_written"].sum() > 0 or table["differing"].iloc[-1] > 0)


if __name__ == "__main__":
    sys.exit(main())
