"""The check of the names of methods, by which rows, files and keys of loggers differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# rows that a comparison has of itself: the reference, and the schedule that a pipeline's own scheduler would run
_RESERVED = ("teacher", "own")
_NAME = re.compile(r"\w[\w .+-]{0,99}")


def check_rival_names(
    rivals: Mapping[str, Any], method: str, choices: Mapping[str, str | None], overrides: Iterable[str]
) -> None:
    """Refuse names that a comparison would confuse with others.

    A rival that is the main method itself, by name and choice, is left out by the experiment, since no method is its
    own rival.

    Args:
        rivals: their configs by name.
        method: the main method's name.
        choices: the options that were chosen of Hydra's groups.
        overrides: of the command line.

    Raises:
        ValueError: a name is reserved, is the main method's while the rival is another method, or could be a path.
    """
    touched = [override.lstrip("+~") for override in overrides]
    names = [method, *map(str, rivals)]
    for name in names[1:]:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"rivals.{name}: a rival's name stands in tables and names files, so it begins with a letter, a digit "
                f"or _ and has those, spaces and . + - alone, at most 100; {name!r} has others"
            )
        if name in (*_RESERVED, f"{method}_per_sample") or name in {f"{other}_without_orders" for other in names}:
            raise ValueError(
                f"rivals.{name}: the comparison has a row {name!r} of its own; give the rival another name"
            )
        if name == method:
            default = choices.get(f"method@rivals.{name}") == name
            if not default or any(re.match(rf"rivals\.{re.escape(name)}[.=]", override) for override in touched):
                raise ValueError(
                    f"rivals.{name}: this is the name of the main method, so the rival would vanish behind it; give it "
                    f"another name, e.g. +method@rivals.{name}_2={name}"
                )
    if method in _RESERVED:
        raise ValueError(
            f"method={method}: the comparison has a row {method!r} of its own; give the method another name"
        )
