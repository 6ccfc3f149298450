"""The examples with their real downloads; skipped without them."""

from pathlib import Path

import pytest
import torch

from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks.examples.texts import TextExamples
from rltr.tasks.examples.tokenizer import load_tokenizer
from rltr.tasks.models import load_model
from tests.examples.conftest import example


def asset(name: str) -> Path:
    assets = example("assets")
    try:
        return assets.find(getattr(assets, name))
    except RltrError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "needs", "count"), [("spam", "SPAM_ASSASSIN", 3984), ("vader", "VADER", 10040)])
def test_real_data_has_the_expected_number_of_texts(tmp_path: Path, name: str, needs: str, count: int) -> None:
    asset(needs)
    example("make_data").make(name, None, tmp_path, 0)
    splits = [(tmp_path / name / f"{split}.jsonl").read_text("utf-8").splitlines() for split in example("splits").NAMES]
    assert sum(map(len, splits)) == len(set().union(*splits)) == count


def test_the_real_minilm_is_unchanged_and_exact(tmp_path: Path) -> None:
    weights, heads = asset("MINILM"), example("train_head")
    width = 384
    state = torch.randn(40, width)
    head = heads.fit(example("features").Features(state, state, torch.arange(40) % 2), 2, epochs=1)
    heads.save(weights, head, ["negative", "positive"], tmp_path / "saved")
    model = load_model(str(tmp_path / "saved"))
    tokenizer = load_tokenizer(model, str(tmp_path / "saved"))
    texts = ["A fine film.", "Poor, and far too long for what little it has to tell.", "So so"]
    inputs = dict(
        TextExamples(texts, torch.tensor([1, 0, 0]), ["negative", "positive"], tokenizer, 512).batch([0, 1, 2])
    )
    assert inputs["input_ids"].shape[1] < 20  # MiniLM's own tokenizer file asks for padding to 128
    backbone = Backbone(model)
    with torch.no_grad():
        native = model(**inputs).logits
        with backbone.attached():
            output, _ = ReducedModel(backbone, KeepAll(), [0, 2], "merge")(inputs)
    torch.testing.assert_close(output["logits"], native, rtol=1e-4, atol=1e-4)
