"""How the threads of a process that runs networks wait for each other. Imports nothing heavy."""

from __future__ import annotations

import os


def wait_asleep() -> None:
    """Let torch's idle threads sleep; call before torch is imported, which reads it once.

    By default they spin for milliseconds, and burn a processor that another process, or the reading of the next scan,
    could use: on a busy machine two threads took twice the processor's time, and half as long again by the clock.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
