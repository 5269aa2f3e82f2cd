"""The choices of every config group with a description each, for `--help`."""

from __future__ import annotations

from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from optsteps.deprecation import CHOICES


def description(file: Path) -> str:
    """The first comment of a choice's YAML, which describes it in a sentence; empty where it begins without one."""
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            return ""
        if not line.startswith("# @"):  # where Hydra puts the content
            return line.removeprefix("#").strip()
    return ""


def choices(group: str, folders: list[Path]) -> dict[str, str]:
    """The descriptions of a group's choices in some folders of configs, by name; the first folder that has one counts.

    Names of earlier versions are left out.
    """
    files = {file.stem: file for folder in reversed(folders) for file in (folder / group).glob("*.yaml")}
    return {name: description(files[name]) for name in sorted(files) if f"{group}={name}" not in CHOICES}


def _command_choices() -> str:
    """The groups of the command, with an asterisk before the choice that its line has made, or its default."""
    repository = GlobalHydra.instance().config_loader().repository  # type: ignore[attr-defined]
    folders = [Path(source.path) for source in repository.get_sources() if source.scheme() == "file"]
    lines = ["GROUP, its choices, and * before the one in force"]
    for group, chosen in reversed(HydraConfig.get().runtime.choices.items()):
        if "@" in group or "/" in group:  # a rival, or a part of Hydra's
            continue
        described = choices(group, folders)
        width = max(map(len, described), default=0)
        lines.append(f"  {group}" if chosen in described else f"  {group} (none in force)")
        for name, sentence in described.items():
            lines.append(f"  {'*' if name == chosen else ' '} {name:<{width}}  {sentence}".rstrip())
        if group == "rivals":
            lines.append("    [METHOD,METHOD,...]  These methods, as in 'rivals=[edm,ays]'.")
    return "\n".join(lines).replace("$", "$$")  # Hydra substitutes names in its template


def add_command_choices() -> None:
    """Let configs write `command_choices` into the text of `--help`."""
    OmegaConf.register_new_resolver("command_choices", _command_choices, replace=True)
