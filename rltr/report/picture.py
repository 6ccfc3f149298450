"""Overview picture for a README: the curve, and the tokens that the policy keeps of a few inputs."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from rltr.evaluate.results import Evaluation, highlighted
from rltr.report.plots import draw_curve, legend_below
from rltr.report.style import ACCENT, INK
from rltr.report.wording import capital


def readme_picture(evaluation: Evaluation, strips: Sequence[Sequence[Image.Image]], rows: int = 4) -> Figure:
    """Draw the curve on the left and up to ``rows`` inputs on the right, from all tokens to those left at the end.

    Args:
        evaluation: results with at least one operating point.
        strips: for each input, the pictures of its stages, as :func:`rltr.report.gallery.panels` makes them.
        rows: largest number of inputs to show.
    """
    strips = list(strips)[:rows]
    stages = [0] if not strips else _stages(len(strips[0]))
    # Not transparent, because the background of the page is unknown.
    figure = Figure(figsize=(12.5, 5.4), layout="constrained", facecolor="white")
    halves = figure.add_gridspec(1, 2, width_ratios=(1.15, 1))
    left, right = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    axes = left.add_subplot()
    draw_curve(axes, evaluation, "latency", f"{capital(evaluation.quality_name)} over measured time")
    legend_below(left, evaluation, columns=4)
    chosen = highlighted(evaluation.points)
    if chosen is not None:
        axes.annotate(
            f"{100 * chosen.quality:.1f} % at {chosen.latency:.2f}×",
            (chosen.latency, chosen.quality),
            (-8, 12),  # curves rise to the right, so the space above left is empty
            textcoords="offset points",
            ha="right",
            color=ACCENT,
            fontsize=10.5,
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
            zorder=8,
        )
    grid = right.subplots(max(1, len(strips)), len(stages), squeeze=False)
    for line, strip in enumerate(strips):
        for column, stage in enumerate(stages):
            place = grid[line][column]
            place.imshow(strip[stage], interpolation="nearest")
            if line == 0:
                place.set_title("all tokens" if stage == 0 else f"after decision {stage}", fontsize=9.5, color=INK)
    for place in (cell for line in grid for cell in line):
        place.set_axis_off()
    return figure


def _stages(count: int) -> list[int]:
    """Indices of at most four stages, evenly spaced, the first and the last included."""
    if count <= 4:
        return list(range(count))
    return sorted({round(step * (count - 1) / 3) for step in range(4)})
