"""Errors on the terminal: what a user can mend is one paragraph, and everything else keeps its traceback."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from optsteps.cli.common import CONFIG_DIR
from optsteps.cli.swept_choices import who_lacks_it
from optsteps.deprecation import CHOICES
from optsteps.text.escaping import printable
from optsteps.text.suggestion import suggestion
from optsteps.text.terminal import flush, say, take_every_character

# errors that a user can mend; anything else is a defect of the program and keeps its traceback
_MENDABLE = (HydraException, OmegaConfBaseException, ValueError, OSError, ImportError)
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(?P<key>[^=]+)=(?P<values>.*)'\n")
_TWICE = re.compile(r"(?P<group>\w+)@(?P<package>[\w.]+) appears more than once")
_DECIMAL = re.compile(r"-?\d+,\d+")
_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class _JobError(BaseException):
    """An error of a job on its way through Hydra, which would print the job's overrides before any `Exception`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def errors_pass_hydra(refused: list[str]) -> Iterator[None]:
    """Let the error of a run reach `readable_errors` without a word of Hydra's.

    Args:
        refused: the jobs of a sweep in this process that were refused before they had a process of their own, each with
            the reason. Such an error is added to them, and the sweep goes on.
    """
    try:
        yield
    except _MENDABLE as error:
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.RUN:
            raise _JobError(error) from error
        if hydra.launcher.get("_target_") != _BASIC_LAUNCHER:
            raise
        refused.append(printable(f"{' '.join(hydra.overrides.task)}: {_paragraph(root_error(error), error)}"))


def readable_errors(command: Callable[[], None]) -> Callable[[], None]:
    """Print an error that the user can mend as one paragraph and exit with 1; OPTSTEPS_DEBUG=1 and HYDRA_FULL_ERROR=1
    show the traceback.

    Output that cannot be written is such an error. The command finds modules of the current folder.
    """

    @functools.wraps(command)
    def run() -> None:
        take_every_character(sys.stdout)
        _find_modules_here()
        traceback_wanted = os.environ.get("OPTSTEPS_DEBUG") or os.environ.get("HYDRA_FULL_ERROR") == "1"
        try:
            with _hydra_raises():
                command()
            flush(sys.stdout)
        except (_JobError, *_MENDABLE) as raised:
            error = raised.error if isinstance(raised, _JobError) else raised
            if traceback_wanted:
                raise error from error.__cause__
            with suppress(OSError):
                flush(sys.stdout)
            paragraph = printable(_paragraph(root_error(error), error))
            say(f"{Path(sys.argv[0]).stem}: error: {paragraph}", sys.stderr)
            raise SystemExit(1) from None

    return run


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Let Hydra raise errors; otherwise it prints a traceback of its own and ends the process."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def settle_arguments() -> None:
    """Let settings stand before, between and after options in `sys.argv`: Hydra's parser reads one row of them alone.

    Raises:
        ValueError: there is an option that Hydra does not have, which it would answer with the list of those that it
            has; the message says how settings are written.
    """
    arguments = sys.argv[1:]
    known, others = get_args_parser().parse_known_args(arguments)
    unknown = [argument for argument in others if argument.startswith("-")]
    if unknown:
        setting = unknown[0].lstrip("-")
        raise ValueError(
            f"there is no option {unknown[0]}; a setting is written without hyphens and with =, as in "
            f"{setting if '=' in setting else f'{setting}=VALUE'}, and --help lists what there is"
        )
    if others:
        for setting in reversed(others):  # they come after those that were read
            del arguments[len(arguments) - 1 - arguments[::-1].index(setting)]
        end = arguments.index(known.overrides[-1]) + 1 if known.overrides else 0
        sys.argv[1:] = [*arguments[:end], *others, *arguments[end:]]


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


def _paragraph(error: BaseException, raised: BaseException) -> str:
    """The error in words; for a choice or key that does not exist, with the near ones that do.

    Args:
        raised: the error as it came, with Hydra's wrapping.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return _no_such_choice(error.missing_cfg_file, error.options)
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)) and isinstance(error.parent_node, DictConfig):
        lacking = who_lacks_it() if isinstance(raised, ConfigCompositionException) else None
        return lacking or _no_such_key(error, error.parent_node)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read: a setting is written KEY=VALUE, and a value with brackets, commas, "
            "spaces or signs of the shell in quotes, as in 'steps=[5,10]'"
        )
    ambiguous, twice = _AMBIGUOUS.match(str(error)), _TWICE.match(str(error))
    if ambiguous:
        return _ambiguous(ambiguous["key"], ambiguous["values"])
    if twice:
        name = twice["package"].rpartition(".")[2]
        return (
            f"{name} is chosen twice in {twice['package'].partition('.')[0]}: another choice, such as default, has it "
            f"already; leave one of the two out, or give the second a name of its own, "
            f"+{twice['group']}@{twice['package']}_2={name}"
        )
    return str(error)


def _no_such_choice(path: str, options: Sequence[str]) -> str:
    group, _, choice = path.rpartition("/")
    names = [option for option in options if f"{group}={option}" not in CHOICES]
    extra = "; launchers and sweepers come with pip install 'optsteps[sweeps]'" if group.startswith("hydra/") else ""
    return f"there is no {group}={choice}; there are {', '.join(names)}{suggestion(choice, names)}{extra}"


def _no_such_key(error: ConfigAttributeError | ConfigKeyError, parent: DictConfig) -> str:
    keys = [str(key) for key in parent]
    if error.full_key != str(error.key):  # inside a part, whose keys are few
        return f"there is no {error.full_key}; there are {', '.join(keys)}{suggestion(str(error.key), keys)}"
    keys += [group.name for group in CONFIG_DIR.iterdir() if group.is_dir()]
    return f"there is no {error.full_key}{suggestion(str(error.key), keys)}"


def _ambiguous(key: str, values: str) -> str:
    number = f", a decimal number with a point, {key}={values.replace(',', '.')}" if _DECIMAL.fullmatch(values) else ""
    return (
        f"{key}={values} is neither one value nor a list: a list is written '{key}=[{values}]'{number}, and a sweep "
        "over these values needs -m"
    )
