"""The version of the code that a run is made with, as git knows it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import optsteps


def code_version() -> str:
    """The commit of the checkout that the package lies in, marked where files were changed ("-dirty") or added
    ("-untracked") since; a sentence where there is no checkout or no git."""
    try:
        commit = _git("describe", "--always", "--dirty", "--abbrev=12")
        untracked = _git("ls-files", "--others", "--exclude-standard")
    except OSError as error:
        return f"unknown: git cannot be run ({error.strerror})"
    if not commit:
        return "not a checkout"
    return f"{commit}-untracked" if untracked else commit


def _git(*arguments: str) -> str:
    """The output of a git command in the package's folder; empty where that lies in no checkout."""
    folder = Path(optsteps.__file__).parent
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
