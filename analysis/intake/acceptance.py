"""Whether an image is one scan of a head: the gate behind conversion, the same for DICOM and for BIDS.

What the header says is compared with what a scanner can do, and the values with what a head looks like. Whatever
cannot be true is a :class:`~synthsr.errors.DataError` with the reason; what is certain in spite of a contradiction is
repaired, and the sidecar says so.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import SpatialImage

from analysis.errors import DataError

#: A smaller voxel is that of an affine whose columns do not span space.
LEAST_VOXEL_MM3 = 1e-6
#: Fewer slices than this are no scan of a brain.
FEWEST_SLICES = 10
#: Distances of voxels: finer than any scanner's, coarser than any scan that shows a hippocampus.
SPACING_MM = (0.1, 20.0)
#: Field of view along each axis: a head is 150 mm wide, thick slices may miss the vertex; a head and neck are 400 mm.
EXTENT_MM = (90.0, 450.0)
#: What is brighter than this share of the brightest tissue is head, not air.
HEAD_LEVEL = 0.1
#: A slice across the head shows at least this share of it.
HEAD_SHARE = 0.01
#: Least extent of the head along each axis, and its volume: that of a small child's brain without skull.
LEAST_HEAD_MM, LEAST_HEAD_LITRES = 80.0, 0.5
#: Of a CT: some air must be there, and the volume of soft tissue, in Hounsfield units.
AIR_HU, SOFT_TISSUE_HU = -200.0, (0.0, 100.0)
#: qform and sform place a corner of the image this far apart before they disagree.
SAME_PLACE_MM = 1.0
#: Voxel sizes of the two that differ by less than this are the same.
SAME_SIZE = 0.02
#: Voxels per axis that the head is looked for on.
_LOOKED_AT = 64


def check(image: SpatialImage, name: str, *, is_ct: bool = False) -> list[str]:
    """Check an image and return what had to be repaired, one sentence each.

    Parameters
    ----------
    image
        With the affine as nibabel reads it: sform before qform.
    name
        What messages call it.
    is_ct
        Whether its values must be Hounsfield units.

    Raises
    ------
    DataError
        If it is no scan of a head that can go on.
    """
    shape = image.shape
    if len(shape) < 3 or set(shape[3:]) - {1}:
        raise DataError(f"{name}: {' x '.join(map(str, shape))} voxels, expected three dimensions")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < LEAST_VOXEL_MM3:
        raise DataError(f"{name}: its affine does not describe a volume; mend the header or leave out this scan")
    repairs = _orientation_repairs(image, name)
    spacing_mm = np.linalg.norm(image.affine[:3, :3], axis=0)
    _check_geometry(shape[:3], spacing_mm, name)
    values = _values(image, name)
    _check_slices(values, name)
    _check_head(values, spacing_mm, name, is_ct=is_ct)
    return repairs


def _orientation_repairs(image: SpatialImage, name: str) -> list[str]:
    """Compare the two places that a NIfTI header gives the image."""
    if not isinstance(image, nib.Nifti1Pair):
        return []
    sform, sform_code = image.get_sform(coded=True)
    qform, qform_code = image.get_qform(coded=True)
    if not (sform_code or qform_code):
        raise DataError(f"{name}: neither qform nor sform is set, so that left and right are unknown; convert it again")
    if not (sform_code and qform_code):
        return []
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in image.shape[:3]])).reshape(3, -1)
    apart_mm = float(np.linalg.norm((sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:], axis=0).max())
    if apart_mm <= SAME_PLACE_MM:
        return []
    sizes = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (sform, qform)]
    is_same_size = np.allclose(sizes[0], sizes[1], rtol=SAME_SIZE, atol=0)
    if not is_same_size or nib.aff2axcodes(sform) != nib.aff2axcodes(qform):
        raise DataError(
            f"{name}: qform and sform disagree by {apart_mm:.1f} mm and about directions or voxel sizes, so that left "
            "and right are uncertain; mend the header or convert it again"
        )
    return [f"placed by its sform, from which its qform differed by {apart_mm:.1f} mm"]


def _check_geometry(shape: tuple[int, ...], spacing_mm: npt.NDArray[np.float64], name: str) -> None:
    if min(shape) < FEWEST_SLICES:
        raise DataError(f"{name}: {min(shape)} slices, fewer than {FEWEST_SLICES}")
    if spacing_mm.min() < SPACING_MM[0] or spacing_mm.max() > SPACING_MM[1]:
        sizes = " x ".join(f"{size:.3g}" for size in spacing_mm)
        raise DataError(f"{name}: voxels of {sizes} mm, expected {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm")
    extent_mm = spacing_mm * shape
    if extent_mm.min() < EXTENT_MM[0]:
        raise DataError(f"{name}: field of view {extent_mm.min():.0f} mm, less than {EXTENT_MM[0]:.0f} mm")
    if extent_mm.max() > EXTENT_MM[1]:
        raise DataError(
            f"{name}: field of view {extent_mm.max():.0f} mm, more than {EXTENT_MM[1]:.0f} mm: a scan of more than a "
            "head, or a wrong voxel size; cut out the head or mend the header"
        )


def _values(image: SpatialImage, name: str) -> npt.NDArray[np.generic]:
    try:
        values = np.asanyarray(image.dataobj)
    except MemoryError as error:
        raise DataError(f"{name}: does not fit into memory; leave out this scan") from error
    if values.dtype.names is not None or np.iscomplexobj(values):
        raise DataError(f"{name}: holds colours or complex numbers, not grey levels; leave out this scan")
    if not np.isfinite(values).all():
        raise DataError(f"{name}: holds values that are not finite (NaN or infinity); mend or leave out this scan")
    if values.min() == values.max():
        raise DataError(f"{name}: is constant, every voxel is {values.min():g}; leave out this scan")
    return np.reshape(values, image.shape[:3])


def _check_slices(values: npt.NDArray[np.generic], name: str) -> None:
    """Find slices without content between others: what decoders leave of a slice that they cannot read."""
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (filled,) = np.nonzero(values.min(axis=others) != values.max(axis=others))
        gaps = np.flatnonzero(np.diff(filled) > 1)
        if gaps.size:
            raise DataError(
                f"{name}: slice {filled[gaps[0]] + 2} along axis {axis + 1} is blank, as of compressed pixel data that "
                "cannot be read; export the scan again"
            )


def _check_head(
    values: npt.NDArray[np.generic], spacing_mm: npt.NDArray[np.float64], name: str, *, is_ct: bool
) -> None:
    """See whether what is not air is as large as a head."""
    steps = [-(-size // _LOOKED_AT) for size in values.shape]
    seen = values[tuple(slice(None, None, step) for step in steps)].astype(np.float64)
    step_mm = spacing_mm * steps
    litres = float(step_mm.prod()) * 1e-6
    if is_ct:
        if values.min() > AIR_HU:
            raise DataError(
                f"{name}: values from {values.min():g} to {values.max():g} are no Hounsfield units: there is no air; "
                "export it with its rescale intercept, not windowed"
            )
        inside = seen > AIR_HU
        n_soft = np.count_nonzero((seen >= SOFT_TISSUE_HU[0]) & (seen <= SOFT_TISSUE_HU[1]))
        if n_soft * litres < LEAST_HEAD_LITRES:
            raise DataError(f"{name}: {n_soft * litres:.2f} l of soft tissue (0 to 100 HU), less than a head's")
    else:
        low, high = np.percentile(seen, (2, 98))
        inside = seen > low + HEAD_LEVEL * (high - low)
    if np.count_nonzero(inside) * litres < LEAST_HEAD_LITRES:
        raise DataError(
            f"{name}: {np.count_nonzero(inside) * litres:.2f} l are brighter than air, less than a head's "
            f"{LEAST_HEAD_LITRES} l; leave out this scan"
        )
    for axis in range(3):
        share = inside.mean(axis=tuple(other for other in range(3) if other != axis))
        (slices,) = np.nonzero(share > HEAD_SHARE)
        extent_mm = (slices[-1] - slices[0] + 1) * step_mm[axis] if slices.size else 0.0
        if extent_mm < LEAST_HEAD_MM:
            raise DataError(
                f"{name}: what is brighter than air measures {extent_mm:.0f} mm, less than {LEAST_HEAD_MM:.0f} mm: the "
                "brain is not covered; leave out this scan"
            )
