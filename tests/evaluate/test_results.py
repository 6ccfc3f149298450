"""Files of results: round trips, files of older versions, and errors for invalid files."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rltr.errors import RltrError
from rltr.evaluate.pareto import hypervolume
from rltr.evaluate.results import Evaluation, read_history, read_json, write_csv, write_json
from rltr.report.html import render


def test_json_round_trip_with_what_a_later_version_may_add(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    write_json(evaluation, path)
    data = json.loads(path.read_text())
    assert data["hypervolumes"]["latency"]["policy (merge)"] == pytest.approx(
        hypervolume([(0.53, 0.8123), (0.34, 0.7765)], quality=1 / 3)
    )
    assert data["fronts"]["latency"]["policy (merge)"] == [[0.34, 0.7765], [0.53, 0.8123]]
    data["from_the_future"] = data["points"][0]["also"] = {"x": 1}
    path.write_text(json.dumps(data))
    assert read_json(path) == evaluation
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_results_without_right_answers_are_read_and_claim_nothing(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(evaluation, path)
    data = json.loads(path.read_text())
    for old in data["points"]:
        for name in ("per_input", "layers", "layers_label"):
            old.pop(name)
    path.write_text(json.dumps(data))
    found = read_json(path)
    assert found.resampled() == {} and found.curves() == evaluation.curves()
    assert 'class="good"' not in render(found) and 'class="bad"' not in render(found)


def test_results_of_when_all_tasks_were_classifications_are_read(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(replace(evaluation, gallery=[]), path)
    data = json.loads(path.read_text())
    for name in ("quality_name", "chance"):
        data.pop(name)
    old = {"dense_quality": "dense_accuracy", "dense_quality_interval": "dense_accuracy_interval", "per_input": "right"}
    old |= {"removal": "dropped", "parameter": "knob", "layers_label": "schedule"}
    for part in (data, *data["points"]):
        for name in list(part):
            if name in old or name.startswith("quality"):
                part[old.get(name, name.replace("quality", "accuracy"))] = part.pop(name)
    assert "accuracy_change" in data["points"][0]
    data["gallery"] = [{"example": 0, "name": "x", "label": 0, "dense_prediction": 0, "views": []}]
    path.write_text(json.dumps(data))
    assert read_json(path) == replace(evaluation, gallery=[])


def test_results_with_former_names_are_read_and_none_with_both(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(evaluation, path)
    data = json.loads(path.read_text())
    views = [view for shown in data["gallery"] for view in shown["views"]]
    assert views
    for part in (*data["points"], *views):
        part["dropped"] = part.pop("removal")
    for point in data["points"]:
        point["knob"] = point.pop("parameter")
    path.write_text(json.dumps(data))
    assert read_json(path) == evaluation
    data["points"][0]["parameter"] = "keep rate"
    path.write_text(json.dumps(data))
    with pytest.raises(RltrError, match="points has both 'parameter' and 'knob'"):
        read_json(path)


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
        assert float(row["accuracy"]) == measured.quality
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


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"dense_accuracy": 1, "points": [1, null], "classes": 3}', "[]", "\xff"]
)
def test_invalid_results_give_a_one_line_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content, encoding="latin-1")
    with pytest.raises(RltrError) as refused:
        read_json(tmp_path / "results.json")
    assert "\n" not in str(refused.value)


def test_results_are_read_from_files_only(tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("endless", "gone", "."):
        with pytest.raises(RltrError, match="rltr evaluate` writes them"):
            read_json(tmp_path / name)
