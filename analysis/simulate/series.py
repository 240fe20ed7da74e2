"""The series of a patient's visits: acquired, and written as DICOM or BIDS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import tsv
from . import bids, dicom, patients, protocols, render
from .clinic import CONTRASTS, COPIES, Clinic
from .patients import Order, Patient, Visit

#: Slices that one image of a projection shows.
PROJECTED = 5
Format = Literal["dicom", "bids"]
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Writer:
    """Acquires and writes the series of a patient's visits.

    Attributes
    ----------
    clinic, patient, vendor
        The configuration, whom, and on whose scanner.
    scans_as
        ``dicom`` or ``bids``.
    uids
        Maker of UIDs.
    scans, masks
        Folders of the patient's scans and lesion masks.
    """

    clinic: Clinic
    patient: Patient
    vendor: protocols.Vendor
    scans_as: Format
    uids: dicom.MakeUid
    scans: Path
    masks: Path

    def key(self, visit: Visit) -> dict[str, Any]:
        """What tables know a visit by."""
        if self.scans_as == "bids":
            return {"participant_id": self.patient.participant_id, "session_id": visit.session_id}
        return {
            "patient_id": self.patient.identifier,
            "visit": visit.number,
            "study_uid": self.uids("study", visit.number),
        }

    def write(self, visit: Visit, head: render.Head) -> list[dict[str, Any]]:
        """Acquire and write the series of a visit.

        Returns
        -------
        Rows of the table of scans; ``path`` and ``lesion_mask`` from the folders on.
        """
        rows: list[dict[str, Any]] = []
        last: tuple[protocols.Series, list[Array], int] | None = None
        for number, order in enumerate(visit.orders, start=1):
            if self.scans_as == "bids" and order.kind not in CONTRASTS:
                continue
            source = number
            if order.kind not in COPIES:
                rng = patients.stream(self.clinic.seed, self.patient.index, patients.SCAN, visit.number, number)
                series = ordered(self.clinic, head, order, rng)
                images = acquire(self.clinic, head, series, rng)
            elif last is None:
                continue
            elif order.kind == "duplicate":
                # The same files once more, series number and UIDs included, as after a second export.
                series, images, source = last
            else:
                series, images = derived(order.kind, *last[:2])
            if order.kind in CONTRASTS:
                last = series, images, number
            path = self._write(visit, order, series, images, number, source, [row["path"] for row in rows])
            mask = self._write_mask(visit, head, series, number) if order.kind in CONTRASTS else tsv.MISSING
            rows.append(describe(order, series, number) | {"path": path, "lesion_mask": mask})
            if self.scans_as == "dicom":
                rows[-1]["series_uid"] = self.uids("series", visit.number, source)
        return rows

    def _write(
        self,
        visit: Visit,
        order: Order,
        series: protocols.Series,
        images: list[Array],
        number: int,
        source: int,
        taken: list[str],
    ) -> str:
        """Write one series; gives its folder or file."""
        if self.scans_as == "dicom":
            name = f"study-{visit.number}/{number:02d}_{order.kind}"
            dicom.write_series(
                self.scans / name, images, series,
                patient=self.patient, visit=visit, vendor=self.vendor, number=source, uids=self.uids,
            )  # fmt: skip
            return name
        folder = f"{visit.session_id}/anat"
        name = bids.scan_name(
            self.patient, visit, order.kind, order.orientation, [Path(path).name.split(".")[0] for path in taken]
        )
        bids.write_scan(self.scans / folder, name, images[0], series, self.vendor)
        return f"{folder}/{name}.nii.gz"

    def _write_mask(self, visit: Visit, head: render.Head, series: protocols.Series, number: int) -> str:
        """Write the lesion on a scan's grid; gives the file's name."""
        if head.lesion is None:
            return tsv.MISSING
        name = f"{self.patient.participant_id}_{visit.session_id}_series-{number:02d}_lesion.nii.gz"
        bids.write_image(self.masks / name, render.lesion_mask(head, series.stacks[0]), series.stacks[0])
        return name


def describe(order: Order, series: protocols.Series, number: int) -> dict[str, Any]:
    """What the table of scans says of a series."""
    stack, sequence = series.stacks[0], series.sequences[0]
    return {
        "series": number,
        "kind": order.kind,
        "sequence": series.kind,
        "orientation": series.orientation,
        "slices": stack.slices,
        "spacing_mm": stack.spacing_mm,
        "thickness_mm": stack.thickness_mm,
        "pixel_mm": round(stack.pixel_mm, 4),
        "repetition_ms": sequence.repetition_ms,
        "echo_ms": sequence.echo_ms,
        "inversion_ms": sequence.inversion_ms,
        "coverage": series.coverage,
        "motion": series.motion,
    }


def ordered(clinic: Clinic, head: render.Head, order: Order, rng: np.random.Generator) -> protocols.Series:
    """The series that an order makes."""
    if order.kind in CONTRASTS:
        return protocols.scan(clinic, head, order, rng)
    if order.kind == "localizer":
        return protocols.localizer(clinic, head)
    return protocols.volumes(clinic, head, order.kind)


def derived(kind: str, series: protocols.Series, images: list[Array]) -> tuple[protocols.Series, list[Array]]:
    """A maximum intensity projection of a scan, or a picture of the screen that shows its middle slice."""
    image = images[0]
    if kind == "capture":
        middle = len(image) // 2
        return replace(series, kind="capture"), [image[middle : middle + 1]]
    around = [image[max(n - PROJECTED // 2, 0) : n + PROJECTED // 2 + 1] for n in range(len(image))]
    return replace(series, kind="MIP"), [np.stack([slices.max(axis=0) for slices in around])]


def acquire(clinic: Clinic, head: render.Head, series: protocols.Series, rng: np.random.Generator) -> list[Array]:
    """Images of a series: one per stack of a localizer, or one per volume."""
    signal: dict[tuple[int, Any], Array] = {}
    images = []
    for index in range(max(len(series.stacks), len(series.sequences))):
        position = index % len(series.stacks)
        stack, sequence = series.stacks[position], series.sequences[index % len(series.sequences)]
        if (position, sequence) not in signal:
            signal[position, sequence] = render.render(
                head, sequence, stack, sampling_mm=clinic.sampling_mm, moves=list(series.moves) or None
            )
        image = signal[position, sequence]
        if series.is_x_ray:
            images.append(render.reconstruct(image, rng, noise_hu=series.snr))
            continue
        noise = render.white_matter_signal(sequence) / series.snr
        images.append(render.acquire(image, stack, rng, noise=noise, bias=clinic.bias, ghost=series.ghost))
    return images
