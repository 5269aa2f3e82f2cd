"""What `--version` prints."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import optsteps


def versions() -> str:
    """A line each for optsteps, torch and Python; nothing is loaded for it."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "is not installed"
    return f"optsteps {optsteps.__version__}\ntorch {torch}\nPython {platform.python_version()}"
