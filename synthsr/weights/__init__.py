"""Weights of the networks: safetensors files whose header tells how to build the network they fit.

This module only finds files, so that the workflow can import it without torch; :mod:`synthsr.weights.storage` reads
and writes them.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigurationError

#: Names under which the weights shipped with the package are known.
SHIPPED = ("segmentation", "synthsr")


def locate(name_or_path: str | Path) -> Path:
    """Path of shipped weights by name, or of a file.

    Raises
    ------
    ConfigurationError
        If it is neither.
    """
    shipped = str(name_or_path) in SHIPPED
    path = Path(__file__).parent / f"{name_or_path}.safetensors" if shipped else Path(name_or_path)
    if not path.is_file():
        raise ConfigurationError(
            f"{name_or_path}: neither a weights file nor one of the shipped weights ({', '.join(SHIPPED)})"
        )
    return path
