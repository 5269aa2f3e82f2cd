"""The choices of the config group `rivals` beside its files: every method, as a rival by its own name.

So `rivals=[edm,ays]` is the same as `rivals=none +method@rivals.edm=edm +method@rivals.ays=ays`. A method whose config
lies in a folder of the user's is such a choice, too.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

_GROUP = "rivals"


class RivalsSource(ConfigSource):
    """A source of configs that has `rivals/NAME` for any NAME: it chooses the method NAME as the rival NAME. Files of
    that group are found before it."""

    @staticmethod
    def scheme() -> str:
        return _GROUP

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.rpartition("/")[2]
        config = OmegaConf.create({"defaults": [{f"/method@rivals.{name}": name}]})
        return ConfigResult(self.provider, self.full_path(), config, header={"package": "_global_"})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") == _GROUP

    def is_config(self, config_path: str) -> bool:
        return config_path.rpartition("/")[0] == _GROUP

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


class RivalsSearchPath(SearchPathPlugin):
    """The search path of configs, with `RivalsSource` at its end."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="optsteps", path=f"{_GROUP}://")


def add_rivals_source() -> None:
    """Let Hydra find configs in a `RivalsSource`."""
    Plugins.instance().register(RivalsSource)
    Plugins.instance().register(RivalsSearchPath)
