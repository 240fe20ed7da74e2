"""The documentation builds without warnings, names what the code has, and its links hold."""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import generate_reference
import pytest
import yaml
from check_links import broken

from analysis import cli as analysis_cli
from synthsr import cli as synthsr_cli
from synthsr.weights.registry import registered

REPOSITORY = Path(__file__).resolve().parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def markdown_files() -> list[Path]:
    """Every Markdown file of the repository, those of tools' own folders left out."""
    left_out = {"_build", "demo", "dist", "runs", "tutorial", "vendor"}
    found: list[Path] = []
    for folder, inner, names in os.walk(REPOSITORY):
        inner[:] = [name for name in inner if not name.startswith(".") and name not in left_out]
        found += [Path(folder, name) for name in names if name.endswith(".md")]
    return sorted(found)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation."""
    pytest.importorskip("sphinx", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("docs")
    call = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    done = subprocess.run([*call, "-c", "docs", ".", folder], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_links_of_the_built_pages_hold(built: Path) -> None:
    assert len(list(built.rglob("*.html"))) > 30
    assert broken(built) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"></p><a href="#here">1</a><a href="b.html#there">2</a><a href="b.html#gone">3</a>'
        '<a href="c.html">4</a><a href="https://example.org">5</a><script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    found = [line.split(": ", 1)[1] for line in broken(tmp_path)]
    assert found == [
        "b.html#gone: no such anchor",
        "c.html: no such file",
        "https://example.org/x.js: is loaded from elsewhere",
    ]


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def test_reference_names_every_configuration_key(built: Path) -> None:
    page = (built / "docs/reference/configuration.html").read_text(encoding="utf-8")
    named = re.findall(r'<h2><code[^>]*><span class="pre">([^<]+)<', page)
    named += re.findall(r'<li><p><code[^>]*><span class="pre">([^<]+)<', page)
    keys = list(leaves(yaml.safe_load((REPOSITORY / "config/config.yaml").read_text(encoding="utf-8"))))
    assert "weights.synthsr" in keys
    assert [key for key in keys if key not in named] == []


def test_short_table_names_every_configuration_key() -> None:
    table = (REPOSITORY / "config/README.md").read_text(encoding="utf-8")
    schema = yaml.safe_load((REPOSITORY / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
    assert [key for key in schema["properties"] if f"`{key}`" not in table and f"`{key}." not in table] == []


def options(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, inner in action.choices.items():
                yield from options(inner, f"{name} {command}")
        else:
            choices = [str(choice) for choice in action.choices or ()]
            yield name, next(iter([*action.option_strings, *filter(None, [action.metavar]), *choices, action.dest]))


def test_reference_names_every_command_and_option(built: Path) -> None:
    page = text_of(built / "docs/reference/commands.html")
    usages = dict(re.findall(r"usage: ([a-z -]+?) (\[-h\].*?)(?=usage: |\Z)", page, re.DOTALL))
    found = [
        *options(synthsr_cli.build_parser(), "synthsr"),
        *options(analysis_cli.build_parser(), "python -m analysis"),
    ]
    assert len({name for name, _ in found}) > 30
    assert [(name, option) for name, option in found if option not in usages[name]] == []


@pytest.mark.parametrize("module", ["synthsr", "analysis"])
def test_help_takes_less_than_a_second(module: str) -> None:
    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = spent()
    subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, check=True)
    assert spent() - before < 1  # processor seconds, so that a busy machine does not matter


def test_reference_has_every_column_with_its_meaning() -> None:
    from analysis import dictionary

    tables = list(dictionary.tables())
    assert len({table.path for table in tables}) == len(tables) > 20
    assert [column.name for table in tables for column in table.columns if not column.meaning] == []
    used = {(table.path, column.name) for table in tables for column in table.columns}
    used |= {(f"{path.rpartition('/')[0]}/", name) for path, name in used} | {("", name) for _, name in used}
    assert set(dictionary._meanings()) - used == set()


def test_every_generated_mark_is_on_a_page() -> None:
    marks = [
        mark for path in markdown_files() for mark in generate_reference.MARK.findall(path.read_text(encoding="utf-8"))
    ]
    assert sorted(marks) == sorted(generate_reference.GENERATORS)


def test_attributes_of_a_docstring() -> None:
    docstring = (
        "One.\n\n    Attributes\n    ----------\n    a, b\n        Of both\n        lines.\n    c\n        Else.\n    "
    )
    assert generate_reference.attributes(docstring) == {"a": "Of both lines.", "b": "Of both lines.", "c": "Else."}


def test_relative_links_of_every_markdown_file() -> None:
    files = markdown_files()
    assert REPOSITORY / "README.md" in files
    broken_links = []
    for path in files:
        for target in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
            place = target.partition("#")[0]
            if place and not re.match(r"[a-z]+:", target) and not (path.parent / place).exists():
                broken_links.append(f"{path.relative_to(REPOSITORY)}: {target}")
    assert broken_links == []


def test_versions_agree() -> None:
    import tomllib

    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == version
    assert re.findall(r"^## (\S+)", changelog, re.MULTILINE)[0] in ("Unreleased", version)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    card = (REPOSITORY / "synthsr/weights/README.md").read_text(encoding="utf-8")
    assert f"Version {registered()['synthsr'].version}." in card
