"""The token policy: a tiny network that scores every token of an input, shared by all decision layers."""

from dataclasses import asdict, dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rltr.policies.observation import TOKEN_FEATURES, Observation
from rltr.runtime import tokens as ragged
from rltr.runtime.families import PooledToken


@dataclass(frozen=True)
class PolicyConfig:
    """Shape of a token policy.

    Attributes:
        backbone_width: width of the hidden states it reads.
        depth: layers of the backbone.
        grid: places of tokens it has an embedding for; later places share the last one.
        pooled: the pooled token: which token of a row the backbone's head reads.
        width: width of its own layers.
        redundancy_prior: how strongly, at first, near-duplicates leave before others; 0 starts from nothing.
        attention_prior: how strongly, at first, tokens that the pooled token attends to stay; 0 starts from nothing.
        spread_prior: how strongly, at first, tokens stay that are spread evenly over the input; 0 starts from nothing.
        initial_logit: keep logit that tokens start with, before the priors, where a row's tokens cost a tenth of a unit
            of reward until the next decision.
        price_slope: decrease of the keep logit, at first, per decade of price.
    """

    backbone_width: Annotated[int, Field(ge=1, le=2**17)]
    depth: Annotated[int, Field(ge=1, le=2**12)]
    grid: Annotated[int, Field(ge=1, le=2**20)]
    pooled: PooledToken = "first"
    width: Annotated[int, Field(ge=1, le=1024)] = 32
    redundancy_prior: float = 4.0
    attention_prior: float = 8.0
    spread_prior: float = 0.0
    initial_logit: float = 1.5
    price_slope: float = 2.0

    def to_dict(self) -> dict[str, int | float | str]:
        """As plain numbers, for JSON."""
        return asdict(self)


class TokenPolicy(nn.Module):
    """Keep logits and cost baselines, one per token.

    Inputs are a token's hidden state, the pooled token's, the mean of its row, its position, the layer, the price of
    keeping it until the next decision, and the share of the row's tokens that is still there. Its keep logit is a
    learned logit, which starts at 0, plus a threshold for its row, plus the priors of :class:`PolicyConfig`. So an
    untrained policy first removes near-duplicates and tokens that the pooled token does not attend to, and removes
    more where tokens cost more: the cost weight has an effect from the first update on.

    The cost baseline reads the actor's features but sends no gradient into them.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token = nn.Linear(config.backbone_width, width)
        self.pooled = nn.Linear(config.backbone_width, width)
        self.mean = nn.Linear(config.backbone_width, width)
        self.token_features = nn.Linear(TOKEN_FEATURES, width, bias=False)
        self.position = nn.Embedding(config.grid, width)
        self.layer = nn.Embedding(config.depth, width)
        self.state = nn.Linear(2, width)
        self.mlp = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True))
        self.keep = nn.Linear(width, 1)
        row_logit = nn.Linear(width, 1)
        self.threshold = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), row_logit)
        self.redundancy_prior = nn.Parameter(torch.tensor(float(config.redundancy_prior)))
        self.attention_prior = nn.Parameter(torch.tensor(float(config.attention_prior)))
        self.spread_prior = nn.Parameter(torch.tensor(float(config.spread_prior)))
        self.price_slope = nn.Parameter(torch.tensor(float(config.price_slope)))
        self.cost = nn.Linear(width, 1)
        nn.init.normal_(self.position.weight, std=0.02)
        for start_at_zero in (self.keep, row_logit, self.cost):
            nn.init.zeros_(start_at_zero.weight)
            nn.init.zeros_(start_at_zero.bias)
        nn.init.constant_(row_logit.bias, config.initial_logit)
        self.float()  # whatever torch.set_default_dtype says: scripts that load large models set it to bfloat16

    def features(self, seen: Observation) -> tuple[Float[Tensor, "total width"], Float[Tensor, " rows"]]:
        """Features of each token and the threshold logit of each row."""
        tokens, grid, width = seen.tokens, self.config.grid, self.config.width
        pooled = seen.hidden.index_select(0, tokens.pooled(self.config.pooled))
        mean = ragged.row_sum(seen.hidden, tokens) / tokens.count[:, None]
        # What all tokens that the row began with would cost: each of a long row's is worth less, as there are more.
        price = (seen.price * tokens.count / seen.kept).log10()
        row = self.state(torch.stack([price, seen.kept], -1)) + self.layer(seen.layer)
        context = self._read(self.pooled, pooled) + self._read(self.mean, mean) + row
        z = self._read(self.token, seen.hidden)
        # In place: most of what a decision costs is memory traffic. 3: they differ by tenths, the rest by ones.
        z.addmm_(seen.token_features, self.token_features.weight.T, alpha=3)
        # Where all rows are whole, they have the same places.
        place = tokens.place[: tokens.uniform] if tokens.uniform == tokens.grid else tokens.place
        embedding = self.position.weight.index_select(0, place if tokens.grid <= grid else place.clamp_max(grid - 1))
        if tokens.uniform is None:
            z.add_(embedding).add_(context.index_select(0, tokens.row))
        else:
            by_row = (-1, tokens.uniform, width)
            z.view(by_row).add_(embedding.view(by_row)).add_(context[:, None])
        threshold = self.threshold(torch.cat([context, row], -1))[:, 0] - self.price_slope * (price + 1)
        return self.mlp(z), threshold

    def _read(self, layer: nn.Linear, hidden: Float[Tensor, "any width"]) -> Float[Tensor, "any out"]:
        """Apply ``layer`` to hidden states of length 1 as if each number had variance 1."""
        return torch.addmm(layer.bias, hidden, layer.weight.T, alpha=self.config.backbone_width**0.5)

    def logits(
        self, seen: Observation, z: Float[Tensor, "total width"], threshold: Float[Tensor, " rows"]
    ) -> Float[Tensor, " total"]:
        """Keep logits from features."""
        priors = [-self.redundancy_prior, self.attention_prior, self.spread_prior]
        row = threshold + 0.5 * (self.redundancy_prior - self.spread_prior) + 3 * self.keep.bias
        logit = torch.addmv(row.index_select(0, seen.tokens.row), seen.token_features[:, 2:], torch.stack(priors))
        return torch.addmm(logit[:, None], z, self.keep.weight.T, alpha=3)[:, 0]

    def forward(self, seen: Observation) -> Float[Tensor, " total"]:
        """Logit of keeping each token; meaningless for protected ones."""
        return self.logits(seen, *self.features(seen))

    def with_baseline(self, seen: Observation) -> tuple[Float[Tensor, " total"], Float[Tensor, " total"]]:
        """Keep logits, and what each token is expected to pay from here to the end, as a share of the dense cost."""
        z, threshold = self.features(seen)
        return self.logits(seen, z, threshold), self.cost(z.detach())[:, 0]


def decision_flops(config: PolicyConfig) -> tuple[int, int]:
    """FLOPs of one decision, per token and per pair of tokens; a multiply-add counts as two.

    Per token: the policy's linear maps, and the pooled token's attention. Per pair: the similarity of set A
    to set B, a quarter of all pairs, which serves redundancy and merging. What is done once per row is left out.
    """
    per_token = (
        2 * config.width * (config.backbone_width + TOKEN_FEATURES + config.width + 1) + 2 * config.backbone_width
    )
    return per_token, config.backbone_width // 2
