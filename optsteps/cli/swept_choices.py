"""The choices of a sweep that lack a setting of its command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException

from optsteps.cli.common import CONFIG_DIR

_REFUSED = re.compile(r"Could not override '(?P<key>[^']+)'")


def who_lacks_it() -> str | None:
    """A sentence on which swept choices have the setting that Hydra refused, and which have not.

    Hydra first composes the config of a sweep with the defaults in the place of what is swept. So it refuses a setting
    that these lack, whoever else has it, and does not say where it is missing.

    Returns:
        None where the command sweeps over no choices, or where none of them has the setting.
    """
    command = get_args_parser().parse_args(sys.argv[1:])
    if not command.multirun:
        return None
    folders = [f"file://{Path(command.config_dir).absolute()}"] if command.config_dir else []
    overrides = OverridesParser.create().parse_overrides(command.overrides)
    fixed = [override.input_line or "" for override in overrides if not override.is_sweep_override()]
    swept = {o.key_or_group: _choices(o) for o in overrides if o.is_discrete_sweep()}
    for group, choices in swept.items():
        others = [values[0] for other, values in swept.items() if other != group]
        refused = {choice: _refused([*fixed, *others, choice], folders) for choice in choices}
        having, lacking = ([c for c in choices if bool(refused[c]) is lacks] for lacks in (False, True))
        if having and lacking:
            return (
                f"{refused[lacking[0]]} is set, which {_listed(having)} has and {_listed(lacking)} has not: sweep over "
                "those that have it, or leave it out"
            )
        if having and _is_group(group):
            return (
                f"a setting that {_listed(having)} has is not there with the default {group}, from which Hydra starts: "
                "write it with ++ before its name"
            )
    return None


def _choices(override: Override) -> list[str]:
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _is_group(name: str) -> bool:
    return (CONFIG_DIR / name).is_dir()


def _refused(overrides: Sequence[str], folders: Sequence[str]) -> str | None:
    """The setting among the overrides that Hydra refuses; None where it composes them."""
    path = [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            compose("config", [*overrides, *path])
    except ConfigCompositionException as error:
        named = _REFUSED.match(str(error))
        return named["key"] if named else None
    except HydraException:  # of another kind, which says what it is when its turn comes
        return None
    return None


def _listed(choices: Sequence[str]) -> str:
    return " and ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
