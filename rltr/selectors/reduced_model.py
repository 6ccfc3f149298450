"""Run a backbone with a selector: the reduced forward pass as one call."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers.utils import ModelOutput

from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal, Trace
from rltr.runtime.departure import without_grad_or_autocast
from rltr.runtime.forward import Forward
from rltr.selectors.base import Selector


class ReducedModel:
    """A model that runs on the tokens that a selector keeps.

    Call it with model inputs while the backbone is attached::

        with torch.no_grad(), backbone.attached():
            output, trace = reduced_model(inputs)

    Args:
        backbone: the frozen model; attach it before calling.
        selector: decides which tokens to keep.
        layers: the decision layers in ascending order, each from 0 to ``backbone.depth - 1``; tokens are removed before
            these layers run.
        removal: whether removed tokens are merged or dropped.

    Raises:
        RltrError: if a layer does not exist, or the selector does not work with this backbone and these layers.
    """

    def __init__(
        self, backbone: Backbone, selector: Selector, layers: Sequence[int], removal: Removal = "merge"
    ) -> None:
        self.backbone = backbone
        self.selector = selector
        self.layers = tuple(layers)
        self.removal: Removal = removal
        selector.check(backbone, self.layers)
        self.new_forward()  # raises now for impossible layers and modes, not at the first call

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[ModelOutput, Trace]:
        """Run the reduced model.

        Args:
            inputs: the model's inputs by name, on its device.

        Returns:
            The model's output in its usual shape, and which tokens remained at each stage.

        Raises:
            RltrError: if the backbone is not attached, or the model cannot be run exactly with these inputs.
        """
        return self.backbone.run(self.new_forward(), inputs)

    def new_forward(self) -> Forward:
        """Make the state of a new forward pass."""
        return self.backbone.forward(self._decide, self.layers, self.removal)

    def _decide(self, decision: Decision) -> Choice:
        with without_grad_or_autocast(decision.hidden.device):
            return self.selector(decision)
