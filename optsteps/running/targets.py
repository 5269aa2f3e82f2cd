"""The classes and functions that a config names by `_target_`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from optsteps.storage.sources import remember_sources

# arguments that the function of a model is given where it takes them
MODEL_ARGUMENTS = ("name", "process", "device")


def target_nodes(content: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every part of a config (JSON data) that names a target, with its dotted path; outer parts first."""
    if isinstance(content, Mapping):
        if isinstance(content.get("_target_"), str):
            yield path, content
        for key, part in content.items():
            yield from target_nodes(part, f"{path}.{key}" if path else str(key))
    elif isinstance(content, list):
        for number, part in enumerate(content):
            yield from target_nodes(part, f"{path}.{number}")


def import_targets(config: DictConfig) -> None:
    """Import what a config names, but the logger, which determines no result; remember the source of all that before
    anything is made of it."""
    parts = [str(part) for part in config if part != "logger"]
    for _, node in target_nodes(OmegaConf.to_container(OmegaConf.masked_copy(config, parts), resolve=True)):
        with suppress(Exception):  # whoever instantiates it says what is wrong
            get_object(node["_target_"])
    remember_sources()
