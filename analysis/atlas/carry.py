"""Everything of a member through the transform of an atlas's last round, interpolated once from its original.

Carried are the image the atlas was built from and other scans of its space (cubic splines, behind a blur along axes
where the atlas's voxels are the larger ones), label map and lesion mask (nearest neighbour), and the logarithm of the
Jacobian determinant, with and without the affine part: volume in the member over volume in the atlas, so that it is
negative where a member has less.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from synthsr import files, io

from ..errors import DataError
from ..registration import pairs, quality, transforms
from ..registration.pairs import Image
from ..registration.transforms import Field, Transform
from . import prepare
from .folder import Folder
from .members import Member
from .rounds import BRAIN_LEVEL, Shapes, template_of

#: Raise when the output of unchanged input with unchanged programs changes.
ALGORITHM_VERSION = 2
#: What the image that an atlas is built from is called among the contrasts.
SYNTHETIC = "synthetic_T1w"
#: Least determinant whose logarithm is taken: where space folds.
LEAST_DETERMINANT = 0.01
FULL_WIDTHS_PER_SD = 2 * np.sqrt(2 * np.log(2))


def outputs(folder: Folder, member: Member, scans: Sequence[Member]) -> list[Path]:
    """Files of a member, its measures of quality first."""
    name = member["participant_id"]
    found = [
        folder.quality_of(name),
        folder.affine(name),
        folder.displacement(name),
        folder.warped(name, SYNTHETIC),
        folder.logjac(name, affine=False),
        folder.logjac(name, affine=True),
        *(folder.warped(name, scan["contrast"]) for scan in scans),
    ]
    found += [folder.labels_of(name)] if member["labels"] else []
    return found + ([folder.lesion(name)] if member["lesion"] else [])


def carry(folder: Folder, member: Member, scans: Sequence[Member], shapes: Shapes, *, smoothing_mm: float) -> None:
    """Write everything of a member into the atlas's space.

    Parameters
    ----------
    folder, member, scans
        Whose; see :mod:`.members`.
    shapes
        Transforms of the last round.
    smoothing_mm
        Full width at half maximum of the Gaussian that smooths log-Jacobians.

    Raises
    ------
    DataError
        If an image cannot be read, or the mask lies beside the image.
    """
    name, grid, threads = member["participant_id"], shapes.grid, shapes.threads
    inner = shapes.transform(name)
    centre_mm = prepare.centre_mm(folder.prepared(name))
    whole = Transform(inner.before, inner.field, prepare.shift(centre_mm) @ inner.after)
    voxel_mm = float(grid.spacing_mm[0])
    image = Image.load(Path(member["image"]))
    warped = pairs.resample(prepare.blurred_for(image, voxel_mm), whole, grid, threads=threads)
    io.save(warped, grid, folder.warped(name, SYNTHETIC))
    for scan in scans:
        original = prepare.blurred_for(Image.load(Path(scan["image"])), voxel_mm)
        carried = pairs.resample(original, whole, grid, threads=threads)
        io.save(carried, grid, folder.warped(name, scan["contrast"]))
    labels = _nearest(member["labels"], whole, shapes)
    if labels is not None:
        io.save(labels, grid, folder.labels_of(name))
    lesion = _nearest(member["lesion"], whole, shapes)
    if lesion is not None:
        mask = Image.load(Path(member["lesion"]))
        if pairs.overlap(mask.grid, image.grid, transforms.linear(np.eye(4))) < pairs.LEAST_OVERLAP:
            raise DataError(f"{mask.name}: lies beside its scan; is it a mask of another space?")
        io.save(lesion, grid, folder.lesion(name))
    displacement = whole.on(grid)
    transforms.write_matrix(whole.linear, folder.affine(name))
    displacement.save(folder.displacement(name))
    determinant = np.ones(grid.shape, dtype=np.float32) if inner.field is None else inner.field.jacobian()
    logarithm = np.log(determinant.clip(min=LEAST_DETERMINANT))
    smooth = ndimage.gaussian_filter(logarithm, smoothing_mm / FULL_WIDTHS_PER_SD / grid.spacing_mm)
    io.save(smooth.astype(np.float32), grid, folder.logjac(name, affine=False))
    scale = float(np.log(np.linalg.det(whole.linear[:3, :3])))
    io.save((smooth + scale).astype(np.float32), grid, folder.logjac(name, affine=True))
    measured = measure(template_of(shapes.round), folder, name, inner, determinant, displacement)
    facts = {"scan_id": member["scan_id"], **measured, "affine_scale": round(float(np.exp(scale)), 5)}
    files.write_json(folder.quality_of(name), facts)


def _nearest(path: str, transform: Transform, shapes: Shapes) -> npt.NDArray[np.int16] | None:
    """A label map or mask on the atlas's grid; ``None`` without one."""
    if not path:
        return None
    found = pairs.resample(Image.load(Path(path)), transform, shapes.grid, is_labels=True, threads=shapes.threads)
    return np.rint(found).astype(np.int16)


def measure(
    template: Image,
    folder: Folder,
    participant: str,
    inner: Transform,
    determinant: npt.NDArray[np.float32],
    displacement: Field,
) -> dict[str, Any]:
    """How well a member lies on the template: similarity, extremes of the determinant and folding over its brain."""
    brain = template.data > BRAIN_LEVEL
    prepared = Image.load(folder.prepared(participant))
    warped = pairs.resample(prepared, inner, template.grid)
    low, high = np.percentile(determinant[brain], [1, 99])
    held = prepared.grid.holds(inner.carry(template.grid.points()))
    return {
        **{name: round(value, 5) for name, value in quality.similarities(template, warped).items()},
        "jacobian_p1": round(float(low), 4),
        "jacobian_p99": round(float(high), 4),
        "folding_fraction": round(float((determinant[brain] <= 0).mean()), 6),
        "overlap_fraction": round(float(held[brain].mean()), 4),
    }
