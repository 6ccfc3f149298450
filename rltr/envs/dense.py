"""What the dense model says, computed once per example."""

import torch
from jaxtyping import Int
from torch import Tensor

from rltr.backbone import Backbone
from rltr.tasks import Examples
from rltr.tasks.goals.goal import Answers


class DenseLogits:
    """The dense model's answers on a data set (``examples.goal`` reads them), computed when first asked for and kept.

    Args:
        backbone: the frozen model.
        examples: the data set.
        rows: inputs per forward pass.

    Attributes:
        known: which examples have been computed ``(examples,)``; checkpoints store these, see there.
        logits: the answers to all examples ``(examples, *answer)``, zeros where not known; logits, for most goals.
    """

    def __init__(self, backbone: Backbone, examples: Examples, rows: int = 64) -> None:
        self.backbone = backbone
        self.examples = examples
        self.rows = rows
        self.known = torch.zeros(len(examples), dtype=torch.bool)
        self.logits = torch.zeros(len(examples), *examples.goal.shape(examples.labels, examples.classes))

    def __call__(self, index: Int[Tensor, " rows"]) -> Answers:
        """Answers to the examples ``index``, on the CPU in float32; an index may repeat."""
        missing = index[~self.known[index]].unique()
        # An empty tensor splits into one empty part, which models refuse.
        for part in missing.split(self.rows) if len(missing) else ():
            inputs = {name: value.to(self.backbone.device) for name, value in self.examples.batch(part).items()}
            with torch.no_grad():
                self.logits[part] = self.examples.goal.read(self.backbone.model(**inputs), inputs).float().cpu()
            self.known[part] = True
        return self.logits[index]
