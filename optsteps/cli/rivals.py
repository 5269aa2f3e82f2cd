"""The choices of the config group `rivals` beside its files: every method, as a rival by its own name.

So `rivals=[edm,ays]` is the same as `rivals=none +method@rivals.edm=edm +method@rivals.ays=ays`. A method whose config
lies in a folder of the user's is such a choice, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

_GROUP = "rivals"


class RivalsSource(ConfigSource):
    """A source of configs that has `rivals/NAME` for any NAME that no other source has: it chooses the method NAME as
    the rival NAME. For completion, it lists the methods."""

    @staticmethod
    def scheme() -> str:
        return _GROUP

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.rpartition("/")[2]
        if not any(source.is_config(f"method/{name}") for source in _other_sources()):
            options = [*_configs(_GROUP), *_configs("method")]
            raise MissingConfigException(f"Could not find '{_GROUP}/{name}'", f"{_GROUP}/{name}", options)
        config = OmegaConf.create({"defaults": [{f"/method@rivals.{name}": name}]})
        return ConfigResult(self.provider, self.full_path(), config, header={"package": "_global_"})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") == _GROUP

    def is_config(self, config_path: str) -> bool:
        if config_path.rpartition("/")[0] != _GROUP:
            return False
        return not any(source.is_config(config_path) for source in _other_sources())

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if not self.is_group(config_path) or results_filter is ObjectType.GROUP:
            return []
        return _configs("method")


def _configs(group: str) -> list[str]:
    """The configs of a group in the other sources."""
    sources = [source for source in _other_sources() if source.is_group(group)]
    return sorted({name for source in sources for name in source.list(group, ObjectType.CONFIG)})


def _other_sources() -> Iterator[ConfigSource]:
    """The sources of the search path beside `RivalsSource`, in their order."""
    repository = GlobalHydra.instance().config_loader().repository  # type: ignore[attr-defined]
    for source in repository.get_sources():
        if not isinstance(source, RivalsSource):
            yield source


class RivalsSearchPath(SearchPathPlugin):
    """The search path of configs, with `RivalsSource` at its end."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="optsteps", path=f"{_GROUP}://")


def add_rivals_source() -> None:
    """Let Hydra find configs in a `RivalsSource`."""
    Plugins.instance().register(RivalsSource)
    Plugins.instance().register(RivalsSearchPath)
