"""The configuration of a simulated clinic."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError


@dataclass(frozen=True)
class Clinic:
    """Every setting, with its default; ``config/clinic.yaml`` overrides.

    Attributes
    ----------
    seed
        Everything random follows from it, UIDs included.
    patients
        How many; each has one study with one scan.
    second_scans
        How many of them have a second scan of another contrast and orientation in the same study.
    localizers
        How many studies begin with a three-plane localizer.
    four_dimensional
        How many studies hold a series of several volumes, diffusion and BOLD in turn.
    youngest_years, oldest_years
        Ages are spread evenly between them.
    anatomy_age_years
        Age at which a patient looks like the base anatomy.
    icv_female_mm3, icv_male_mm3
        Mean intracranial volume by sex.
    icv_spread
        Standard deviation of the log of the intracranial volume about it.
    volume_spread, ventricle_spread
        Standard deviation of the log of a structure's volume about its age's, for tissue and for ventricles.
    shape_mm, shape_length_mm
        Standard deviation and length scale of the random velocity that makes shapes differ.
    rotation_deg, translation_mm
        Standard deviation of the head's rotation about and shift along each scanner axis.
    grid_mm
        Spacing of the deformation's grid, whole millimetres.
    fit_steps
        How often the deformation is corrected towards the prescribed volumes.
    truth_mm
        Spacing of the points at which labels are counted for the true volumes, as 1 mm over a whole number.
    spacing_min_mm, spacing_max_mm
        Distance between slice centres, drawn per scan.
    gap_max
        Largest gap between slices, as a fraction of their distance.
    obliquity_deg
        Standard deviation of the slices' tilt about each axis.
    matrix
        Rows and columns of a scan.
    pixel_min_mm, pixel_max_mm
        In-plane pixel size, drawn per scan.
    snr_min, snr_max
        Signal of white matter over the standard deviation of the noise, drawn per scan.
    bias
        Standard deviation of the log sensitivity of the coil, 70 mm from the isocentre.
    """

    seed: int = 1
    patients: int = 40
    second_scans: int = 10
    localizers: int = 8
    four_dimensional: int = 2
    youngest_years: float = 20.0
    oldest_years: float = 90.0
    anatomy_age_years: float = 30.0
    icv_female_mm3: float = 1_420_000.0
    icv_male_mm3: float = 1_580_000.0
    icv_spread: float = 0.06
    volume_spread: float = 0.04
    ventricle_spread: float = 0.15
    shape_mm: float = 2.5
    shape_length_mm: float = 30.0
    rotation_deg: float = 4.0
    translation_mm: float = 4.0
    grid_mm: int = 2
    fit_steps: int = 4
    truth_mm: float = 0.5
    spacing_min_mm: float = 3.0
    spacing_max_mm: float = 6.0
    gap_max: float = 0.2
    obliquity_deg: float = 4.0
    matrix: int = 256
    pixel_min_mm: float = 0.9
    pixel_max_mm: float = 1.0
    snr_min: float = 20.0
    snr_max: float = 45.0
    bias: float = 0.08

    def __post_init__(self) -> None:
        """Check every value.

        Raises
        ------
        ConfigurationError
            Naming the key, what it holds and what it may hold.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            whole = isinstance(field.default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= 0:
                kind = "a whole number" if whole else "a number"
                raise ConfigurationError(f"{field.name}: {value!r}; give {kind} of at least 0")
        for key in ("patients", "grid_mm", "truth_mm", "matrix", "icv_female_mm3", "icv_male_mm3", "shape_length_mm",
                    "spacing_min_mm", "pixel_min_mm", "snr_min"):  # fmt: skip
            if not getattr(self, key) > 0:
                raise ConfigurationError(f"{key}: {getattr(self, key)!r}; it must be above 0")
        for low, high in (("youngest_years", "oldest_years"), ("spacing_min_mm", "spacing_max_mm"),
                          ("pixel_min_mm", "pixel_max_mm"), ("snr_min", "snr_max")):  # fmt: skip
            if getattr(self, low) > getattr(self, high):
                raise ConfigurationError(f"{low}: {getattr(self, low)}; it exceeds {high}, {getattr(self, high)}")
        for key in ("second_scans", "localizers", "four_dimensional"):
            if getattr(self, key) > self.patients:
                raise ConfigurationError(f"{key}: {getattr(self, key)}; there are only {self.patients} patients")
        if self.gap_max >= 1:
            raise ConfigurationError(f"gap_max: {self.gap_max}; it is a fraction, below 1")
        if abs(1 / self.truth_mm - round(1 / self.truth_mm)) > 1e-9:
            raise ConfigurationError(f"truth_mm: {self.truth_mm}; give 1, 0.5, 0.25 or another whole fraction of 1 mm")


def read(path: Path) -> Clinic:
    """Read a YAML file of settings.

    Raises
    ------
    ConfigurationError
        If the file is missing or no mapping, a key is unknown (it is named), or a value out of range.
    """
    import yaml

    if not path.is_file():
        raise ConfigurationError(f"{path}: no such configuration")
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not YAML: {error}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected `key: value` lines, found {type(content).__name__}")
    known = [field.name for field in fields(Clinic)]
    for key in content:
        if key not in known:
            raise ConfigurationError(f"{path}: unknown key {key!r}; known are {', '.join(known)}")
    try:
        return Clinic(**content)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
