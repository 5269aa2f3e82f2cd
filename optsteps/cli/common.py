"""Parts of every command: the folder of the configs, and values that configs compute."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from optsteps.cli.choices import add_command_choices
from optsteps.cli.rivals import add_rivals_source
from optsteps.running.configs import CONFIG_DIR as CONFIG_DIR
from optsteps.running.started import started_as_helper
from optsteps.storage.files import file_name


def _chosen(group: str) -> str:
    """The choice of a config group, e.g. mnist."""
    choice: str = HydraConfig.get().runtime.choices[group]
    return choice


def _pipeline_name(*, _parent_: DictConfig) -> str:
    """The name of a model that lies at `path`: the last part of that, e.g. sd15 of models/sd15 or of somebody/sd15."""
    if OmegaConf.is_missing(_parent_, "path"):  # which is asked for later
        return "diffusers"
    path = Path(str(_parent_.path))
    return (path.name if path.name != ".." else "") or path.resolve().name or "diffusers"


def _run_name(*, _root_: DictConfig) -> str:
    """What is trained or sampled, and with what, e.g. mnist-oss-euler."""
    of = OmegaConf.select(_root_, "training.name") or OmegaConf.select(_root_, "model.name")
    choices = HydraConfig.get().runtime.choices
    return "-".join([of, *(choices[group] for group in ("method", "solver") if choices.get(group))])


def _sweep_name() -> str | None:
    """The name of the folder of the sweep that a job belongs to; None outside a sweep."""
    hydra_config = HydraConfig.get()
    return Path(hydra_config.sweep.dir).name if hydra_config.mode == RunMode.MULTIRUN else None


def _home_cache() -> str:
    """The default folder of data sets: the user's cache, or temporary files for a user without a home."""
    try:
        return str(Path.home() / ".cache" / "optsteps")
    except RuntimeError:  # neither $HOME nor an entry among the users
        return str(Path(tempfile.gettempdir()) / f"optsteps-{os.getuid()}")


def _sweep_direction() -> str | None:
    """The sweeper's direction, minimize or maximize; None where it uses no objective."""
    if not HydraConfig.initialized():
        return None
    direction = HydraConfig.get().sweeper.get("direction")
    return getattr(direction, "name", direction)  # Optuna's default is an Enum


def _of_rank_0(path: str, of_others: str, *, _root_: DictConfig) -> str:
    """A path, or another one in a process that a launcher started to help rank 0, which alone leaves files."""
    runner = OmegaConf.select(_root_, "runner")  # Hydra's own copy of its part of the config has none
    return of_others if runner is not None and started_as_helper(runner) else path


OmegaConf.register_new_resolver("of_rank_0", _of_rank_0, replace=True)
OmegaConf.register_new_resolver("home_cache", _home_cache, replace=True)
OmegaConf.register_new_resolver("chosen", _chosen, replace=True)
OmegaConf.register_new_resolver("pipeline_name", _pipeline_name, replace=True)
OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)
OmegaConf.register_new_resolver("sweep_direction", _sweep_direction, replace=True)
# of a model or training, in the path of a run's folder
OmegaConf.register_new_resolver("file_name", file_name, replace=True)

add_command_choices()
add_rivals_source()
