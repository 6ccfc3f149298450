"""Compare two results of the same benchmarks, before and after a change: is a figure better, worse, or unchanged?

OLD and NEW are JSON files of benchmarks or of ``rltr evaluate``, or folders of such files. In folders, files with the
same name are compared. A difference is within the noise if it is at most the combined 95 % intervals (the root of the
sum of the squares of their half widths). Figures without an interval are marked in the table.

Results from different machines, devices, precisions or numbers of threads are compared only with --anyway. The exit
status is 1 if a figure is worse by more than the noise and --tolerance, and 2 if the results cannot be compared.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.changes import Change, Results, changes, read
from rltr.errors import RltrError

console = Console()
console.width = max(console.width, 150)  # the default width for log files is too small for the tables
MACHINE = ("device", "processor", "system", "vector instructions", "threads", "dtype")
"""Parts of the environment that must be equal; otherwise a difference in times says nothing about the code."""
MAY_DIFFER = {"out", "load", "rounds", "minutes", "runs", "run", "policy", "cpu_clock", "quick"}
"""Settings that may differ without a note: length of the measurement, and paths."""


def differences(old: Results, new: Results) -> tuple[list[str], list[str]]:
    """List differences of the machine, which prevent a comparison, and other differences, which are only printed."""
    machine = [
        f"{name}: {old.environment.get(name, '?')} and {new.environment.get(name, '?')}"
        for name in MACHINE
        if old.environment.get(name) != new.environment.get(name)
    ]
    other = [
        f"{name}: {first.get(name)} and {second.get(name)}"
        for first, second, unlike in (
            (old.environment, new.environment, {*MACHINE, "date"}),
            (old.settings, new.settings, MAY_DIFFER),
        )
        for name in sorted(first.keys() | second.keys())
        if name not in unlike and first.get(name) != second.get(name)
    ]
    return machine, other


def pairs(old: Path, new: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pair the files to compare; also list the files that only one folder has.

    Raises:
        RltrError: if one is a folder and the other is not, or they share no file.
    """
    if old.is_dir() != new.is_dir():
        raise RltrError(f"{old} and {new} must both be files or both be folders")
    if not old.is_dir():
        return [(old, new)], []
    names = [{path.name for path in folder.glob("*.json")} for folder in (old, new)]
    if not names[0] & names[1]:
        raise RltrError(f"{old} and {new} have no JSON file of the same name: give folders of the same benchmarks")
    alone = [f"only in {folder}: {name}" for folder, own in zip((old, new), names, strict=True)
             for name in sorted(own - (names[0] & names[1]))]  # fmt: skip
    return [(old / name, new / name) for name in sorted(names[0] & names[1])], alone


def compare(old: Path, new: Path, anyway: bool) -> tuple[list[Change], list[str]]:
    """Compare two files; return the changes and notes to print.

    Raises:
        RltrError: if they are results of different benchmarks or, unless ``anyway``, from different machines.
    """
    before, after = read(old), read(new)
    if before.name != after.name:
        raise RltrError(
            f"{old} is a result of {before.name}, {new} of {after.name}: compare two results of one benchmark"
        )
    machine, other = differences(before, after)
    if machine and not anyway:
        raise RltrError(
            f"{old} and {new} were not measured under the same conditions ({'; '.join(machine)}), so a difference "
            "says nothing about the code. Measure again under the same conditions, or add --anyway"
        )
    found, alone = changes(before, after)
    return found, [*(f"not the same: {what}" for what in machine + other), *alone]


def show(title: str, found: Sequence[Change], tolerance: float) -> None:
    """Print changes as a table."""
    table = Table("what", "figure", "old", "new", "new / old", "noise", "verdict", title=title)
    for change in found:
        ratio = f"{change.new / change.old:.3f}" if change.old else ""
        noise = "" if change.noise is None else f"± {change.noise:.2g}"
        verdict = change.verdict(tolerance)
        color = "red" if change.fails(tolerance) else "green" if verdict.startswith("better") else ""
        numbers = (f"{change.old:.4g}", f"{change.new:.4g}", ratio, noise)
        table.add_row(change.what, change.figure.column, *numbers, f"[{color}]{verdict}" if color else verdict)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD", help="a result, or a folder of results")
    parser.add_argument("new", type=Path, metavar="NEW", help="the same, after the change")
    parser.add_argument(
        "--tolerance", type=float, default=0.02, help="accepted loss, as a fraction of the old value (default 0.02)"
    )
    parser.add_argument("--anyway", action="store_true", help="also compare results from different machines")
    args = parser.parse_args()
    try:
        paired, notes = pairs(args.old, args.new)
        compared = [(old, *compare(old, new, args.anyway)) for old, new in paired]
    except RltrError as error:
        console.print(f"[red]{error}", highlight=False)
        return 2
    for line in notes:
        console.print(line, highlight=False)
    for old, found, more in compared:
        show(old.stem, found, args.tolerance)
        for line in more:
            console.print(line, highlight=False)
    worse = [change for _, found, _ in compared for change in found if change.fails(args.tolerance)]
    console.print(f"{sum(len(found) for _, found, _ in compared)} figures, {len(worse)} worse beyond the noise")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
