"""The report is complete and self-contained, and its claims follow from the measurements."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rltr.evaluate.pareto import compare
from rltr.evaluate.resampling import pack
from rltr.evaluate.results import Evaluation
from rltr.report.gallery import Patches
from rltr.report.html import render, summary, tiles, write_report
from rltr.report.wording import colour, percent, percentage_points, verdict
from rltr.system.folders import REPORT_FILES
from rltr.tasks import TensorExamples
from tests.evaluate.conftest import HISTORY, measurement


def answered(evaluation: Evaluation, examples: int, difference: int) -> Evaluation:
    """Results in which the policy has ``difference`` more right answers than the baseline, at equal latency."""
    base = np.arange(examples) < 0.8 * examples
    own = np.arange(examples) < 0.8 * examples + difference
    points = [
        replace(measurement(method, latency, float(right.mean())), per_input=pack(right))
        for method, right in (("policy", own), ("norm", base))
        for latency in (0.45, 0.55)
    ]
    return replace(evaluation, examples=examples, points=points, gallery=[])


@pytest.mark.parametrize(
    ("difference", "said", "mark"),
    [(1, "level", ""), (30, "above", "good"), (-30, "below", "bad"), (-1, "level", ""), (0, "level", "")],
)
def test_a_difference_has_colour_only_if_the_inputs_can_tell(
    evaluation: Evaluation, difference: int, said: str, mark: str
) -> None:
    found = answered(evaluation, 320, difference)
    (beside,) = compare(found.curves(), "policy (merge)", [0.5], found.resampled(), found.examples)
    assert beside.difference == pytest.approx(difference / 320)
    assert (verdict(beside.interval), colour(beside.interval)) == (said, mark)
    page = render(found)
    assert [mark for mark in ("good", "bad") if f'<td class="{mark}">' in page] == ([mark] if mark else [])
    assert f", {said}</small>" in page
    assert ("cannot tell them apart" in summary(found)) == (said == "level")


def test_answers_that_are_neither_right_nor_wrong_are_shown_with_their_quality(
    evaluation: Evaluation, examples: TensorExamples
) -> None:
    (shown,) = evaluation.gallery
    view = replace(shown.views[0], answer=None, quality=0.625)
    numbers = replace(shown, label=None, dense_answer=None, dense_quality=0.75, views=[view])
    found = replace(evaluation, quality_name="D²", classes=[], gallery=[numbers])
    page = render(found, examples=examples, patches=Patches(4, 4))
    assert "D² 62.5\u00a0% (native: 75.0\u00a0%)" in page and "<th>D²</th>" in page and "accuracy" not in summary(found)
    assert "81.2\u00a0% (the native model has 82.0\u00a0% D²)" in summary(found)


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
        assert percent(measured.quality) in page.text
        assert f"{measured.milliseconds:.3f}" in page.text
    assert page.text.count("slower than no pruning") >= 3  # tome, none, and the explanation
    assert "<b>model</b>" not in text and "alert('cpu')</script>" not in text
    assert "b & co" in page.text and "test/<0>" in page.text
    assert sum(address.startswith("data:image/png") for address in page.loaded) == 3
    names = {file.name for file in tmp_path.iterdir()}
    assert names == set(REPORT_FILES)  # a fresh start removes exactly the files of a report


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
    slow = Evaluation(**{**vars(evaluation), "points": [measurement("policy", 1.2, 0.8)]})
    assert "No setting of the policy is faster than no pruning" in summary(slow)
    assert "1.20×" in summary(slow)


def test_the_speed_shown_first_is_of_a_setting_that_loses_at_most_a_point(evaluation: Evaluation) -> None:
    """The native model has 82.0 %. Faster points exist, but they are baselines or lose more than one point."""
    own = [(0.5, 0.812), (0.8, 0.83), (0.25, 0.805)]
    points = [measurement("policy", latency, quality) for latency, quality in own] + [measurement("norm", 0.2, 0.82)]
    found = {meaning.split(",")[0]: number for number, meaning in tiles(replace(evaluation, points=points))}
    assert found["the native speed"] == "2.00×" and found["accuracy of the native model"] == "82.0\u00a0%"
    lossy = replace(evaluation, points=points[2:])
    assert not any("native speed" in meaning for _, meaning in tiles(lossy))


def test_differences_are_signed_and_zero_is_not() -> None:
    assert [percentage_points(value) for value in (0.012, -0.0051, 0.0001, -0.0001, None)] == [
        "+1.2",
        "−0.5",
        "0.0",
        "0.0",
        "–",
    ]
