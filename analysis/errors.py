"""The errors of :mod:`synthsr.errors`, under the cohort's roof."""

from synthsr.errors import ConfigurationError, DataError, SynthSRError, ToolError

__all__ = ["ConfigurationError", "DataError", "SynthSRError", "ToolError"]
