"""The token policy: a small network that gives every token a keep logit, shared by all decision layers."""

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
        backbone_width: width of the backbone's hidden states.
        depth: number of layers of the backbone.
        grid: number of position embeddings; later positions share the last one.
        pooled: the token of a row that the backbone's head reads, ``first`` or ``last``.
        width: width of the policy's own layers.
        redundancy_prior: initial weight of the similarity rank, which lowers the keep logit of near-duplicates.
        attention_prior: initial weight of the pooled token's attention, which raises the keep logit.
        spread_prior: initial weight of the low-discrepancy order, which keeps tokens that are spread evenly.
        initial_logit: initial keep logit without priors, if all tokens of a row cost 0.1 units of reward until the next
            decision.
        price_slope: initial decrease of the keep logit per decade of price.
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
        """Return the settings as JSON types."""
        return asdict(self)


class TokenPolicy(nn.Module):
    """Network that computes a keep logit and a cost baseline per token.

    Its inputs are the token's hidden state, that of the pooled token, the row's mean hidden state, the token features,
    the position, the layer, the price of keeping the token until the next decision, and the share of the row's tokens
    that remain. The keep logit is a learned logit, which starts at 0, plus a threshold for the row, plus the priors of
    :class:`PolicyConfig`. So an untrained policy first removes near-duplicates and tokens that the pooled token does
    not attend to, and removes more tokens at higher prices.

    The cost baseline uses the actor's features without a gradient into them.

    Args:
        config: shape and priors of the network.
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
        self.float()  # independent of torch.set_default_dtype, which scripts that load large models set to bfloat16

    def features(self, observation: Observation) -> tuple[Float[Tensor, "total width"], Float[Tensor, " rows"]]:
        """Compute features of each token and the threshold logit of each row."""
        tokens, grid, width = observation.tokens, self.config.grid, self.config.width
        pooled = observation.hidden.index_select(0, tokens.pooled(self.config.pooled))
        mean = ragged.row_sum(observation.hidden, tokens) / tokens.count[:, None]
        # The price of all tokens that the row began with, so that the price of a token is relative to the row's length.
        price = (observation.price * tokens.count / observation.kept).log10()
        row = self.state(torch.stack([price, observation.kept], -1)) + self.layer(observation.layer)
        context = self._read(self.pooled, pooled) + self._read(self.mean, mean) + row
        z = self._read(self.token, observation.hidden)
        # In place, because memory traffic is most of the cost. Times 3, because token features vary less than z.
        z.addmm_(observation.token_features, self.token_features.weight.T, alpha=3)
        # Rows with all of their tokens have the same positions.
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
        """Apply ``layer`` to hidden states of length 1, scaled so that each number has variance 1."""
        return torch.addmm(layer.bias, hidden, layer.weight.T, alpha=self.config.backbone_width**0.5)

    def logits(
        self, observation: Observation, z: Float[Tensor, "total width"], threshold: Float[Tensor, " rows"]
    ) -> Float[Tensor, " total"]:
        """Compute keep logits from the results of :meth:`features`."""
        priors = [-self.redundancy_prior, self.attention_prior, self.spread_prior]
        row = threshold + 0.5 * (self.redundancy_prior - self.spread_prior) + 3 * self.keep.bias
        logit = torch.addmv(
            row.index_select(0, observation.tokens.row), observation.token_features[:, 2:], torch.stack(priors)
        )
        return torch.addmm(logit[:, None], z, self.keep.weight.T, alpha=3)[:, 0]

    def forward(self, observation: Observation) -> Float[Tensor, " total"]:
        """Compute the keep logit of each token; those of protected tokens have no meaning."""
        return self.logits(observation, *self.features(observation))

    def with_baseline(self, observation: Observation) -> tuple[Float[Tensor, " total"], Float[Tensor, " total"]]:
        """Compute keep logits and cost baselines: the expected cost of each token until the end of the pass.

        Costs are shares of the dense cost.
        """
        z, threshold = self.features(observation)
        return self.logits(observation, z, threshold), self.cost(z.detach())[:, 0]


def decision_flops(config: PolicyConfig) -> tuple[int, int]:
    """Count the FLOPs of one decision, per token and per pair of tokens; a multiply-add counts as two.

    Per token: the policy's linear layers and the pooled token's attention. Per pair: the similarities of set A and set
    B, a quarter of all pairs, used for token features and merging. Work per row is not counted.
    """
    per_token = (
        2 * config.width * (config.backbone_width + TOKEN_FEATURES + config.width + 1) + 2 * config.backbone_width
    )
    return per_token, config.backbone_width // 2
