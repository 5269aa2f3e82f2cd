"""Old names of modules, what is in them, and choices: for one version they lead to the new ones, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# of version 0.1, without the package's name
MODULES: dict[str, str] = {
    "brownian": "solvers.brownian",
    "claims": "storage.claims",
    "datasets.geneval": "datasets.geneval_prompts",
    "experiment": "running.experiment",
    "export.reading": "schedules.reading",
    "files": "storage.files",
    "interpretation": "running.interpretation",
    "keys": "running.keys",
    "methods.amplitude": "methods.oss.amplitude",
    "methods.ays_published": "methods.ays.published",
    "methods.coordinate_search": "methods.ays.coordinate_search",
    "methods.grid": "methods.oss.grid",
    "methods.klub": "methods.ays.klub",
    "methods.klub_monte_carlo": "methods.ays.klub_monte_carlo",
    "methods.klub_table": "methods.ays.klub_table",
    "methods.oss.entries": "methods.entries",
    "methods.restated": "methods.changed_problem",
    "metrics.colors": "metrics.geneval.colors",
    "metrics.detections": "metrics.geneval.detections",
    "metrics.detectors": "metrics.geneval.detectors",
    "metrics.geneval_judge": "metrics.geneval.judge",
    "metrics.geneval_score": "metrics.geneval.score",
    "metrics.scene_detector": "metrics.geneval.scene_detector",
    "metrics.shape_fit": "metrics.geneval.shape_fit",
    "models.diffusers.schedulers": "export.diffusers.scheduler_config",
    "no_logger": "loggers.none",
    "objective": "running.objective",
    "plan": "running.plan",
    "probe": "running.probe",
    "progress": "running.progress",
    "ranks": "running.launch",
    "reporting.pivot": "reporting.sweep.pivot",
    "runner": "running.run",
    "shards": "storage.shards",
    "sources": "storage.sources",
    "store": "storage.store",
    "training": "models.training",
    "wandb_logger": "loggers.wandb",
    "workers": "storage.workers",
}

# of the command line
CHOICES: dict[str, str] = {"method=oss_pooled": "method=oss", "runner=ddp": "runner=all_gpus"}


class OldModules(MetaPathFinder, Loader):
    """Finds modules by the names that they had in `package`.

    Args:
        package: which all are in.
        modules: new names by old ones.
    """

    def __init__(self, package: str, modules: Mapping[str, str]) -> None:
        self.modules = {f"{package}.{old}": f"{package}.{new}" for old, new in modules.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self.modules else None

    def exec_module(self, module: ModuleType) -> None:
        new = self.modules[module.__name__]
        warnings.warn(f"{module.__name__} is {new} now", FutureWarning, stacklevel=2)
        # what is in it is looked up there when it is asked for

        def get_moved(name: str) -> Any:
            # `inspect` asks every loaded module for its file, also while the new module is only half imported
            if name.startswith("__") and name != "__all__":
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return getattr(importlib.import_module(new), name)

        vars(module)["__getattr__"] = get_moved


def find_old_modules() -> None:
    """Let the modules of this package be imported by their old names, too."""
    package = __name__.partition(".")[0]
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules(package, MODULES))


class MovedMethod:
    """A method that a class had before: looking it up raises an AttributeError that names what replaces it.

    Args:
        replacement: the call to write instead.
    """

    def __init__(self, replacement: str) -> None:
        self.replacement = replacement

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"{owner.__name__}.{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(f"{self.name} is no longer a method: call {self.replacement}")


def old_names(module: str, **renamed: str) -> Callable[[str], Any]:
    """A module's `__getattr__` that knows what is in it by old names, too.

    Args:
        module: its `__name__`.
        renamed: new names by old ones; a new name with a dot is of another module.
    """

    def get_renamed(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        where, _, new = renamed[name].rpartition(".")
        warnings.warn(f"{module}.{name} is {where or module}.{new} now", FutureWarning, stacklevel=2)
        return getattr(importlib.import_module(where or module), new)

    return get_renamed
