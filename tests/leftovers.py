"""Tests are independent of their order: shared fixtures start from one random state, and tests must undo their changes.

A change that a test leaves behind makes another test fail, and only in some orders. With these hooks the test that
left the change fails, in any order.
"""

import logging
import os
import random
import signal
import sys
import weakref
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rltr.cost import COST_MODELS
from rltr.runtime.families import FAMILIES
from rltr.selectors import BASELINES
from rltr.tasks import KINDS

REGISTRIES: dict[str, Any] = {"baselines": BASELINES, "cost models": COST_MODELS, "families": FAMILIES, "tasks": KINDS}


def reset_random_state() -> None:
    """Reset every global random state, and torch to one thread; jobs set the number of threads of their recipe."""
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


class Watched:
    """State of a shared model when it was created."""

    def __init__(self, model: nn.Module, fixture: str = "") -> None:
        self.model, self.fixture = weakref.ref(model), fixture
        self.tensors = {name: tensor.detach().clone() for name, tensor in _tensors(model)}
        self.modes = _modes(model)

    def changes(self, model: nn.Module) -> list[str]:
        """Differences between the model now and when it was created."""
        found = []
        now = dict(_tensors(model))
        for name, copy in self.tensors.items():
            if not (name in now and now[name].dtype == copy.dtype and torch.equal(now[name], copy)):
                found.append(f"{name} was changed")
        found += [f"{name} was added" for name in now.keys() - self.tensors.keys()]
        modes = _modes(model)
        return found + [
            f"{key} was {self.modes[key]} and is {modes[key]}" for key in modes if modes[key] != self.modes[key]
        ]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


def _modes(model: nn.Module) -> dict[str, object]:
    modules = dict(model.named_modules())
    hooked = [
        name
        for name, module in modules.items()
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    ]
    return {
        "in training mode": [name for name, module in modules.items() if module.training],
        "hooked": hooked,
        "trainable": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "attention": getattr(getattr(model, "config", None), "_attn_implementation", None),
    }


_watched: list[Watched] = []


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Create shared fixtures from the same random state, whichever test needs them first, and watch shared models."""
    if fixturedef.scope == "function":
        return (yield)
    reset_random_state()
    made = yield
    model = made if isinstance(made, nn.Module) else getattr(made, "model", None)
    if isinstance(model, nn.Module):
        _watched.append(Watched(model, fixturedef.argname))
    return made


IMPORTS = {"PYTEST_CURRENT_TEST", "PYGAME_HIDE_SUPPORT_PROMPT", "TOKENIZERS_PARALLELISM"}
"""Environment variables that pytest and libraries change."""

PROCESS: dict[str, Callable[[], object]] = {
    "torch's default dtype": torch.get_default_dtype,
    "torch's matmul precision": torch.get_float32_matmul_precision,
    "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "gradients": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "working directory": os.getcwd,
    "environment": lambda: {key: value for key, value in os.environ.items() if key not in IMPORTS},
    "umask": lambda: _umask(),
    "Ctrl-C": lambda: signal.getsignal(signal.SIGINT),
    "SIGTERM": lambda: signal.getsignal(signal.SIGTERM),
    "arguments": lambda: list(sys.argv),
    "loggers": lambda: {
        name: (logger.level, logger.propagate, logger.disabled)
        for name in ("", "rltr", "transformers", "huggingface_hub", "datasets")
        if (logger := logging.getLogger(name))
    },
    "registries": lambda: {name: list(table) for name, table in REGISTRIES.items()},
}
"""State of the process, by name."""


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _difference(before: object, after: object) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
        before, after = {key: before.get(key) for key in keys}, {key: after.get(key) for key in keys}
    return f"{before} became {after}"


_before: dict[str, object] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Record the state of the process before a test and its fixtures."""
    _before.update((name, look()) for name, look in PROCESS.items())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """Fail a test that leaves the process or a shared model changed after its fixtures are gone."""
    result = yield
    after = {name: look() for name, look in PROCESS.items()}
    left = [f"{name}: {_difference(_before[name], after[name])}" for name in after if _before[name] != after[name]]
    for watched in [*_watched]:
        if (model := watched.model()) is None:
            _watched.remove(watched)
        elif watched.fixture in getattr(item, "fixturenames", ()) and (changes := watched.changes(model)):
            _watched.remove(watched)  # report the change once, for the test that made it
            left += [f"{type(model).__name__}: {change}" for change in changes]
    assert not left, "left behind: " + "; ".join(left)
    return result
