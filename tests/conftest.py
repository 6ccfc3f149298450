"""Tiny models, inputs for them and a tiny task; one thread and fixed seeds for every test.

Fixtures: ``tiny_vit`` and its five siblings, with ``image_inputs`` or ``text_inputs``; ``case`` for six families in
turn; ``tiny_task`` for ``tiny_vit``. Models live as long as the session, so tests must not change them (``case``
checks it).
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
    """Register the hooks of ``leftovers`` and ``marks``: a conftest's own are not called for session fixtures."""
    config.pluginmanager.register(leftovers)
    config.pluginmanager.register(marks)


class PerGreenlet:
    """Attributes with a separate value in each greenlet."""

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
def odd_processor_name():
    """Give the processor a name with characters that are special in patterns, markup and tables, as Intel(R) has.

    Code that works only with the name of the current machine then fails everywhere.
    """
    name = "Intel(R) Xeon(R) | Processor* [x+y] <?> \\d"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rltr.system.machine.processor_name", lambda device: name)
        yield name


@pytest.fixture(autouse=True)
def new_cache_folder(tmp_path_factory, monkeypatch):
    """Put caches into a new folder: not into the user's home, and not shared between tests."""
    monkeypatch.setenv("RLTR_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def fixed_random_state():
    """Start every test from the same random state."""
    leftovers.reset_random_state()


def logged_warnings(caplog):
    """Logged warnings, without the warning about answers by chance that untrained models cause."""
    warnings = (record for record in caplog.records if record.levelno >= logging.WARNING)
    return [record.getMessage() for record in warnings if record.name != "rltr.tasks.goals.plausibility"]


@pytest.fixture
def new_log(caplog):
    """Return a function that returns everything rltr has logged since its last call, as one line."""
    caplog.set_level(logging.INFO, logger="rltr")
    seen = 0

    def lines():
        nonlocal seen
        new, seen = caplog.records[seen:], len(caplog.records)
        return " ".join(" ".join(record.getMessage() for record in new).split())

    return lines


def build(model_class, config):
    """A model whose answers depend on attention and every token; those of freshly initialised tiny models hardly do."""
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
    """A family: its name, a model, inputs, a mask of real tokens and the number of leading protected tokens."""

    name: str
    model: hf.PreTrainedModel
    inputs: dict[str, Tensor]
    present: Tensor
    leading: int


@pytest.fixture(params=["vit", "deit", "dinov2", "bert", "roberta", "distilbert"])
def case(request):
    """Six families in turn, for detailed tests; fails if the test leaves the model changed in any way.

    ``tests/families`` tests what holds for every family.
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
    """Random images of three classes for ``tiny_vit``: 24 for training, 12 for validation, 12 for testing."""
    generator = torch.Generator().manual_seed(2)

    def examples(split, count):
        pixels = torch.randn(count, 3, 16, 16, generator=generator)
        labels = torch.arange(count) % 3
        pictures = ((pixels.clamp(-1, 1) + 1) * 127).permute(0, 2, 3, 1).numpy().astype(np.uint8)
        names = [f"{split}/{i}" for i in range(count)]
        return TensorExamples(labels, names, ["round", "square", "flat"], {"pixel_values": pixels}, pictures)

    return Task(examples("train", 24), examples("validation", 12), examples("test", 12), "image")
