"""Names that recipes use, and what they mean: rltr's own, and what installed packages add through entry points.

A package adds one in its ``pyproject.toml``::

    [project.entry-points."rltr.selectors"]
    my_rule = "my_package.my_rule:MyRule"
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from rltr.errors import RltrError

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """A mapping from names to classes, which cannot be changed once it is made.

    Packages are looked for when it is first read, and one is imported when its name is first looked up.

    Args:
        group: of entry points.
        own: rltr's classes, whose names no package can take.
        base: what every class must be a subclass of; None for a protocol, whose ``members`` are looked for instead.
        members: attributes that every class must have.
    """

    def __init__(
        self, group: str, own: Mapping[str, type[T]], base: type | None = None, members: Sequence[str] = ()
    ) -> None:
        self.group = group
        self._loaded: dict[str, type[T]] = dict(own)
        self._own = tuple(own)
        self._base = base
        self._members = members

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        """What installed packages add, by name."""
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            if entry.name in self._own:
                raise RltrError(
                    f"{_package(entry)} adds {entry.name!r} to {self.group}, which is the name of rltr's own: have it "
                    "choose another name, or uninstall it"
                )
            if entry.name in found and found[entry.name].value != entry.value:
                raise RltrError(
                    f"{_package(found[entry.name])} and {_package(entry)} both add {entry.name!r} to {self.group}: "
                    "uninstall one of them"
                )
            found[entry.name] = entry
        return found

    def __getitem__(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            KeyError: if there is none.
            RltrError: if the package that adds it cannot be imported, or what it adds is of another kind.
        """
        if name not in self._loaded:
            entry = self._entries[name]
            try:
                loaded = entry.load()
            except Exception as error:  # whatever a package of somebody else raises
                raise RltrError(
                    f"{name!r} of {self.group} cannot be loaded from {entry.value} of {_package(entry)}: "
                    f"{type(error).__name__}: {error}; mend that package, or uninstall it"
                ) from error
            self._refuse_other(loaded, name, entry)
            self._loaded[name] = loaded
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        """All names, rltr's own first."""
        yield from self._own
        yield from self._entries

    def __len__(self) -> int:
        """Number of names."""
        return len(self._own) + len(self._entries)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a name; nothing is imported."""
        return name in self._own or name in self._entries

    def _refuse_other(self, loaded: object, name: str, entry: EntryPoint) -> None:
        if isinstance(loaded, type) and (self._base is None or issubclass(loaded, self._base)):
            missing = [member for member in self._members if not hasattr(loaded, member)]
            if not missing:
                return
            wanted = f"lacks {', '.join(missing)}"
        else:
            wanted = f"is no subclass of {self._base.__name__}" if self._base else "is no class"
        raise RltrError(
            f"{name!r} of {self.group} ({entry.value} of {_package(entry)}) {wanted}: have that package mend it, or "
            "uninstall it"
        )


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else "a package"
