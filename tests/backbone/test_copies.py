"""Copies of an attached model: deep copies are native; shallow copies, pickles and replicas are refused."""

import copy
import importlib
import io
import pickle
from typing import Any

import pytest
import torch
from torch.nn.parallel.replicate import replicate

import rltr
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from tests.backbone.conftest import PIXELS, untouched
from tests.deploy.conftest import policy_for

STORED: dict[str, Any] = {
    "pickle": pickle.dumps,
    "torch.save": lambda model: torch.save(model, io.BytesIO()),
    "its base": lambda model: pickle.dumps(model.base_model),
    "within a larger one": lambda model: pickle.dumps(torch.nn.Sequential(model)),
    "copy.copy": copy.copy,
    "copy.copy of its base": lambda model: copy.copy(model.base_model),
    "copy.copy of a layer": lambda model: copy.copy(model.vit.layers[0]),
    "replicas": lambda model: replicate(torch.nn.Sequential(model), [0, 1]),
    "replicas of its base": lambda model: replicate(model.base_model, [0, 1]),
    "replicas of its layers": lambda model: replicate(model.vit.layers, [0, 1]),
}


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("attached", ["policy", "backbone"])
def test_an_attached_model_refuses_pickling_and_shallow_copies(model, how, attached, monkeypatch):
    """A copy would share the wrappers, which run the original."""
    replicas_without_devices(monkeypatch)
    backbone = Backbone(model)
    with rltr.attach(model, policy_for(model), cost_weight=3.0) if attached == "policy" else backbone.attached():
        with pytest.raises(RltrError, match=r"rltr\.detach\(model\)"):
            STORED[how](model)
        assert model.state_dict().keys()
    STORED[how](model)


def replicas_without_devices(monkeypatch):
    """Patch ``replicate``, which DataParallel uses, to copy weights on the CPU instead of to other devices."""
    module = importlib.import_module("torch.nn.parallel.replicate")  # a function has that name, too
    monkeypatch.setattr(module, "_get_device_index", lambda device, _: device)
    monkeypatch.setattr(
        module,
        "_broadcast_coalesced_reshape",
        lambda tensors, devices, detach=False: [[tensor.clone() for tensor in tensors] for _ in devices],
    )


def test_shallow_copies_after_detaching_use_their_own_weights(model, monkeypatch):
    replicas_without_devices(monkeypatch)
    with torch.no_grad():
        wanted = model(pixel_values=PIXELS).logits
        with rltr.attach(model, policy_for(model), cost_weight=3.0):
            model(pixel_values=PIXELS)
        replica = replicate(model, [0, 1])[1]
        model.vit.layers[0].attention.q_proj.weight.zero_()
        model.vit.embeddings.cls_token.add_(1)
        assert torch.equal(replica(pixel_values=PIXELS).logits, wanted)
        copied = copy.copy(model.vit)
        copied._modules = dict(replica.vit._modules)
        states = copied(pixel_values=PIXELS).last_hidden_state
        assert torch.equal(states, replica.vit(pixel_values=PIXELS).last_hidden_state)


@pytest.mark.parametrize("part", ["whole", "base", "layer", "larger"])
def test_copies_of_any_part_are_native_and_use_their_own_weights(model, part):
    inputs = {"pixel_values": PIXELS}
    with torch.no_grad():
        base = model.vit(**inputs).last_hidden_state
        logits = model(**inputs).logits
        with rltr.attach(model, policy_for(model), cost_weight=3.0):
            if part == "whole":
                assert torch.equal(copy.deepcopy(model)(**inputs).logits, logits)
            elif part == "base":
                assert torch.equal(copy.deepcopy(model.vit)(**inputs).last_hidden_state, base)
            elif part == "layer":
                copied = copy.deepcopy(model.vit.layers[0])
                for parameter in copied.parameters():
                    parameter.zero_()
                states = torch.randn(2, 17, 32)
                assert torch.equal(copied(states), states), "only the residual is left"
                assert not torch.equal(model.vit.layers[0](states), states)
            else:
                copied = copy.deepcopy(torch.nn.ModuleDict({"inner": model, "other": torch.nn.Linear(2, 2)}))
                assert torch.equal(copied["inner"](**inputs).logits, logits) and untouched(copied["inner"])
