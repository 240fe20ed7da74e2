"""Volumes of one scan by one back end: the same tidy table whatever made it, and the JSON file beside it.

The table has the columns :data:`COLUMNS`. The JSON file tells where the volumes come from (``provenance``) and, of the
embedded back end, how well scan, synthesis and segmentation agree (``quality``, :mod:`analysis.quality`).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthsr import files, labels

from .errors import DataError

ICV = "ICV"
COLUMNS = ("scan_id", "structure", "side", "label", "volume_mm3", "icv_mm3", "backend", "version")
MISSING = "n/a"
_SIDES = {"Left-": "left", "Right-": "right", "ctx-lh-": "left", "ctx-rh-": "right"}


@dataclass(frozen=True)
class Provenance:
    """Where volumes come from.

    Attributes
    ----------
    backend, version
        What measured, and which of its versions.
    segmenter_sha256
        Weights of the embedded segmenter; ``n/a`` for other tools.
    synthesiser, synthesiser_sha256
        What made the image that was measured, and its weights; ``none`` and ``n/a`` for the scan itself.
    """

    backend: str
    version: str
    segmenter_sha256: str = MISSING
    synthesiser: str = "none"
    synthesiser_sha256: str = MISSING


@dataclass(frozen=True)
class ScanVolumes:
    """What was read of a scan.

    Attributes
    ----------
    volumes_mm3
        Per structure, in the table's order, :data:`ICV` among them where the back end measures it.
    provenance
        Where they come from.
    quality
        Measures of :mod:`analysis.quality`, or the tool's own scores; NaN where one cannot be had.
    """

    volumes_mm3: dict[str, float]
    provenance: Provenance
    quality: dict[str, float]

    @property
    def icv_mm3(self) -> float:
        """NaN where the back end measures none."""
        return self.volumes_mm3.get(ICV, math.nan)


def side_of(structure: str) -> str:
    """``left``, ``right`` or ``midline``, from a structure's name."""
    return next((side for start, side in _SIDES.items() if structure.startswith(start)), "midline")


def json_of(table: Path) -> Path:
    """The JSON file beside a table of volumes."""
    return table.with_suffix(".json")


def write(table: Path, scan_id: str, found: ScanVolumes) -> None:
    """Write both files; the JSON file first, so that no table is without it."""
    where = found.provenance
    quality = {name: None if math.isnan(value) else float(f"{value:.6g}") for name, value in found.quality.items()}
    files.write_json(json_of(table), {"provenance": vars(where), "quality": quality})
    numbers = {label.name: str(label.number) for label in labels.table()}
    icv = f"{found.icv_mm3:.3f}" if ICV in found.volumes_mm3 else MISSING
    lines = ["\t".join(COLUMNS)]
    for name, volume in found.volumes_mm3.items():
        row = (
            scan_id,
            name,
            side_of(name),
            numbers.get(name, MISSING),
            f"{volume:.3f}",
            icv,
            where.backend,
            where.version,
        )
        lines.append("\t".join(row))
    files.write_text(table, "\n".join(lines) + "\n")


def read(table: Path) -> ScanVolumes:
    """Read both files.

    Plain ``csv`` and ``json``: a cohort has thousands of them.

    Raises
    ------
    DataError
        If one is missing or damaged.
    """
    advice = "call again with --forcerun segment"
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream, delimiter="\t")
        name, size = header.index("structure"), header.index("volume_mm3")
        volumes = {row[name]: float(row[size]) for row in rows}
        content: dict[str, Any] = json.loads(json_of(table).read_text(encoding="utf-8"))
        provenance = Provenance(**content["provenance"])
        quality = {name: math.nan if value is None else float(value) for name, value in content["quality"].items()}
    except FileNotFoundError as error:
        raise DataError(f"{table.name}: no such table, or its JSON file is gone; {advice}") from error
    except (IndexError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{table.name}: it or its JSON file is damaged ({error!r}); {advice}") from error
    if not volumes or len(volumes) < len(rows):
        raise DataError(f"{table.name}: {'names a structure twice' if volumes else 'has no row'}; {advice}")
    return ScanVolumes(volumes, provenance, quality)


def synthesiser_of(sidecar: Path) -> tuple[str, str]:
    """Name with version, and hash of the weights, of what made an image, from its JSON sidecar."""
    try:
        facts: Mapping[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{sidecar.name}: is missing or damaged; call again with --forcerun synthesise") from error
    if facts.get("Synthetic") is False:  # the scan itself, interpolated
        return "none", MISSING
    maker = facts.get("GeneratedBy", {})
    name = f"{facts.get('WeightsName', maker.get('Name', MISSING))} {maker.get('Version', '')}".strip()
    return name, str(facts.get("WeightsSHA256", MISSING))
