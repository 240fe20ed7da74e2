"""What a command costs: seconds by the clock and of the processor, and its largest memory, with its children.

Runs as a small process between the measuring one and the measured one (``python process.py FILE COMMAND …``), because
Linux counts what a process held before it became the command: the memory of the one that started it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a process cost.

    Attributes
    ----------
    wall_s, cpu_s
        By the clock; of all processors together.
    peak_mb
        Largest resident memory of one process of it, in 10⁶ bytes.
    output
        What it printed.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def cost(command: Sequence[str | Path]) -> Cost:
    """Run a command and measure it.

    Raises
    ------
    SystemExit
        If it fails, with what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "cost.json"
        between = [sys.executable, __file__, str(target), *map(str, command)]
        done = subprocess.run(between, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} ended with code {done.returncode}:\n{done.stdout}")
        return Cost(**json.loads(target.read_text(encoding="utf-8")), output=done.stdout)


def main() -> None:
    """Run the command and write its cost."""
    start = time.perf_counter()
    code = subprocess.run(sys.argv[2:], check=False).returncode
    wall_s, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"wall_s": wall_s, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss * 1024 / 1e6}
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
    sys.exit(code % 256)


if __name__ == "__main__":
    main()
