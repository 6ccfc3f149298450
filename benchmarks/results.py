"""Command-line options and output that all benchmarks share."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from rltr.evaluate.system_info import system_info
from rltr.runtime.backbone import Backbone
from rltr.system.files import atomic_write
from rltr.system.memory import keep_freed_memory

console = Console()
# The default width for log files is too small for the tables.
console.width = max(console.width, 150)


def options(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """Build a parser with the options of every benchmark; ``rounds`` is the default number of timed rounds."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"timed rounds of alternation (default {rounds})")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    return parser


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, set threads, seed and allocator, and warn if the processor is busy."""
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if hasattr(os, "getloadavg"):
        args.load = os.getloadavg()[0]
        if args.load > 0.5:
            console.print(
                f"[yellow]load average is {args.load:.1f}: for reliable figures, wait until the machine is idle"
            )
    return args


def finish(
    args: argparse.Namespace, backbone: Backbone, rows: Sequence[Mapping[str, Any]], **more: Any
) -> dict[str, Any]:
    """Print the rows as a table, and write them with settings and environment to ``--out``.

    Args:
        args: from :func:`begin`.
        backbone: the measured model, for device and precision.
        rows: mappings with the same keys.
        more: further entries for the JSON file.
    """
    name = Path(sys.argv[0]).stem
    show(name, rows)
    found = {
        "benchmark": name,
        "environment": system_info(backbone, torch.get_num_threads()),
        "settings": {key: value for key, value in vars(args).items() if key != "out"},
        "rows": rows,
        **more,
    }
    if args.out:
        write(args.out, found)
        console.print(f"written to {args.out}")
    return found


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with the same keys as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write results as JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, tuple):  # an interval
        return "–".join(_cell(part) for part in value)
    if isinstance(value, list):
        return " ".join(_cell(part) for part in value)
    return "" if value is None else str(value)
