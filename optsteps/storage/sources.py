"""The code that a computation runs: the source of a module and of all that it imports, as it was when it was loaded.

What Python and installed packages bring counts by the packages' versions. A module that is loaded while its file is
changed goes on as it was, so its source is remembered (`remember_sources`) and never read again.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

_PACKAGE = "optsteps"
# of this package, what shows results or hands them on: it changes none
_SHOWING = ("optsteps.cli", "optsteps.export", "optsteps.loggers", "optsteps.reporting", "optsteps.text")
# where Python's own modules lie, and installed packages'
_INSTALLED = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})
# packages without which another computes something else, though nothing here imports them
_BESIDE = {"diffusers": {"transformers"}}


@dataclass(frozen=True)
class _Source:
    """A module's file as it was read."""

    spec: ModuleSpec
    content: bytes

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:16]

    @cached_property
    def imports(self) -> set[str]:
        """Names of modules that it may import, anywhere in it; some are names of other things in a module."""
        if self.spec.origin is None or not self.spec.origin.endswith(".py"):
            return set()
        package = self.spec.name if self.spec.submodule_search_locations is not None else self.spec.parent
        names: set[str] = set()
        try:
            tree = ast.parse(self.content)
        except SyntaxError:  # of a file that is not to be imported after all
            return names
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        return names


_REMEMBERED: WeakKeyDictionary[ModuleType, _Source] = WeakKeyDictionary()


def remember_sources() -> None:
    """Read the source of every loaded module of this package and of the user's that was not read yet."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and isinstance(module, ModuleType) and module not in _REMEMBERED:
            spec = getattr(module, "__spec__", None)
            if spec is not None and _is_own(spec):
                _REMEMBERED[module] = _read(spec)


def code_facts(modules: Iterable[str]) -> dict[str, str]:
    """Digests of the source of these modules and of all that they import in turn, and the versions of the installed
    packages among those; by name.

    Imports are found in the text, so that one within a function counts before it is done. A package's `__init__` counts
    with every module of the user's that lies in it; in this package only where it is imported by name.

    Args:
        modules: full names. Where one is installed, what its package holds counts as the user's too.
    """
    starts = set(modules)
    mine = {_PACKAGE, *(name.split(".")[0] for name in starts)}
    facts: dict[str, str] = {}
    seen: set[str] = set()
    waiting = set(starts)
    while waiting:
        name = waiting.pop()
        top = name.split(".")[0]
        if name in seen or top in sys.stdlib_module_names or name.startswith(_SHOWING):
            continue
        seen.add(name)
        source = _source(name, top in mine)
        if source is not None:
            facts[name] = source.digest
            waiting |= source.imports
            if top != _PACKAGE and "." in name:
                waiting.add(name.rpartition(".")[0])
        elif top not in mine and (version := _version(top)) is not None:
            facts[top] = version
            waiting |= _BESIDE.get(top, set())
    return dict(sorted(facts.items()))


def is_own(name: str | None) -> bool:
    """Is the module of that name of this package or of the user's, rather than Python's or an installed one?"""
    spec = getattr(sys.modules.get(name or ""), "__spec__", None)
    return name == "__main__" or (spec is not None and _is_own(spec))


def _source(name: str, mine: bool) -> _Source | None:
    """The source of a module of one's own; None for an installed one, or where there is no such module."""
    module = sys.modules.get(name)
    if module is not None and module in _REMEMBERED:
        return _REMEMBERED[module]
    spec = _spec(name)
    if spec is None or not (mine or _is_own(spec)):
        return None
    source = _read(spec)
    if module is not None:
        _REMEMBERED[module] = source
    return source


def _is_own(spec: ModuleSpec) -> bool:
    if spec.name.split(".")[0] == _PACKAGE:
        return True
    return spec.has_location and spec.origin is not None and not spec.origin.startswith(_INSTALLED)


def _read(spec: ModuleSpec) -> _Source:
    if not spec.has_location or spec.origin is None:  # a folder without __init__
        return _Source(spec, b"")
    try:
        return _Source(spec, Path(spec.origin).read_bytes())
    except OSError:  # loaded from an archive, or deleted since
        return _Source(spec, b"")


def _spec(name: str) -> ModuleSpec | None:
    """Where a module lies, whether it was imported yet or not; nothing is imported."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    above, _, _ = name.rpartition(".")
    if not above:
        return importlib.util.find_spec(name)
    parent = _spec(above)
    if parent is None or parent.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, list(parent.submodule_search_locations))


@cache
def _version(package: str) -> str | None:
    """Of an installed package, the loaded one's where it says; None where its distribution goes by another name."""
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    loaded = getattr(sys.modules.get(package), "__version__", None)
    # the same whether it is loaded already or not: what is behind a plus says where it was built
    return (loaded if isinstance(loaded, str) else installed).split("+")[0]
