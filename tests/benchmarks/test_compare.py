"""``benchmarks.compare``: what is worse beyond noise, what cannot be compared, and what it says of either."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Benchmark = Callable[[str], ModuleType]
Files = Callable[..., Path]
HERE = {
    "device": "cpu",
    "processor": "a processor",
    "system": "Linux",
    "threads": "2",
    "dtype": "float32",
    "torch": "2.13",
}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def result(tmp_path: Path) -> Files:
    """Writes a result of ``attach_overhead``: one row for each ratio, whose interval is as wide as told."""

    def write(
        name: str, *ratios: float, width: float | None = 0.02, benchmark: str = "attach_overhead", **env: str
    ) -> Path:
        rows = [
            {
                "dtype": "float32",
                "batch": 16 * (place + 1),
                "kept / native": ratio,
                "95 %": None if width is None else [ratio - width / 2, ratio + width / 2],
            }
            for place, ratio in enumerate(ratios)
        ]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = {"rounds": 10, "seed": 0, "load": 0.1, "out": name}
        path.write_text(
            json.dumps({"benchmark": benchmark, "environment": HERE | env, "settings": settings, "rows": rows})
        )
        return path

    return write


@pytest.fixture
def compare(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the command: its exit status, and what it prints."""
    module = benchmark("compare")

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["compare", *map(str, words)])
        monkeypatch.setattr(module.console, "width", 200)
        status = module.main()
        return status, capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("new", "width", "verdict", "status"),
    [
        (1.01, 0.02, "within noise", 0),  # both half widths are 0.01, together 0.0141
        (0.99, 0.02, "within noise", 0),
        (1.02, 0.02, "worse, tolerated", 0),  # 0.0059 beyond the noise
        (1.03, 0.02, "worse, tolerated", 0),
        (1.04, 0.02, "worse", 1),  # 0.0259 beyond it, and tolerated is 0.02
        (0.9, 0.02, "better", 0),
        (1.1, 0.2, "within noise", 0),
        (1.01, None, "worse, tolerated, noise unknown", 0),
        (1.05, None, "worse, noise unknown", 1),
        (1.0, None, "same", 0),
    ],
)
def test_worse_is_what_is_beyond_noise_and_tolerance(
    result: Files, compare: Callable[..., tuple[int, str]], new: float, width: float | None, verdict: str, status: int
) -> None:
    found, said = compare(result("old.json", 1.0, width=width), result("new.json", new, width=width))
    assert found == status
    line = next(line for line in said.splitlines() if "kept / native" in line)
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells[0] == "dtype float32, batch 16" and cells[-1] == verdict
    assert f"1 figures, {status} worse" in said
    assert (
        compare(result("old.json", 1.0, width=width), result("new.json", new, width=width), "--tolerance", 0.5)[0] == 0
    )


@pytest.mark.parametrize(
    ("better", "old", "new", "worse_by"),
    [("lower", 2.0, 3.0, 1.0), ("higher", 2.0, 3.0, -1.0), ("true", 1.0, 0.0, 1.0), ("true", 0.0, 1.0, -1.0)],
)
def test_which_way_is_worse(benchmark: Benchmark, better: str, old: float, new: float, worse_by: float) -> None:
    figure = benchmark("figures").Figure("x", better)
    change = benchmark("changes").Change("what", figure, old, new, None)
    assert change.worse_by == worse_by
    assert change.fails(0.6 if better == "true" else 0.1) == (worse_by > 0), "what must hold is never tolerated"


def test_errors_on_either_side_count_by_their_size(benchmark: Benchmark) -> None:
    error = benchmark("figures").PRICES[0]
    assert error.value({"error": -0.2}) == 0.2 and error.value({"error": None}) is None and error.value({}) is None


