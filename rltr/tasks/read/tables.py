"""The records of one split as Hugging Face's ``datasets`` keeps them: columns of images, sounds, texts and all else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rltr.errors import RltrError
from rltr.tasks.examples.base import digest
from rltr.tasks.read.stored_files import StoredFile


@dataclass(frozen=True)
class Table:
    """The records of one split.

    Args:
        data: what the data set is called in messages.
        split: the name of this split in it.
        rows: a ``datasets.Dataset``.
    """

    data: str
    split: str
    rows: Any

    @property
    def fingerprint(self) -> str:
        """What ``datasets`` itself tells contents apart by in its cache."""
        return str(self.rows._fingerprint)

    def __len__(self) -> int:
        """Number of records."""
        return len(self.rows)

    def place(self, i: int) -> str:
        """What messages call record ``i``."""
        return f"{self.data}, {self.split}[{i}]"

    def places(self) -> list[str]:
        """A short name for every record."""
        return [f"{self.split}[{i}]" for i in range(len(self))]

    def column(self, name: str, setting: str, or_else: str = "") -> Sequence[Any]:
        """A column, read from disk as it is asked for.

        Args:
            name: of the column.
            setting: the field of a recipe that names it.
            or_else: what else can be done where there is none.

        Raises:
            RltrError: if there is none of that name.
        """
        if name not in self.rows.column_names:
            raise RltrError(
                f"{self.data} has no column {name!r}; there are {', '.join(map(repr, self.rows.column_names))}; name "
                f"one of them with {setting}{or_else}"
            )
        column: Sequence[Any] = self.rows[name]
        return column

    def images(self, name: str) -> tuple[Sequence[StoredFile], str | None]:
        """A column of images, not decoded, and a digest of them all.

        There is none where the table holds only paths: it does not tell when a file changes.

        Raises:
            RltrError: if there is no such column, or it holds something else.
        """
        return self._files(name, "images", "data.image_column", import_datasets().Image)

    def sounds(self, name: str) -> tuple[Sequence[StoredFile], str | None]:
        """The same for a column of sounds."""
        return self._files(name, "sounds", "data.audio_column", import_datasets().Audio)

    def _files(self, name: str, what: str, setting: str, feature: Any) -> tuple[Sequence[StoredFile], str | None]:
        self.column(name, setting)
        own = self.rows.features[name]
        stored = {"binary", "large_binary"} & {str(getattr(own, "dtype", ""))}
        is_file = isinstance(own, dict) and set(own) == {"bytes", "path"}
        if not isinstance(own, feature) and not stored and not is_file:
            raise RltrError(f"{self.data}: the column {name!r} holds {own}, not {what}; see {setting}")
        files: Sequence[StoredFile] = self.rows.cast_column(name, feature(decode=False))[name]
        inside = isinstance(files[0], Mapping) and files[0].get("bytes") is not None
        return files, digest([self.fingerprint, name]) if inside else None

    def texts(self, name: str, blank: bool) -> Sequence[str | None]:
        """A column of texts.

        Args:
            name: of the column.
            blank: whether a text may be missing, empty or blank.

        Raises:
            RltrError: if there is no such column, it holds something else, or a text is missing.
        """
        column = self.column(name, "data.text_column")
        kind = getattr(self.rows.features[name], "dtype", None)
        if kind not in ("string", "large_string", "string_view"):
            raise RltrError(f"{self.data}: the column {name!r} holds {self.rows.features[name]}, not texts")
        if not blank:
            for i, text in enumerate(column):
                if text is None or not text.strip():
                    raise RltrError(
                        f"{self.place(i)}: {name!r} is empty; fill it in, remove the record, or leave such texts out: "
                        "data.bad_inputs=skip"
                    )
        return column


def import_datasets() -> Any:
    """The package ``datasets``.

    Raises:
        RltrError: if it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise RltrError(
            "hub data sets, Parquet and Arrow need the package datasets, which is missing: pip install 'rltr[data]'"
        ) from error
    return datasets
