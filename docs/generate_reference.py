"""Reference pages, made from the code when the documentation is built, so that they cannot be out of date.

A page holds marks such as ``<!-- generated: commands -->``; :func:`fill` puts Markdown in their place.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
#: Width of the commands' help, in characters: what a page shows without scrolling.
HELP_WIDTH = 88
#: Dataclasses that a configuration file is read into, by the mark of their page; and where in the file they stand.
CONFIGURATIONS = {
    "training-keys": {
        "The file": "synthsr.train.config:TrainingConfig",
        "segmentation, synthsr": "synthsr.train.config:NetworkPlan",
        "stages": "synthsr.train.config:Stage",
        "validation_scans": "synthsr.train.config:ValidationScan",
    },
    "generator-keys": {
        "generator": "synthsr.generator.config:GeneratorConfig",
        "deformation": "synthsr.generator.deformation:Deformation",
        "lesions": "synthsr.generator.lesions:Lesions",
        "target": "synthsr.generator.config:Target",
    },
    "clinic-keys": {
        "The file": "analysis.simulate.clinic:Clinic",
        "groups": "analysis.simulate.clinic:Group",
        "series": "analysis.simulate.clinic:Planned",
    },
    "pacs-keys": {"The file": "analysis.intake.pacs.configuration:Pacs"},
}
#: Sphinx roles of docstrings, and the name that they are about.
ROLE = re.compile(r":[a-z]+:`~?\.?([^`]+)`")


def fill(page: str) -> str:
    """Page with Markdown in the place of its marks."""
    return MARK.sub(lambda mark: GENERATORS[mark[1]](), page)


def configuration_keys() -> str:
    """Every key of a study's configuration, from its schema."""
    schema = yaml.safe_load((REPOSITORY / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
    lines = []
    for key, about in schema["properties"].items():
        lines += [f"## `{key}`", "", _said(about), ""]
        below = list(_below(key, about))
        lines += [f"- `{path}` {_said(sub, after=': ')}" for path, sub in below] + [""] * bool(below)
    return "\n".join(lines)


def _below(path: str, about: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    parts = dict(about.get("properties", {}))
    if isinstance(about.get("additionalProperties"), dict):
        parts["NAME"] = about["additionalProperties"]
    for key, sub in parts.items():
        if "properties" not in sub:
            yield f"{path}.{key}", sub
        yield from _below(f"{path}.{key}", sub)


def _said(about: Mapping[str, Any], *, after: str = ". ") -> str:
    """Kind, default and description of a key."""
    kind = _kind(about)
    default = f"; default {_code(about['default'])}" if about.get("default") is not None else ""
    told = f"({kind}{default})" if kind else ""
    text = " ".join(about.get("description", "").split())
    return f"{told}{after if after != '. ' else ' '}{text}".strip() if text else told


def _kind(about: Mapping[str, Any]) -> str:
    if "enum" in about:
        return "one of " + ", ".join(_code(value) for value in about["enum"])
    kinds = about.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    words = {"string": "text", "integer": "whole number", "number": "number", "array": "list", "boolean": "yes or no"}
    told = " or ".join(words[kind] for kind in kinds if kind in words)
    if not told:
        return ""
    least, most = about.get("minItems"), about.get("maxItems")
    number = f"{least} or more" if most is None else str(most) if least == most else f"{least or 0} to {most}"
    if "array" in kinds and about.get("items"):
        inner = _kind(about["items"]).removeprefix("one of ")
        told += f" of {inner}" if least is None and most is None else f" of {number}: {inner}"
    bounds = {"minimum": "at least", "maximum": "at most"}
    return ", ".join([told, *(f"{word} {about[key]}" for key, word in bounds.items() if key in about)])


def commands() -> str:
    """Help of every command of both command lines, as a terminal shows it."""
    from analysis.cli import build_parser as analysis_parser
    from synthsr.cli import build_parser as synthsr_parser

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(HELP_WIDTH)
    try:
        return "\n".join(line for parser in (synthsr_parser(), analysis_parser()) for line in _helps(parser, 2))
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _helps(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    yield from (f"{'#' * level} {parser.prog}", "", "```text", parser.format_help().rstrip(), "```", "")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _helps(command, level + 1)


def dataclass_keys(parts: Mapping[str, str]) -> str:
    """Keys of a configuration file that is read into dataclasses, from their docstrings."""
    lines: list[str] = []
    for title, name in parts.items():
        module, _, attribute = name.partition(":")
        lines += _keys(getattr(importlib.import_module(module), attribute), title=title)
    return "\n".join(lines)


def generator_steps() -> str:
    """Every step of the generator with its keys."""
    from synthsr.generator.config import STEPS

    return "\n".join(line for name, cls in STEPS.items() for line in _keys(cls, title=name, level=3))


def _keys(cls: Any, *, title: str, level: int = 2) -> Iterator[str]:
    docstring = (cls.__doc__ or "").strip()
    yield from (f"{'#' * level} {title}", "", _markdown(docstring.partition("\n\n    Attributes")[0]), "")
    told = attributes(docstring)
    for text, together in groupby(fields(cls), key=lambda one: told[one.name]):
        names = ", ".join(f"`{one.name}`{_default_of(one)}" for one in together)
        yield f"- {names}: {_markdown(text)}"
    yield ""


def attributes(docstring: str) -> dict[str, str]:
    """Texts of the Attributes section of a numpy-style docstring, by attribute; several may share one."""
    _, _, section = docstring.partition("Attributes\n    ----------\n")
    told: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line.startswith("        "):
            told.update({name: f"{told.get(name, '')} {line.strip()}".strip() for name in names})
        elif line.strip():
            names = [name.strip() for name in line.split(",")]
    return told


def _markdown(text: str) -> str:
    """A docstring's text: one line per paragraph, roles and double backticks as code."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "\n\n".join(ROLE.sub(r"`\1`", part).replace("``", "`") for part in paragraphs)


def _default_of(one: Field[Any]) -> str:
    if one.default_factory is not MISSING:
        value = one.default_factory()
        return "" if is_dataclass(value) or not value else f" (default {_code(value)})"
    if one.default is MISSING:
        return " (required)"
    nothing = one.default is None or is_dataclass(one.default) or one.default in ((), "")
    held = isinstance(one.default, tuple) and any(map(is_dataclass, one.default))
    return "" if nothing or held else f" (default {_code(one.default)})"


def _code(value: Any) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list):
        value = "[" + ", ".join(str(entry) for entry in value) + "]"
    return f"`{value}`"


def exit_codes() -> str:
    """Exit codes of both command lines."""
    from synthsr import errors

    codes = {cls.exit_code: cls for cls in vars(errors).values() if isinstance(cls, type)}
    rows = ["| code | error | when |", "|---|---|---|", "| 0 | – | It worked; single scans may have been left out. |"]
    rows.append("| 2 | – | The command line itself is wrong; the usage is shown. |")
    rows += [
        f"| {code} | `{cls.__name__}` | {_markdown((cls.__doc__ or '').strip())} |"
        for code, cls in sorted(codes.items())
        if cls is not errors.SynthSRError
    ]
    return "\n".join(rows)


def experiments() -> str:
    """What every shipped experiment is, from its own comment, and the command that runs it."""
    lines = []
    for path in sorted((REPOSITORY / "config/experiments").glob("*.yaml")):
        comment = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            comment.append(line.lstrip("# "))
        call = [
            ".venv/bin/snakemake --cores 16 --directory DIR/synthsr \\",
            f"    --configfile config/experiments/{path.name}",
        ]
        lines += [f"## {path.stem}", "", " ".join(comment), "", "```sh", *call, "```", ""]
    return "\n".join(lines)


def tables() -> str:
    """Every table that a study leaves, with its columns."""
    from analysis import dictionary

    lines = []
    for table in dictionary.tables():
        lines += [f"## {table.path}", "", table.about, "", "| column | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{column.name}` | {column.unit} | {column.meaning} |" for column in table.columns]
        lines.append("")
    return "\n".join(lines)


GENERATORS: dict[str, Callable[[], str]] = {
    "configuration-keys": configuration_keys,
    "commands": commands,
    "exit-codes": exit_codes,
    "experiments": experiments,
    "generator-steps": generator_steps,
    "tables": tables,
    **{mark: partial(dataclass_keys, parts) for mark, parts in CONFIGURATIONS.items()},
}


def setup(app: Any) -> Mapping[str, bool]:
    """Sphinx's entry point."""

    def on_source_read(_: Any, __: str, source: list[str]) -> None:
        source[0] = fill(source[0])

    app.connect("source-read", on_source_read)
    return {"parallel_read_safe": True}
