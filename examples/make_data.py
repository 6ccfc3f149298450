"""Build the data of the examples, with near-duplicates removed before they are split into train, validation and test.

    python -m examples.make_data spam     # runs/examples/spam/{train,validation,test}.jsonl
    python -m examples.make_data vader    # runs/examples/vader/{train,validation,test}.jsonl

The split depends only on the data and the seed. No text is printed, because some of the old spam is not suitable for
everyone.
"""

import argparse
from pathlib import Path

from examples.assets import SPAM_ASSASSIN, VADER, find
from examples.mails import read_mails
from examples.sentences import read_sentences
from examples.splits import without_near_duplicates, write_splits
from rltr.errors import RltrError

CLASSES = {"spam": ["ham", "spam"], "vader": ["negative", "positive"]}
"""Labels of each data set, in the order of the heads' class numbers."""
SOURCES = {"spam": (SPAM_ASSASSIN, read_mails), "vader": (VADER, read_sentences)}
BUILT = Path("runs/examples")
"""Default folder of the examples' data and heads."""


def make(name: str, assets: Path | None, built: Path, seed: int) -> None:
    """Write the splits of one data set to ``built/name``, and print their sizes.

    Raises:
        RltrError: if the data is not on this machine, or its hash is wrong.
    """
    asset, read = SOURCES[name]
    everything = list(read(find(asset, assets)))
    records = without_near_duplicates(everything)
    counts = write_splits(records, built / name, seed)
    print(f"{name}: {len(everything)} texts, {len(records)} without near-duplicates")
    for split, labels in counts.items():
        print(f"  {split}: {', '.join(f'{count} {label}' for label, count in sorted(labels.items()))}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(SOURCES))
    parser.add_argument("--assets", type=Path, help="folder of the downloads (default: $RLTR_ASSETS, then runs/assets)")
    parser.add_argument("--built", type=Path, default=BUILT, help=f"folder to write to (default: {BUILT})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
    args = parser.parse_args()
    try:
        make(args.data, args.assets, args.built, args.seed)
    except RltrError as error:
        raise SystemExit(f"make_data: error: {error}") from None


if __name__ == "__main__":
    main()
