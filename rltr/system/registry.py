"""Registries from names in recipes to classes: rltr's own, and those that installed packages add as entry points.

A package adds a class in its ``pyproject.toml``::

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
    """A read-only mapping from names to classes.

    Entry points are listed on first use; a package is imported when its name is first looked up.

    Args:
        group: the group of entry points.
        own: rltr's classes by name; packages cannot replace them.
        base: the base class of all classes; None for a protocol, for which ``members`` are checked instead.
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
        """The entry points of installed packages, by name."""
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            if entry.name in self._own:
                raise RltrError(
                    f"{_package(entry)} adds {entry.name!r} to {self.group}, but rltr's own class has this name: "
                    "rename the entry point, or uninstall the package"
                )
            if entry.name in found and found[entry.name].value != entry.value:
                raise RltrError(
                    f"{_package(found[entry.name])} and {_package(entry)} both add {entry.name!r} to {self.group}: "
                    "uninstall one of them"
                )
            found[entry.name] = entry
        return found

    def __getitem__(self, name: str) -> type[T]:
        """The class with this name.

        Raises:
            KeyError: if there is none.
            RltrError: if its package cannot be imported, or the entry point is not a suitable class.
        """
        if name not in self._loaded:
            entry = self._entries[name]
            try:
                loaded = entry.load()
            except Exception as error:  # third-party packages may raise anything
                raise RltrError(
                    f"{name!r} of {self.group} cannot be loaded from {entry.value} of {_package(entry)}: "
                    f"{type(error).__name__}: {error}; fix that package, or uninstall it"
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
        """Whether the name exists; imports no package."""
        return name in self._own or name in self._entries

    def _refuse_other(self, loaded: object, name: str, entry: EntryPoint) -> None:
        if isinstance(loaded, type) and (self._base is None or issubclass(loaded, self._base)):
            missing = [member for member in self._members if not hasattr(loaded, member)]
            if not missing:
                return
            wanted = f"lacks {', '.join(missing)}"
        else:
            wanted = f"is not a subclass of {self._base.__name__}" if self._base else "is not a class"
        raise RltrError(
            f"{name!r} of {self.group} ({entry.value} of {_package(entry)}) {wanted}: fix that package, or uninstall it"
        )


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else "a package"
