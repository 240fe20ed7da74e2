"""Weights of the networks: safetensors files whose header tells how to build the network they fit.

This module only finds files, so that the workflow can import it without torch; :mod:`synthsr.weights.storage` reads
and writes them, :mod:`synthsr.weights.registry` knows those that have a name.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigurationError
from .registry import registered


def locate(name_or_path: str | Path) -> Path:
    """Path of registered weights by name, or of a file.

    Raises
    ------
    ConfigurationError
        If it is neither, or registered and not fetched yet.
    """
    entry = registered().get(str(name_or_path))
    path = Path(name_or_path) if entry is None else entry.path
    if path.is_file():
        return path
    if entry is not None:
        raise ConfigurationError(f"{path}: not there yet; get it by 'synthsr weights fetch {entry.name}'")
    raise ConfigurationError(
        f"{name_or_path}: neither a weights file nor one of the registered weights ({', '.join(registered())})"
    )
