"""A head-like thing without symmetry, as a function of world coordinates: any grid and any transform of it is exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from analysis.registration.pairs import Image
from analysis.registration.transforms import Grid, move

#: Centre, semi-axes (mm, RAS) and grey level of ellipsoids, later ones in front.
PARTS = (
    ((0, 0, 0), (24, 30, 26), 60),
    ((1, -1, 1), (20, 26, 22), 100),
    ((-9, 4, 6), (7, 10, 6), 160),
    ((10, 6, -4), (5, 6, 8), 30),
    ((8, -12, 8), (6, 7, 5), 200),
    ((-6, -14, -8), (8, 5, 6), 140),
    ((-4, 16, -2), (4, 5, 9), 20),
)
#: A label on the right, in front and above.
RIGHT = ((10, 8, 9), (7, 8, 7))


def _inside(points: npt.NDArray[np.float64], centre: object, axes: object) -> npt.NDArray[np.float64]:
    """Near 1 within an ellipsoid, near 0 outside, over about two millimetres."""
    radius = np.sqrt((((points - np.asarray(centre)) / np.asarray(axes)) ** 2).sum(axis=-1))
    return 1 / (1 + np.exp(np.minimum((radius - 1) * np.min(axes) / 0.5, 50)))


def grey(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Grey level at points (…, 3), mm RAS."""
    value = np.zeros(points.shape[:-1])
    for centre, axes, level in PARTS:
        part = _inside(points, centre, axes)
        value = (1 - part) * value + part * level
    # Something to hold on to everywhere in the head: block matching finds nothing on plain surfaces.
    x, y, z = np.moveaxis(points, -1, 0)
    texture = np.sin(x / 2.9 + y / 7) * np.sin(y / 2.5 + z / 8 + 1) * np.sin(z / 2.7 - x / 6 + 2)
    return np.asarray(value + 30 * texture * _inside(points, *PARTS[0][:2]))


def label(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 in a place on the right."""
    return (_inside(points, *RIGHT) > 0.5).astype(float)


#: Left-inferior-anterior, as FreeSurfer's; and right-anterior-superior, turned a little, as a scanner's.
LIA = Grid((38, 38, 38), np.array([[-1.8, 0, 0, 33], [0, 0, 1.8, -33], [0, -1.8, 0, 33], [0, 0, 0, 1.0]]))
_turned = np.eye(4)
_turned[:3, :3] = Rotation.from_euler("xyz", [3, -2, 4], degrees=True).as_matrix() @ np.diag([1.7, 1.8, 1.9])
_turned[:3, 3] = -_turned[:3, :3] @ [19.5, 20, 18]
OBLIQUE = Grid((40, 41, 37), _turned)
#: The same with a third of the voxels, where it is not exactness that is tested.
COARSE_LIA = Grid((26, 26, 26), LIA.affine @ np.diag([1.45, 1.45, 1.45, 1.0]))
COARSE = Grid((28, 29, 26), OBLIQUE.affine @ np.diag([1.42, 1.42, 1.42, 1.0]))

#: From the fixed to the moving world: a turn and a shift; the second scales too.
RIGID = np.eye(4)
RIGID[:3, :3] = Rotation.from_euler("xyz", [5, -7, 9], degrees=True).as_matrix()
RIGID[:3, 3] = [4, -3, 2]
AFFINE = RIGID.copy()
AFFINE[:3, :3] = RIGID[:3, :3] @ np.diag([1.06, 0.97, 1.02])


def wave(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A smooth displacement of up to 3 mm (…, 3) without symmetry."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([2.5 * np.sin(y / 14 + 0.4), 1.5 * np.cos(z / 16), 2.0 * np.sin(x / 15 - 0.3)], axis=-1)


def bent(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From the fixed to the moving world: :func:`wave`, then :data:`AFFINE`."""
    return move(AFFINE, points + wave(points))


def image(
    name: str,
    grid: Grid,
    place: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] = lambda points: points,
    *,
    of: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] = grey,
) -> Image:
    """What ``of`` gives where ``place`` takes the voxels of a grid."""
    return Image(name, of(place(grid.points())).astype(np.float32), grid)
