"""How the project's plots look, and how they are written: colour-blind safe, without a trace of when or where."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthsr import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette (Color Universal Design, 2008).
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#767676"

#: Structures worth a panel, in the order of the page.
MAIN_STRUCTURES = (
    "Cerebral-White-Matter",
    "Cerebral-Cortex",
    "Lateral-Ventricle",
    "Thalamus",
    "Hippocampus",
    "Amygdala",
    "Caudate",
    "Putamen",
    "Pallidum",
    "Brain-Stem",
    "Cerebellum-Cortex",
    "Cerebellum-White-Matter",
    "ICV",
)
_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
}


def main_structures(present: list[str]) -> list[str]:
    """Those of :data:`MAIN_STRUCTURES` that are there, or the first dozen if none is."""
    return [name for name in MAIN_STRUCTURES if name in present] or present[:12]


def readable(structure: str) -> str:
    """``Cerebellum-White-Matter`` → ``Cerebellar white matter``."""
    words = structure.replace("Inf-Lat-Vent", "Inferior-Lateral-Ventricle").replace("VentralDC", "Ventral-Diencephalon")
    words = words.replace("Cerebellum-", "Cerebellar-").replace("-", " ")
    return words if words.isupper() else words[:1].upper() + words[1:].lower()


def panels(
    number: int, *, columns: int = 4, width_inch: float = 2.6, height_inch: float = 2.3
) -> tuple[Figure, list[Axes]]:
    """Figure with ``number`` small panels in rows of ``columns``."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, number)
    rows = math.ceil(number / columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width_inch * columns, height_inch * rows), layout="constrained")
        FigureCanvasAgg(figure)
        axes = [figure.add_subplot(rows, columns, place + 1) for place in range(number)]
    return figure, axes


def slanted(needed: bool) -> dict[str, Any]:
    """How labels of ticks that would run into each other are written, where that is ``needed``."""
    return {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if needed else {}


def saying(text: str) -> Figure:
    """Figure that only says why there is none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", wrap=True, fontsize=10, color="#444444")
    return figure


def png(figure: Figure, *, dpi: int = 130) -> bytes:
    """Encode a figure, without the library's signature."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def write(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, leaving the same picture alone."""
    content = png(figure)
    if path.is_file() and path.read_bytes() == content:
        return
    with files.whole(path) as temporary:
        temporary.write_bytes(content)
