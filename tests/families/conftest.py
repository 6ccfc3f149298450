"""Tiny models of every family, created once, and their answers."""

import pytest
import torch
from transformers import PreTrainedModel

from rltr.runtime.attention import current
from tests.zoo import ZOO, batch

_models: dict[str, PreTrainedModel] = {}


@pytest.fixture
def model(name):
    """A tiny model of the family, created once; fails if the test leaves it changed in any way."""
    if name not in _models:
        _models[name] = ZOO[name].build()
        with torch.no_grad():
            _models[name](**batch(ZOO[name]))  # transformers adds its own hooks when a model first runs
    model = _models[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    native, hooks = model.config._attn_implementation, count_hooks(model)
    yield model
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "weights were changed"
    assert count_hooks(model) == hooks, "hooks were left"
    assert model.config._attn_implementation == native
    assert current.get() is None


def count_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def answer(output):
    """The main output: logits, or hidden states for a model without a head."""
    return next(
        output[name] for name in ("logits", "last_hidden_state", "pooler_output") if output.get(name) is not None
    )


def answers(output):
    """All outputs of the model, its head and its pooler."""
    names = ("logits", "last_hidden_state", "pooler_output")
    return {name: output[name] for name in names if output.get(name) is not None}


def real(value, trace, row=None):
    """Entries of real tokens if a model answers for every token; answers for padding are never read.

    Only entries of one row if ``row`` is given.
    """
    present = trace.stages[0].present
    if row is not None:
        value, present = value[[row]], present[[row]]
    if value.ndim == 3 and value.shape[:2] == present[:, 1:].shape:  # an answer for all but the first token
        return value[present[:, 1:]]
    return value[present] if value.ndim == 3 and value.shape[:2] == present.shape else value
