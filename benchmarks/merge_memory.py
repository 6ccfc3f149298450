"""Peak memory of merging on long inputs: the peak of a process that runs one reduced pass, against a native pass.

Every measurement is a separate process, because a process's recorded peak never decreases. Peaks include Python and
torch; "of the pass" excludes the memory in use when the pass began. An untrained policy decides in two of
four layers, and removes half of the tokens at each. The encoder has full attention, the decoder is causal.

Goal: at most 1.3 times the native peak at 10,000 tokens.
"""

import argparse
import json
import resource
import subprocess
import sys
from functools import partial
from typing import Any

import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel

from benchmarks.results import begin, finish, options
from rltr.cost import FlopsCost
from rltr.cost.pricing import Pricing
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.policies.observation import Observation
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision
from rltr.selectors.base import Selector, keep_best
from rltr.selectors.reduced_model import ReducedModel

GOAL = 1.3
LAYERS = (1, 2)
MODES = ("native", "drop", "merge")


def model(kind: str, tokens: int, width: int) -> PreTrainedModel:
    """A model of four layers with random weights; ``kind`` is ``encoder`` or ``decoder``."""
    shape: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 4 * width,
    }
    if kind == "encoder":
        return BertModel(BertConfig(**shape, vocab_size=100, max_position_embeddings=tokens)).eval()
    return LlamaModel(LlamaConfig(**shape, vocab_size=100, max_position_embeddings=tokens)).eval()


class HalfByPolicy(Selector):
    """Runs a policy network and keeps the half of the tokens with the highest keep logits."""

    def __init__(self, backbone: Backbone, tokens: int) -> None:
        config = PolicyConfig(backbone.width, backbone.depth, tokens, backbone.family.pooled)
        self.policy = TokenPolicy(config).to(backbone.device, torch.float32)
        self.pricing = Pricing(FlopsCost.count(backbone.layers), LAYERS, backbone.depth, tokens)

    def __call__(self, decision: Decision) -> Choice:
        """Which tokens to keep."""
        count = decision.tokens.count
        seen = Observation.of_decision(decision, self.pricing.per_token(decision.index, count), count / decision.begun)
        return Choice(keep_best(self.policy(seen), decision, 0.5))


def measure_here(kind: str, mode: str, tokens: int, width: int) -> dict[str, float]:
    """Run one pass in this process; peak megabytes of the process before and after the pass."""
    backbone = Backbone(model(kind, tokens, width))
    inputs = {"input_ids": torch.randint(0, 100, (1, tokens))}
    with torch.inference_mode(), backbone.attached():
        if mode == "native":
            call: Any = partial(backbone.model, **backbone.uncached(inputs))
        else:
            call = partial(ReducedModel(backbone, HalfByPolicy(backbone, tokens), LAYERS, mode), inputs)  # type: ignore[arg-type]
        before = peak()
        call()
    return {"before": before, "peak": peak()}


def peak() -> float:
    """Peak memory of this process so far, in megabytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def measure(kind: str, mode: str, args: argparse.Namespace) -> dict[str, float]:
    """Run :func:`measure_here` in a new process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.merge_memory",
        "--tokens",
        str(args.tokens),
        "--width",
        str(args.width),
    ]
    command += ["--threads", str(args.threads), "--seed", str(args.seed), "--here", kind, mode]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--here", nargs=2, metavar=("KIND", "MODE"), help=argparse.SUPPRESS)
    if "--here" in sys.argv:
        args = parser.parse_args()
        torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)
        kind, mode = args.here
        print(json.dumps(measure_here(kind, mode, args.tokens, args.width)))
        return
    args = begin(parser)
    rows = []
    for kind in ("encoder", "decoder"):
        found = {mode: measure(kind, mode, args) for mode in MODES}
        native = found["native"]
        for mode, megabytes in found.items():
            ratio = megabytes["peak"] / native["peak"]
            rows.append(
                {
                    "model": kind,
                    "tokens": args.tokens,
                    "mode": mode,
                    "peak MB": megabytes["peak"],
                    "peak / native": ratio,
                    "goal": f"≤ {GOAL}",
                    "met": ratio <= GOAL,
                    "of the pass, MB": megabytes["peak"] - megabytes["before"],
                }
            )
    finish(args, Backbone(model("encoder", 16, 16)), rows)


if __name__ == "__main__":
    main()
