"""Examples that are stored as files (images, sounds) and read when they are needed."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks.examples.base import Examples, digest
from rltr.tasks.examples.recent import Recent
from rltr.tasks.read.stored_files import StoredFile, digest_contents, digest_stored

CACHE_BYTES = 2**28
"""Size of the cache of prepared files per split: 256 MiB hold 445 RGB images of 224 pixels, or 70 minutes at 16 kHz."""
CURE = "replace or remove it, or leave such inputs out: data.bad_inputs=skip"


class StoredExamples(Examples):
    """Files on disk or in a table, read when they are needed; the most recently used ones stay cached, preprocessed.

    A subclass implements ``batch`` with ``_prepared``, and ``_read``, ``_process``, ``_facts`` and ``_versions``.

    Args:
        files: one per example.
        labels: the label of each file.
        names: a short name per example.
        classes: the names of the classes, by label.
        cache_bytes: size limit of the cache of preprocessed files, in bytes.
        identity: a digest of all files; None computes it from paths, sizes and modification times.
    """

    def __init__(
        self,
        files: Sequence[StoredFile],
        labels: Shaped[Tensor, "examples *label"],
        names: Sequence[str],
        classes: Sequence[str],
        cache_bytes: int,
        identity: str | None,
    ) -> None:
        super().__init__(labels, names, classes)
        self.files = files
        self.identity = identity
        self._prepared = Recent(self._prepare, cache_bytes)

    @abstractmethod
    def _read(self, i: int) -> Any:
        """Decode file ``i``.

        Raises:
            RltrError: if it cannot be used; the message has its name (``_called``).
        """

    @abstractmethod
    def _process(self, content: Any) -> Float[Tensor, "*shape"]:
        """Convert a decoded file to a model input."""

    @abstractmethod
    def _facts(self) -> list[str]:
        """The settings that the model input depends on."""

    @abstractmethod
    def _versions(self) -> list[str]:
        """The versions of the libraries that decode and preprocess files."""

    def fingerprint(self) -> str | None:
        """See ``Examples``: covers the files, the settings and the versions of the libraries."""
        identity = self.identity or digest_stored(self.files)
        return None if identity is None else digest([identity, *self._facts(), *self._versions()])

    def _inputs(self, index: Sequence[int]) -> str:
        return digest([digest_contents([self.files[i] for i in index]), *self._facts()])

    def fault(self, i: int) -> str | None:
        """See ``Examples``."""
        try:
            self._made(i)
        except RltrError as error:
            return str(error)
        return None

    def _called(self, i: int) -> str:
        """The name of a file in messages: its path if it has one."""
        file = self.files[i]
        return str(file) if isinstance(file, Path) else self.names[i]

    def _prepare(self, i: int) -> Float[Tensor, "*shape"]:
        try:
            return self._made(i)
        except RltrError as error:
            raise RltrError(f"{error}; {CURE}") from error

    def _made(self, i: int) -> Float[Tensor, "*shape"]:
        content = self._read(i)
        try:
            return self._process(content)
        except Exception as error:  # processors raise many types of errors, none of which names the file
            reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise RltrError(f"{self._called(i)} cannot be prepared for the model ({reason})") from error
