"""Damaged checkpoints are refused in one line and leave the learner unchanged, or load as they were written."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.logger import Logger
from torch import Tensor

from rltr.envs import TokenSelectionVecEnv, make_episodes
from rltr.errors import RltrError
from rltr.policies import PolicyConfig
from rltr.runtime.backbone import Backbone
from rltr.train.checkpoint import FACTS, TENSORS, read_facts, restore_checkpoint, save_checkpoint
from rltr.train.checkpoint_facts import facts_digest, file_digest
from rltr.train.token_ppo import TokenPPO
from tests.test_checkpoint import state

LAYERS = (1, 2)
MUTATIONS = 300
NUMBERS: list[Any] = [-1, 0, 1, 3, 7, 2**31, 2**63, 2**128, 10**40, -0.5, 0.5, 1.5, 1e300, float("nan"), float("inf")]
VALUES: list[Any] = [*NUMBERS, None, True, "", "PCG64", "x", [], {}, [1], {"a": 1}, "0" * 64]


def make(tiny_vit: Any, tiny_task: Any) -> TokenPPO:
    backbone = Backbone(tiny_vit)
    env = TokenSelectionVecEnv(make_episodes(backbone, tiny_task.train, rows=8, layers=LAYERS, group_size=4))
    ppo = TokenPPO(env, PolicyConfig(backbone.width, backbone.depth, 17, width=8), seed=0)
    ppo.set_logger(Logger(None, []))
    return ppo


@pytest.fixture
def learner(tiny_vit: Any, tiny_task: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TokenPPO, Path]]:
    """A learner, and two checkpoints of it, ``1`` and ``2``."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    ppo = make(tiny_vit, tiny_task)
    for name in ("1", "2"):
        ppo.learn(8 * len(LAYERS), reset_num_timesteps=name == "1")
        save_checkpoint(folder / name, ppo, {"cost": {"name": "flops"}, "origin": {"model": "0" * 64}})
    yield ppo, folder
    ppo.get_env().close()  # type: ignore[union-attr]


def everything(ppo: TokenPPO) -> dict[str, Any]:
    """Everything that a checkpoint restores."""
    dense = ppo.episodes.dense
    counters = [ppo.num_timesteps, ppo._n_updates, vars(ppo.deviation)]
    generators = [generator.bit_generator.state for generator in ppo.episodes._generators]
    tensors = {
        **state(ppo),
        "known": dense.known,
        "logits": dense.answers[dense.known],
        "random": torch.get_rng_state(),
    }
    return {"plain": json.dumps([counters, generators]), **{name: value.clone() for name, value in tensors.items()}}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        for name, value in one.items()
    )


def flip_bit(folder: Path, draw: random.Random) -> None:
    file = folder / draw.choice([FACTS, TENSORS])
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def cut(folder: Path, draw: random.Random) -> None:
    file = folder / draw.choice([FACTS, TENSORS])
    content = file.read_bytes()
    start, length = draw.randrange(len(content)), draw.choice([1, 8, 500, len(content)])
    file.write_bytes(content[:start] + content[start + length :])


def insert(folder: Path, draw: random.Random) -> None:
    file = folder / draw.choice([FACTS, TENSORS])
    content = file.read_bytes()
    start = draw.randrange(len(content))
    file.write_bytes(content[:start] + draw.randbytes(draw.choice([1, 8, 300])) + content[start:])


def blank(folder: Path, draw: random.Random) -> None:
    """Write zeros, as in a file whose blocks were never written."""
    file = folder / draw.choice([FACTS, TENSORS])
    content = bytearray(file.read_bytes())
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice([8, 512, 4096, 10**6]))
    content[start:end] = bytes(end - start)
    file.write_bytes(content)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, name)
        if isinstance(value, dict | list):
            yield from places(value, (*path, name))


