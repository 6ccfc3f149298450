"""Train a classification head on the frozen MiniLM, and save both as an ordinary Hugging Face folder.

    python -m examples.train_head spam     # runs/examples/minilm-spam
    python -m examples.train_head vader    # runs/examples/minilm-vader

The folder holds a `BertForSequenceClassification` and its tokenizer, which `AutoModelForSequenceClassification` and
`rltr` load. Every weight of the encoder is MiniLM's, bit for bit; trained are the pooler (a linear layer and tanh on
the state of CLS) and the classifier behind it, on the training split alone. Texts are cut at 512 tokens.

Beside it a linear head on the mean state of all tokens is fitted, which is how this MiniLM was trained to be read: it
says what the state of CLS leaves out. It is not saved, because transformers has no BERT class that pools so.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from examples.assets import MINILM, find
from examples.features import Features, cached
from examples.make_data import BUILT, CLASSES
from examples.splits import NAMES
from rltr.errors import RltrError
from rltr.system.files import atomic_folder
from rltr.tasks import DataOptions
from rltr.tasks.examples.texts import TextExamples
from rltr.tasks.read.records import read_records

LONGEST = 512
"""Tokens of a text, special ones included: as many as MiniLM has positions for."""


class Head(nn.Module):
    """BERT's pooler and classifier on standardised features, with dropout before each.

    Args:
        features: ``(texts, width)``, to standardise by.
        classes: number of classes.
        dropout: share of features and of hidden units that are left out in training.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, features: Float[Tensor, "texts width"], classes: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("spread", features.std(0))
        self.pooler = nn.Linear(features.shape[1], features.shape[1])
        self.classifier = nn.Linear(features.shape[1], classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Float[Tensor, "texts width"]) -> Float[Tensor, "texts classes"]:
        """Logits."""
        standard = self.dropout((features - self.mean) / self.spread)
        return self.classifier(self.dropout(self.pooler(standard).tanh()))

    def plain_pooler(self) -> tuple[Float[Tensor, "width width"], Float[Tensor, " width"]]:
        """Weight and bias of a pooler that does the same to features as they are."""
        weight = self.pooler.weight / self.spread
        return weight, self.pooler.bias - weight @ self.mean


def fit(
    train: Features,
    classes: int,
    *,
    epochs: int = 30,
    batch: int = 64,
    learning_rate: float = 1e-3,
    decay: float = 0.1,
    dropout: float = 0.3,
    seed: int = 0,
) -> Head:
    """A head trained on the state of the first token."""
    torch.manual_seed(seed)
    head = Head(train.first, classes, dropout)
    optimizer = torch.optim.AdamW(head.parameters(), learning_rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(train.labels) // batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(train.labels)).split(batch):
            loss = F.cross_entropy(head(train.first[rows]), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head.eval().requires_grad_(False)


def linear_accuracy(train: Features, test: Features, classes: int, decay: float = 3e-3) -> float:
    """Share of right answers of a linear head on the mean state of all tokens."""
    centre, spread = train.mean.mean(0), train.mean.std(0)
    linear = nn.Linear(train.mean.shape[1], classes)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(linear((train.mean - centre) / spread), train.labels)
        found = found + decay * linear.weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    with torch.no_grad():
        return accuracy(linear((test.mean - centre) / spread), test.labels)


def accuracy(logits: Float[Tensor, "texts classes"], labels: Int[Tensor, " texts"]) -> float:
    """Share of right answers."""
    return float((logits.argmax(-1) == labels).float().mean())


def classifier(weights: Path, head: Head, classes: list[str]) -> BertForSequenceClassification:
    """MiniLM with a trained head, in evaluation mode.

    Args:
        weights: folder of MiniLM.
        head: as :func:`fit` gives it.
        classes: names by label.

    Raises:
        RltrError: if a weight of the encoder is not the stored one.
    """
    names = dict(enumerate(classes))
    numbers = {name: number for number, name in names.items()}
    model = AutoModelForSequenceClassification.from_pretrained(
        weights, dtype=torch.float32, id2label=names, label2id=numbers
    )
    pooler = model.bert.pooler.dense
    with torch.no_grad():
        for parameter, value in zip((pooler.weight, pooler.bias), head.plain_pooler(), strict=True):
            parameter.copy_(value)
    model.classifier.load_state_dict(head.classifier.state_dict())
    stored, now = load_file(weights / MINILM.checked), model.bert.state_dict()
    changed = [name for name in now if not name.startswith("pooler.") and not torch.equal(now[name], stored[name])]
    if changed:
        raise RltrError(f"{changed[0]} is not as it is stored in {weights}: this version of transformers changed it")
    return model.eval()


def save(weights: Path, head: Head, classes: list[str], out: Path) -> None:
    """Write MiniLM with a trained head, and its tokenizer, to a folder; arguments as for :func:`classifier`."""
    with atomic_folder(out) as folder:
        classifier(weights, head, classes).save_pretrained(folder)
        # Not one that was used: it would be saved with its last call's cutting and padding.
        AutoTokenizer.from_pretrained(weights).save_pretrained(folder)


def read_split(file: Path, classes: list[str], tokenizer: PreTrainedTokenizerBase) -> TextExamples:
    """The texts of one ``.jsonl`` that :mod:`examples.make_data` wrote."""
    columns = read_records(file, DataOptions()).columns
    labels = torch.tensor([classes.index(label) for label in columns["label"]])
    return TextExamples(columns["text"], labels, classes, tokenizer, LONGEST)


def train(name: str, assets: Path | None, built: Path, seed: int) -> None:
    """Features, head, folder; says how often each is right.

    Raises:
        RltrError: if MiniLM or the data is missing.
    """
    weights, data = find(MINILM, assets), built / name
    if missing := [split for split in NAMES if not (data / f"{split}.jsonl").is_file()]:
        raise RltrError(f"{data} has no {missing[0]}.jsonl; make it with: python -m examples.make_data {name}")
    tokenizer = AutoTokenizer.from_pretrained(weights)
    encoder = AutoModel.from_pretrained(weights, dtype=torch.float32).eval().requires_grad_(False)
    classes = CLASSES[name]
    splits = {split: read_split(data / f"{split}.jsonl", classes, tokenizer) for split in NAMES}
    features = cached(encoder, splits, data, MINILM.sha256, built / "features" / f"{name}.safetensors")
    head = fit(features["train"], len(classes), seed=seed)
    for split, part in features.items():
        print(f"{split}: {accuracy(head(part.first), part.labels):.4f} of {len(part.labels)}", end="; ")
        print(f"linear on the mean state {linear_accuracy(features['train'], part, len(classes)):.4f}")
    out = built / f"minilm-{name}"
    save(weights, head, classes, out)
    print(f"written to {out}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(CLASSES))
    parser.add_argument("--assets", type=Path, help="folder of the downloads (default: $RLTR_ASSETS, then runs/assets)")
    parser.add_argument("--built", type=Path, default=BUILT, help=f"folder of the data and heads (default: {BUILT})")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()  # it warns of a head that is missing, which is what this is about
    logging.disable_progress_bar()
    try:
        train(args.data, args.assets, args.built, args.seed)
    except RltrError as error:
        raise SystemExit(f"train_head: error: {error}") from None


if __name__ == "__main__":
    main()
