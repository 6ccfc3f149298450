"""The records of one split as Hugging Face's ``datasets`` keeps them: columns of images, texts and all else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rltr.errors import RltrError


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

    def column(self, name: str, setting: str) -> Sequence[Any]:
        """A column, read from disk as it is asked for.

        Args:
            name: of the column.
            setting: the field of a recipe that names it.

        Raises:
            RltrError: if there is none of that name.
        """
        if name not in self.rows.column_names:
            raise RltrError(
                f"{self.data} has no column {name!r}; there are {', '.join(map(repr, self.rows.column_names))}; name "
                f"one of them with {setting}"
            )
        column: Sequence[Any] = self.rows[name]
        return column

    def images(self, name: str) -> Sequence[Any]:
        """A column of images, each as a mapping with its ``bytes`` or its ``path``, not decoded.

        Raises:
            RltrError: if there is no such column, or it holds something else.
        """
        self.column(name, "data.image_column")
        datasets = import_datasets()
        feature = self.rows.features[name]
        stored = {"binary", "large_binary"} & {str(getattr(feature, "dtype", ""))}
        is_file = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
        if not isinstance(feature, datasets.Image) and not stored and not is_file:
            raise RltrError(f"{self.data}: the column {name!r} holds {feature}, not images; see data.image_column")
        column: Sequence[Any] = self.rows.cast_column(name, datasets.Image(decode=False))[name]
        return column

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
        if kind not in ("string", "large_string"):
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
