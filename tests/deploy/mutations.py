"""Damages policy folders in many ways and classifies the results: ``python -m tests.deploy.mutations``.

It is a program of its own, without the type checks of tests, so that its results are those of a user.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

import rltr
from rltr.cost import FlopsCost, LatencyCost, Machine
from rltr.cost.curve import Curve
from rltr.cost.table import Table
from rltr.deploy import CalibrationPoint, Policy, describe, save_policy
from rltr.deploy.folder import CONFIG, WEIGHTS
from rltr.deploy.schema import DECIDE, digest_of_settings
from rltr.errors import RltrError
from rltr.policies import PolicyConfig, TokenPolicy
from rltr.tasks.models import load_model

Change = Callable[[random.Random, Path, Path], object]
"""Changes the first folder; the second is that of another policy, and must not change."""

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 10**6, 2**31, 2**53 + 1, 2**63, 2**64, 10**400),
    *(0.0, -0.0, 0.5, 1.0, -1.5, 1e30, -1e30, 1e-320, float("inf"), float("-inf"), float("nan")),
    *("", "x", "1", "nan", "first", "drop", "\ud800", "\0", "é" * 5000, "../..", "a" * 64),
    *([], [None], [0], [1, 0], [10**400], {}, {"a": 1}, {"name": "flops"}, [[[[]]]]),
]
TEXTS = [b"NaN", b"1e999", b"-Infinity", b"1" + b"0" * 5000, b"[" * 3000, b'{"a":' * 3000, b"'x'", b"01", b"0x10", b""]
WISHES = [{"budget": 0.6}, {"max_drop": 0.05}]
LIMIT = 30
"""Seconds after which loading counts as hanging."""


def make_policy(backbone: rltr.Backbone, seed: int) -> Policy:
    """A policy that drops some tokens, with prices of one kind or the other."""
    torch.manual_seed(seed)
    config = PolicyConfig(backbone.width, backbone.depth, 197, backbone.family.pooled, width=8)
    network = TokenPolicy(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    counts, seconds = (1, 64, 197), (1e-5, 1e-4, 4e-4 + seed * 1e-5)
    machine = Machine("cpu", "a processor", None, "2", "float32", 1)
    table = Curve(1e-5, 1e-6, 1e-9, 197, 0.05) if seed == 2 else Table(counts, seconds)
    latency = LatencyCost(machine, 8, "today", ("layer",) * backbone.depth, {"layer": table}, table, 1e-6, 1.1)
    cost = FlopsCost.count(backbone.layers, 5000, 50) if seed % 2 else latency
    points = [(0.01, 0.9, 0.82, 0.02), (0.1, 0.6, 0.81, 0.04), (1.0, 0.3, 0.7, 0.2)]
    calibration = [CalibrationPoint(weight, paid, good, 0.83, lost, 0.9, 500) for weight, paid, good, lost in points]
    recipe = {"learner": {"rollouts": 64, "seed": seed}, "data": {"source": "embedded", "labels": "read"}}
    facts = {"table": [{"accuracy": "80%", "time": "0.5×"}], "environment": "torch 2"}
    return Policy(network, (0, 2 + seed % 2), "merge", cost, 197, describe(backbone), calibration, recipe, facts)


def reseal(folder: Path) -> None:
    """Store digests that match the changed files, as an attacker would."""
    files = [folder / CONFIG, folder / WEIGHTS]
    if not all(file.is_file() and file.stat().st_size < 10**7 for file in files):
        return
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        config["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        config["settings_sha256"] = digest_of_settings(config)
        (folder / CONFIG).unlink()  # it may be a link to another policy's file, which must not change
        (folder / CONFIG).write_text(json.dumps(config))
    except (ValueError, TypeError, KeyError, OSError, RecursionError):
        return  # it is not a config any more and has no digests


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a JSON tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path] * bool(path) + [place for key, value in inner for place in places(value, (*path, key))]


def edit_config(change: Callable[[random.Random, Any, Any], object]) -> Change:
    """A change at a random place (a dictionary or list) of the config, at one of its keys."""

    def edit(draw: random.Random, folder: Path, other: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        # Half of the changes are outside of the recipe, whose many fields would otherwise get nearly all.
        among = [place for place in places(config) if draw.random() < 0.5 or place[0] in DECIDE]
        *parents, key = draw.choice(among or places(config))
        inside = config
        for parent in parents:
            inside = inside[parent]
        change(draw, inside, key)
        (folder / CONFIG).write_text(json.dumps(config))

    return edit


def repeat(draw: random.Random, inside: Any, key: Any) -> None:
    """Repeat the end of a list."""
    if isinstance(inside, list):
        inside.extend(inside[key:])


def reverse(draw: random.Random, inside: Any, key: Any) -> None:
    """Reverse a list."""
    if isinstance(inside, list):
        inside.reverse()


def put_text(draw: random.Random, folder: Path, other: Path) -> None:
    """Replace a value by text that is not JSON, or not JSON for every parser."""
    config = json.loads((folder / CONFIG).read_text())
    *parents, key = draw.choice(places(config))
    inside = config
    for parent in parents:
        inside = inside[parent]
    inside[key] = "HERE"
    (folder / CONFIG).write_bytes(json.dumps(config).encode().replace(b'"HERE"', draw.choice(TEXTS), 1))


def twice(draw: random.Random, folder: Path, other: Path) -> None:
    """Give a key a second time, with another value."""
    text = (folder / CONFIG).read_text()
    key = draw.choice(list(json.loads(text)))
    (folder / CONFIG).write_text("{" + f'"{key}": {json.dumps(draw.choice(VALUES[:14]))}, ' + text.lstrip()[1:])


def edit_bytes(name: str) -> list[Change]:
    """Damage to a file as a whole."""

    def of(change: Callable[[random.Random, bytearray], bytes | bytearray]) -> Change:
        def edit(draw: random.Random, folder: Path, other: Path) -> None:
            (folder / name).write_bytes(change(draw, bytearray((folder / name).read_bytes())))

        return edit

    def flip(draw: random.Random, content: bytearray) -> bytearray:
        for _ in range(draw.choice([1, 1, 1, 3, 50])):
            # Half of them at the beginning, where the weights' header is.
            content[draw.randrange(draw.choice([len(content), min(len(content), 2000)]))] ^= 1 << draw.randrange(8)
        return content

    return [
        of(flip),
        of(flip),
        of(lambda draw, content: content[: draw.randrange(len(content))]),
        of(lambda draw, content: content + bytes(draw.randrange(1, 100))),
        of(lambda draw, content: draw.randbytes(draw.choice([0, 1, 8, 100, 5000]))),
        of(lambda draw, content: content.decode("latin-1").encode("utf-16")),
        of(lambda draw, content: b"\xef\xbb\xbf" + content),
    ]


def huge(place: Path, twin: Path) -> None:
    """A sparse file with a size of a terabyte."""
    place.touch()
    os.truncate(place, 2**40)


def edit_place(name: str) -> list[Change]:
    """Replace a file by something else."""

    def instead(make: Callable[[Path, Path], object]) -> Change:
        def edit(draw: random.Random, folder: Path, other: Path) -> None:
            shutil.move(folder / name, folder / f"old {name}")
            make(folder / name, other / name)

        return edit

    return [
        instead(lambda place, twin: None),
        instead(lambda place, twin: place.mkdir()),
        instead(lambda place, twin: place.touch()),
        instead(lambda place, twin: place.symlink_to("/dev/zero")),
        instead(lambda place, twin: place.symlink_to("/dev/stdin")),
        instead(lambda place, twin: place.symlink_to("/proc/self/mem")),
        instead(lambda place, twin: place.symlink_to(place)),
        instead(lambda place, twin: place.symlink_to(place.parent)),
        instead(lambda place, twin: place.symlink_to("nowhere")),
        instead(lambda place, twin: place.symlink_to(twin)),
        instead(lambda place, twin: place.symlink_to(place.with_name(f"old {name}"))),
        instead(lambda place, twin: os.mkfifo(place)),
        instead(huge),
        instead(lambda place, twin: shutil.copy(twin, place)),
        instead(lambda place, twin: place.write_bytes((twin.parent / CONFIG).read_bytes())),
    ]


def edit_tensors(change: Callable[[random.Random, dict[str, Any], str], object]) -> Change:
    """A change of one of the weights."""

    def edit(draw: random.Random, folder: Path, other: Path) -> None:
        tensors = load((folder / WEIGHTS).read_bytes())
        change(draw, tensors, draw.choice(sorted(tensors)))
        (folder / WEIGHTS).write_bytes(save({name: value.contiguous() for name, value in tensors.items()}))

    return edit


DTYPES = [torch.int32, torch.int64, torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.float64]
NUMBERS = [float("nan"), float("inf"), float("-inf"), 3e38, 1e30, 1e7]


def put(draw: random.Random, tensors: dict[str, Any], name: str) -> None:
    """Put NaN, an infinite or a huge number into one place or all."""
    flat = tensors[name].view(-1)
    flat[draw.randrange(len(flat)) if draw.random() < 0.5 else slice(None)] = draw.choice(NUMBERS)


TENSORS = [
    edit_tensors(put),
    edit_tensors(put),
    edit_tensors(lambda draw, tensors, name: tensors.update({name: tensors[name].to(draw.choice(DTYPES))})),
    edit_tensors(lambda draw, tensors, name: tensors.update({n: v.to(torch.int32) for n, v in tensors.items()})),
    edit_tensors(lambda draw, tensors, name: tensors.update({name: tensors[name].flatten()})),
    edit_tensors(lambda draw, tensors, name: tensors.update({name: tensors[name][None]})),
    edit_tensors(lambda draw, tensors, name: tensors.update({name: tensors[name].flatten()[:0]})),
    edit_tensors(lambda draw, tensors, name: tensors.update({name: torch.cat([tensors[name].flatten()] * 9)})),
    edit_tensors(lambda draw, tensors, name: tensors.update({f"{name}x": tensors.pop(name)})),
    edit_tensors(lambda draw, tensors, name: tensors.update({draw.choice(["x", "", "é" * 99]): torch.ones(3)})),
    edit_tensors(lambda draw, tensors, name: tensors.pop(name)),
    edit_tensors(lambda draw, tensors, name: tensors.clear()),
    edit_tensors(lambda draw, tensors, name: tensors.update({name: tensors[name] + 0.1})),
]
FIELDS = [
    *[edit_config(lambda draw, inside, key: inside.__setitem__(key, draw.choice(VALUES)))] * 6,
    edit_config(lambda draw, inside, key: inside.__delitem__(key)),
    edit_config(lambda draw, inside, key: isinstance(inside, dict) and inside.update({f"{key}s": inside[key]})),
    edit_config(repeat),
    edit_config(reverse),
    edit_config(lambda draw, inside, key: inside.__setitem__(key, [inside[key]])),
    edit_config(
        lambda draw, inside, key: isinstance(inside[key], int | float) and inside.__setitem__(key, -inside[key])
    ),
    edit_config(
        lambda draw, inside, key: isinstance(inside[key], int | float) and inside.__setitem__(key, inside[key] * 1e3)
    ),
]
CHANGES: dict[str, list[Change]] = {
    "field": FIELDS,
    "JSON": [put_text, twice],
    "config": edit_bytes(CONFIG),
    "weights": edit_bytes(WEIGHTS),
    "tensor": TENSORS,
    "place of config": edit_place(CONFIG),
    "place of weights": edit_place(WEIGHTS),
}


class Hangs(BaseException):
    """Loading took longer than :data:`LIMIT`."""


def stop(*_: object) -> None:
    raise Hangs


def outcome(model: Any, folder: Path, wish: dict[str, float], inputs: torch.Tensor, sound: torch.Tensor) -> str:
    """Result of using a folder: refused, sound, other outputs, no numbers, or the name of an unexpected error."""
    signal.alarm(LIMIT)
    try:
        with rltr.attach(model, folder, **wish), torch.no_grad():
            logits = model(pixel_values=inputs).logits
    except RltrError as error:
        return "refused" if "\n" not in str(error) and len(str(error)) < 2000 else "unreadable"
    except Exception as error:
        traceback.print_exc()
        return type(error).__name__
    except Hangs:
        return "hangs"
    finally:
        signal.alarm(0)
    if torch.equal(logits, sound):
        return "sound"
    return "other" if bool(logits.isfinite().all()) else "no numbers"


def run(count: int, seed: int) -> dict[str, Any]:
    """Damage ``count`` folders; returns counts of results, by whether digests match, and the memory used."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, stop)
    model = load_model("embedded")
    size = model.config.image_size
    inputs = torch.randn(2, model.config.num_channels, size, size, generator=torch.Generator().manual_seed(0))
    place = Path(tempfile.mkdtemp())
    kept, sounds = [], []
    for which in range(3):
        save_policy(make_policy(rltr.Backbone(model), which), place / str(which))
        kept.append(place / str(which))
        for wish in WISHES:
            with rltr.attach(model, kept[-1], **wish) as attachment, torch.no_grad():
                sounds.append(model(pixel_values=inputs).logits)
                assert attachment.kept is not None and 2 < attachment.kept.total < 2 * 197, (
                    "no token or every token was removed"
                )
    draw = random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    examples: dict[str, str] = {}
    for number in range(count):
        which = draw.randrange(3)
        folder = place / "mutated"
        shutil.copytree(kept[which], folder)
        kind = draw.choice(list(CHANGES))
        change = draw.randrange(len(CHANGES[kind]))
        CHANGES[kind][change](draw, folder, kept[(which + 1 + draw.randrange(2)) % 3])
        harm = draw.random() < 0.4
        if harm:
            reseal(folder)
        asked = draw.randrange(len(WISHES))
        ended = outcome(model, folder, WISHES[asked], inputs, sounds[len(WISHES) * which + asked])
        found["resealed" if harm else "as it is"][ended] += 1
        if ended not in ("refused", "sound"):
            examples.setdefault(f"{'resealed' if harm else 'as it is'}: {ended}", f"{number}: {kind} {change}")
        shutil.rmtree(folder)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    shutil.rmtree(place)
    return {"grown": grown, "ended": {kind: dict(counts) for kind, counts in found.items()}, "examples": examples}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    json.dump(run(arguments.count, arguments.seed), sys.stdout)
