"""What cannot be found by looking at a model: per family, the tokens that must stay.

Layers, widths and attention are found through transformers' own declarations (see :mod:`rltr.backbone`). A family is
listed once its exactness tests pass; everything else is refused.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        leading: tokens at the start of each row that the head reads: CLS, and a distillation token after it.
        input: the name of the model's main input.
    """

    leading: int
    input: str


FAMILIES: dict[str, Family] = {
    "vit": Family(leading=1, input="pixel_values"),
    "deit": Family(leading=2, input="pixel_values"),
    "dinov2": Family(leading=1, input="pixel_values"),
    "bert": Family(leading=1, input="input_ids"),
    "roberta": Family(leading=1, input="input_ids"),
    "distilbert": Family(leading=1, input="input_ids"),
}
"""Families by ``config.model_type``."""
