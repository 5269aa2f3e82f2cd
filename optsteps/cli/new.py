"""`optsteps new`: a model, a method or a metric of one's own, written into the current folder and ready to run."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from optsteps.cli.common import CONFIG_DIR
from optsteps.storage.files import write_atomically
from optsteps.text.terminal import say

# what is written: a YAML for conf/<group>, a module for the current folder, and a test
STARTERS = Path(__file__).parent / "starters"
# settings with which a new part is tried first
_TRIAL = {"model": "", "method": " experiment=mixture", "metric": " model=digits"}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
USAGE = f"optsteps new {'|'.join(_TRIAL)} NAME"


def new(arguments: Sequence[str]) -> None:
    """Write the files of a new part and say how to run them.

    Args:
        arguments: of the command line: the group, and the part's name.

    Raises:
        ValueError: the usage, the group or the name is wrong, the name is taken, or a file is there already.
        OSError: a file cannot be written.
    """
    if len(arguments) != 2 or arguments[0] not in _TRIAL:
        raise ValueError(f"it is {USAGE}, such as optsteps new model my_model; got {' '.join(['new', *arguments])}")
    group, name = arguments
    _check_name(group, name)
    written = files(group, name)
    for path in written:
        if path.exists():
            raise ValueError(f"{path} is there already, and nothing was written: choose another name, or move it away")
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    say("\n  ".join(["written:", *map(str, written)]))
    say("\n  ".join(["try it:", *commands(group, name)]))


def commands(group: str, name: str) -> list[str]:
    """The command lines that try a new part: its test, and a run."""
    return [f"python -m pytest tests/test_{name}.py", f"optsteps --config-dir conf {group}={name}{_TRIAL[group]}"]


def files(group: str, name: str) -> Mapping[Path, str]:
    """What is written for a new part of this name, by paths in the current folder."""
    paths = {f"my_{group}.yaml": f"conf/{group}/{name}.yaml", f"my_{group}.py": f"{name}.py"}
    paths[f"test_my_{group}.py"] = f"tests/test_{name}.py"
    names = {f"my_{group}": name, f"My{group.title()}": "".join(part.title() for part in name.split("_"))}
    texts = {}
    for source, path in paths.items():
        text = (STARTERS / group / source).read_text()
        for old, its in names.items():
            text = re.sub(rf"\b(test_)?{old}\b", rf"\g<1>{its}", text)
        texts[Path(path)] = text
    return texts


def _check_name(group: str, name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} cannot name a Python module: take lower-case letters, digits and _, beginning with a letter"
        )
    if (CONFIG_DIR / group / f"{name}.yaml").exists():
        raise ValueError(f"{group}={name} is a choice of optsteps already: take another name")
    if find_spec(name) is not None and not Path(f"{name}.py").exists():
        raise ValueError(f"{name} is the name of an installed module, which would be found first: take another name")
