"""From content to HTML: one template, one style sheet, pictures as data."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import synthsr
from analysis.statistics import figures

from . import pictures, text
from .content import Cohort

HERE = Path(__file__).parent
LEVELS = {"sessions": "one volume per session (median over its scans)", "scans": "one volume per scan"}


def render(cohort: Cohort, *, folder: Path, n_pictures: int) -> str:
    """Text of the page.

    Parameters
    ----------
    cohort
        What to show.
    folder
        Where the page will lie; links to tables are relative to it.
    n_pictures
        Scans to show at most.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        png=data_uri, number=text.number, litres=text.millilitres, p=text.p_value, readable=figures.readable,
        words=text.capitalised,
    )  # fmt: skip

    def link(path: Path) -> str:
        return Path(os.path.relpath(path, folder)).as_posix()

    people = cohort.people
    return environment.get_template("page.html").render(
        cohort=cohort,
        levels=LEVELS,
        link=link,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704 (our own file)
        people=people,
        sexes=people["sex"].value_counts(),
        people_figure=pictures.people(people, cohort.included) if len(people) else None,
        montages=pictures.montages(cohort, n_pictures),
        version=synthsr.__version__,
    )


def data_uri(content: bytes | Path) -> str:
    """A PNG as ``data:`` address."""
    content = content.read_bytes() if isinstance(content, Path) else content
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
