"""What the dense model says, on disk, so that a second run over the same model and data need not compute it again.

Every model, data set and goal has a folder of its own, named by a digest of all that decides the numbers. What was
computed together becomes one new file in it, written beside its place and renamed: no process ever sees half a file,
none rewrites another's, and no lock is needed. A file that another process removed meanwhile is a miss, nothing worse.
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
"""Changes when other numbers would be stored under the same digest."""
MANY = 32
"""Files of one folder from which on a reader joins them into one."""
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where rltr caches: ``RLTR_CACHE``, or else ``rltr`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("RLTR_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rltr"


class DenseCache:
    """A folder of dense answers, bounded in size; the model and data used longest ago go first.

    What others keep in that folder is neither counted nor removed. A cache must never end a training: where the disk is
    full or the folder cannot be written, that is said once, and from then on nothing is stored.

    Args:
        most_bytes: how large the folder may become.
        folder: where; None takes ``dense`` in :func:`cache_folder`.
    """

    def __init__(self, most_bytes: int, folder: Path | None = None) -> None:
        self.most_bytes = most_bytes
        self.folder = cache_folder() / "dense" if folder is None else folder
        self._stores = True

    def read(
        self, key: str, examples: int, shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, " rows"], Answers] | None:
        """What is stored under ``key``: indices below ``examples``, each once, and the answers; None if nothing is.

        A damaged file is removed, and so is one with answers of another shape than the rest.

        Args:
            key: a :func:`dense_key`, 64 hexadecimal digits.
            examples: how many there are.
            shape: of one answer; None takes the one that most of what is stored has.
        """
        entry = self.folder / key
        stored_in: dict[Path, tuple[Tensor, Tensor]] = {}
        for file in (file for file in _listed(entry) if file.suffix == ".safetensors"):
            try:
                # Read whole: a file that vanishes while it is being mapped raises whatever the mapping library likes.
                stored = load(file.read_bytes())
                index, answers = stored["index"], stored["answers"]
                if index.dtype != torch.int64 or answers.dtype != torch.float32:
                    raise ValueError(f"index and answers are {index.dtype} and {answers.dtype}")
                if index.ndim != 1 or answers.ndim < 2 or len(index) != len(answers) or len(index) == 0:
                    raise ValueError("index and answers are not of one length")
                if int(index.min()) < 0 or int(index.max()) >= examples or not answers.isfinite().all():
                    raise ValueError("there are values that were never stored")
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
            os.utime(entry)  # used now: it is to go last
        except OSError:
            log.debug("cannot mark %s as used", entry)
        every = torch.cat([index for index, _ in found])
        index, inverse = every.unique(return_inverse=True)
        place = torch.empty_like(index).scatter_(0, inverse, torch.arange(len(every)))
        answers = torch.cat([rows for _, rows in found])[place]
        fits = _size(entry) + index.nbytes + answers.nbytes <= self.most_bytes  # while they are joined, both are there
        if len(found) > MANY and fits and self.write(key, index, answers):
            for file in stored_in:
                _remove(file)
        return index, answers

    def write(self, key: str, index: Int[Tensor, " rows"], answers: Answers) -> bool:
        """Store answers under ``key`` beside what is there; False if they were not."""
        if not self._stores or len(index) == 0:
            return False
        entry = self.folder / key
        try:
            if _size(entry) + index.nbytes + answers.nbytes > self.most_bytes:
                raise OSError(f"this data set alone takes more than the {self.most_bytes / 2**20:.0f} MB allowed")
            remove_all_unfinished(entry)
            with atomic_write(entry / f"{uuid.uuid4().hex}.safetensors") as temporary:
                # Not save_file, which says neither of a full disk nor of a folder that is gone what they are.
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
        """Remove whole folders of answers, the one used longest ago first, until the rest fits."""
        # Only what is named by a digest: RLTR_CACHE may be a folder in which others keep things, too.
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
    """A folder's files by name; none where it cannot be listed, or is not there, or no more."""
    try:
        # Not glob: it looks whether the folder is there and then lists it, and another process may remove it between.
        with os.scandir(entry) as found:
            return sorted(Path(file.path) for file in found if file.is_file())  # no device, which may never end
    except OSError:
        return []


def _removed_meanwhile(entry: Path, error: OSError) -> bool:
    """Whether a folder could not be written because it was removed, perhaps just as ``mkdir`` found it there."""
    if isinstance(error, FileNotFoundError):
        return True
    in_the_way = os.path.lexists(entry) and not entry.is_dir()
    return isinstance(error, FileExistsError) and entry.parent.is_dir() and not in_the_way


def _size(entry: Path) -> int:
    """Bytes of a folder's files; 0 for one that is not there, or no more."""
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
    """A digest of all that the dense answers depend on to the last bit; None if the data have no fingerprint.

    That is the weights (exactly: :attr:`Backbone.fingerprint` is the same for a checkpoint in two precisions, whose
    answers differ), the configuration of the whole model, the data, what the goal reads in the model's output and in
    which shape, how many go through the model together, the device, the versions of torch and transformers, and how
    torch computes there (see :func:`rltr.dense.identity.surroundings`).
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
