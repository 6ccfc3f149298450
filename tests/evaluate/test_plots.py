"""Figures have content, and the right panels and labels."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rltr.evaluate.results import Evaluation
from rltr.report.plots import curve, kept_per_layer, predicted_latency, spread, training_curves
from rltr.report.style import write_png
from tests.evaluate.conftest import HISTORY


@pytest.mark.parametrize("figure", [curve, lambda e: curve(e, "flops"), kept_per_layer, predicted_latency])
def test_figures_are_pictures(figure: Callable[..., object], evaluation: Evaluation, tmp_path: Path) -> None:
    write_png(figure(evaluation), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.format == "PNG"
        colours = picture.convert("RGB").getcolors(1 << 20)
        assert colours is not None and len(colours) > 20


def test_numbered_scalars_share_a_panel() -> None:
    figure = training_curves(HISTORY)
    panels_drawn = {axes.get_title(loc="left"): len(axes.lines) for axes in figure.axes}
    assert panels_drawn == {"accuracy": 1, "keep rate per layer": 2, "KL per token": 1}


@given(st.lists(st.floats(0, 100), min_size=1, max_size=10))
def test_labels_never_overlap(values: list[float]) -> None:
    placed = sorted(spread(values, 5.0))
    assert all(above - below >= 5 - 1e-9 for below, above in zip(placed, placed[1:], strict=False))
