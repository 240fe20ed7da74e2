"""A miniature head for tests: nested ellipsoids, sides told apart, 1 mm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SHAPE = (52, 60, 52)


def numbers() -> npt.NDArray[np.uint16]:
    """Label map, axes right, anterior, superior: hippocampi lie low, the left one larger."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    left = x < 0

    def within(radius: tuple[float, float, float], centre: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
        parts = ((axis - c) / r for axis, c, r in zip((x, y, z), centre, radius, strict=True))
        return sum(part**2 for part in parts) <= 1

    head = np.zeros(SHAPE, dtype=np.uint16)
    head[within((24, 28, 24))] = 511
    head[within((22, 26, 22))] = 515
    head[within((19, 23, 19))] = 24
    for radius, number in (((17, 21, 17), 3), ((14, 18, 14), 2)):
        inside = within(radius)
        head[inside & left] = number
        head[inside & ~left] = number + 39
    for radius, centre, number in (
        ((3, 7, 4), (-5, 0, 4), 4),
        ((3, 6, 3), (-9, 2, -6), 17),
        ((3, 4, 3), (-5, 8, -2), 10),
    ):
        mirrored = (-centre[0], centre[1], centre[2])
        head[within(radius, centre)] = number
        smaller = (radius[0] * 0.9, radius[1] * 0.9, radius[2])
        head[within(smaller, mirrored)] = {4: 43, 17: 53, 10: 49}[number]
    return head
