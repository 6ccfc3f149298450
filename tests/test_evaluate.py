"""Evaluation: fair timing, sound statistics, Pareto geometry, and a report that says what was measured."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import bootstrap
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils.generic import ModelOutput

from rltr.backbone import Backbone
from rltr.cost import FlopsCost
from rltr.errors import RltrError
from rltr.evaluate.gallery import FADE, TINT, Patches, dim, panels, stage_titles, text_panels
from rltr.evaluate.measure import measure
from rltr.evaluate.pareto import accuracy_at, compare, hypervolume, pareto_front
from rltr.evaluate.plots import curve, foretold, kept_per_layer, spread, training_curves
from rltr.evaluate.points import Measurement, OperatingPoint, Shown, View
from rltr.evaluate.report import render, summary, write_report
from rltr.evaluate.results import Evaluation, read_history, read_json, write_csv, write_json
from rltr.evaluate.statistics import accuracy_interval, mean_interval, median_ratio
from rltr.evaluate.style import write_png
from rltr.evaluate.tally import reduced_cost
from rltr.evaluate.timing import native_beside, schedule, torch_threads
from rltr.evaluate.wording import percent, percentage_points
from rltr.forward import Trace
from rltr.reduction import Reduction
from rltr.selectors.norm import Norm
from rltr.tasks import TensorExamples

# --- a tiny model, and data for it -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    return Backbone(ViTForImageClassification(config).eval())


@pytest.fixture(scope="module")
def examples() -> TensorExamples:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(10, 1, 16, 16, generator=generator)
    pictures = (pixels[:, 0] * 255).to(torch.uint8).numpy()
    names = [f"test/{i}" for i in range(10)]
    return TensorExamples(torch.arange(10) % 3, names, ["a", "b", "c"], {"pixel_values": pixels}, pictures)


@pytest.fixture
def flops(backbone: Backbone) -> FlopsCost:
    return FlopsCost.count(backbone.layers)


def operating_point(backbone: Backbone, keep: float = 0.5, method: str = "norm") -> OperatingPoint:
    reduction = Reduction(backbone, Norm(keep), layers=[1, 2])
    return OperatingPoint(method, "merge", keep, reduction, attached=backbone.attached)


# --- timing ----------------------------------------------------------------------------------------------------------


@given(points=st.integers(1, 20), batch=st.integers(0, 50), every=st.integers(1, 7))
def test_schedule_runs_every_point_once_between_native_passes(points: int, batch: int, every: int) -> None:
    order = schedule(points, batch, every)
    assert sorted(point for point in order if point is not None) == list(range(points))
    assert order[0] is None and order[-1] is None
    natives = [place for place, point in enumerate(order) if point is None]
    assert all(1 < after - before <= every + 1 for before, after in zip(natives, natives[1:], strict=False))


def test_each_point_takes_each_place_in_turn() -> None:
    first = [schedule(5, batch, 2)[1] for batch in range(5)]
    assert sorted(point for point in first if point is not None) == list(range(5))


def test_a_point_is_compared_with_the_native_passes_around_it() -> None:
    assert native_beside([None, 1, 0, None, 2, None], [1.0, 9.0, 9.0, 3.0, 9.0, 5.0]) == {1: 2.0, 0: 2.0, 2: 4.0}


class Clock:
    """Time passes only when someone works, and each kind of work takes its own time, growing with drift."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now = 0.0
        self.drift = drift

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds * (1 + self.drift * self.now)


