"""Examples stored as files (images, sounds), which are read when they are needed."""

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
"""Prepared files that one data set keeps in memory: 256 MiB, 445 RGB images of 224 pixels or 70 minutes at 16 kHz."""
CURE = "replace or remove it, or leave such inputs out: data.bad_inputs=skip"


class StoredExamples(Examples):
    """Files on disk or in a table, read when they are needed; the last ones used stay in memory, prepared.

    A subclass implements ``batch`` with ``_prepared``, and ``_read``, ``_process``, ``_facts`` and ``_versions``.

    Args:
        files: one per example.
        labels: what is true of each.
        names: a short name per example.
        classes: the names of the classes, by label.
        cache_bytes: most bytes of prepared files to keep.
        identity: a digest of all files; None takes paths, sizes and times of change.
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
        """File ``i``, decoded.

        Raises:
            RltrError: if it cannot be used; with its name (``_called``).
        """

    @abstractmethod
    def _process(self, content: Any) -> Float[Tensor, "*shape"]:
        """The model input of a decoded file."""

    @abstractmethod
    def _facts(self) -> list[str]:
        """The settings that the model input depends on."""

    @abstractmethod
    def _versions(self) -> list[str]:
        """The versions of the libraries that decode and prepare files."""

    def fingerprint(self) -> str | None:
        """See ``Examples``: of the files, the settings and the libraries."""
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
        except Exception as error:  # processors raise whatever they like, and none of them names the file
            reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise RltrError(f"{self._called(i)} cannot be prepared for the model ({reason})") from error
