"""Answers of the dense (unpruned) model, computed once per example."""

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
    """Dense answers to the examples of a data set, computed on first use and kept in memory.

    ``examples.goal`` extracts the answer from the model output. The last bits of an answer depend on which inputs share
    its forward pass. Without a cache these are the inputs requested together. With a cache, results would then depend
    on what earlier runs had stored, so the composition of the passes is fixed. On a CPU every input runs alone
    (measured: 7 to 10 % more time per input than 64 together). On other devices, where one input takes about as long
    as many, each input always runs with the same neighbours.

    Args:
        backbone: the frozen model.
        examples: the data set.
        rows: inputs per forward pass.
        cache: cache on disk; None for none. Data without a fingerprint are not cached.

    Attributes:
        known: which examples have been computed ``(examples,)``. Checkpoints store these answers.
        answers: answers to all examples ``(examples, *answer)``, zeros where not known; logits for most goals.
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
            RltrError: if one of the answers is not finite. No answer of this call is kept then.
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
        """Store answers that are not known yet. Known ones are kept: a checkpoint's may come from another machine."""
        new = ~self.known[index]
        self.answers[index[new]] = answers[new]
        self.known[index] = True

    def _look_up(self, cache: DenseCache) -> None:
        """Load the answers in the cache, on the first call only; later calls do nothing."""
        if self._key is not None or self.cache is None:
            return
        # Not in __init__: a checkpoint may be restored first, and hashing the weights takes time.
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
        """Split the missing examples into forward passes."""
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
