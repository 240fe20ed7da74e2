"""From content to files: the cohort page, the list of all scans, a page per scan, and what they load."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import synthsr
from analysis import gate, tsv
from analysis.statistics import figures
from analysis.statistics.cohort import unsided
from synthsr import files, labels
from synthsr.progress import tracked

from . import ageing, measures, pictures, starter, text
from .content import Cohort
from .scans import ScanPage, Scans

HERE = Path(__file__).parent
LEVELS = {"sessions": "one volume per session (median over its scans)", "scans": "one volume per scan"}
#: Scripts and styles beside the pages, and where they lie in the package.
ASSETS = {
    "report.css": HERE / "assets" / "report.css",
    "scans.js": HERE / "assets" / "scans.js",
    "niivue.umd.js": HERE / "vendor" / "niivue" / "niivue.umd.js",
    "niivue.LICENSES.txt": HERE / "vendor" / "niivue" / "LICENSES.txt",
}


def write(cohort: Cohort, folder: Path, *, n_pictures: int, exclusions: Path | None = None) -> None:
    """Write the site; what is unchanged keeps its time, pages of scans that are gone go.

    Parameters
    ----------
    cohort
        What to show.
    folder
        Where ``index.html`` comes to lie; links to tables are relative to it.
    n_pictures
        Scans to show on the cohort page at most.
    exclusions
        What a person decided, as the gate read it.
    """
    render = _renderer(folder)
    scans = Scans(cohort)
    pages: dict[str, ScanPage] = {}
    common = {"cohort_size": len(cohort.included), "is_synthetic": cohort.is_synthetic}
    for page in tracked(scans, what="pages of scans", total=len(cohort.every_scan)):
        pages[page.scan_id] = page
        files.write_text(folder / "scans" / f"{page.scan_id}.html", render("scan.html", page=page, **common))
    for path in (folder / "scans").glob("*.*"):
        if path.stem not in pages:
            path.unlink()
    data = {**scans.index(pages.values()), "decisions": decisions(cohort, exclusions), "labels": colours()}
    files.write_text(folder / "scans.data.js", f"window.synthsrScans = {json.dumps(data)};\n")
    files.write_text(folder / "scans.html", render("scans.html"))
    for name, source in ASSETS.items():
        target = folder / "assets" / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            with files.whole(target) as temporary:
                shutil.copyfile(source, temporary)
    pictured = {scan_id for scan_id, page in pages.items() if page.has_pictures}
    index_html = _cohort_page(cohort, folder, render, n_pictures=n_pictures, pictured=pictured)
    files.write_text(folder / "index.html", index_html)


def decisions(cohort: Cohort, exclusions: Path | None) -> dict[str, dict[str, str]]:
    """What a person decided, by scan: ``included`` and ``reason``; without the table, what the gate tells of it."""
    if exclusions is not None:
        given = tsv.read(exclusions, columns=gate.EXCLUSION_COLUMNS)
    else:
        by_person = cohort.gate.reindex(columns=["decided_by"])["decided_by"] == "person"
        given = cohort.gate[by_person]
    return {
        str(row["scan_id"]): {"included": str(row["included"]), "reason": str(row["reason"])}
        for row in given.to_dict("records")
    }


def colours() -> dict[str, list[Any]]:
    """The label table's colours and names as the viewer takes them."""
    shown = [label for label in labels.table() if label.number in set(labels.segmentation_numbers())]
    return {
        "I": [label.number for label in shown],
        **{channel: [label.colour[place] for label in shown] for place, channel in enumerate("RGB")},
        "A": [0 if label.tissue == "background" else 255 for label in shown],
        "labels": [label.name for label in shown],
    }


def legend() -> dict[str, str]:
    """Colours (``#rrggbb``) of the main structures in the outlines, by readable name; both sides have the same."""
    found = {unsided(label.name): label.colour for label in labels.table()}
    return {
        figures.readable(name): "#{:02x}{:02x}{:02x}".format(*found[name])
        for name in figures.MAIN_STRUCTURES
        if name in found
    }


def data_uri(content: bytes | Path | Callable[[], bytes]) -> str:
    """A PNG, its file, or what draws it, as ``data:`` address."""
    if isinstance(content, Path):
        content = content.read_bytes()
    elif callable(content):
        content = content()
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _readable_within(structure: str) -> str:
    """A structure's name within a sentence."""
    name = figures.readable(structure)
    return name if name.isupper() else name.lower()


def _renderer(folder: Path) -> Callable[..., str]:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        png=data_uri, number=text.number, litres=text.millilitres, p=text.p_value, readable=figures.readable,
        readable_within=_readable_within,
        words=text.capitalised, counted=text.number_of, bound=text.bound,
    )  # fmt: skip

    def link(path: Path) -> str:
        return quote(Path(os.path.relpath(path, folder)).as_posix())

    environment.globals.update(link=link, version=synthsr.__version__, legend=legend())

    def render(name: str, **given: Any) -> str:
        return environment.get_template(name).render(**given)

    return render


def _cohort_page(
    cohort: Cohort, folder: Path, render: Callable[..., str], *, n_pictures: int, pictured: set[str]
) -> str:
    limits = gate.read_limits()
    by_age, by_spacing = pictures.ages(cohort.people), pictures.spacings(cohort.included)
    tables: Mapping[str, pd.DataFrame] = {
        "flow": pd.DataFrame([(step.name, step.count, step.lost) for step in cohort.flow],
                             columns=["station", "scans", "turned_away"]),
        "reasons": pd.DataFrame([(reason.stage, reason.text, reason.count) for reason in cohort.reasons],
                                columns=["stage", "reason", "scans"]),
        "ages": by_age,
        "spacings": by_spacing,
        "people": cohort.demographics,
        "mix": cohort.mix,
        "quality": cohort.quality(limits),
        **{name: table for section in cohort.sections for name, table in section.data.items()},
    }  # fmt: skip
    for name, table in tables.items():
        tsv.write(table, folder / "data" / f"{name}.tsv")
    seen = cohort.included[cohort.included["scan_id"].isin(pictured)]
    people = cohort.people
    return render(
        "cohort.html",
        cohort=cohort,
        levels=LEVELS,
        data=folder / "data",
        style=Markup(ASSETS["report.css"].read_text(encoding="utf-8")),  # noqa: S704 (our own file)
        people=people,
        sexes=people["sex"].value_counts(),
        people_figure=pictures.people(by_age, by_spacing) if len(people) else None,
        quality=tables["quality"],
        quality_figure=pictures.quality(cohort.gate, limits),
        measures=measures.NAMES,
        few_values=pictures.FEW_VALUES,
        fitted={level: analysis for level, analysis in cohort.ageing.items() if analysis.is_fitted},
        judged=ageing.judged(cohort.trends),
        trend_verdicts={trend.structure: trend.verdict for trend in cohort.trends},
        starter=starter,
        shown=pictures.choose(seen, n_pictures).to_dict("records"),
    )
