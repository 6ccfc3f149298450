"""A recipe knows every kind of task."""

from typing import get_args

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rltr.recipe.inputs import DataGroup
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks import KINDS
from rltr.tasks.goals import Classification

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


def test_a_recipe_knows_every_kind() -> None:
    assert set(get_args(DataGroup.model_fields["kind"].annotation)) == {"auto", *KINDS}


def test_classification_reads_logits_unchanged(tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]) -> None:
    goal, logits = Classification(), tiny_vit(**image_inputs).logits
    assert torch.equal(goal.read({"logits": logits}, image_inputs), logits)
    with Backbone(tiny_vit).attached() as backbone:
        output, _ = ReducedModel(backbone, KeepAll(), [1])(image_inputs)
        assert torch.equal(goal.read(output, image_inputs), output["logits"])
