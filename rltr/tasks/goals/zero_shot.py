"""Zero-shot classification: the class whose embedded description is most similar (CLIP, Radford et al. 2021)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from rltr.tasks.goals.classification import Classification, Logits


@dataclass(frozen=True, eq=False)
class ZeroShot(Classification):
    """Classification by cosine similarity with fixed embeddings, one per class.

    One of the two towers is reduced; the embeddings of the other one are fixed. To classify images by class names,
    ``anchors`` are text embeddings and ``output`` is ``image_embeds``; to classify texts, it is the other way round.

    Args:
        anchors: the other tower's embeddings, one per class.
        scale: factor from cosines to logits (``model.logit_scale.exp()``).
        bias: is added to the scaled cosines (SigLIP has one).
        output: the field of the model's output that holds the embedding.
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
