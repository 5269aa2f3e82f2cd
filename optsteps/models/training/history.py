"""The course of a training: its losses and validation scores, and the average that they favour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


class LossHistory(Callback):
    """Keeps the training loss and the validation scores, through interruptions too.

    Args:
        every: optimizer steps whose mean loss is a row.

    Attributes:
        rows: one dict per record: "step" and numbers by name.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_: Any) -> None:
        # a tensor: the device is waited for once in `every` steps only
        self._sum = self._sum.to(outputs["loss"].device) + outputs["loss"].detach()
        self._count += 1
        if trainer.global_step % self.every == 0:
            self.rows.append({"step": trainer.global_step, "train/loss": float(self._sum / self._count)})
            self._sum, self._count = torch.zeros_like(self._sum), 0

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self.rows.append({"step": trainer.global_step, **scores})

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "sum": float(self._sum), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])
        self._sum, self._count = torch.tensor(state["sum"], dtype=torch.float64), state["count"]


def best_decay(rows: Sequence[Mapping[str, float]], decays: Sequence[float]) -> float:
    """The decay whose average had the least loss at the last validation; without a validation the first.

    Args:
        rows: of `LossHistory`.
        decays: of `Averages`.
    """
    last = next((row for row in reversed(rows) if f"val/loss/{decays[0]:g}" in row), None)
    return decays[0] if last is None else min(decays, key=lambda decay: last[f"val/loss/{decay:g}"])
