"""Prompts in GenEval's form (Ghosh et al., arXiv:2310.11513), with the objects that their images must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsteps.datasets.lines import read_lines
from optsteps.storage.documents import parse_json
from optsteps.storage.shards import storable

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")


@storable
@dataclass(frozen=True)
class Objects:
    """Objects of one class that an image must (or must not) have.

    Attributes:
        name: of the class.
        count: at least so many; where they are excluded, fewer.
        color: that so many of them must have; None for any color, and for excluded objects.
        position: one of RELATIONS, and the index in `include` of the object that it refers to; None for anywhere.
    """

    name: str
    count: int = 1
    color: str | None = None
    position: tuple[str, int] | None = None


@storable
@dataclass(frozen=True)
class Metadata:
    """A prompt and the objects that its images are judged by.

    Attributes:
        tag: the task, one of TASKS.
        prompt: as the model gets it.
        include, exclude: objects that an image must have and must not have.
    """

    tag: str
    prompt: str
    include: tuple[Objects, ...]
    exclude: tuple[Objects, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The entry of GenEval's own file."""
        data: dict[str, Any] = {"tag": self.tag, "include": [_as_json(objects) for objects in self.include]}
        if self.exclude:
            data["exclude"] = [_as_json(objects) for objects in self.exclude]
        return {**data, "prompt": self.prompt}


def read_metadata(path: str | Path) -> list[Metadata]:
    """The metadata of a file in GenEval's form: a JSON object a line. Blank lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line that is not of this form; the message names file and line.
    """
    return [_read(*line) for line in read_lines(path, "one JSON object in GenEval's form")]


def some_of_each_task(path: str | Path, each: int) -> list[Metadata]:
    """The first `each` of every task in a file, in turn: the first of all tasks, the second of all tasks, ...

    Raises:
        FileNotFoundError, ValueError: as `read_metadata`; a task has fewer.
    """
    everything = read_metadata(path)
    by_task = [[metadata for metadata in everything if metadata.tag == task][:each] for task in TASKS]
    for task, chosen in zip(TASKS, by_task, strict=True):
        if len(chosen) < each or each < 1:
            raise ValueError(f"{path} has {len(chosen)} prompts of {task}, {each} were asked for")
    return in_turn(by_task)


def in_turn(by_task: Iterable[Sequence[Metadata]]) -> list[Metadata]:
    """As many of every task: the first of all, the second of all, ..."""
    return [metadata for turn in zip(*by_task, strict=True) for metadata in turn]


def _read(line: str, where: str) -> Metadata:
    advice = "; every line must be an object with tag, include and prompt"
    return as_metadata(parse_json(line, where, advice), where)


def as_metadata(data: Any, where: str) -> Metadata:
    """Metadata from an object of GenEval's file; raises ValueError, naming `where`, for anything else."""
    if not isinstance(data, dict) or data.get("tag") not in TASKS:
        tag = data.get("tag") if isinstance(data, dict) else data
        raise ValueError(f"{where} has the tag {tag!r}; known: {', '.join(TASKS)}")
    if not isinstance(data.get("prompt"), str):
        raise ValueError(f'{where} has no "prompt" that is a string')
    include = data.get("include")
    if not isinstance(include, list) or not include:
        raise ValueError(f'{where} has no "include": list what its images must have')
    included = tuple(_objects(entry, position, f"{where}, include") for position, entry in enumerate(include))
    exclude = data.get("exclude", [])
    if not isinstance(exclude, list):
        raise ValueError(f'{where} has the "exclude" {exclude!r}; list what its images must not have')
    excluded = tuple(_objects(entry, 0, f"{where}, exclude") for entry in exclude)
    if any(objects.color for objects in excluded):
        raise ValueError(f"{where} excludes a color, but what is excluded is counted by its class alone")
    return Metadata(data["tag"], data["prompt"], included, excluded)


def _objects(data: Any, index: int, where: str) -> Objects:
    """The entry at `index` of a list; its position refers to an earlier entry."""
    if not isinstance(data, Mapping) or not isinstance(data.get("class"), str) or not data["class"]:
        raise ValueError(f'{where} has an entry without a "class": {data!r}')
    if unknown := set(data) - {"class", "count", "color", "position"}:
        raise ValueError(
            f"{where} asks for {', '.join(sorted(unknown))} of {data['class']!r}; known: class, count, color, position"
        )
    count = data.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f'{where} wants {count!r} of {data["class"]!r}; "count" must be a whole number from 1')
    color = data.get("color")
    if color is not None and not isinstance(color, str):
        raise ValueError(f"{where} has the color {color!r}; it must be a word")
    position = data.get("position")
    if position is None:
        return Objects(data["class"], count, color)
    if not isinstance(position, list) or len(position) != 2 or position[0] not in RELATIONS:
        raise ValueError(
            f"{where} has the position {position!r}; it must be [one of {', '.join(RELATIONS)}, a place in include]"
        )
    if not isinstance(position[1], int) or isinstance(position[1], bool) or not 0 <= position[1] < index:
        raise ValueError(f"{where} has a position relative to entry {position[1]!r}, which does not stand before it")
    return Objects(data["class"], count, color, (position[0], position[1]))


def _as_json(objects: Objects) -> dict[str, Any]:
    data: dict[str, Any] = {"class": objects.name, "count": objects.count}
    if objects.color is not None:
        data["color"] = objects.color
    if objects.position is not None:
        data["position"] = list(objects.position)
    return data
