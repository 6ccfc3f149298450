"""Changes that a test leaves behind are detected; changes that it undid are not reported."""

import os
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.leftovers import PROCESS, Watched


def _another_tensor(model: nn.Module) -> None:
    model.weight = nn.Parameter(torch.zeros(2, 3))


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "weight was changed": lambda model: next(model.parameters()).data.add_(1),
    "another one, weight was changed": _another_tensor,
    "dtype, weight was changed": lambda model: model.double(),
    "extra was added": lambda model: model.register_buffer("extra", torch.zeros(1)),
    "in training mode was": lambda model: model.train(),
    "trainable was": lambda model: model.requires_grad_(False),
    "hooked was": lambda model: model.register_forward_pre_hook(lambda module, args: None),
    "forward, hooked was": lambda model: vars(model).update(forward=model.forward),
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_changed_model_is_detected(said: str) -> None:
    model = nn.Linear(3, 2).eval()
    watched = Watched(model)
    model(torch.zeros(1, 3)).sum().backward()  # gradients do not count as a change
    assert watched.changes(model) == []
    CHANGES[said](model)
    assert any(said.rpartition(", ")[2] in change for change in watched.changes(model))


def test_undone_changes_are_not_reported() -> None:
    model = nn.Linear(3, 2).eval()
    watched = Watched(model)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
        model.weight.copy_(before)
    handle = model.train().register_forward_hook(lambda module, args, output: None)
    handle.remove()
    model.eval()
    assert watched.changes(model) == []


def test_changes_of_the_process_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: look() for name, look in PROCESS.items()}
    assert before == {name: look() for name, look in PROCESS.items()}
    monkeypatch.setenv("RLTR_LEFT_BEHIND", "1")
    monkeypatch.chdir("/")
    mask = os.umask(0o077)
    try:
        changed = {name for name, look in PROCESS.items() if look() != before[name]}
    finally:
        os.umask(mask)
    assert changed == {"environment", "working directory", "umask"}
