"""Commands and code of the guides: taken out of their Markdown, and held to what the program knows.

A fenced block whose first line is a comment with a path, such as `# my_conf/model/mine.yaml`, is a file of the reader.
A block after `<!-- long -->` is composed and never run.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict
from overrides import with_oss

from optsteps.cli import export, report
from optsteps.cli.common import CONFIG_DIR
from optsteps.cli.schema import Run, Train, checked

ROOT = Path(__file__).parents[1]
LONG = "<!-- long -->"
_FILE = re.compile(r"# (?P<path>[\w./]+\.(?:py|yaml))\s")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
# what a shell line may begin with
PROGRAMS = ("optsteps", "optsteps-train", "optsteps-report", "optsteps-export", "make", "python", "pip")


@dataclass(frozen=True)
class Block:
    """A block of code of a page: its language, "sh" for an indented one, its text, and the line it begins on."""

    page: Path
    line: int
    language: str
    text: str
    long: bool

    @property
    def file(self) -> str | None:
        """The path of the reader's file that it shows."""
        named = _FILE.match(self.text)
        return named["path"] if named else None


@dataclass(frozen=True)
class Command:
    """A command line: where it stands, what the shell sets for it, its program and arguments."""

    page: Path
    line: int
    environment: dict[str, str]
    words: list[str]
    long: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} {shlex.join(self.words)[:60]}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, fenced or indented by four spaces, in their order."""
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("```"):
            end = next(k for k in range(number + 1, len(lines)) if lines[k] == "```")
            body = lines[number + 1 : end]
            yield Block(page, number + 2, line[3:].strip(), "\n".join(body) + "\n", lines[number - 1] == LONG)
            number = end
        elif line.startswith("    ") and not lines[number - 1].strip():
            indented = [line]
            while number + 1 < len(lines) and lines[number + 1].startswith("    "):
                number += 1
                indented.append(lines[number])
            body = "\n".join(part[4:] for part in indented) + "\n"
            yield Block(page, number + 2 - len(indented), "", body, False)
        number += 1


def commands(page: Path) -> Iterator[Command]:
    """The command lines of a page. What is indented and begins with no program is a formula or an output."""
    for block in blocks(page):
        if block.language not in ("sh", ""):
            continue
        lines = block.text.split("\n")
        number = 0
        while number < len(lines):
            first, line = number, lines[number]
            while line.endswith("\\"):
                number += 1
                line = line[:-1] + lines[number]
            words = shlex.split(line, comments=True)
            number += 1
            environment = dict(word.split("=", 1) for word in words if _ASSIGNMENT.match(word))
            words = [word for word in words if not _ASSIGNMENT.match(word) or words[0] == "make"]
            if words[:1] in (["srun"], ["torchrun"]):
                words = words[words.index("optsteps") :]
            if words and (block.language == "sh" or words[0] in PROGRAMS):
                yield Command(page, block.line + first, environment, words, block.long)


def check(command: Command, folder: Path) -> None:
    """Hold a command to the program that it calls; nothing is run.

    Args:
        folder: where the reader's files of the page lie.

    Raises:
        Exception: an option, a choice, a target, a script or an extra that does not exist.
    """
    program, *arguments = command.words
    assert program in PROGRAMS, f"{program} is no program of the guides"
    if program == "optsteps":
        for _ in composed(arguments, folder):
            pass
    elif program == "optsteps-train":
        _composed("train", arguments, Train)
    elif program == "optsteps-report":
        _parsed(report.parser(), arguments)
    elif program == "optsteps-export":
        _parsed(export.parser(), arguments)
    elif program == "make":
        _check_make(arguments, folder)
    elif program == "python":
        _check_script(*arguments)
    else:
        _check_extras(arguments)


def composed(arguments: list[str], folder: Path) -> Iterator[DictConfig]:
    """The checked configs of an `optsteps` line: one, or of a sweep as many as its longest list has values.

    The first has the first value of every list, the second the second, and a list that has come to its end stays at
    its last value. So every value is in one of them.
    """
    options, overrides = optsteps_arguments(arguments)
    if options.help:
        return
    overrides = with_oss(overrides)  # the default method's pool takes longest to compose
    if options.config_dir is not None:
        overrides.append(f"hydra.searchpath=[file://{folder / options.config_dir}]")
    swept = [o for o in OverridesParser.create().parse_overrides(overrides) if o.is_sweep_override()]
    assert options.multirun or not swept, f"{swept[0].input_line} is a sweep, which needs -m"
    values = [[f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] for o in swept]
    plain = [override for override in overrides if override not in {o.input_line for o in swept}]
    for number in range(max(map(len, values), default=1)):
        chosen = [choices[min(number, len(choices) - 1)] for choices in values]
        yield _composed("config", [*plain, *chosen], Run)


def optsteps_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's options among the arguments, and the overrides."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--help", action="store_true")
    parser.add_argument("--config-dir")
    options, overrides = parser.parse_known_args(arguments)
    return options, overrides


def _composed(name: str, overrides: list[str], kind: type[Run] | type[Train]) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose(name, [*overrides, "hydra.runtime.output_dir=outputs/run"], return_hydra_config=True)
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(config)  # what is interpolated asks it what was chosen
    try:
        with open_dict(config):
            del config["hydra"]
        return checked(config, kind)
    finally:
        hydra.cfg = before


def _parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    try:
        parser.parse_intermixed_args(arguments)
    except SystemExit as error:  # argparse has said what is wrong
        raise ValueError(f"{parser.prog} does not take {shlex.join(arguments)}") from error


def _check_make(arguments: list[str], folder: Path) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for argument in arguments:
        if argument.startswith("ARGS="):
            list(composed(shlex.split(argument.removeprefix("ARGS=")), folder))
        else:
            assert argument in targets, f"the Makefile has no target {argument}"


def _check_script(script: str, *arguments: str) -> None:
    """A script of this repository that knows the options; what follows `>` is where its output is kept."""
    source = (ROOT / script).read_text()
    assert script.startswith("experiments/")
    for argument in arguments:
        if argument.startswith("--"):
            assert f'"{argument}"' in source, f"{script} has no option {argument}"
    if ">" in arguments:
        assert (ROOT / arguments[arguments.index(">") + 1]).exists()


def _check_extras(arguments: list[str]) -> None:
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = ", section, re.MULTILINE)
    named = re.findall(r"\[(.+)\]", shlex.join(arguments))
    assert arguments[0] == "install"
    assert named, "pip installs an extra"
    for extra in named[0].split(","):
        assert extra in extras, f"there is no extra {extra}"
