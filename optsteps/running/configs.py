"""The folder of the configs, and the composition of one of them within somebody's own program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig

_PACKAGE = Path(__file__).parent.parent
# a wheel carries the configs inside the package; a checkout has them beside it
CONFIG_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """The config `name` of `CONFIG_DIR`, such as method/auto, with these overrides.

    A Hydra that the caller has initialised is there as before afterwards, with its job's name and its version base.
    """
    caller, version = GlobalHydra.instance(), VersionBase.instance()
    hydra, base = caller.hydra, version.version_base
    caller.clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), JobRuntime.instance().get("name"), version_base="1.3"):
            return compose(name, list(overrides))
    finally:
        caller.hydra, version.version_base = hydra, base
        GlobalHydra.set_instance(caller)
