"""Write the report: one self-contained ``report.html``, results as JSON and CSV, and figures."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from rltr.evaluate.pareto import COSTS, compare, quality_at
from rltr.evaluate.points import POLICY, Shown, View
from rltr.evaluate.results import Evaluation, highlighted, write_csv, write_json
from rltr.report.gallery import Patches, panels, stage_titles, text_panels
from rltr.report.picture import readme_picture
from rltr.report.plots import curve, has_forecast, kept_per_layer, predicted_latency, training_curves
from rltr.report.style import to_svg, write_png
from rltr.report.wording import (
    capital,
    colour,
    interval,
    interval_points,
    percent,
    percentage_points,
    signed_percent,
    times,
    verdict,
)
from rltr.system.files import atomic_write
from rltr.tasks import Examples

_SHARP = 112  # pixels; pictures up to this side are shown with hard pixel edges and stored without loss


def write_report(
    evaluation: Evaluation,
    folder: Path,
    *,
    examples: Examples | None = None,
    patches: Patches | None = None,
    history: Sequence[Mapping[str, float]] = (),
) -> Path:
    """Write ``results.json``, ``results.csv``, the figures as PNG and ``report.html`` into a folder.

    Args:
        evaluation: results with at least one operating point.
        folder: created if it is missing; files of the same names are replaced.
        examples: the evaluated split, for the gallery; None for no gallery.
        patches: layout of image tokens; None for no pictures.
        history: logged scalars for the training curves (see :func:`rltr.evaluate.results.read_history`).

    Returns:
        The path of ``report.html``.
    """
    write_json(evaluation, folder / "results.json")
    write_csv(evaluation, folder / "results.csv")
    write_png(curve(evaluation, "latency"), folder / "quality_over_latency.png")
    write_png(curve(evaluation, "flops"), folder / "quality_over_flops.png")
    write_png(kept_per_layer(evaluation), folder / "kept_tokens.png")
    if has_forecast(evaluation):
        write_png(predicted_latency(evaluation), folder / "predicted_latency.png")
    if history:
        write_png(training_curves(history), folder / "training.png")
    strip = [shown for shown in gallery(evaluation, examples, patches) if shown.pictures]
    if strip:
        write_png(readme_picture(evaluation, [shown.pictures for shown in strip]), folder / "overview.png")
    with atomic_write(folder / "report.html") as temporary:
        temporary.write_text(render(evaluation, examples=examples, patches=patches, history=history), encoding="utf-8")
    return folder / "report.html"


def render(
    evaluation: Evaluation,
    *,
    examples: Examples | None = None,
    patches: Patches | None = None,
    history: Sequence[Mapping[str, float]] = (),
) -> str:
    """Render the report as HTML; arguments as for :func:`write_report`."""
    environment = Environment(
        loader=PackageLoader("rltr.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, points=percentage_points, times=times, interval=interval, interval_points=interval_points
    )
    environment.filters.update(signed_percent=signed_percent, colour=colour, verdict=verdict, capital=capital)
    curves = evaluation.curves("latency")
    policy = next((name for name in curves if name.startswith(POLICY)), None)
    values: dict[str, Any] = {
        "evaluation": evaluation,
        "summary": summary(evaluation),
        "tiles": tiles(evaluation),
        "policy": policy,
        "costs": COSTS,
        "comparison": compare(curves, policy, COSTS, evaluation.resampled(), evaluation.examples) if policy else [],
        "at_costs": {name: quality_at(COSTS, points) for name, points in curves.items()},
        "volumes": [(name, evaluation.hypervolumes(), evaluation.hypervolumes("flops")) for name in curves],
        "latency_figure": Markup(to_svg(curve(evaluation, "latency"), "latency")),
        "flops_figure": Markup(to_svg(curve(evaluation, "flops"), "flops")),
        "kept_figure": Markup(to_svg(kept_per_layer(evaluation), "kept")),
        "predicted_figure": Markup(to_svg(predicted_latency(evaluation), "predicted"))
        if has_forecast(evaluation)
        else None,
        "training_figure": Markup(to_svg(training_curves(history), "training")) if history else None,
        "chosen": highlighted(evaluation.points),
        "gallery": gallery(evaluation, examples, patches),
    }
    return environment.get_template("report.html.j2").render(values)


def summary(evaluation: Evaluation) -> str:
    """Summarise the results in a few sentences, also if the policy is not better."""
    # The name of the metric follows only the first percentage.
    name = "" if evaluation.quality_name == "accuracy" else f" {evaluation.quality_name}"
    native = f"the native model has {percent(evaluation.dense_quality)}{name}"
    own = [point for point in evaluation.points if point.method == POLICY]
    if not own:
        return f"No policy was measured, only baselines; {native}."
    chosen = highlighted(evaluation.points)
    if chosen is None:
        fastest = min(own, key=lambda point: point.latency)
        return (
            f"No setting of the policy is faster than no pruning: the fastest takes {times(fastest.latency)} the "
            f"native time and keeps {percent(fastest.quality)} ({native})."
        )
    text = f"At {times(chosen.latency)} the measured latency the policy keeps {percent(chosen.quality)} ({native})."
    resampled = evaluation.resampled()
    (beside,) = compare(evaluation.curves(), chosen.series, [chosen.latency], resampled, evaluation.examples)
    if beside.best is None or beside.best_quality is None:
        return text + " No baseline was measured at that cost."
    text += f" The best baseline at that cost, {beside.best}, has {percent(beside.best_quality)}"
    if beside.interval is None:
        return text + "."
    meaning = {
        "above": "so the policy is better",
        "below": "so the baseline is better",
        "level": "so this test cannot tell them apart",
    }
    return text + (
        f"; the difference of {percentage_points(beside.difference)} points has a 95\u00a0% interval of "
        f"{interval_points(beside.interval)}, {meaning[verdict(beside.interval)]}."
    )


def tiles(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Numbers for the top of the report, as pairs of number and meaning."""
    native = evaluation.native_milliseconds
    found = [
        (percent(evaluation.dense_quality), f"{evaluation.quality_name} of the native model"),
        (f"{native:.3g} ms", f"native time per input, in batches of {evaluation.batch_size}"),
    ]
    close = [point for point in evaluation.points if point.method == POLICY and point.quality_change >= -0.01]
    if close:
        fastest = min(close, key=lambda point: point.latency)
        found.append(
            (
                times(1 / fastest.latency),
                f"the native speed, with at most one point of {evaluation.quality_name} lost on these inputs",
            )
        )
    volumes = evaluation.hypervolumes()
    own = max((volumes[name] for name in volumes if name.startswith(POLICY)), default=None)
    others = max((volumes[name] for name in volumes if not name.startswith(POLICY)), default=None)
    if own is not None and others is not None:
        found.append((f"{own:.3f}", f"area under the policy's curve; {others:.3f} for the best baseline"))
    return found


