"""Reference pages, written from the package before each build, so that no list of names is kept by hand.

A name is public if it is in the ``__all__`` of ``rltr`` or of a package in it. Every object is described once, under
its shortest public name (its *home*): ``rltr.attach``, not ``rltr.deploy.attachment.attach``. What is in no ``__all__``
is described under the module that defines it, on the pages for contributors.
"""

import inspect
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inspect import stringify_signature

import rltr
from rltr.callable_package import CallablePackage

GOOGLE: Any = Config(napoleon_use_rtype=False)
"""How Google docstrings are read."""
OPTIONS = ["   :members:", "   :special-members: __call__", "   :show-inheritance:"]
"""How a class is described."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write a page for each package with public names, and one for each folder's modules."""
    reference = Path(app.srcdir) / "reference"
    write_folder(reference / "api", {package.__name__: public_page(package) for package in public_packages()})
    rooms = {name.split(".")[1] for name in module_names() if name.count(".") > 1}
    write_folder(reference / "modules", {room: modules_page(room) for room in rooms})
    write_if_new(
        reference / "packages.md",
        contents(
            "Packages",
            "What `rltr` itself holds is described on [its own page](api/rltr.md). The names on these pages are "
            "public, too: a name is public if it is in the `__all__` of its package.",
            [f"api/{package.__name__}" for package in public_packages()[1:]],
        ),
    )
    write_if_new(
        reference / "modules.md",
        contents(
            "Modules",
            "What is in no `__all__`, by folder, for people who change rltr. It may change with every release.",
            [f"modules/{room}" for room in sorted(rooms)],
        ),
    )


def write_folder(folder: Path, pages: dict[str, str]) -> None:
    """Make ``folder`` hold these Markdown pages, by name, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        write_if_new(folder / f"{name}.md", text)


def write_if_new(path: Path, text: str) -> None:
    """Write a page unless it is there already: Sphinx reads every page again whose time has changed."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


@cache
def module_names() -> list[str]:
    """All modules and packages of rltr, by dotted name."""
    found = [module.name for module in walk_packages(rltr.__path__, "rltr.")]
    return ["rltr", *(name for name in found if not name.endswith("__main__"))]


@cache
def public_packages() -> list[ModuleType]:
    """The packages that declare public names, ``rltr`` first."""
    modules = [import_module(name) for name in module_names()]
    return [module for module in modules if hasattr(module, "__path__") and hasattr(module, "__all__")]


@cache
def homes() -> dict[int, str]:
    """The shortest public name of every public class and function, by the object's id."""
    found: dict[int, str] = {}
    for package in sorted(public_packages(), key=lambda module: module.__name__.count(".")):
        for name in package.__all__:
            value = public(package, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                found.setdefault(id(value), f"{package.__name__}.{name}")
    return found


def public(package: ModuleType, name: str) -> Any:
    """The value of a public name; of a package that can be called, such as ``rltr.train``, what the call runs."""
    value = getattr(package, name)
    return getattr(import_module("rltr.jobs.api"), name) if isinstance(value, CallablePackage) else value


def rank(value: Any) -> int:
    """Functions come first on a page, then classes, then constants."""
    return 0 if inspect.isroutine(value) else 1 if inspect.isclass(value) else 2


def public_page(package: ModuleType) -> str:
    """A package's public names: a table of all, then the description of those that have their home here."""
    here = package.__name__
    table, described = [], []
    for name in sorted(package.__all__, key=lambda name: rank(public(package, name))):
        value = public(package, name)
        home = homes().get(id(value), f"{here}.{name}")
        text = documented(name, value)
        if not text:
            raise ExtensionError(f"{here}.{name} is public and has no docstring")
        table += [f"   * - :py:obj:`{name} <{home}>`", f"     - {text[0]}"]
        if home != f"{here}.{name}":
            continue
        if inspect.isclass(value):
            described += [f".. autoclass:: {home}", *OPTIONS, ""]
        elif isinstance(getattr(package, name), CallablePackage):
            arguments = stringify_signature(inspect.signature(value), show_annotation=False)
            text = GoogleDocstring(text, GOOGLE).lines()
            described += [f".. py:function:: {name}{arguments}", "", *(f"   {line}" for line in text), ""]
        elif inspect.isroutine(value):
            described += [f".. autofunction:: {home}", ""]
        else:
            described += [f".. py:data:: {name}", "", *(f"   {line}" for line in text), ""]
    listed = [".. list-table::", "", *table, ""]
    # The name of a package that can be called is the function's.
    unlisted = ["   :no-index:"] if isinstance(package, CallablePackage) else []
    return page(here, [f".. py:module:: {here}", *unlisted, "", inspect.getdoc(package) or "", "", *listed, *described])


def modules_page(room: str) -> str:
    """All modules of a folder with what they define; what is public is left to its page, and linked."""
    package = import_module(f"rltr.{room}")
    lines = [] if package in public_packages() else [f".. py:module:: rltr.{room}", ""]
    lines += [inspect.getdoc(package) or "", ""]
    for name in module_names():
        if not name.startswith(f"rltr.{room}.") or name in {package.__name__ for package in public_packages()}:
            continue
        own = [(key, value) for key, value in vars(import_module(name)).items() if id(value) in homes()]
        public = [(key, homes()[id(value)]) for key, value in own if value.__module__ == name]
        file = f"{name.replace('.', '/')}{'/' if hasattr(import_module(name), '__path__') else '.py'}"
        lines += [file, "-" * len(file), "", f".. automodule:: {name}", "   :members:"]
        if inspect.isroutine(getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])):
            lines += ["   :no-index:"]  # a public function has the module's name: rltr.evaluate.measure
        if public:
            lines += [f"   :exclude-members: {', '.join(key for key, _ in public)}", ""]
            lines += [f"Public: {', '.join(f':py:obj:`{home}`' for _, home in public)}"]
        lines += [""]
    return page(f"rltr/{room}", lines)


def contents(title: str, text: str, pages: list[str]) -> str:
    """A page that leads to others."""
    return "\n".join([f"# {title}", "", text, "", "```{toctree}", ":maxdepth: 1", *pages, "```", ""])


def page(title: str, lines: list[str]) -> str:
    """A Markdown page of reStructuredText, which is what docstrings are written in."""
    return "\n".join([f"# {title}", "", "```{eval-rst}", *lines, "```", ""])


def documented(name: str, value: Any) -> list[str]:
    """The lines of a docstring; that of a constant stands below its definition, in whatever module that is."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return (inspect.getdoc(value) or "").splitlines()
    for module in module_names():
        if getattr(import_module(module), name, None) is value:
            found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
            if found:
                return found
    return []


def find(name: str) -> Any:
    """The object of a dotted name; None if there is none."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:length]))
            for part in parts[length:]:
                found = getattr(found, part)
        except (ImportError, AttributeError):
            continue
        return found
    return None
