"""Tokens that a model's head reads are kept; heads whose tokens rltr cannot know are refused."""

import pytest
import torch
import transformers as hf

import rltr
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from tests.backbone.conftest import DECODERS, LAYERS
from tests.conftest import TEXT, build
from tests.deploy.conftest import policy_for


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("how", ["embeddings", "another padding token"])
def test_a_mask_that_hides_the_token_the_head_reads_is_refused(name, how):
    """Transformers' classifiers find the last token by input_ids or take the last position, without the mask."""
    model = build(*DECODERS[name])
    ids = torch.randint(5, 50, (3, 12))
    inputs = {"attention_mask": (torch.arange(12) < torch.tensor([[12], [7], [3]])).long()}
    inputs |= (
        {"input_ids": ids} if how != "embeddings" else {"inputs_embeds": model.get_input_embeddings()(ids).detach()}
    )
    left = inputs | {"attention_mask": inputs["attention_mask"].flip(1)}
    with torch.no_grad():
        native = model(**left, use_cache=False).logits
        with rltr.attach(model, policy_for(model, 12), cost_weight=1e-9):
            with pytest.raises(RltrError, match="hides a token that the model's head reads"):
                model(**inputs)
            torch.testing.assert_close(model(**left).logits, native, atol=1e-5, rtol=1e-5)
    with torch.no_grad(), Backbone(model.base_model).attached() as backbone:  # without a head, that token is not read
        ReducedModel(backbone, KeepAll(), LAYERS)(inputs)


def test_question_tokens_of_splinter_are_kept():
    config = hf.SplinterConfig(**TEXT, question_token_id=4)
    model = build(hf.SplinterForQuestionAnswering, config)
    ids = torch.randint(5, 50, (2, 12))
    ids[0, 6], ids[1, 3] = 4, 4
    with torch.no_grad(), rltr.attach(model, policy_for(model, 12), cost_weight=100.0) as attached:
        model(input_ids=ids)
        kept = attached.kept
    assert kept is not None and kept.total < 24 and kept.present[[0, 1], [6, 3]].all()


def test_a_head_that_takes_token_positions_as_input_is_refused():
    model = build(hf.GPT2DoubleHeadsModel, hf.GPT2Config(n_embd=32, n_layer=4, n_head=2, vocab_size=50, n_positions=64))
    with pytest.raises(RltrError, match="mc_token_ids"):
        Backbone(model)
