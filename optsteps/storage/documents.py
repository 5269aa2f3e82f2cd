"""Documents that anybody may have written: text, JSON and YAML, read within limits and as data alone."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

# bytes; no config, schedule or table of results is nearly as long
LARGEST = 16 * 2**20
_LARGEST_YAML, _DEEPEST_YAML = 2**20, 50


def read_bytes(path: str | os.PathLike[str], folder: Path | None = None, largest: int = LARGEST) -> bytes:
    """The content of a file.

    Args:
        folder: where the file was found. It must then be a file that lies there, and neither a link to something
            outside nor a pipe or device.
        largest: size in bytes that is still read.

    Raises:
        ValueError: the file is larger, or does not lie in the folder; the message names it.
        OSError: it cannot be read.
    """
    path = Path(path)
    if folder is not None and not _real(path).is_relative_to(_real(folder)):
        raise ValueError(f"{path} is a link to something outside {folder}, which is not followed; put the file there")
    # without it, opening a pipe would wait for a writer
    flags = getattr(os, "O_NONBLOCK", 0) if folder is not None else 0
    with open(_real(path), "rb", opener=lambda name, default: os.open(name, default | flags)) as file:
        if folder is not None and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is a pipe or a device, and is not read")
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"{path} has more than {largest / 2**20:g} MiB, and is not read")
    return content


def read_text(path: str | os.PathLike[str], folder: Path | None = None, largest: int = LARGEST) -> str:
    """A file's text, in UTF-8 with or without a byte order mark. Arguments and errors as of `read_bytes`."""
    try:
        return read_bytes(path, folder, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error})") from error


def read_json(path: str | os.PathLike[str], folder: Path | None = None) -> Any:
    """The data of a JSON file. Arguments and errors as of `read_bytes`; ValueError also where it is not JSON."""
    return parse_json(read_text(path, folder), str(path))


def parse_json(text: str, source: str, advice: str = "") -> Any:
    """The data of a JSON text.

    Args:
        source: the name of the place that the text is from, for errors.
        advice: what to do where it is not JSON, appended to the error.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{source} is not JSON that can be read: it is nested too deeply{advice}") from None
    except ValueError as error:
        raise ValueError(f"{source} is not JSON ({error}){advice}") from error


def read_yaml(path: str | os.PathLike[str], folder: Path | None = None) -> Any:
    """The data of a YAML file, as dicts, lists, strings, numbers, booleans and None.

    No other objects are constructed. Aliases, by which a short file unfolds to gigabytes, are refused: the configs of
    runs have none. Arguments and errors as of `read_bytes`; ValueError also where it is not YAML.
    """
    text = read_text(path, folder, _LARGEST_YAML)
    depth = 0
    try:
        for event in yaml.parse(text, _Loader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{path}, line {event.start_mark.line + 1}: aliases of YAML are not read")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST_YAML:
                raise ValueError(f"{path}, line {event.start_mark.line + 1}: nested too deeply to be read")
        return yaml.load(text, _Loader)  # a safe loader, with fewer types  # nosec B506
    except yaml.MarkedYAMLError as error:  # its text would quote the file
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line} is not YAML that can be read ({error.problem})") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML that can be read ({type(error).__name__})") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader that knows those of YAML's types that JSON has."""


_JSON_TYPES = ("null", "bool", "int", "float", "str", "seq", "map")
_Loader.yaml_constructors = {
    tag: build
    for tag, build in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix("tag:yaml.org,2002:") in _JSON_TYPES
}
# dates and merge keys are text
_Loader.yaml_implicit_resolvers = {
    letter: [
        (tag, expression) for tag, expression in resolvers if tag.removeprefix("tag:yaml.org,2002:") in _JSON_TYPES
    ]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError as error:  # before Python 3.13
        raise ValueError(f"{path} is a link to itself") from error
