"""Figures of an evaluation. Each function returns a matplotlib ``Figure`` and changes no global state."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from rltr.evaluate.points import POLICY, UNTRAINED
from rltr.evaluate.results import Evaluation
from rltr.report.style import ACCENT, INK, OTHERS, PALE, dress, looks, new_figure
from rltr.report.wording import capital

AXIS_NAMES = {"latency": "measured time, relative to native", "flops": "FLOPs, relative to native"}
_TIMES = FuncFormatter(lambda value, _: f"{value:.1f}×")
_PERCENT = PercentFormatter(1, decimals=None, symbol=" %")  # as many decimals as the ticks need: 82.5 is not 82


def curve(evaluation: Evaluation, cost: str = "latency") -> Figure:
    """Plot quality over relative cost: the policy with its 95 % band in front, and every baseline.

    Args:
        evaluation: results with at least one operating point.
        cost: ``latency`` or ``flops``.
    """
    figure = new_figure(height=4.9)
    axes = figure.add_subplot()
    draw_curve(axes, evaluation, cost)
    legend_below(figure, evaluation, columns=3)
    return figure


def legend_below(figure: FigureBase, evaluation: Evaluation, columns: int) -> None:
    """Add a legend below the axes of :func:`draw_curve`: one entry per method, and the meaning of the line styles."""
    style = looks([point.method for point in evaluation.points])
    present = {point.method for point in evaluation.points}
    handles = [Line2D([], [], color=INK, marker="o", linewidth=0, markersize=6, label="native")]
    for method in sorted(present, key=lambda method: (method != POLICY, method)):
        colour, marker = style[method]
        width = 2.8 if method == POLICY else 1.2
        handles.append(Line2D([], [], color=colour, marker=marker, linewidth=width, markersize=5, label=method))
    if {point.removal for point in evaluation.points} >= {"merge", "drop"}:
        handles.append(Line2D([], [], color=INK, linewidth=1.2, label="dropped are merged"))
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle="--", label="dropped are lost"))
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=9.5, frameon=False, labelcolor=INK)


def draw_curve(axes: Axes, evaluation: Evaluation, cost: str, title: str = "") -> None:
    """Draw the plot of :func:`curve` into given axes."""
    name = evaluation.quality_name
    dress(axes, title or f"{capital(name)} over {AXIS_NAMES[cost].split(',')[0]}", AXIS_NAMES[cost], name)
    series = evaluation.series()
    style = looks([points[0].method for points in series.values()])
    for points in series.values():
        points = sorted(points, key=lambda point: getattr(point, cost))
        x, y = [getattr(point, cost) for point in points], [point.quality for point in points]
        colour, marker = style[points[0].method]
        own = points[0].method == POLICY
        dashes = "--" if points[0].removal == "drop" else "-"
        if own:
            bands = [(point, point.quality_interval) for point in points]
            known = [(getattr(point, cost), *band) for point, band in bands if band is not None]
            if known:
                costs, low, high = zip(*known, strict=True)
                axes.fill_between(costs, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)
        width, size = (2.8, 6.0) if own else (1.2, 4.0)
        axes.plot(
            x,
            y,
            dashes,
            color=colour,
            alpha=0.55 if dashes == "--" and not own else 1,
            marker=marker,
            linewidth=width,
            markersize=size,
            zorder=5 if own else 3,
        )
    axes.axhline(evaluation.dense_quality, color=INK, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
    axes.plot([1], [evaluation.dense_quality], "o", color=INK, markersize=7, zorder=6)
    axes.xaxis.set_major_formatter(_TIMES)
    axes.yaxis.set_major_formatter(_PERCENT)
    _focus(axes, evaluation)


def _focus(axes: Axes, evaluation: Evaluation) -> None:
    """Limit the y axis to the range of the policy. Points far below it are cut off; the table has them all."""
    own = [point.quality for point in evaluation.points if point.method == POLICY]
    lowest = min(own, default=min(point.quality for point in evaluation.points))
    top = max(point.quality for point in evaluation.points)
    top = max(top, evaluation.dense_quality)
    span = max(top - lowest, 0.04)
    bottom = max(lowest - 0.5 * span, min(lowest, 0.0), min(point.quality for point in evaluation.points) - 0.05 * span)
    axes.set_ylim(bottom, min(top + 0.12 * span, 1 + 0.02 * span))


def kept_per_layer(evaluation: Evaluation) -> Figure:
    """Plot the mean tokens in each layer, one line per point of the policy, or per point if there is no policy."""
    points = [point for point in evaluation.points if point.method == POLICY] or evaluation.points
    points = sorted(points, key=lambda point: -point.latency)
    figure = new_figure()
    axes = figure.add_subplot()
    dress(axes, "Tokens kept", "layer", "tokens per input")
    depth = len(points[0].kept)
    ends = spread([point.kept[-1] for point in points], 0.062 * evaluation.tokens)
    # Faster points get a stronger colour. Steps, because tokens are removed before a layer and not within it.
    for number, (point, end) in enumerate(zip(points, ends, strict=True)):
        shade = 0.35 + 0.65 * (number + 1) / len(points)
        axes.stairs(point.kept, range(depth + 1), baseline=None, color=ACCENT, alpha=shade, linewidth=2)
        axes.plot([depth, depth + 0.03 * depth], [point.kept[-1], end], color=ACCENT, alpha=0.5 * shade, linewidth=0.8)
        axes.text(depth * 1.04, end, f"at {point.latency:.2f}× time", va="center", fontsize=9, color=INK)
    axes.axhline(evaluation.tokens, color=INK, linewidth=1, linestyle=(0, (4, 4)))
    axes.set_xlim(0, depth * 1.28)
    axes.set_ylim(0, evaluation.tokens * 1.06)
    step = max(1, depth // 6)
    axes.set_xticks([layer + 0.5 for layer in range(0, depth, step)], [str(layer) for layer in range(0, depth, step)])
    return figure


def has_forecast(evaluation: Evaluation) -> bool:
    """Whether a latency table predicted any point of the trained or untrained policy."""
    return any(point.predicted is not None and point.method in (POLICY, UNTRAINED) for point in evaluation.points)


def predicted_latency(evaluation: Evaluation) -> Figure:
    """Plot the relative latency predicted by the latency table over the measured one; the diagonal is exact."""
    shown = [(point, point.predicted) for point in evaluation.points if point.method in (POLICY, UNTRAINED)]
    points = [(point, guess) for point, guess in shown if guess is not None]
    figure = new_figure()
    axes = figure.add_subplot()
    dress(axes, "How well the latency table predicted it", AXIS_NAMES["latency"], "predicted time")
    ends = [end(end(point.latency, guess) for point, guess in points) for end in (min, max)]
    axes.plot(ends, ends, color=INK, linewidth=1, linestyle=(0, (4, 4)))
    for method, colour in ((UNTRAINED, PALE), (POLICY, ACCENT)):
        chosen = [(point.latency, guess) for point, guess in points if point.method == method]
        if chosen:
            measured, told = zip(*chosen, strict=True)
            axes.scatter(measured, told, s=30, color=colour, label=method, zorder=4, linewidths=0)
    axes.legend(loc="upper left", fontsize=9.5, frameon=False, labelcolor=INK)
    axes.xaxis.set_major_formatter(_TIMES)
    axes.yaxis.set_major_formatter(_TIMES)
    return figure


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move labels apart: at least ``gap`` between neighbours, in the order of ``values``, each only upwards."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    placed = list(values)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    return placed


TITLES = {
    "accuracy": "accuracy",
    "cost": "relative cost",
    "keep_rate": "keep rate per layer",
    "kl": "KL per token",
    "clip_fraction": "clipped share",
    "reward": "reward",
    "score": "score part of the reward",
    "price": "cost part of the reward",
}


def training_curves(history: Sequence[Mapping[str, float]], x: str = "rollouts") -> Figure:
    """Plot the logged scalars of a training, one panel each; columns that end in a number, one per layer, share one.

    Args:
        history: one mapping per logged step; a scalar may be missing where it was not logged.
        x: name of the column for the x axis; the row number where it is missing.
    """
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(key for row in history for key in row if key != x):
        panels.setdefault(re.sub(r"[/_ .]?\d+$", "", name), []).append(name)
    columns = 2 if len(panels) > 1 else 1
    lines = max(1, -(-len(panels) // columns))
    figure = new_figure(height=0.4 + 2.0 * lines)
    palette = (ACCENT, *OTHERS)
    for number, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, number + 1)
        known = TITLES.get(title.rpartition("/")[2], title.replace("_", " "))
        dress(axes, known, x if number >= len(panels) - columns else "", "")
        axes.title.set_fontsize(10)
        axes.margins(x=0.09)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        for index, name in enumerate(names):
            at = [(row.get(x, step), row[name]) for step, row in enumerate(history) if name in row]
            colour = palette[0] if len(names) == 1 else _mix(index / max(1, len(names) - 1))
            axes.plot(*zip(*at, strict=True), color=colour, linewidth=1.6)
            if len(names) > 1 and index in (0, len(names) - 1):
                last = re.search(r"\d+$", name)
                text = f" {last.group()}" if last else f" {name}"
                axes.annotate(text, at[-1], (2, 0), textcoords="offset points", fontsize=8.5, va="center", color=INK)
    return figure


def _thousands(value: float, _: object) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def _mix(share: float) -> tuple[float, ...]:
    """Colour between the palette's blue (0, first layer) and its accent (1, last layer)."""
    first, last = to_rgb(OTHERS[0]), to_rgb(ACCENT)
    return tuple(a + share * (b - a) for a, b in zip(first, last, strict=True))
