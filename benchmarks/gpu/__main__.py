"""Measure on one accelerator, in ten minutes, what the README claims for a CPU; write one JSON file.

Measured are: exactness of every attention backend for rows of different lengths, for attention alone and for whole
models; attach overhead, speed-up against the prediction by FLOPs, decisions, prices and peak memory, for a ViT-B/16 at
224 pixels and a BERT-base at 128 and 512 tokens with random weights, in batches of 64 and 320; and a short training of
the embedded model. Compared passes are timed in alternation, and the device is synchronised before the clock is read.

The results list what did not fit into --minutes and what cannot run on the device. Not run on a GPU yet.

    python -m benchmarks.gpu --out benchmarks/results/gpu.json
    python -m benchmarks.gpu --device cpu --small
"""

import argparse
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.gpu import cases, kernels, parts, training
from benchmarks.gpu.journal import Journal
from benchmarks.results import begin, console, options, show
from rltr.errors import RltrError
from rltr.evaluate.system_info import system_info
from rltr.runtime.backbone import Backbone
from rltr.runtime.kernels import BACKENDS
from rltr.system.device import pick_device

PROOF_SECONDS = 10.0
"""Assumed seconds of one proof."""


def heading(args: argparse.Namespace, backbone: Backbone, device: torch.device) -> dict[str, Any]:
    """Name, environment and settings for the results file."""
    environment = system_info(backbone, torch.get_num_threads())
    try:
        environment["flash-attn"] = version("flash-attn")
    except PackageNotFoundError:
        environment["flash-attn"] = "not installed"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        environment |= {
            "cuda": str(torch.version.cuda),
            "capability": f"{properties.major}.{properties.minor}",
            "device memory": f"{properties.total_memory / 2**30:.1f} GiB",
        }
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    return {"benchmark": "gpu", "environment": environment, "settings": settings}


def measure(args: argparse.Namespace, device: torch.device) -> Journal:
    """Measure everything; exactness comes first, because figures of an inexact pass would mean nothing."""
    dtype = getattr(torch, args.dtype)
    models = cases.Models.on(device, dtype, args.small)
    journal = Journal(heading(args, models.images, device), args.out, 60 * args.minutes)
    prove_kernels(journal, device, args.small)
    prove_models(journal, device, dtype, args.small)
    batches = args.batch or (cases.SMALL_BATCHES if args.small else cases.BATCHES)
    lengths = cases.SMALL_LENGTHS if args.small else cases.LENGTHS
    updates, rows, examples = (1, 8, 16) if args.small else (20, None, 1000)
    train = partial(training.train, device, updates, rows, examples, seconds=60 * args.minutes / 10)
    journal.run("training", "embedded", 60 * args.minutes / 10, train)
    for case in models.cases(batches, lengths):
        measure_case(journal, case, args.rounds)
    journal.write()
    return journal


def prove_kernels(journal: Journal, device: torch.device, small: bool) -> None:
    """Check attention alone, in every precision."""
    for dtype in kernels.DTYPES:
        name = str(dtype).removeprefix("torch.")
        for backend in BACKENDS:
            reason = kernels.refusal(backend, device, dtype)
            if reason is not None:
                journal.leave_out("kernels", f"{backend}, {name}", reason)
        journal.run("kernels", name, 0, partial(kernels.measure, device, dtype, kernels.shape(small)))


def prove_models(journal: Journal, device: torch.device, dtype: torch.dtype, small: bool) -> None:
    """Check whole models, in float32 and in the precision of the timings."""
    estimate = 0.0 if small else PROOF_SECONDS
    for precision in dict.fromkeys((torch.float32, dtype)):
        models = cases.Models.on(device, precision, small)
        for backend in BACKENDS:
            if kernels.refusal(backend, device, precision) is not None:
                continue  # prove_kernels has listed it
            for name, backbone in (("images", models.images), ("texts", models.texts)):
                unit = f"{name}, {str(precision).removeprefix('torch.')}, {backend}"
                longest = 16 if small else 128
                journal.run("proofs", unit, estimate, partial(parts.check_exact, backbone, backend, 4, longest))


def measure_case(journal: Journal, case: cases.Case, rounds: int) -> None:
    """Measure all parts for one model and batch."""
    native = journal.run("native", case.name, 0, lambda: [{"native s": case.native_seconds()}])
    for name, part in parts.PARTS.items():
        if not native:
            journal.leave_out(name, case.name, "the native pass to compare with was not measured")
        elif name == "memory" and case.backbone.device.type == "cpu":
            reason = "torch records peak memory on accelerators only; for a CPU, use benchmarks.merge_memory"
            journal.leave_out(name, case.name, reason)
        else:
            estimate = native[0]["native s"] * part.passes(rounds)
            journal.run(name, case.name, estimate, partial(part.measure, case, rounds))


def main() -> int:
    parser = options(__doc__, rounds=10)
    parser.add_argument("--device", default="auto", help="as in rltr; auto is the first accelerator")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", help="inputs per pass (default: 64 and 320)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="time limit; what would exceed it is left out (default 10)"
    )
    parser.add_argument("--small", action="store_true", help="small models and few rounds, for a trial on any device")
    args = begin(parser)
    try:
        device = pick_device(args.device)
    except RltrError as error:
        parser.error(str(error))
    if device.type == "cpu" and not args.small:
        parser.error("there is no accelerator here, and whole models take hours on a CPU: add --small for a trial")
    if args.small:
        args.rounds = min(args.rounds, 2)
    journal = measure(args, device)
    for name, rows in journal.parts.items():
        if rows:
            show(name, rows)
    for failure in journal.failed:
        console.print(f"[red]failed: {failure['part']}, {failure['unit']}: {failure['error']}")
    inexact = [row for part in ("kernels", "proofs") for row in journal.parts.get(part, []) if not row["met"]]
    for row in inexact:
        console.print(f"[red]not exact: {dict(row)}")
    took = sum(journal.seconds.values()) / 60
    console.print(f"{took:.1f} minutes; {len(journal.left_out)} left out, {len(journal.failed)} failed")
    return 1 if journal.failed or inexact else 0


if __name__ == "__main__":
    sys.exit(main())
