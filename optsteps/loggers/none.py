"""Logger of Lightning that keeps nothing, for runs whose folder is record enough."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import Logger


class NoLogger(Logger):
    """Takes metrics and configuration, and drops them."""

    @property
    def name(self) -> str:
        return "none"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Dropped."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Dropped."""
