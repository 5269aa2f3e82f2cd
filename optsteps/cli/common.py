"""Parts of every command: the folder of the configs, values that configs compute, and errors on the terminal."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from optsteps.cli.rivals import add_rivals_source
from optsteps.storage.files import file_name
from optsteps.text.escaping import printable
from optsteps.text.suggestion import suggestion
from optsteps.text.terminal import flush, say, take_every_character

_PACKAGE = Path(__file__).parent.parent
# a wheel carries the configs inside the package; a checkout has them beside it
CONFIG_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"

# errors that a user can mend; anything else is a defect of the program and keeps its traceback
_MENDABLE = (HydraException, OmegaConfBaseException, ValueError, OSError, ImportError)


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


OmegaConf.register_new_resolver("home_cache", _home_cache, replace=True)
OmegaConf.register_new_resolver("chosen", _chosen, replace=True)
OmegaConf.register_new_resolver("pipeline_name", _pipeline_name, replace=True)
OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)
OmegaConf.register_new_resolver("sweep_direction", _sweep_direction, replace=True)
# of a model or training, in the path of a run's folder
OmegaConf.register_new_resolver("file_name", file_name, replace=True)


add_rivals_source()


def readable_errors(command: Callable[[], None]) -> Callable[[], None]:
    """Print an error that the user can mend as one paragraph and exit with 1; OPTSTEPS_DEBUG=1 shows the traceback.

    Output that cannot be written is such an error. The command finds modules of the current folder.
    """

    @functools.wraps(command)
    def run() -> None:
        # otherwise Hydra prints a traceback of its own before we see the error
        os.environ["HYDRA_FULL_ERROR"] = "1"
        take_every_character(sys.stdout)
        _find_modules_here()
        try:
            command()
            flush(sys.stdout)
        except _MENDABLE as error:
            if os.environ.get("OPTSTEPS_DEBUG"):
                raise
            with suppress(OSError):
                flush(sys.stdout)
            say(f"{Path(sys.argv[0]).stem}: error: {printable(_sentence(root_error(error)))}", sys.stderr)
            raise SystemExit(1) from None

    return run


def _find_modules_here() -> None:
    """Let modules of the current folder be imported, as with `python -m`, but after installed ones of the same name."""
    with suppress(OSError):  # the folder is gone
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())


def root_error(error: BaseException) -> BaseException:
    """The error inside Hydra's wrapping of whatever an instantiated class raised."""
    while isinstance(error, HydraException) and isinstance(error.__cause__, _MENDABLE):
        error = error.__cause__
    return error


def _sentence(error: BaseException) -> str:
    """The error in words; for a choice or key that does not exist, with the near ones that do."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"there is no {group}={choice}; there are {', '.join(error.options)}{suggestion(choice, error.options)}"
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)) and isinstance(error.parent_node, DictConfig):
        keys = [str(key) for key in error.parent_node]
        if error.full_key != str(error.key):  # inside a part, whose keys are few
            return f"there is no {error.full_key}; there are {', '.join(keys)}{suggestion(str(error.key), keys)}"
        keys += [group.name for group in CONFIG_DIR.iterdir() if group.is_dir()]
        return f"there is no {error.full_key}{suggestion(str(error.key), keys)}"
    return str(error)
