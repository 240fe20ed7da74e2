"""What every use of a network shares: a scan read for it, and the sidecar of what it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from . import __version__, files, io, preprocess
from .errors import DataError
from .weights.storage import LoadedNetwork


def read(source: Path, *, ct: bool) -> tuple[Tensor, preprocess.Grid]:
    """Load and prepare a scan; results as of :func:`synthsr.preprocess.prepare`.

    Raises
    ------
    DataError
        If the scan cannot be used; names the file.
    """
    data, affine = io.load(source)
    try:
        return preprocess.prepare(data, affine, ct=ct)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def write_sidecar(
    target: Path, facts: dict[str, Any], *, source: Path, weights: LoadedNetwork, ct: bool, flip: bool
) -> None:
    """Write the JSON file beside ``target``: ``facts``, then where it came from."""
    content = {
        **facts,
        "Sources": [source.name],
        "SourceSHA256": files.sha256(source),
        "GeneratedBy": {"Name": "synthsr-cohort", "Version": __version__},
        "WeightsName": weights.path.stem,
        "WeightsSHA256": weights.sha256,
        "ComputedTomography": ct,
        "FlipAveraged": flip,
    }
    files.write_json(target.parent / f"{io.stem(target)}.json", content)
