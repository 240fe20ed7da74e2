"""Progress of long work: a bar in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

#: Between lines in a log. Work that takes less says nothing.
LOG_INTERVAL_S = 60.0

Item = TypeVar("Item")


def tracked(items: Iterable[Item], *, what: str, total: int) -> Iterator[Item]:
    """The items, told on stderr while they are worked on.

    Parameters
    ----------
    items
        Each is done when the next one is asked for.
    what
        Is done with them, such as ``images read``.
    total
        Number of items.
    """
    from tqdm import tqdm

    is_terminal = sys.stderr.isatty()
    start = told = time.monotonic()
    with tqdm(total=total, desc=what, disable=not is_terminal, leave=False) as bar:
        for number, item in enumerate(items, start=1):
            yield item
            bar.update()
            now = time.monotonic()
            if not is_terminal and now - told >= LOG_INTERVAL_S and number < total:
                left_s = (now - start) / number * (total - number)
                line = f"{what}: {number} of {total}, {_in_words(left_s)} left"
                print(line, file=sys.stderr, flush=True)
                told = now


def say(line: str) -> None:
    """Print a line at once, above a bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()


def _in_words(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"
