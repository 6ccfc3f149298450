"""What the dense model says, computed once per example."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from rltr.dense.cache import DenseCache, dense_key
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.system.device import move_inputs
from rltr.tasks import Examples
from rltr.tasks.goals.goal import Answers


class DenseAnswers:
    """The dense model's answers on a data set (``examples.goal`` reads them), computed when first asked for and kept.

    In its last bits the answer to an input depends on what goes through the model with it. Without a cache that is what
    was asked for with it. With one it must not be, or results would depend on what other runs had stored: then every
    input goes alone on a CPU (measured: 7 to 10 % more time per input than 64 together), and elsewhere, where a
    single input takes about as long as many, with the same neighbours each time.

    Args:
        backbone: the frozen model.
        examples: the data set.
        rows: inputs per forward pass.
        cache: where answers outlive the process; None forgets them. Data without a fingerprint are not cached.

    Attributes:
        known: which examples have been computed ``(examples,)``; checkpoints store these, see there.
        answers: those to all examples ``(examples, *answer)``, zeros where not known; logits, for most goals.
    """

    def __init__(self, backbone: Backbone, examples: Examples, rows: int = 64, cache: DenseCache | None = None) -> None:
        self.backbone = backbone
        self.examples = examples
        self.rows = rows
        self.cache = cache
        self.known = torch.zeros(len(examples), dtype=torch.bool, device="cpu")
        shape = examples.goal.shape(examples.labels, examples.classes)
        self.answers = torch.zeros(len(examples), *shape, dtype=torch.float32, device="cpu")
        self._key: str | None = None

    def __call__(self, index: Int[Tensor, " rows"]) -> Answers:
        """Answers to the examples ``index``, on the CPU in float32; an index may repeat.

        Raises:
            RltrError: if the model's answer to one of them is not finite; nothing of this call is kept then.
        """
        missing = index[~self.known[index]].unique()
        if len(missing) and self.cache is not None:
            self._look_up(self.cache)
            missing = missing[~self.known[missing]]
        computed = [(part, self._compute(part)) for part in self._parts(missing)]
        for part, answers in computed:
            self._learn(part, answers)
        if computed and self.cache is not None and self._key is not None:
            self.cache.write(
                self._key, torch.cat([part for part, _ in computed]), torch.cat([answers for _, answers in computed])
            )
        return self.answers[index]

    def _learn(self, index: Int[Tensor, " rows"], answers: Answers) -> None:
        """Take answers to what is not known yet: a checkpoint's stay, which may come from another machine."""
        new = ~self.known[index]
        self.answers[index[new]] = answers[new]
        self.known[index] = True

    def _look_up(self, cache: DenseCache) -> None:
        """Take what the cache holds, the first time; afterwards only this object adds to what is known."""
        if self._key is not None or self.cache is None:
            return
        # Not in __init__: a checkpoint may say by then what is known, and hashing weights takes its time.
        self._key = dense_key(self.backbone, self.examples, self._together)
        if self._key is None:
            self.cache = None
            return
        found = cache.read(self._key, len(self.examples), self.answers.shape[1:])
        if found is not None:
            self._learn(*found)

    @property
    def _together(self) -> int:
        return 1 if self.backbone.device.type == "cpu" else self.rows

    def _parts(self, missing: Int[Tensor, " missing"]) -> Sequence[Tensor]:
        """Which examples go through the model together."""
        if len(missing) == 0:
            return []  # an empty tensor splits into one empty part, which models refuse
        if self.cache is None:
            return missing.split(self.rows)
        blocks = (missing // self._together).unique().tolist()
        bounds = [(block * self._together, (block + 1) * self._together) for block in blocks]
        return [torch.arange(start, min(end, len(self.examples))) for start, end in bounds]

    def _compute(self, part: Int[Tensor, " rows"]) -> Answers:
        inputs = move_inputs(self.examples.batch(part), self.backbone.device, self.backbone.dtype)
        with torch.no_grad():
            output = self.backbone.model(**self.backbone.uncached(inputs))
            answers = self.examples.goal.read(output, inputs).float().cpu()
        bad = (~answers.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        if bad:
            names = ", ".join(repr(self.examples.names[int(part[i])]) for i in bad[:3])
            raise RltrError(
                f"the dense model's answers are NaN or infinite for {names}{' and others' if len(bad) > 3 else ''}; "
                "likely cause: a half-precision overflow, or broken weights; try the model in float32"
            )
        return answers