def change_fact(folder: Path, draw: random.Random) -> None:
    facts = json.loads((folder / FACTS).read_text())
    *parents, last = draw.choice(list(places(facts)))
    inner = facts
    for parent in parents:
        inner = inner[parent]
    action = draw.choice(["remove", "replace", "replace", "replace", "double"])
    if action == "remove":
        del inner[last]
    elif action == "replace":
        inner[last] = draw.choice(VALUES)
    elif isinstance(inner, dict):
        inner[f"{last}x"] = inner[last]
    else:
        inner.append(inner[last])
    (folder / FACTS).write_text(json.dumps(facts))


def change_tensor(folder: Path, draw: random.Random) -> None:
    tensors = load_file(folder / TENSORS)
    name = draw.choice(sorted(tensors))
    value = tensors[name].clone()
    floating = value.is_floating_point()
    choices: list[Callable[[], Any]] = [
        lambda: None,
        lambda: value.flatten()[:-1].clone(),
        lambda: value[None].clone(),
        lambda: value.to(torch.int32),
        lambda: value.to(torch.float64),
        lambda: value.to(torch.bool),
        lambda: -value if floating else ~value,
        lambda: torch.full_like(value, torch.nan) if floating else torch.zeros_like(value),
        lambda: torch.full_like(value, -torch.inf) if floating else torch.ones_like(value),
        lambda: torch.zeros_like(value),
        lambda: value.flatten().roll(1).view_as(value).clone(),
        lambda: torch.zeros(0),
    ]
    changed = draw.choice(choices)()
    del tensors[name]
    if changed is not None:
        tensors[draw.choice([name, name, name, f"{name}x", "optimizer.99.step", "policy"])] = changed
    save_file(tensors, folder / TENSORS)


def drop_a_kind(folder: Path, draw: random.Random) -> None:
    prefix = draw.choice(["optimizer.", "policy.", "dense.", "random.", "optimizer.0.", "policy.network.keep"])
    tensors = {name: value for name, value in load_file(folder / TENSORS).items() if not name.startswith(prefix)}
    save_file(tensors, folder / TENSORS)


def mix(folder: Path, draw: random.Random) -> None:
    """Take one file from another checkpoint of the same training."""
    name = draw.choice([FACTS, TENSORS])
    shutil.copy(folder.parent / "1" / name, folder / name)


def lose(folder: Path, draw: random.Random) -> None:
    (folder / draw.choice([FACTS, TENSORS])).unlink()


def odd_file(folder: Path, draw: random.Random) -> None:
    file = folder / draw.choice([FACTS, TENSORS])
    file.unlink()
    make: list[Callable[[Path], Any]] = [Path.touch, Path.mkdir, lambda path: path.write_bytes(b"[" * 100_000)]
    make += [lambda path: path.write_bytes(b"9" * 10_000), lambda path: path.write_bytes(b"\xff\xfe")]
    if os.name != "nt":
        make += [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)]
    draw.choice(make)(file)


KINDS = [flip_bit, cut, insert, blank, change_fact, change_fact, change_tensor, change_tensor, drop_a_kind, mix, lose]
KINDS += [odd_file]


def forge(folder: Path) -> None:
    """Make the digests match, so that only the content can be refused."""
    try:
        facts = json.loads((folder / FACTS).read_text())
        facts["tensors"] = file_digest(folder / TENSORS)
        facts["digest"] = facts_digest(facts)
        (folder / FACTS).write_text(json.dumps(facts))
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
        return  # too damaged to be forged


