"""Cache of dense answers on disk, so that a second run over the same model and data need not compute them again.

Every combination of model, data set and goal has a folder, named by a digest of everything the answers depend on.
Answers computed together become one new file in it, written under a temporary name and renamed. So no process reads
half a file or overwrites another's, and no lock is needed. A file removed by another process is a cache miss.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rltr.dense.identity import surroundings, weights_digest
from rltr.runtime.backbone import Backbone
from rltr.system.files import atomic_write, remove_all_unfinished
from rltr.system.machine import Machine
from rltr.tasks import Examples
from rltr.tasks.goals.goal import Answers

FORMAT = 4
"""Version of the stored answers; changes when the same facts would lead to other numbers."""
MANY = 32
"""A reader joins the files of a folder into one when there are more than this."""
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Folder of rltr's caches: ``RLTR_CACHE``, or else ``rltr`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("RLTR_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rltr"


class DenseCache:
    """Folder of dense answers with a bounded size, evicting the least recently used model and data first.

    Files of other programs in that folder are neither counted nor removed. A cache must never end a training: if the
    disk is full or the folder cannot be written, it warns once and stores nothing from then on.

    Args:
        most_bytes: largest size of the folder.
        folder: the folder; None for ``dense`` in :func:`cache_folder`.
    """

    def __init__(self, most_bytes: int, folder: Path | None = None) -> None:
        self.most_bytes = most_bytes
        self.folder = cache_folder() / "dense" if folder is None else folder
        self._stores = True

    def read(
        self, key: str, examples: int, shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, " rows"], Answers] | None:
        """Read the answers stored under ``key``.

        Damaged files are removed, and so are files whose answers have a wrong shape.

        Args:
            key: a :func:`dense_key`, 64 hexadecimal digits.
            examples: number of examples of the data set.
            shape: shape of one answer; None for the most frequent one among the stored answers.

        Returns:
            Indices of examples, each once, and their answers; None if nothing is stored.
        """
        entry = self.folder / key
        stored_in: dict[Path, tuple[Tensor, Tensor]] = {}
        for file in (file for file in _listed(entry) if file.suffix == ".safetensors"):
            try:
                # Read as a whole: a memory-mapped file that is removed meanwhile raises an undocumented error.
                stored = load(file.read_bytes())
                index, answers = stored["index"], stored["answers"]
                if index.dtype != torch.int64 or answers.dtype != torch.float32:
                    raise ValueError(f"index and answers are {index.dtype} and {answers.dtype}")
                if index.ndim != 1 or answers.ndim < 2 or len(index) != len(answers) or len(index) == 0:
                    raise ValueError("index and answers differ in length")
                if int(index.min()) < 0 or int(index.max()) >= examples or not answers.isfinite().all():
                    raise ValueError("there are indices out of range or answers that are not finite")
            except FileNotFoundError:
                continue  # another process joined or removed it since it was listed
            except OSError as error:
                log.warning("the cache cannot be read (%s: %s): its answers are computed again", file, error)
                continue
            except (SafetensorError, ValueError, KeyError) as error:
                log.warning("removed a damaged file of the cache (%s: %s)", file, " ".join(str(error).split()))
                _remove(file)
                continue
            stored_in[file] = index, answers
        counts: Counter[tuple[int, ...]] = Counter()
        for index, answers in stored_in.values():
            counts[tuple(answers.shape[1:])] += len(index)
        if not counts:
            return None
        right = counts.most_common(1)[0][0] if shape is None else tuple(shape)
        for file, (_, answers) in list(stored_in.items()):
            if tuple(answers.shape[1:]) != right:
                log.warning("removed a file of the cache with answers of another shape (%s)", file)
                _remove(file)
                del stored_in[file]
        if not stored_in:
            return None
        found = list(stored_in.values())
        try:
            os.utime(entry)  # mark as used, so that it is evicted last
        except OSError:
            log.debug("cannot mark %s as used", entry)
        every = torch.cat([index for index, _ in found])
        index, inverse = every.unique(return_inverse=True)
        place = torch.empty_like(index).scatter_(0, inverse, torch.arange(len(every)))
        answers = torch.cat([rows for _, rows in found])[place]
        fits = (
            _size(entry) + index.nbytes + answers.nbytes <= self.most_bytes
        )  # old and joined files coexist for a moment
        if len(found) > MANY and fits and self.write(key, index, answers):
            for file in stored_in:
                _remove(file)
        return index, answers

    def write(self, key: str, index: Int[Tensor, " rows"], answers: Answers) -> bool:
        """Add answers to those stored under ``key``; return whether they were stored."""
        if not self._stores or len(index) == 0:
            return False
        entry = self.folder / key
        try:
            if _size(entry) + index.nbytes + answers.nbytes > self.most_bytes:
                raise OSError(f"this data set alone takes more than the {self.most_bytes / 2**20:.0f} MB allowed")
            remove_all_unfinished(entry)
            with atomic_write(entry / f"{uuid.uuid4().hex}.safetensors") as temporary:
                # Not save_file(): it does not raise OSError for a full disk or a missing folder.
                temporary.write_bytes(save({"index": index.contiguous(), "answers": answers.float().contiguous()}))
            self._trim(keep=entry)
        except OSError as error:
            if _removed_meanwhile(entry, error):
                return False  # another process made room
            self._stores = False
            log.warning("dense answers are not cached any more (%s: %s)", self.folder, " ".join(str(error).split()))
            return False
        return True

    def _trim(self, keep: Path) -> None:
        """Remove folders of answers, least recently used first, until the rest fits."""
        # Only folders named by a digest: RLTR_CACHE may point to a folder that other programs use, too.
        named = [entry for entry in self.folder.iterdir() if re.fullmatch("[0-9a-f]{64}", entry.name)]
        entries = [entry for entry in named if entry.is_dir() and entry != keep]
        sizes = {entry: _size(entry) for entry in entries}
        total = _size(keep) + sum(sizes.values())
        for entry in sorted(entries, key=_used):
            if total <= self.most_bytes:
                return
            shutil.rmtree(entry, ignore_errors=True)
            total -= sizes[entry]


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:
        log.warning("cannot remove %s", file)


def _listed(entry: Path) -> list[Path]:
    """Regular files of a folder, sorted; empty if it does not exist or cannot be listed."""
    try:
        # Not glob(): another process may remove the folder between its check and its listing.
        with os.scandir(entry) as found:
            return sorted(
                Path(file.path) for file in found if file.is_file()
            )  # no devices or pipes, whose reading may never end
    except OSError:
        return []


def _removed_meanwhile(entry: Path, error: OSError) -> bool:
    """Whether writing to a folder failed because another process removed it, possibly during ``mkdir``."""
    if isinstance(error, FileNotFoundError):
        return True
    in_the_way = os.path.lexists(entry) and not entry.is_dir()
    return isinstance(error, FileExistsError) and entry.parent.is_dir() and not in_the_way


def _size(entry: Path) -> int:
    """Total size of a folder's files in bytes; 0 if it does not exist."""
    size = 0
    for file in _listed(entry):
        try:
            size += file.stat().st_size
        except FileNotFoundError:
            continue
    return size


def _used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def dense_key(backbone: Backbone, examples: Examples, rows: int) -> str | None:
    """Digest of everything that the last bits of dense answers depend on; None if the data have no fingerprint.

    It covers the exact weights, the configuration of the whole model, the data, the goal and the shape of its answers,
    the number of inputs per pass, the device, the versions of torch and transformers, and torch's numeric settings (see
    :func:`rltr.dense.identity.surroundings`). :attr:`Backbone.fingerprint` would not do for the weights: it is the same
    for a checkpoint in two precisions, whose answers differ.
    """
    data = examples.fingerprint()
    if data is None:
        return None
    machine = Machine.here(backbone.device, backbone.dtype)
    facts = [
        FORMAT,
        weights_digest(backbone.model),
        surroundings(backbone.model),
        data,
        examples.goal.fingerprint(),
        examples.goal.shape(examples.labels, examples.classes),
        rows,
        vars(machine),
        torch.backends.cpu.get_cpu_capability() if machine.device == "cpu" else "",
        transformers.__version__,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
