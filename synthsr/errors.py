"""Errors a user can act on. Each class has its exit code; the message names the file and what to do."""

from __future__ import annotations


class SynthSRError(Exception):
    """Base of the project's errors."""

    exit_code = 1


class DataError(SynthSRError):
    """A scan, table or label map that cannot be used as it is."""

    exit_code = 65


class ConfigurationError(SynthSRError):
    """A setting that is misspelt, missing or out of range."""

    exit_code = 78


class ToolError(SynthSRError):
    """An external program that is missing, failed, or did not leave what it should have."""

    exit_code = 69