def test_noise_is_taken_from_intervals_or_from_the_slowest_and_fastest(benchmark: Benchmark) -> None:
    figures = benchmark("figures")
    assert figures.ATTACH[0].noise({"95 %": [0.9, 1.1]}) == pytest.approx(0.1)
    assert figures.ATTACH[0].noise({"95 %": None}) is None
    (seconds,) = figures.ROWS["import_time"].figures
    assert seconds.noise({"fastest": 0.1, "slowest": 0.3}) == pytest.approx(0.1) and seconds.noise({}) is None


@pytest.mark.parametrize(
    "other", [{"processor": "another"}, {"threads": "4"}, {"device": "cuda"}, {"dtype": "bfloat16"}]
)
def test_two_machines_are_not_compared_unless_asked(
    result: Files, compare: Callable[..., tuple[int, str]], other: dict[str, str]
) -> None:
    files = result("old.json", 1.0), result("new.json", 1.0, **other)
    status, said = compare(*files)
    ((name, value),) = other.items()
    assert status == 2 and f"{name}: {HERE[name]} and {value}" in " ".join(said.split()) and "--anyway" in said
    status, said = compare(*files, "--anyway")
    assert status == 0 and f"not the same: {name}: {HERE[name]} and {value}" in said


def test_other_versions_and_settings_are_said(result: Files, compare: Callable[..., tuple[int, str]]) -> None:
    status, said = compare(result("old.json", 1.0), result("new.json", 1.0, torch="2.14"))
    assert status == 0 and "not the same: torch: 2.13 and 2.14" in said
    assert "rounds" not in said and "load" not in said and "out:" not in said


def test_rows_of_one_side_only_are_named(result: Files, compare: Callable[..., tuple[int, str]]) -> None:
    status, said = compare(result("old.json", 1.0, 1.0), result("new.json", 1.0))
    assert status == 0 and "only in OLD: attach_overhead, dtype float32, batch 32" in said and "1 figures" in said


def test_folders_are_compared_file_by_file(
    result: Files, compare: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    for name, ratio in (("old/a.json", 1.0), ("old/b.json", 1.0), ("new/a.json", 1.0), ("new/b.json", 2.0)):
        result(name, ratio)
    result("new/c.json", 1.0)
    status, said = compare(tmp_path / "old", tmp_path / "new")
    assert status == 1 and "2 figures, 1 worse" in said
    assert f"only in {tmp_path / 'new'}: c.json" in " ".join(said.split())


def test_what_cannot_be_compared_is_refused(
    result: Files, compare: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    right = result("a.json", 1.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "other.json").write_text("{}")
    for other, reason in (
        (result("b.json", 1.0, benchmark="speedup"), "compare two results of one benchmark"),
        (result("c.json", 1.0, benchmark="drop_bounds"), "no figures to compare"),
        (tmp_path / "empty", "both be files or both be folders"),
        (tmp_path / "no.json", "cannot read"),
        (tmp_path / "absent.json", "cannot read"),
        (tmp_path / "other.json", "is not a result of a benchmark"),
    ):
        status, said = compare(right, other)
        assert status == 2 and reason in " ".join(said.split()), reason
    status, said = compare(tmp_path / "empty", tmp_path)
    assert status == 2 and "no JSON file of the same name" in " ".join(said.split())


def test_every_result_in_the_repository_can_be_compared(benchmark: Benchmark) -> None:
    """And has what its layout looks for: a column that was renamed would be compared no longer, unseen."""
    changes = benchmark("changes")
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        read = changes.read(path)
        found, alone = changes.changes(read, read)
        assert found and not alone, path.name
        compared = {change.figure.column for change in found}
        for layout, rows in read.tables.values():
            assert all(name in row for row in rows for name in layout.key), path.name
            known = {figure.column for figure in layout.figures}
            assert known - compared <= {"pass / repeated"}, path.name
        assert all(change.worse_by == 0 and math.isfinite(change.old) for change in found)


def test_parts_of_the_gpu_benchmark_are_those_that_are_compared(benchmark: Benchmark) -> None:
    measured: Any = {"kernels", "proofs", "training", "native", *benchmark("gpu.parts").PARTS}
    assert benchmark("figures").PARTS.keys() == measured