@dataclass(frozen=True)
class Exhibit:
    """One input of the gallery, rendered."""

    name: str
    verdict: str
    right: bool
    captions: list[str]
    pictures: list[Image.Image]
    sources: list[str]
    texts: list[Markup]


def gallery(evaluation: Evaluation, examples: Examples | None, patches: Patches | None) -> list[Exhibit]:
    """Render what the policy kept of each recorded input, at the setting that the summary reports."""
    chosen = highlighted(evaluation.points)
    if examples is None or chosen is None:
        return []
    exhibits = []
    for shown in evaluation.gallery:
        view = next((v for v in shown.views if (v.removal, v.setting) == (chosen.removal, chosen.setting)), None)
        if view is None:
            continue
        picture, words = examples.picture(shown.example), examples.words(shown.example)
        if picture is not None and patches is not None:
            stages = panels(picture, view, patches)
            exhibits.append(_exhibit(evaluation, shown, view, stages, []))
        elif words is not None:
            exhibits.append(_exhibit(evaluation, shown, view, [], text_panels(words, view)))
    return exhibits


def _exhibit(
    evaluation: Evaluation, shown: Shown, view: View, pictures: list[Image.Image], texts: list[Markup]
) -> Exhibit:
    right = view.quality == 1
    if shown.label is None or view.answer is None:
        verdict = f"{evaluation.quality_name} {percent(view.quality)} (native: {percent(shown.dense_quality)})"
    else:
        verdict = shown.label + (", recognised" if right else f", taken for {view.answer}")
        if view.answer != shown.dense_answer:
            verdict += f" (native: {shown.dense_answer})"
    return Exhibit(
        shown.name, verdict, right, stage_titles(view), pictures, [inline(picture) for picture in pictures], texts
    )


def inline(picture: Image.Image) -> str:
    """Encode a picture as a ``data:`` URL: small ones as PNG, larger ones as JPEG."""
    buffer = io.BytesIO()
    if max(picture.size) <= _SHARP:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(buffer, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
