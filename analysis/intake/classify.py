"""Decides what a series shows and whether it is used, by the rules of ``config/series_rules.yaml``.

Physics first, text second: sites name their series as they like; repetition, echo and inversion times are what was
measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.errors import ConfigurationError, yaml_fault

from .geometry import Stack

#: The rules that are used unless others are given.
RULES = Path(__file__).parents[2] / "config" / "series_rules.yaml"

NUMBERS = {
    *("tr_ms", "te_ms", "ti_ms", "flip_degrees", "b_value", "field_tesla", "samples_per_pixel", "rows", "columns"),
    *("n_images", "n_slices", "n_volumes", "n_orientations", "images_per_orientation", "missing_slices"),
    *("duplicate_slices", "tilt_degrees", "oblique_degrees", "spacing_mm", "width_mm", "coverage_mm"),
}
WORDS = {
    *("modality", "image_type", "scanning_sequence", "sequence_variant", "body_part", "conversion_type", "burned_in"),
    "contrast",
}
TEXTS = {"text", "sop_class", "sequence_name", "agent"}
FLAGS = {"is_angiography", "is_placed", "is_even"}
#: Lists of the file, with what their rules say besides name and conditions.
LISTS = {
    "kinds": {"contrast", "reason"},
    "contrasts": {"contrast"},
    "contrast_agent": {"contrast_agent"},
    "faults": {"reason"},
}
#: What a pattern may not have: it would carry any word of a header into a public table.
_WILDCARD = re.compile(r"(?<!\\)\.|\\[wD]|\[\^")
#: Elements of which the evidence tells only that they matched.
_UNQUOTED = {"agent", "sop_class"}

Facts = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a header says about how the images were made; NaN and empty where it says nothing.

    Attributes
    ----------
    modality, sop_class, image_type, body_part, conversion_type, burned_in, samples_per_pixel
        Kind of image; words in upper case.
    scanning_sequence, sequence_variant, sequence_name, is_angiography
        Kind of sequence.
    text
        Series description and protocol name in lower case. Private: it may hold anything.
    agent
        Contrast agent in lower case. Private as well.
    tr_ms, te_ms, ti_ms, flip_degrees, b_value, field_tesla
        Physics; ``b_value`` in s/mm².
    """

    modality: str = ""
    sop_class: str = ""
    image_type: tuple[str, ...] = ()
    body_part: str = ""
    conversion_type: str = ""
    burned_in: str = ""
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    sequence_name: str = ""
    is_angiography: bool = False
    samples_per_pixel: int = 1
    text: str = ""
    agent: str = ""
    tr_ms: float = math.nan
    te_ms: float = math.nan
    ti_ms: float = math.nan
    flip_degrees: float = math.nan
    b_value: float = math.nan
    field_tesla: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """What a series shows, why it is left out (empty: it is kept), what told so, and whether an agent was given."""

    contrast: str
    reason: str
    evidence: str
    contrast_agent: str


@dataclass(frozen=True)
class Rule:
    """One rule: it fits if all of ``when`` hold and none of ``unless``.

    Attributes
    ----------
    name
        For the evidence.
    when, unless
        Conditions on a fact by its name; each gives what it found as text, or None where it does not hold.
    says
        ``contrast``, ``reason`` or ``contrast_agent``.
    is_text
        Whether it looks at free text.
    """

    name: str
    when: Mapping[str, Callable[[Any], str | None]]
    unless: Mapping[str, Callable[[Any], str | None]]
    says: Mapping[str, str]
    is_text: bool

    def evidence(self, facts: Facts) -> str | None:
        """Name and what was found, or None if the rule does not fit."""
        found = []
        for key, condition in self.when.items():
            text = condition(facts.get(key))
            if text is None:
                return None
            found.append(f"{key} {text}")
        if any(condition(facts.get(key)) is not None for key, condition in self.unless.items()):
            return None
        return f"{self.name} ({', '.join(found)})" if found else self.name


class Rules:
    """The rules of a file.

    Parameters
    ----------
    path
        The YAML file.

    Raises
    ------
    ConfigurationError
        If it is not there, or a rule has a condition or range that does not exist.
    """

    def __init__(self, path: Path = RULES) -> None:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigurationError(f"{path}: no such file of rules; give one by --rules") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: not YAML: {yaml_fault(error)}; mend that line") from error
        if not isinstance(content, dict) or set(content) != set(LISTS):
            raise ConfigurationError(f"{path}: expected the lists {', '.join(LISTS)}")
        self.lists: dict[str, list[Rule]] = {}
        for name, said in LISTS.items():
            try:
                self.lists[name] = [_rule(entry, said) for entry in content[name]]
            except (ValueError, TypeError, AttributeError, KeyError, re.error) as error:
                raise ConfigurationError(f"{path}: {name}: {error}") from error

    def judge(
        self,
        protocol: Protocol,
        stack: Stack | None,
        *,
        rows: int,
        columns: int,
        in_plane_mm: Sequence[float],
        n_images: int,
    ) -> Verdict:
        """Contrast and decision of a series; the first rule that objects gives the reason.

        Parameters
        ----------
        protocol
            How it was made.
        stack
            Where its slices lie; None if the header does not say.
        rows, columns, in_plane_mm
            Size of a slice, and its row and column spacing.
        n_images
            Slices or frames.
        """
        facts = _facts(protocol, stack, rows=rows, columns=columns, in_plane_mm=in_plane_mm, n_images=n_images)
        agent = self._first("contrast_agent", facts)
        contrast_agent = agent[0].says["contrast_agent"] if agent else "n/a"
        if kind := self._first("kinds", facts):
            rule, evidence = kind
            reason = rule.says["reason"].format(**_quotable(facts))
            return Verdict(rule.says["contrast"], reason, evidence, contrast_agent)
        contrast, evidence = self._contrast(facts)
        facts["contrast"] = (contrast,)
        if agent:
            evidence += f"; {agent[1]}"
        fault = self._first("faults", facts)
        reason = fault[0].says["reason"].format(**_quotable(facts)) if fault else ""
        return Verdict(contrast, reason, evidence, contrast_agent)

    def _contrast(self, facts: Facts) -> tuple[str, str]:
        found = self._first("contrasts", facts)
        if not found:
            return "other", "no rule of contrast fits"
        rule, evidence = found
        contrast = rule.says["contrast"]
        if not rule.is_text:
            for other in (rule for rule in self.lists["contrasts"] if rule.is_text):
                if (text := other.evidence(facts)) and other.says["contrast"] != contrast:
                    return contrast, f"{evidence}, against {text}"
                if text:
                    break
        return contrast, evidence

    def _first(self, name: str, facts: Facts) -> tuple[Rule, str] | None:
        for rule in self.lists[name]:
            evidence = rule.evidence(facts)
            if evidence is not None:
                return rule, evidence
        return None


