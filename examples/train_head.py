"""Train a classification head on the frozen MiniLM, and save both as an ordinary Hugging Face folder.

    python -m examples.train_head spam     # runs/examples/minilm-spam
    python -m examples.train_head vader    # runs/examples/minilm-vader

The folder holds a `BertForSequenceClassification` and its tokenizer, which `AutoModelForSequenceClassification` and
`rltr` load. The encoder's weights are MiniLM's, bit for bit. Only the pooler (a linear layer and tanh on the hidden
state of CLS) and the classifier after it are trained, on the training split. Texts are truncated to 512 tokens.

For comparison, a linear head on the mean hidden state of all tokens is fitted, because this MiniLM was trained with
mean pooling: it shows what the hidden state of CLS lacks. It is not saved, because no BERT classifier of transformers
uses mean pooling.
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
"""Largest number of tokens of a text, including special ones: MiniLM's number of positions."""


class Head(nn.Module):
    """BERT's pooler and classifier on standardised features, with dropout before each.

    Args:
        features: training features ``(texts, width)``; their mean and deviation standardise the input.
        classes: number of classes.
        dropout: dropout probability of features and of hidden units.
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
        """Compute logits."""
        standard = self.dropout((features - self.mean) / self.spread)
        return self.classifier(self.dropout(self.pooler(standard).tanh()))

    def plain_pooler(self) -> tuple[Float[Tensor, "width width"], Float[Tensor, " width"]]:
        """Weight and bias of an equivalent pooler for features that are not standardised."""
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
    """Train a head on the hidden state of the first token."""
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
    """Accuracy of a linear head on the mean hidden state of all tokens."""
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
    """Fraction of correct predictions."""
    return float((logits.argmax(-1) == labels).float().mean())


def classifier(weights: Path, head: Head, classes: list[str]) -> BertForSequenceClassification:
    """MiniLM with a trained head, in evaluation mode.

    Args:
        weights: folder of MiniLM.
        head: the head, from :func:`fit`.
        classes: class names, by class number.

    Raises:
        RltrError: if a weight of the encoder differs from the stored one.
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
        raise RltrError(
            f"{changed[0]} differs from the file in {weights}: this version of transformers changed it when loading"
        )
    return model.eval()


def save(weights: Path, head: Head, classes: list[str], out: Path) -> None:
    """Write MiniLM with a trained head, and its tokenizer, to a folder; arguments as for :func:`classifier`."""
    with atomic_folder(out) as folder:
        classifier(weights, head, classes).save_pretrained(folder)
        # A fresh tokenizer: a used one would be saved with the truncation and padding of its last call.
        AutoTokenizer.from_pretrained(weights).save_pretrained(folder)


def read_split(file: Path, classes: list[str], tokenizer: PreTrainedTokenizerBase) -> TextExamples:
    """Read a ``.jsonl`` file that :mod:`examples.make_data` wrote."""
    columns = read_records(file, DataOptions()).columns
    labels = torch.tensor([classes.index(label) for label in columns["label"]])
    return TextExamples(columns["text"], labels, classes, tokenizer, LONGEST)


def train(name: str, assets: Path | None, built: Path, seed: int) -> None:
    """Compute features, train the head, save the model, and print accuracies.

    Raises:
        RltrError: if MiniLM or the data is missing.
    """
    weights, data = find(MINILM, assets), built / name
    if missing := [split for split in NAMES if not (data / f"{split}.jsonl").is_file()]:
        raise RltrError(f"{data} has no {missing[0]}.jsonl; create it with: python -m examples.make_data {name}")
    tokenizer = AutoTokenizer.from_pretrained(weights)
    encoder = AutoModel.from_pretrained(weights, dtype=torch.float32).eval().requires_grad_(False)
    classes = CLASSES[name]
    splits = {split: read_split(data / f"{split}.jsonl", classes, tokenizer) for split in NAMES}
    features = cached(encoder, splits, data, MINILM.sha256, built / "features" / f"{name}.safetensors")
    head = fit(features["train"], len(classes), seed=seed)
    for split, part in features.items():
        print(f"{split}: {accuracy(head(part.first), part.labels):.4f} of {len(part.labels)}", end="; ")
        print(f"linear head on the mean hidden state {linear_accuracy(features['train'], part, len(classes)):.4f}")
    out = built / f"minilm-{name}"
    save(weights, head, classes, out)
    print(f"written to {out}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(CLASSES))
    parser.add_argument("--assets", type=Path, help="folder of the downloads (default: $RLTR_ASSETS, then runs/assets)")
    parser.add_argument("--built", type=Path, default=BUILT, help=f"folder of the data and heads (default: {BUILT})")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()  # it warns of the missing head, which is trained here
    logging.disable_progress_bar()
    try:
        train(args.data, args.assets, args.built, args.seed)
    except RltrError as error:
        raise SystemExit(f"train_head: error: {error}") from None


if __name__ == "__main__":
    main()
