"""Classes that were never trained for: the one whose description is most similar (CLIP, Radford et al. 2021)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from rltr.tasks.goals.classification import Classification, Logits


@dataclass(frozen=True, eq=False)
class ZeroShot(Classification):
    """Which of some fixed embeddings an input's embedding is most similar to.

    One of two towers is reduced, and what the other one says is fixed. For images among class names, ``anchors`` are
    embeddings of texts and ``output`` is ``image_embeds``; for texts among images it is the other way round.

    Args:
        anchors: the other tower's embeddings, one per class.
        scale: what cosines are multiplied with to become logits (``model.logit_scale.exp()``).
        bias: what is added then (SigLIP has one).
        output: the field of the model's output with the embedding.
    """

    anchors: Float[Tensor, "classes width"]
    scale: float
    bias: float = 0.0
    output: str = "image_embeds"

    def read(self, output: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> Logits:
        """See ``Goal``."""
        embeddings = normalize(output[self.output].float(), dim=-1)
        anchors = normalize(self.anchors.to(embeddings), dim=-1)
        return self.scale * embeddings @ anchors.T + self.bias