@pytest.mark.parametrize(("forged", "count"), [(False, MUTATIONS), (True, MUTATIONS // 2)], ids=["found", "forged"])
def test_damage_is_refused_or_without_effect(learner: Any, tmp_path: Path, forged: bool, count: int) -> None:
    ppo, folder = learner
    restore_checkpoint(folder / "1", ppo)
    other = everything(ppo)
    restore_checkpoint(folder / "2", ppo)
    sound = everything(ppo)
    assert not same(sound, other)
    refusals = 0
    shutil.copytree(folder / "1", tmp_path / "1")
    for number in range(count):
        draw = random.Random(number)
        kind = draw.choice(KINDS)
        here = tmp_path / f"damaged-{number}"
        shutil.copytree(folder / "2", here)
        kind(here, draw)
        if forged:
            if any(not (here / name).is_file() or (here / name).is_symlink() for name in (FACTS, TENSORS)):
                continue
            forge(here)
        if number == 0 or not same(everything(ppo), other):
            restore_checkpoint(folder / "1", ppo)
        try:
            restore_checkpoint(here, ppo)
        except RltrError as error:
            assert "\n" not in str(error) and "checkpoint" in str(error) and len(str(error)) < 700, (number, kind)
            assert same(everything(ppo), other), (number, kind, "the learner was changed")
            refusals += 1
        else:
            found = everything(ppo)
            if forged:  # another valid state, which no check can tell from a written one
                assert all(bool(v.isfinite().all()) for v in found.values() if isinstance(v, Tensor)), (number, kind)
                assert ppo.num_timesteps >= 0 and ppo._n_updates >= 0
            else:
                assert same(found, sound), (number, kind, "another policy")
        shutil.rmtree(here)
    assert refusals > count // 3


def test_an_inconsistent_state_is_refused_even_if_its_digests_match(learner: Any, tmp_path: Path) -> None:
    """Inconsistent states with matching digests, all of which once loaded without an error."""
    ppo, folder = learner

    def tensors_without(*prefixes: str) -> Callable[[Path], None]:
        def spoil(here: Path) -> None:
            kept = {name: value for name, value in load_file(here / TENSORS).items() if not name.startswith(prefixes)}
            save_file(kept, here / TENSORS)

        return spoil

    def too_few_answers(here: Path) -> None:
        tensors = load_file(here / TENSORS)
        save_file({**tensors, "dense.answers": tensors["dense.answers"][:1].clone()}, here / TENSORS)

    def with_fact(name: str, value: Any) -> Callable[[Path], None]:
        def spoil(here: Path) -> None:
            (here / FACTS).write_text(json.dumps({**json.loads((here / FACTS).read_text()), name: value}))

        return spoil

    cases: list[tuple[Callable[[Path], None], str]] = [
        (tensors_without("optimizer."), "missing or unexpected entries of the optimiser state"),
        (tensors_without("optimizer.0.exp_avg_sq"), "entries of the optimiser state: 0.exp_avg_sq"),
        (too_few_answers, "1 dense answers for"),
        (with_fact("timesteps", -16), "timesteps: .*greater than or equal to 0"),
        (with_fact("updates", -1), "updates: .*greater than or equal to 0"),
        (with_fact("updates", 0), "unexpected entries of the optimiser state"),
        (with_fact("timesteps", 17), "17 timesteps are not a whole number of updates"),
        (with_fact("timesteps", 16.0), "timesteps: .*valid integer"),
        (with_fact("deviation", {"decay": 2.0, "variance": 1.0, "weight": 0.5}), "deviation.decay"),
        (with_fact("format", 1), "another version of rltr"),
        (with_fact("more", 1), "more: Extra inputs"),
    ]
    for i, (spoil, said) in enumerate(cases):
        here = tmp_path / str(i)
        shutil.copytree(folder / "2", here)
        spoil(here)
        forge(here)
        with pytest.raises(RltrError, match=said):
            restore_checkpoint(here, ppo)


def test_facts_are_read_back_unchanged(learner: Any) -> None:
    _, folder = learner
    facts = read_facts(folder / "2")
    assert facts["extra"] == {"cost": {"name": "flops"}, "origin": {"model": "0" * 64}}
    assert facts["tensors"] == file_digest(folder / "2" / TENSORS) and facts["digest"] == facts_digest(facts)


def test_counters_continue_after_a_restore(learner: Any) -> None:
    """Updates, timesteps and the running deviation continue from the saved values."""
    ppo, folder = learner
    restore_checkpoint(folder / "1", ppo)
    first = (ppo.num_timesteps, ppo._n_updates, ppo.deviation.weight)
    restore_checkpoint(folder / "2", ppo)
    assert (ppo.num_timesteps, ppo._n_updates) == (2 * first[0], read_facts(folder / "2")["updates"])
    assert 0 < first[1] < ppo._n_updates and 0 < first[2] < ppo.deviation.weight
