"""Source of the code that a computation runs: of a module and of all that it imports, as it was when it was loaded.

Installed packages count by their versions. A loaded module goes on as it was when its file is changed, so its source is
remembered (`remember_sources`) and never read again.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from weakref import WeakKeyDictionary

from optsteps.deprecation import MODULES

_PACKAGE = "optsteps"
# modules of this package that change no result: they show results, hand them on, find them again, or know old names
_WITHOUT_EFFECT = {
    f"{_PACKAGE}.{name}"
    for name in (
        *("cli", "export", "finding", "loggers", "reporting", "text"),
        *("fingerprint", "storage.claims", "storage.documents", "storage.sources", "storage.store", "storage.workers"),
        "deprecation",
    )
}
_NEW_NAMES = {f"{_PACKAGE}.{old}": f"{_PACKAGE}.{new}" for old, new in MODULES.items()}
# folders of Python's own modules and of installed packages
_INSTALLED = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})
# packages that change what another computes, though nothing here imports them
_BESIDE = {"diffusers": {"transformers"}}


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# a call that changes nothing that is imported
_HARMLESS = {"find_old_modules"}


class _Import(NamedTuple):
    """An import of a module, or of a name that is in it."""

    module: str
    name: str | None = None


@dataclass(frozen=True)
class _Source:
    """The content of a module's file."""

    spec: ModuleSpec
    content: bytes

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:16]

    @property
    def is_package(self) -> bool:
        return self.spec.submodule_search_locations is not None

    @cached_property
    def imports(self) -> set[_Import]:
        """All imports of the module, also those within functions."""
        imports: set[_Import] = set()
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import):
                imports |= {_Import(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imports |= {_Import(module, alias.name) for module in self._modules_of(node) for alias in node.names}
        return imports | self._attributes

    @cached_property
    def offers(self) -> dict[str, _Import]:
        """The names that the module offers from other modules, by its imports outside functions, of which some may be
        for type checkers alone, where names are imported when they are asked for."""
        conditional = [inner for node in self._tree.body if isinstance(node, ast.If) for inner in node.body]
        offers = {
            alias.asname or alias.name: _Import(module, alias.name)
            for node in [*self._tree.body, *conditional]
            if isinstance(node, ast.ImportFrom)
            for module in self._modules_of(node)
            for alias in node.names
        }
        bound = self._bound
        return {} if self._acts else {name: origin for name, origin in offers.items() if name not in bound}

    @property
    def _bound(self) -> set[str]:
        """Names that the module binds itself, perhaps after it has imported another thing by that name."""
        stores = (
            node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        )
        defined = (node.name for node in self._tree.body if isinstance(node, _DEFINITIONS))
        return {*stores, *defined}

    @property
    def _acts(self) -> bool:
        """Whether importing the module may change what it imports: it sets attributes or items, or calls something."""
        for node in self._tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets):
                return True
            call = node.value if isinstance(node, ast.Expr) else None
            if isinstance(call, ast.Call) and not (isinstance(call.func, ast.Name) and call.func.id in _HARMLESS):
                return True
        return False

    @property
    def _attributes(self) -> set[_Import]:
        """What the module reaches as attributes of this package, which imports its modules when they are asked for."""
        roots = {
            alias.asname or _PACKAGE
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.name == _PACKAGE or (alias.asname is None and alias.name.startswith(f"{_PACKAGE}."))
        }
        imports: set[_Import] = set()
        for node in ast.walk(self._tree) if roots else ():
            names: list[str] = []
            while isinstance(node, ast.Attribute):
                names.insert(0, node.attr)
                node = node.value
            if isinstance(node, ast.Name) and node.id in roots:
                module = _PACKAGE
                for name in names:
                    imports.add(_Import(module, name))
                    module = f"{module}.{name}"
                    if _spec(module) is None:
                        break
        return imports

    @cached_property
    def _tree(self) -> ast.Module:
        if self.spec.origin is not None and self.spec.origin.endswith(".py"):
            with suppress(SyntaxError):  # of a file that is not to be imported after all
                return ast.parse(self.content)
        return ast.Module([], [])

    def _modules_of(self, node: ast.ImportFrom) -> list[str]:
        """The module that names are imported from; none where a relative import leads out of every package."""
        package = self.spec.name if self.is_package else self.spec.parent
        try:
            return [importlib.util.resolve_name("." * node.level + (node.module or ""), package)]
        except ImportError:
            return []


_REMEMBERED: WeakKeyDictionary[ModuleType, _Source] = WeakKeyDictionary()


def remember_sources() -> None:
    """Read the source of every loaded module of this package and of the user's that was not read yet."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and isinstance(module, ModuleType) and module not in _REMEMBERED:
            spec = getattr(module, "__spec__", None)
            if spec is not None and _is_local(spec):
                _REMEMBERED[module] = _read(spec)


def code_facts(modules: Iterable[str]) -> dict[str, str]:
    """Digests of the source of these modules and of all that they import in turn, and the versions of the installed
    packages among those; by name.

    Imports are found in the text, so that one within a function counts before it is done. The `__init__` of a package
    of the user's counts with every module that lies in it. That of a package of this one counts if a name is imported
    that stands in it; for a name that it only offers from another module, that module counts in its place.

    Args:
        modules: full names. If a module is installed, all modules of its package count as the user's do.
    """
    starts = set(modules)
    local = {_PACKAGE, *(module.split(".")[0] for module in starts)}
    facts: dict[str, str] = {}
    seen: set[_Import] = set()
    waiting = {_Import(module) for module in starts}
    while waiting:
        imported = waiting.pop()
        module = _NEW_NAMES.get(imported.module, imported.module)
        top = module.split(".")[0]
        if imported in seen or top in sys.stdlib_module_names or _has_no_effect(module):
            continue
        seen.add(imported)
        source = _source(module, top in local)
        if source is None:
            if top not in local and (version := _version(top)) is not None:
                facts[top] = version
                waiting |= {_Import(other) for other in _BESIDE.get(top, ())}
            continue
        if imported.name is not None:
            waiting |= _origins(module, imported.name, source)
            continue
        facts[module] = source.digest
        waiting |= source.imports
        if top != _PACKAGE and "." in module:
            waiting.add(_Import(module.rpartition(".")[0]))
    return dict(sorted(facts.items()))


@cache
def _has_no_effect(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _WITHOUT_EFFECT)


def _origins(module: str, name: str, source: _Source) -> set[_Import]:
    """The imports that the import of a name from a module, which has this source, comes down to."""
    submodule = f"{module}.{name}"
    if module.split(".")[0] != _PACKAGE or not source.is_package:
        return {_Import(module), _Import(submodule)}
    if name in source.offers:
        return {source.offers[name]}
    return {_Import(submodule if submodule in _NEW_NAMES or _spec(submodule) is not None else module)}


def is_local(name: str | None) -> bool:
    """Whether the module of that name is of this package or of the user's: neither Python's nor an installed one."""
    spec = getattr(sys.modules.get(name or ""), "__spec__", None)
    return name == "__main__" or (spec is not None and _is_local(spec))


def _source(name: str, local: bool) -> _Source | None:
    """The source of a module of this package or of the user's; None for others, or where there is no such module."""
    module = sys.modules.get(name)
    if module is not None and module in _REMEMBERED:
        return _REMEMBERED[module]
    spec = _spec(name)
    if spec is None or not (local or _is_local(spec)):
        return None
    source = _read(spec)
    if module is not None:
        _REMEMBERED[module] = source
    return source


def _is_local(spec: ModuleSpec) -> bool:
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
    """Where a module lies, without importing it."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    package, _, _ = name.rpartition(".")
    if not package:
        return importlib.util.find_spec(name)
    parent = _spec(package)
    if parent is None or parent.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, list(parent.submodule_search_locations))


def _version(package: str) -> str | None:
    """The version that an installed package, once loaded, states; None where its distribution has another name."""
    installed = _installed_version(package)
    if installed is None:
        return None
    loaded = getattr(sys.modules.get(package), "__version__", None)
    # without the part behind a plus, which says where it was built, and which only the loaded package states
    return (loaded if isinstance(loaded, str) else installed).split("+")[0]


@cache
def _installed_version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None