def test_time_and_accuracy_come_from_the_same_alternating_passes(
    backbone: Backbone, examples: TensorExamples, flops: FlopsCost, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(drift=0.01)
    log: list[str] = []
    hooked: list[str] = []
    native_forward = backbone.model.forward

    def slow_native(*args: object, **inputs: object) -> ModelOutput:
        if not hooked:
            log.append("native")
            clock.work(1.0)
        return native_forward(*args, **inputs)

    monkeypatch.setattr(backbone.model, "forward", slow_native)

    def point(name: str, share: float) -> OperatingPoint:
        real = operating_point(backbone, 0.5, name)

        @contextmanager
        def attached() -> Iterator[None]:
            clock.work(100.0)  # must not be timed
            with real.attached():
                hooked.append(name)
                yield
                hooked.remove(name)
            clock.work(100.0)

        def reduce(inputs: Mapping[str, Tensor]) -> tuple[ModelOutput, Trace]:
            assert hooked == [name]
            log.append(name)
            clock.work(share)
            return real.reduce(inputs)

        return OperatingPoint(name, "merge", 0.5, reduce, attached=attached)

    points = [point("half", 0.5), point("quarter", 0.25), point("double", 2.0)]
    clock.drift = 0.0
    found = measure(backbone, points, examples, flops, batch_size=4, native_every=2, progress=False, clock=clock)

    warm_up, passes = log[:4], log[4:]
    assert warm_up == ["native", "half", "quarter", "double"]
    names = ["half", "quarter", "double"]
    expected = []
    for batch in range(3):
        expected += ["native" if which is None else names[which] for which in schedule(3, batch, 2)]
    assert passes == expected
    assert [p.latency for p in found.points] == pytest.approx([0.5, 0.25, 2.0])
    assert [p.slower for p in found.points] == [False, False, True]
    assert found.timed_batches == 2  # the third has two inputs only
    assert found.native_milliseconds == pytest.approx(250)
    assert found.points[0].throughput == pytest.approx(8)
    with torch.inference_mode():
        logits = native_forward(examples.inputs["pixel_values"]).logits
    assert found.dense_accuracy == pytest.approx((logits.argmax(-1) == examples.labels).float().mean().item())


def test_drift_hits_point_and_reference_alike(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    ticks = iter(np.cumsum(np.arange(1, 1001) * 0.01))
    point = operating_point(backbone)
    # Every reading of this clock comes later than the last by a little more: native, point, native take t, t+d, t+2d.
    found = measure(
        backbone, [point], examples, flops, batch_size=5, repeats=3, progress=False, clock=lambda: float(next(ticks))
    )
    assert found.timed_batches == 6
    assert found.points[0].latency == pytest.approx(1.0)
    assert found.points[0].latency_interval == pytest.approx((1.0, 1.0))


def test_tokens_flops_and_gallery_are_those_of_the_real_runs(
    backbone: Backbone, examples: TensorExamples, flops: FlopsCost
) -> None:
    points = [operating_point(backbone, 0.5, "policy"), operating_point(backbone, 1.0)]
    found = measure(backbone, points, examples, flops, latency=flops, batch_size=4, gallery=3, progress=False)
    half, whole = found.points
    assert found.tokens == 17
    assert half.kept == [17, 9, 5]  # CLS stays, half of 16, then half of 8
    assert whole.kept == [17, 17, 17]
    assert (whole.agreement, whole.accuracy_change, whole.accuracy_change_interval) == (1, 0, (0, 0))
    assert whole.flops == pytest.approx(1) and half.flops < 0.7
    assert half.predicted == pytest.approx(half.flops)
    assert [shown.example for shown in found.gallery] == [0, 4, 9]
    for shown in found.gallery:
        (view,) = shown.views
        assert view.layers == [1, 2]
        assert [stage.count("1") for stage in view.present] == [17, 9, 5]
        assert len(view.present[0]) == 17 and all(stage[0] == "1" for stage in view.present)


def test_the_selectors_own_cost_counts(backbone: Backbone, examples: TensorExamples) -> None:
    free, dear = FlopsCost.count(backbone.layers), FlopsCost.count(backbone.layers, per_token=1000)
    with backbone.attached(), torch.inference_mode():
        _, trace = operating_point(backbone).reduce(examples.batch(range(2)))
    difference = reduced_cost(dear, trace, 3) - reduced_cost(free, trace, 3)
    assert difference.tolist() == [1000 * (17 + 9)] * 2


def test_measuring_leaves_the_model_as_it_was(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    attention = backbone.config._attn_implementation
    threads = torch.get_num_threads()
    backbone.model.train()
    measure(backbone, [operating_point(backbone)], examples, flops, batch_size=5, threads=1, progress=False)
    assert backbone.model.training
    backbone.model.eval()
    assert backbone.config._attn_implementation == attention
    assert not any(layer._forward_pre_hooks for layer in backbone.layers)
    assert torch.get_num_threads() == threads


def test_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1) as used:
        assert used == torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_nothing_to_measure_is_refused(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    with pytest.raises(RltrError, match="no operating point"):
        measure(backbone, [], examples, flops)
    with pytest.raises(RltrError, match="repeats"):
        measure(backbone, [operating_point(backbone)], examples, flops, repeats=0)
    one = TensorExamples(examples.labels[:1], ["x"], ["a", "b", "c"], {"pixel_values": torch.zeros(1, 1, 16, 16)})
    with pytest.raises(RltrError, match="at least 2"):
        measure(backbone, [operating_point(backbone)], one, flops)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_accuracy_interval_is_the_analytic_one() -> None:
    right = np.arange(2000) < 1600
    low, high = accuracy_interval(right) or (0, 0)
    margin = 1.96 * np.sqrt(0.8 * 0.2 / 2000)
    assert (low, high) == pytest.approx((0.8 - margin, 0.8 + margin), abs=0.002)
    assert accuracy_interval(right) == (low, high)


def test_mean_interval_is_the_bootstrap_of_scipy() -> None:
    change = np.repeat([-1.0, 0.0, 1.0], [30, 250, 20])
    theirs = bootstrap((change,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert mean_interval(change) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_perfect_answers_are_not_certain() -> None:
    low, high = accuracy_interval(np.ones(100, bool)) or (0, 0)
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 100))  # Clopper-Pearson: the p with p**n = 2.5 %
    low, high = accuracy_interval(np.zeros(100, bool)) or (0, 0)
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_degenerate_samples() -> None:
    assert mean_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert mean_interval([3.0]) is None
    assert median_ratio([3.0], [2.0]) == (1.5, None)
    assert accuracy_interval([True]) is None


def test_median_ratio_shrugs_off_an_interruption() -> None:
    reference = np.linspace(1, 2, 41)
    times = 0.5 * reference
    times[7] *= 100
    ratio, interval = median_ratio(times, reference)
    assert ratio == pytest.approx(0.5)
    assert interval == pytest.approx((0.5, 0.5))


# --- Pareto ----------------------------------------------------------------------------------------------------------

number = st.floats(0, 1, width=16)
clouds = st.lists(st.tuples(number, number), min_size=1, max_size=30)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(clouds)
def test_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    front = [points[index] for index in pareto_front(points)]
    assert front == sorted(front)
    assert set(front) == {point for point in points if not any(dominates(other, point) for other in points)}
    assert len(set(front)) == len(front)


@given(clouds, number, number)
def test_hypervolume_grows_with_points(points: list[tuple[float, float]], cost: float, accuracy: float) -> None:
    before = hypervolume(points)
    assert 0 <= before <= 1
    assert hypervolume([*points, (cost, accuracy)]) >= before - 1e-12
    assert hypervolume(points) == pytest.approx(hypervolume([points[index] for index in pareto_front(points)]))


def test_hypervolume_by_hand() -> None:
    assert hypervolume([(0.5, 0.8)]) == pytest.approx(0.4)
    assert hypervolume([(0.5, 0.8), (0.25, 0.6), (0.6, 0.7)]) == pytest.approx(0.5 * 0.8 + 0.25 * 0.6)
    assert hypervolume([(0.5, 0.8)], accuracy=0.3) == pytest.approx(0.25)
    assert hypervolume([(1.2, 0.9), (0.1, 0.05)], accuracy=0.1) == 0
    assert hypervolume([]) == 0


def test_accuracy_between_points_and_nothing_beyond() -> None:
    points = [(0.4, 0.7), (0.6, 0.8), (0.5, 0.6), (0.9, 0.75)]
    assert accuracy_at([0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0], points) == [
        None,
        pytest.approx(0.7),
        pytest.approx(0.75),
        pytest.approx(0.8),
        pytest.approx(0.8),  # whoever may spend 0.8 may spend 0.6
        pytest.approx(0.8),
        None,
    ]
    assert accuracy_at([0.5], []) == [None]


@given(clouds, number)
def test_interpolation_stays_among_the_measured(points: list[tuple[float, float]], cost: float) -> None:
    (value,) = accuracy_at([cost], points)
    accuracies = [accuracy for _, accuracy in points]
    assert value is None or min(accuracies) - 1e-9 <= value <= max(accuracies) + 1e-9


def test_comparison_names_the_best_other() -> None:
    series = {"policy": [(0.4, 0.8), (0.8, 0.9)], "a": [(0.5, 0.7), (0.9, 0.9)], "b": [(0.5, 0.75), (0.7, 0.76)]}
    low, middle, high = compare(series, "policy", [0.4, 0.6, 0.9])
    assert (low.accuracy, low.best, low.difference) == (pytest.approx(0.8), None, None)
    assert middle.best == "b" and middle.difference == pytest.approx(0.85 - 0.755)
    assert high.best == "a" and high.accuracy is None and high.difference is None


# --- results ---------------------------------------------------------------------------------------------------------


def point(
    method: str, latency: float, accuracy: float, dropped: str = "merge", knob: str = "keep rate", setting: float = 0.5
) -> Measurement:
    return Measurement(
        method=method,
        dropped=dropped,
        setting=setting,
        knob=knob,
        accuracy=accuracy,
        accuracy_interval=(accuracy - 0.01, accuracy + 0.01),
        accuracy_change=accuracy - 0.82,
        accuracy_change_interval=None,
        agreement=0.95,
        flops=0.9 * latency,
        latency=latency,
        latency_interval=(latency - 0.01, latency + 0.01),
        milliseconds=2 * latency,
        throughput=500 / latency,
        kept=[17.0, 12.5, 8.25],
        predicted=1.1 * latency,
    )


@pytest.fixture
def evaluation() -> Evaluation:
    view = View("policy", "merge", 0.2, 1, [1, 2], ["1" * 17, "1" * 9 + "0" * 8, "1" * 5 + "0" * 12])
    return Evaluation(
        environment={"torch": "2.0", "processor": "<script>alert('cpu')</script>"},
        model="tiny <b>model</b>",
        examples=10,
        classes=["a", "b & co", "c"],
        dense_accuracy=0.82,
        dense_accuracy_interval=(0.80, 0.84),
        native_milliseconds=2.0,
        native_throughput=500.0,
        tokens=17.0,
        batch_size=4,
        timed_batches=2,
        native_every=4,
        seed=0,
        points=[
            point("random", 0.52, 0.7612),
            point("random", 0.81, 0.8034, setting=0.8),
            point("random", 0.41, 0.6123, dropped="drop"),
            point("tome", 1.07, 0.8111),
            point("policy", 0.53, 0.8123, knob="cost weight", setting=0.2),
            point("policy", 0.34, 0.7765, knob="cost weight", setting=0.8),
            point("none", 1.013, 0.82, dropped="none", setting=1.0),
        ],
        gallery=[Shown(0, "test/<0>", 0, 0, [view])],
    )


def test_json_round_trip_with_what_a_later_version_may_add(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    write_json(evaluation, path)
    data = json.loads(path.read_text())
    assert data["hypervolumes"]["latency"]["policy (merge)"] == pytest.approx(
        hypervolume([(0.53, 0.8123), (0.34, 0.7765)], accuracy=1 / 3)
    )
    assert data["fronts"]["latency"]["policy (merge)"] == [[0.34, 0.7765], [0.53, 0.8123]]
    data["from_the_future"] = data["points"][0]["also"] = {"x": 1}
    path.write_text(json.dumps(data))
    assert read_json(path) == evaluation
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[1]", "does not hold"), ('{"model": 3}', "does not hold")]
)
def test_wrong_results_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(RltrError, match=message):
        read_json(path)
    with pytest.raises(RltrError, match="rltr evaluate"):
        read_json(tmp_path / "missing.json")


def test_csv_has_every_point(evaluation: Evaluation, tmp_path: Path) -> None:
    write_csv(evaluation, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(evaluation.points)
    for row, measured in zip(rows, evaluation.points, strict=True):
        assert row["method"] == measured.method
        assert float(row["accuracy"]) == measured.accuracy
        assert float(row["latency_low"]) == pytest.approx(measured.latency - 0.01)
        assert row["accuracy_change_low"] == ""
        assert float(row["prediction_error"]) == pytest.approx(0.1)
        assert [float(tokens) for tokens in row["kept"].split()] == measured.kept


def test_history_skips_what_was_not_logged(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("rollouts,accuracy,kl\n512,,0.1\n1024,0.8,0.2\n")
    assert read_history(path) == [{"rollouts": 512, "kl": 0.1}, {"rollouts": 1024, "accuracy": 0.8, "kl": 0.2}]
    path.write_text("rollouts\nmany\n")
    with pytest.raises(RltrError, match="many"):
        read_history(path)


# --- plots -----------------------------------------------------------------------------------------------------------

HISTORY = [
    {"rollouts": 512.0 * step, "accuracy": 0.8, "keep_rate/1": 0.9, "keep_rate/3": 0.8, "kl": 0.01}
    for step in range(1, 5)
] + [{"rollouts": 3000.0, "kl": 0.02}]


@pytest.mark.parametrize("figure", [curve, lambda e: curve(e, "flops"), kept_per_layer, foretold])
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


# --- gallery ---------------------------------------------------------------------------------------------------------


def test_exactly_the_dropped_patches_are_dimmed() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    present = "11" + "101" + "011" + "0"  # CLS and another, two rows of three patches, one token beyond them
    dimmed = np.asarray(dim(picture, present, Patches(2, 3, leading=2)))
    before = np.asarray(picture)
    for row, column in np.ndindex(2, 3):
        here = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        if (row, column) in ((0, 1), (1, 0)):
            expected = np.round((1 - FADE) * before[here].astype(np.float64) + FADE * np.array(TINT))
            assert np.abs(dimmed[here] - expected).max() <= 1
        else:
            assert (dimmed[here] == before[here]).all()


def test_too_few_tokens_for_the_geometry() -> None:
    with pytest.raises(ValueError, match="takes 17"):
        dim(Image.new("L", (8, 8)), "1" * 16, Patches(4, 4, 1))


@pytest.mark.parametrize(
    ("image", "patch", "grid", "expected"),
    [
        (224, 16, 197, Patches(14, 14, 1)),
        (224, 16, 198, Patches(14, 14, 2)),  # DeiT with its distillation token
        (518, 14, 257, Patches(16, 16, 1)),  # DINOv2 used at 224 pixels
        (518, 14, 261, Patches(16, 16, 5)),  # the same with four registers
        ((32, 64), 16, 9, Patches(2, 4, 1)),
    ],
)
def test_geometry_follows_config_or_the_largest_square(
    image: int | tuple[int, int], patch: int, grid: int, expected: Patches
) -> None:
    assert Patches.of(ViTConfig(image_size=image, patch_size=patch), grid) == expected


def test_one_panel_per_stage_with_its_share(evaluation: Evaluation) -> None:
    (view,) = evaluation.gallery[0].views
    assert stage_titles(view) == ["all tokens", "layer 1: 53 %", "layer 2: 29 %"]
    assert len(panels(Image.new("L", (16, 16)), view, Patches(4, 4, 1))) == 3


def test_dropped_words_fade_and_are_escaped() -> None:
    view = View("policy", "merge", 0.2, 0, [1], ["011110", "010110"])  # padding on both sides
    whole, reduced = text_panels(["a", "<b>", "play", "##ing"], view)
    assert whole == "<span>a</span> <span>&lt;b&gt;</span> <span>play</span><span>ing</span>"
    assert reduced == '<span>a</span> <span class="gone">&lt;b&gt;</span> <span>play</span><span>ing</span>'
    with pytest.raises(ValueError, match="do not fit"):
        text_panels(["a"], view)


def test_words_of_other_tokenizers() -> None:
    view = View("policy", "merge", 0.2, 0, [], ["111"])
    assert text_panels(["Ġto", "ken", "Ġs"], view) == ["<span>to</span><span>ken</span> <span>s</span>"]


# --- report ----------------------------------------------------------------------------------------------------------


class Balance(HTMLParser):
    """Checks that every element is closed where it should be; collects text and what would be loaded."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href") and value:
                self.loaded.append(value)
            if key == "id" and value:
                self.ids.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_whole_and_self_contained(evaluation: Evaluation, examples: TensorExamples, tmp_path: Path) -> None:
    path = write_report(evaluation, tmp_path, examples=examples, patches=Patches(4, 4, 1), history=HISTORY)
    text = path.read_text()
    page = Balance()
    page.feed(text)
    page.close()
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert all(address.startswith(("#", "data:image/")) for address in page.loaded)
    assert not re.search(r"url\((?!#)|@import|<script|<link", text)
    assert 'name="viewport"' in text and "prefers-color-scheme" in text
    for measured in evaluation.points:
        assert percent(measured.accuracy) in page.text
        assert f"{measured.milliseconds:.3f}" in page.text
    assert page.text.count("slower than no pruning") >= 3  # tome, none, and the explanation
    assert "<b>model</b>" not in text and "alert('cpu')</script>" not in text
    assert "b & co" in page.text and "test/<0>" in page.text
    assert sum(address.startswith("data:image/png") for address in page.loaded) == 3
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {
        "report.html",
        "results.json",
        "results.csv",
        "accuracy_over_latency.png",
        "accuracy_over_flops.png",
        "kept_tokens.png",
        "foretold_latency.png",
        "training.png",
        "overview.png",
    }


def test_report_needs_neither_policy_nor_extras(evaluation: Evaluation) -> None:
    baselines = [measured for measured in evaluation.points if measured.method != "policy"]
    bare = Evaluation(**{**vars(evaluation), "points": baselines, "gallery": []})
    text = render(bare)
    assert "No policy was measured" in text
    assert 'id="gallery"' not in text and 'id="training"' not in text


def test_summary_tells_the_truth(evaluation: Evaluation) -> None:
    told = summary(evaluation).replace("\u00a0", " ")
    assert told.startswith("At 0.53× the measured latency the policy keeps 81.2 % (the native model has 82.0 %).")
    assert "random (merge), has 76.3 %" in told
    slow = Evaluation(**{**vars(evaluation), "points": [point("policy", 1.2, 0.8)]})
    assert "No setting of the policy is faster than no pruning" in summary(slow)
    assert "1.20×" in summary(slow)


def test_differences_are_signed_and_zero_is_not() -> None:
    assert [percentage_points(value) for value in (0.012, -0.0051, 0.0001, -0.0001, None)] == [
        "+1.2",
        "−0.5",
        "0.0",
        "0.0",
        "–",
    ]
