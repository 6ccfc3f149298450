"""Style of figures: a palette for colour-blind readers, and output as PNG on white or as SVG for a web page."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rltr.evaluate.points import POLICY, UNTRAINED
from rltr.system.files import atomic_write

INK = "#1f2429"
LINE = "#d3d8de"
ACCENT = "#d55e00"
"""Colour of the policy: vermilion of Okabe and Ito's palette, whose other colours are the baselines'."""
PALE = "#eba16b"
"""Colour of the untrained policy: a paler accent."""
OTHERS = ("#0072b2", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#8a6fd1", "#7a828c")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def new_figure(width: float = 5.0, height: float = 4.1) -> Figure:
    """Make an empty figure, sized in inches; small enough that 10-point text is readable on a phone."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    """Set title and labels of axes, with a light grid and without a frame."""
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)
    axes.tick_params(labelsize=9.5, colors=INK, length=0)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)


def looks(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, the same in all figures of a report that get the same ``methods``."""
    others = sorted({method for method in methods if method not in (POLICY, UNTRAINED)})
    styles = {name: (OTHERS[i % len(OTHERS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(others)}
    return {POLICY: (ACCENT, "o"), UNTRAINED: (PALE, "o"), **styles}


def write_png(figure: Figure, path: Path, dpi: int = 160) -> None:
    """Write a figure as PNG on a white background."""
    FigureCanvasAgg(figure)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, facecolor="white")


def to_svg(figure: Figure, name: str) -> str:
    """Convert a figure to an ``<svg>`` element that adopts the text colour of the web page, light or dark.

    Args:
        figure: a figure; its parts in the colours ``INK`` and ``LINE`` follow the page's.
        name: prefix of ids, letters only; must differ between the figures of a page.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    # Text is not converted to paths: it is smaller, searchable and in the page's font.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    for mark in (' id="', 'href="#', "url(#"):
        text = text.replace(mark, f"{mark}{name}-")
    # No fixed size, and no namespaces, which HTML does not need.
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', text, count=1, flags=re.DOTALL)
    text = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1 system-ui, sans-serif", text)
    return text.replace(INK, "currentColor").replace(LINE, "var(--line)")
