"""Tiny models of every supported family, inputs for them and a tiny task; one thread and fixed seeds for every test.

Take them as fixtures: ``tiny_vit`` (and its five siblings) with ``image_inputs`` or ``text_inputs``; ``case`` for what
is tested at length with six families; ``tiny_task`` for ``tiny_vit``. Models live as long as the session: leave them as
you found them (``case`` checks).
"""

import logging
from dataclasses import dataclass
from itertools import chain

import greenlet
import hypothesis
import jaxtyping._storage
import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from rltr.runtime.backbone import Backbone
from rltr.tasks import Task, TensorExamples
from tests import leftovers, marks

hypothesis.settings.register_profile("rltr", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("rltr")


def pytest_configure(config):
    """Have the hooks of ``leftovers`` called for everything: a conftest's own are not, for what a session shares."""
    config.pluginmanager.register(leftovers)
    config.pluginmanager.register(marks)


class PerGreenlet:
    """Attributes that every greenlet has for itself."""

    def __getattr__(self, name):
        try:
            return vars(greenlet.getcurrent())[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        vars(greenlet.getcurrent())[name] = value


# The shape checks of pyproject's --jaxtyping-packages keep one stack per thread, of the functions now running. A paused
# forward pass leaves that order, and its functions would be checked against the shapes of others.
vars(jaxtyping._storage)["_shape_storage"] = PerGreenlet()

SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 3}
IMAGE = {**SHAPE, "image_size": 16, "patch_size": 4}
TEXT = {**SHAPE, "vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0}
DISTIL = {
    "dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50, "max_position_embeddings": 32,
    "pad_token_id": 0, "num_labels": 3,
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def odd_processor():
    """Every test runs on a processor whose name means something in patterns, markup and tables: some do, as Intel(R)'s.

    So what only works with the name of the machine at hand fails everywhere.
    """
    name = "Intel(R) Xeon(R) | Processor* [x+y] <?> \\d"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rltr.system.machine.processor_name", lambda device: name)
        yield name


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    """Nothing that a test caches lies in the home of whoever runs it, nor is it there for another test."""
    monkeypatch.setenv("RLTR_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def fixed():
    """Every test starts from the same random state."""
    leftovers.start_afresh()


def heard(caplog):
    """The warnings, but for what a model that was never trained must hear: that its answers are by chance."""
    warnings = (record for record in caplog.records if record.levelno >= logging.WARNING)
    return [record.getMessage() for record in warnings if record.name != "rltr.tasks.goals.plausibility"]


@pytest.fixture
def told(caplog):
    """Call it for what rltr has logged since the last call, messages included, in one line."""
    caplog.set_level(logging.INFO, logger="rltr")
    seen = 0

    def lines():
        nonlocal seen
        new, seen = caplog.records[seen:], len(caplog.records)
        return " ".join(" ".join(record.getMessage() for record in new).split())

    return lines


def build(model_class, config):
    """A model in which attention and every token matter: as initialised, tiny models hardly look at their input."""
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.15 if parameter.ndim > 1 else 0.1))
    return model


@pytest.fixture(scope="session")
def tiny_vit():
    return build(hf.ViTForImageClassification, hf.ViTConfig(**IMAGE))


@pytest.fixture(scope="session")
def tiny_deit():
    return build(hf.DeiTForImageClassification, hf.DeiTConfig(**IMAGE))


@pytest.fixture(scope="session")
def tiny_dinov2():
    return build(hf.Dinov2ForImageClassification, hf.Dinov2Config(**IMAGE))


@pytest.fixture(scope="session")
def tiny_bert():
    return build(hf.BertForSequenceClassification, hf.BertConfig(**TEXT))


@pytest.fixture(scope="session")
def tiny_roberta():
    return build(hf.RobertaForSequenceClassification, hf.RobertaConfig(**TEXT))


@pytest.fixture(scope="session")
def tiny_distilbert():
    return build(hf.DistilBertForSequenceClassification, hf.DistilBertConfig(**DISTIL))


@pytest.fixture
def image_inputs():
    """Four images of 16 patches."""
    return {"pixel_values": torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))}


@pytest.fixture
def text_inputs():
    """Four texts of 12, 7, 3 and 1 tokens, padded at the end."""
    present = torch.arange(12) < torch.tensor([12, 7, 3, 1])[:, None]
    ids = torch.randint(5, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids * present, "attention_mask": present.long()}


@dataclass
class Case:
    """One family: its name, a model, inputs for it, which tokens of them are real, and how many must stay."""

    name: str
    model: hf.PreTrainedModel
    inputs: dict[str, Tensor]
    present: Tensor
    leading: int


@pytest.fixture(params=["vit", "deit", "dinov2", "bert", "roberta", "distilbert"])
def case(request):
    """Six families in turn, for what is tested at length; fails if the test leaves the model changed in any way.

    What every family must do is in ``tests/families``.
    """
    model = request.getfixturevalue(f"tiny_{request.param}")
    backbone = Backbone(model)
    leading = backbone.family.leading_tokens(backbone.config)
    if model.main_input_name == "pixel_values":
        inputs = request.getfixturevalue("image_inputs")
        present = torch.ones(4, 16 + leading, dtype=torch.bool)
    else:
        inputs = request.getfixturevalue("text_inputs")
        present = inputs["attention_mask"].bool()
    before = [tensor.clone() for tensor in chain(model.parameters(), model.buffers())]
    yield Case(request.param, model, inputs, present, leading)
    after = list(chain(model.parameters(), model.buffers()))
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True)), "weights were changed"
    assert not any(
        "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks for module in model.modules()
    ), "hooks were left"
    assert model.config._attn_implementation == "sdpa"
    assert not model.training


@pytest.fixture(scope="session")
def tiny_task():
    """Random images of three classes for ``tiny_vit``: 24 to train on, 12 and 12 to judge by."""
    generator = torch.Generator().manual_seed(2)

    def examples(split, count):
        pixels = torch.randn(count, 3, 16, 16, generator=generator)
        labels = torch.arange(count) % 3
        pictures = ((pixels.clamp(-1, 1) + 1) * 127).permute(0, 2, 3, 1).numpy().astype(np.uint8)
        names = [f"{split}/{i}" for i in range(count)]
        return TensorExamples(labels, names, ["round", "square", "flat"], {"pixel_values": pixels}, pictures)

    return Task(examples("train", 24), examples("validation", 12), examples("test", 12), "image")