def _facts(
    protocol: Protocol,
    stack: Stack | None,
    *,
    rows: int,
    columns: int,
    in_plane_mm: Sequence[float],
    n_images: int,
) -> dict[str, Any]:
    words = re.sub(r"[^a-z0-9*+]+", " ", protocol.text).strip()
    facts: dict[str, Any] = {**vars(protocol), "text": words, "rows": rows, "columns": columns, "n_images": n_images}
    facts |= {key: (facts[key],) for key in ("modality", "conversion_type", "burned_in")}
    facts["body_part"] = (protocol.body_part.replace(" ", ""),)
    facts["is_placed"] = stack is not None
    if stack is not None:
        names = ("n_slices", "n_volumes", "n_orientations", "missing_slices", "duplicate_slices", "is_even")
        facts |= {name: getattr(stack, name) for name in (*names, "tilt_degrees", "oblique_degrees", "spacing_mm")}
        facts["images_per_orientation"] = n_images / stack.n_orientations
        facts["width_mm"] = min(rows * in_plane_mm[0], columns * in_plane_mm[1])
        facts["coverage_mm"] = stack.n_slices * stack.spacing_mm
    return facts


def _quotable(facts: Facts) -> dict[str, str]:
    """Facts that a reason may quote: none of them is free text."""
    numbers = {key: f"{facts[key]:.0f}" for key in NUMBERS if not math.isnan(facts.get(key, math.nan))}
    modality = "".join(facts["modality"]) or "(unknown)"
    return {
        **dict.fromkeys(NUMBERS, "?"),
        **numbers,
        "modality": modality,
        "contrast": "".join(facts.get("contrast", "")),
    }


def _rule(entry: Mapping[str, Any], said: set[str]) -> Rule:
    name = entry["name"]
    unknown = set(entry) - {"name", "when", "unless"} - said
    if unknown or said - set(entry):
        raise ValueError(f"{name!r}: expected name, when, unless, {', '.join(sorted(said))}, found {', '.join(entry)}")
    conditions: list[dict[str, Callable[[Any], str | None]]] = []
    for part in ("when", "unless"):
        given = entry.get(part, {})
        try:
            conditions.append({key: _condition(key, value) for key, value in given.items()})
        except (ValueError, re.error) as error:
            raise ValueError(f"{name!r}: {error}") from error
    says = {key: entry[key] for key in said}
    _check_words(says.values())
    rule = Rule(name, conditions[0], conditions[1], says, is_text="text" in entry.get("when", {}))
    try:
        says.get("reason", "").format(**_quotable({"modality": ("",)}))
    except (KeyError, IndexError) as error:
        raise ValueError(f"{name!r}: the reason cannot quote {error}") from error
    return rule


def _condition(key: str, wanted: Any) -> Callable[[Any], str | None]:
    """A condition on the fact ``key``; it gives what it found as text, or None if it does not hold."""
    if key in FLAGS:
        if not isinstance(wanted, bool):
            raise ValueError(f"{key}: {wanted!r} is neither true nor false")
        return lambda value: str(value).lower() if value is wanted else None
    if key in NUMBERS:
        return _number_condition(key, str(wanted))
    if key in WORDS:
        entries = wanted if isinstance(wanted, list) else [wanted]
        words = {word for entry in entries for word in (entry if isinstance(entry, list) else [entry])}
        _check_words(words)
        return lambda value: " ".join(sorted(words & set(value or ()))) or None
    if key in TEXTS:
        if key not in _UNQUOTED and _WILDCARD.search(wanted):
            raise ValueError(f"{key}: the pattern {wanted} has a wildcard, which could publish any word of a header")
        pattern = re.compile(wanted)

        def search(value: Any) -> str | None:
            match = pattern.search(value or "")
            if match is None:
                return None
            return "matches" if key in _UNQUOTED else f"'{match[0].strip()}'"

        return search
    raise ValueError(f"there is no {key} to ask for; there are {', '.join(sorted(NUMBERS | WORDS | TEXTS | FLAGS))}")


def _check_words(words: Iterable[Any]) -> None:
    wrong = [word for word in words if not isinstance(word, str)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no text to YAML; put it in quotes")


def _number_condition(key: str, wanted: str) -> Callable[[Any], str | None]:
    if wanted == "unknown":
        return lambda value: "unknown" if value is None or math.isnan(value) else None
    low, dots, high = wanted.partition("..")
    if not dots:
        raise ValueError(f'{key}: {wanted!r} is no range such as "80..350", "1500..", "..45", nor unknown')
    least, most = float(low or "-inf"), float(high or "inf")
    return lambda value: f"{value:.5g}" if value is not None and least <= value <= most else None
