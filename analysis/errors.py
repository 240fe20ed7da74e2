"""The errors of :mod:`synthsr.errors`, under the cohort's roof, and what to say of others."""

from synthsr.errors import ConfigurationError, DataError, SynthSRError, ToolError

__all__ = ["ConfigurationError", "DataError", "SynthSRError", "ToolError", "yaml_fault"]


def yaml_fault(error: Exception) -> str:
    """Line, column and fault of what the YAML parser did not understand; not the line itself, which may be secret."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return "not text in UTF-8" if isinstance(error, UnicodeDecodeError) else type(error).__name__
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
