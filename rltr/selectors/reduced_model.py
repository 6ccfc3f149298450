"""A backbone run with a selector: the reduced forward pass, in one call."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers.utils import ModelOutput

from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal, Trace
from rltr.runtime.departure import undisturbed
from rltr.runtime.forward import Forward
from rltr.selectors.base import Selector


class ReducedModel:
    """A model that runs on the tokens which a selector keeps.

    Call it with model inputs while the backbone is attached::

        with torch.no_grad(), backbone.attached():
            output, trace = reduced_model(inputs)

    Args:
        backbone: the frozen model; attach it before calling.
        selector: decides which tokens to keep.
        layers: the decision layers in ascending order, each from 0 to ``backbone.depth - 1``; tokens leave before such
            a layer runs.
        removal: whether removed tokens are merged or dropped.

    Raises:
        RltrError: if the layers do not exist, or the selector cannot work on this backbone at these layers.
    """

    def __init__(
        self, backbone: Backbone, selector: Selector, layers: Sequence[int], removal: Removal = "merge"
    ) -> None:
        self.backbone = backbone
        self.selector = selector
        self.layers = tuple(layers)
        self.removal: Removal = removal
        selector.check(backbone, self.layers)
        self.new_forward()  # refuses impossible layers and modes now, not at the first call

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[ModelOutput, Trace]:
        """Run the reduced model.

        Args:
            inputs: the model's inputs by name, on its device.

        Returns:
            The model's own output, of its usual shape, and which tokens were in the stream at each stage.

        Raises:
            RltrError: if the backbone is not attached, or the result would be wrong.
        """
        return self.backbone.run(self.new_forward(), inputs)

    def new_forward(self) -> Forward:
        """The token stream of one forward pass to come."""
        return self.backbone.forward(self._decide, self.layers, self.removal)

    def _decide(self, decision: Decision) -> Choice:
        with undisturbed(decision.hidden.device):
            return self.selector(decision)
