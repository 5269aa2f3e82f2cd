"""The course of a training and the average that it favours."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import torch

from optsteps.models.training import LossHistory, best_decay


def test_loss_history_averages_and_survives() -> None:
    history = LossHistory(every=2)
    for step, loss in enumerate([1.0, 3.0, 5.0, 9.0, 2.0], start=1):
        history.on_train_batch_end(SimpleNamespace(global_step=step), None, {"loss": torch.tensor(loss)})  # type: ignore[arg-type]
    assert history.rows == [{"step": 2, "train/loss": 2}, {"step": 4, "train/loss": 7}]
    trainer = SimpleNamespace(global_step=5, sanity_checking=False, callback_metrics={"val/loss": 0.5, "train/loss": 2})
    history.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert history.rows[-1] == {"step": 5, "val/loss": 0.5}
    again = LossHistory(every=2)
    again.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert again.rows == history.rows
    # the step that no row holds yet goes into the next one
    again.on_train_batch_end(SimpleNamespace(global_step=6), None, {"loss": torch.tensor(4.0)})  # type: ignore[arg-type]
    assert again.rows[-1] == {"step": 6, "train/loss": 3}
    assert math.isfinite(again.rows[0]["train/loss"])


def test_the_best_decay_is_that_of_the_last_validation() -> None:
    rows = [
        {"step": 1, "val/loss/0.9": 1.0, "val/loss/0.99": 2.0},
        {"step": 2, "val/loss/0.9": 0.5, "val/loss/0.99": 0.4},
    ]
    assert best_decay([*rows, {"step": 3, "train/loss": 0.3}], [0.9, 0.99]) == 0.99
    assert best_decay(rows[:1], [0.9, 0.99]) == 0.9
    assert best_decay([], [0.9, 0.99]) == 0.9
