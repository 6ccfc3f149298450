"""Build the embedded data of rltr, garments.npz, from Fashion-MNIST.

    python scripts/build_embedded_data.py --fashion-mnist FOLDER --out rltr/embedded/garments.npz

FOLDER holds the four idx.gz files (Debian: package ``dataset-fashion-mnist``, /usr/share/datasets/fashion-mnist).
Validation and train come from the garments that train_embedded_vit.py never shows the ViT, test from Fashion-MNIST's
own test set. The same input gives the same file, byte for byte.
"""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from train_embedded_vit import HELD_OUT, NAMES, read_idx

from rltr.system.files import atomic_write

VALIDATION, TRAIN, TEST = 2_000, 6_000, 5_000


def cut(folder: Path) -> dict[str, NDArray[Any]]:
    """Select the garments and labels of each split.

    Returns:
        For each split ``{split}_garments (garments, 28, 28)`` and ``{split}_labels (garments,)``, uint8; and
        ``classes (10,)``, names by label.
    """
    garments = read_idx(folder / "train-images-idx3-ubyte.gz")[-HELD_OUT:]
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")[-HELD_OUT:]
    train = slice(VALIDATION, VALIDATION + TRAIN)
    return {
        "train_garments": garments[train],
        "train_labels": labels[train],
        "validation_garments": garments[:VALIDATION],
        "validation_labels": labels[:VALIDATION],
        "test_garments": read_idx(folder / "t10k-images-idx3-ubyte.gz")[:TEST],
        "test_labels": read_idx(folder / "t10k-labels-idx1-ubyte.gz")[:TEST],
        "classes": np.array(NAMES),
    }


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a compressed .npz whose bytes depend on the arrays only: ``np.savez_compressed`` puts the time into it."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Windows would write another number here.
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def main() -> None:
    """Read the command line, write the file and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    arrays = cut(args.fashion_mnist)
    write_npz(args.out, arrays)
    sizes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB; {sizes}")


if __name__ == "__main__":
    main()
