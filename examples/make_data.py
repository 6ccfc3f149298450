"""Build the data of the examples, with near-duplicates removed before they are split into train, validation and test.

    python -m examples.make_data spam     # runs/examples/spam/{train,validation,test}.jsonl
    python -m examples.make_data vader    # runs/examples/vader/{train,validation,test}.jsonl

Near-copies are removed before the division, which depends on nothing but the seed. Nothing of the texts is printed:
some of the old spam is not for everybody.
"""

import argparse
from pathlib import Path

from examples.assets import SPAM_ASSASSIN, VADER, find
from examples.mails import read_mails
from examples.sentences import read_sentences
from examples.splits import without_copies, write_splits
from rltr.errors import RltrError

CLASSES = {"spam": ["ham", "spam"], "vader": ["negative", "positive"]}
"""The labels of each data set, in the order in which the heads number them."""
SOURCES = {"spam": (SPAM_ASSASSIN, read_mails), "vader": (VADER, read_sentences)}
BUILT = Path("runs/examples")
"""Where the examples' data and heads go, unless another place is named."""


def make(name: str, assets: Path | None, built: Path, seed: int) -> None:
    """Write the splits of one data set to ``built/name``, and say how many there are.

    Raises:
        RltrError: if the data is not on this machine, or is not the expected one.
    """
    asset, read = SOURCES[name]
    everything = list(read(find(asset, assets)))
    records = without_copies(everything)
    counts = write_splits(records, built / name, seed)
    print(f"{name}: {len(everything)} texts, {len(records)} without near-copies")
    for split, labels in counts.items():
        print(f"  {split}: {', '.join(f'{count} {label}' for label, count in sorted(labels.items()))}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(SOURCES))
    parser.add_argument("--assets", type=Path, help="folder of the downloads (default: $RLTR_ASSETS, then runs/assets)")
    parser.add_argument("--built", type=Path, default=BUILT, help=f"folder to write to (default: {BUILT})")
    parser.add_argument("--seed", type=int, default=0, help="of the division")
    args = parser.parse_args()
    try:
        make(args.data, args.assets, args.built, args.seed)
    except RltrError as error:
        raise SystemExit(f"make_data: error: {error}") from None


if __name__ == "__main__":
    main()
