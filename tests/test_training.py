import json
import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import stats
from torch import Tensor

from optsteps.cli.train import main
from optsteps.datasets import captioned_scenes
from optsteps.datasets.geneval import TASKS
from optsteps.datasets.scene_prompts import vocabulary
from optsteps.datasets.scenes import scene_set
from optsteps.models.checkpoint import load_network
from optsteps.models.classifier import Classifier
from optsteps.models.text_unet import TextUNet
from optsteps.models.unet import UNet
from optsteps.training import ClassifierTraining, DenoiserTraining, FlowTraining, LossHistory

pytest.importorskip("sklearn")

STEPS = 24  # two epochs of digits and a bit, with the validations at steps 11 and 22


class PowerCutError(Exception):
    pass


@dataclass
class Run:
    steps_taken: int
    weights: dict[str, Tensor] | None
    checkpoint: dict[str, Any]


def _train(folder: Path, power_cut_at: int | None = None) -> Run:
    """`optsteps-train training=digits` with a tiny network; the power fails in the step numbered `power_cut_at`."""
    overrides = [
        "training=digits",
        f"training.max_steps={STEPS}",
        "training.task.network.widths=[8]",
        "checkpoint_every=4",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        f"paths.outputs={folder}",
    ]
    steps_taken, step = 0, DenoiserTraining.training_step

    def counted(task: DenoiserTraining, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        nonlocal steps_taken
        steps_taken += 1
        if steps_taken == power_cut_at:
            raise PowerCutError
        return step(task, batch, index)

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level  # Hydra replaces them
    with (
        mock.patch.object(sys, "argv", ["optsteps-train", *overrides]),
        mock.patch.dict(os.environ),
        mock.patch.object(DenoiserTraining, "training_step", counted),
    ):
        try:
            main()
        except PowerCutError:
            pass
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
    out = folder / "train" / "digits"
    weights = out / "digits.safetensors"
    return Run(
        steps_taken,
        load_network(weights, UNet)[0].state_dict() if weights.exists() else None,
        torch.load(out / "checkpoints" / "last.ckpt", weights_only=True),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> Run:
    return _train(folder, power_cut_at=15)


@pytest.fixture(scope="module")
def resumed(folder: Path, interrupted: Run) -> Run:
    return _train(folder)


def _rows(run: Run) -> list[dict[str, float]]:
    return run.checkpoint["callbacks"]["LossHistory"]["rows"]


def test_an_interrupted_run_leaves_a_checkpoint_and_no_weights(interrupted: Run) -> None:
    assert interrupted.weights is None
    assert interrupted.checkpoint["global_step"] == 12
    assert [row["step"] for row in _rows(interrupted)] == [11]


def test_a_second_start_continues_from_the_checkpoint(folder: Path, interrupted: Run, resumed: Run) -> None:
    assert (resumed.steps_taken, resumed.checkpoint["global_step"]) == (STEPS - 12, STEPS)
    history = json.loads((folder / "train" / "digits" / "digits_history.json").read_text())
    assert [row["step"] for row in history] == [11, 22]
    assert history[:1] == _rows(interrupted)
    # the learning rate went on down its cosine, to zero
    assert resumed.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


def test_the_weights_are_the_averaged_ones(resumed: Run) -> None:
    assert resumed.weights is not None
    averaged, latest = ({key: resumed.checkpoint[key] for key in ("state_dict", "current_model_state")}).values()
    assert all(torch.equal(value, averaged[f"network.{name}"]) for name, value in resumed.weights.items())
    assert any(not torch.equal(value, latest[f"network.{name}"]) for name, value in resumed.weights.items())


def test_the_model_card(folder: Path, resumed: Run) -> None:
    card = (folder / "train" / "digits" / "digits.md").read_text()
    facts = ["digits, 1,500 training samples", f"{STEPS} of batch size 128", "0.995", "training=digits", "val/loss"]
    assert [fact for fact in facts if fact not in card] == []
    assert (folder / "train" / "digits" / "digits_loss.png").read_bytes().startswith(b"\x89PNG")
    _, notes = load_network(folder / "train" / "digits" / "digits.safetensors", UNet)
    assert notes == {"sigma_data": 0.75}


def test_a_training_starts_from_given_weights(folder: Path, resumed: Run, tmp_path: Path) -> None:
    weights = folder / "train" / "digits" / "digits.safetensors"
    given = load_network(weights, UNet)[0].state_dict()
    first: dict[str, Tensor] = {}

    def remembered(task: DenoiserTraining, *_: Any) -> None:
        first.update({name: part.clone() for name, part in task.network.state_dict().items()})
        raise PowerCutError

    argv = ["optsteps-train", "training=digits", f"weights={weights}", f"paths.outputs={tmp_path}"]
    with (
        mock.patch.object(sys, "argv", [*argv, "training.task.network.widths=[8]"]),
        mock.patch.object(DenoiserTraining, "training_step", remembered),
        pytest.raises(PowerCutError),
    ):
        main()
    for name, part in given.items():
        torch.testing.assert_close(first[name], part, rtol=0, atol=0)
    with mock.patch.object(sys, "argv", [*argv, "training.task.network.widths=[16]"]), pytest.raises(SystemExit):
        main()


def test_starting_a_finished_run_again_changes_nothing(folder: Path, resumed: Run) -> None:
    again = _train(folder)
    assert again.steps_taken == 0
    assert again.weights is not None
    assert resumed.weights is not None
    assert all(torch.equal(again.weights[name], value) for name, value in resumed.weights.items())


# the objectives ------------------------------------------------------------------------------------------------------


def _denoiser_task(label_dropout: float = 0.0) -> DenoiserTraining:
    network = UNet(1, [8], embedding=16, num_classes=4)
    return DenoiserTraining(network, 0.6, -0.9, 1.3, label_dropout, 1e-3, 0.0, 10)


def test_denoising_loss_of_a_network_that_returns_zero() -> None:
    rng = np.random.default_rng(0)
    images, eps = rng.integers(0, 256, (5, 1, 4, 4)), rng.standard_normal((5, 1, 4, 4))
    quantiles = np.array([0.1, 0.3, 0.5, 0.7, 0.95])
    # EDM's loss with F = 0: D = c_skip (y + n), weighed by 1 / c_out^2
    sigma = np.exp(stats.norm(-0.9, 1.3).ppf(quantiles)).reshape(-1, 1, 1, 1)
    clean = images / 127.5 - 1
    c_skip = 0.6**2 / (sigma**2 + 0.6**2)
    c_out = sigma * 0.6 / np.sqrt(sigma**2 + 0.6**2)
    expected = ((c_skip * (clean + sigma * eps) - clean) ** 2 / c_out**2).mean()
    loss = _denoiser_task()._loss(
        torch.from_numpy(images).to(torch.uint8),
        torch.zeros(5).long(),
        torch.from_numpy(quantiles),
        torch.from_numpy(eps).float(),
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("dropout", "label"), [(0.0, 2), (1.0, 4)])
def test_one_noise_level_per_stratum_and_dropped_labels(dropout: float, label: int) -> None:
    task, seen = _denoiser_task(dropout), {}

    def loss(images: Tensor, labels: Tensor, quantiles: Tensor, eps: Tensor) -> Tensor:
        seen.update(labels=labels, quantiles=quantiles, eps=eps)
        return torch.zeros(())

    with mock.patch.object(task, "_loss", loss), mock.patch.object(task, "log"):
        task.training_step((torch.zeros(64, 1, 4, 4, dtype=torch.uint8), torch.full((64,), 2)), 0)
    assert sorted((seen["quantiles"] * 64).floor().tolist()) == list(range(64))
    assert set(seen["labels"].tolist()) == {label}
    assert seen["eps"].shape == (64, 1, 4, 4)


def _classifier_task(max_shift: float, max_degrees: float, max_scale: float) -> ClassifierTraining:
    return ClassifierTraining(Classifier(1, 8, 4, 6), max_shift, max_degrees, max_scale, 0.0, 1e-3, 0.0, 10)


def test_augmentation_moves_a_little_and_fills_with_darkness() -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(_classifier_task(0, 0, 0)._augment(images), images, rtol=0, atol=1e-5)
    dark = torch.full_like(images, -1)
    torch.testing.assert_close(_classifier_task(0.5, 45, 0.3)._augment(dark), dark)
    moved = _classifier_task(0.08, 10, 0.1)._augment(images)
    assert 0.01 < (moved - images).abs().mean() < 1
    # a bright spot in the middle moves by less than the shift, here at most 2 of 8 pixels
    spot = dark.clone()
    spot[:, :, 3:5, 3:5] = 1
    weight = _classifier_task(0.25, 0, 0)._augment(spot) + 1
    place = (weight * torch.arange(8)).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    assert 0.5 < (place - 3.5).abs().max() <= 2 + 1e-5


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
    assert math.isfinite(again.rows[0]["train/loss"])


class Velocity(torch.nn.Module):
    """Exact for images that are all of one grey; remembers what it was asked."""

    def __init__(self, grey: float) -> None:
        super().__init__()
        self.grey = grey
        self.asked: list[tuple[Tensor, Tensor]] = []

    @property
    def no_prompt(self) -> Tensor:
        return torch.zeros(1, 4, dtype=torch.long)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        self.asked.append((t, tokens))
        return (x - self.grey) / t[:, None, None, None]


def _flow_training(network: Any) -> FlowTraining:
    task = FlowTraining(network, 0.3, 1.2, 0.25, learning_rate=1e-3, weight_decay=0.0, warmup_steps=1)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task


def test_the_exact_velocity_has_no_flow_matching_loss() -> None:
    batch = (torch.full((64, 3, 8, 8), 51, dtype=torch.uint8), torch.ones(64, 4, dtype=torch.long))
    torch.manual_seed(0)
    # eps - x_0 from x_t in float32: nearly nothing is left where t is small
    assert _flow_training(Velocity(-0.6)).training_step(batch, 0).item() < 1e-6
    # a velocity that is off by 0.2 / t
    network = Velocity(-0.4)
    loss = _flow_training(network).training_step(batch, 0).item()
    assert loss == pytest.approx((0.2 / network.asked[0][0]).square().mean().item(), rel=1e-3)


def test_times_of_flow_matching_are_logit_normal_and_some_prompts_are_dropped() -> None:
    batch = (torch.zeros(4096, 3, 1, 1, dtype=torch.uint8), torch.ones(4096, 4, dtype=torch.long))
    network = Velocity(-1.0)
    torch.manual_seed(0)
    _flow_training(network).training_step(batch, 0)
    t, tokens = network.asked[0]
    # one time in each of 4096 strata of the distribution: quantiles are nearer than those of independent draws
    assert stats.kstest(torch.logit(t.double()).numpy(), stats.norm(0.3, 1.2).cdf).statistic < 1 / 4096 + 1e-4
    dropped = (tokens == 0).all(1)
    assert torch.equal(dropped, (tokens == 0).any(1)), "whole prompts"
    assert stats.binomtest(int(dropped.sum()), 4096, 0.25).pvalue > 1e-4


def test_a_captioned_set_is_told_in_words(tmp_path: Path) -> None:
    data = captioned_scenes(5, 3, train=True)
    assert data.images.shape == (5, 3, 32, 32)
    network = TextUNet(vocabulary(), 12, text_width=32, widths=(8,), embedding=16)
    told = _flow_training(network).told(data)
    assert torch.equal(told, network.tokenizer(data.captions))
    assert [TASKS[label] for label in data.labels] == [one.tag for one in scene_set(5, "train")[2]]
    assert len(captioned_scenes(5, 3, train=False)) == 3


def test_training_scenes_are_of_the_tasks_that_are_named() -> None:
    tasks = OmegaConf.create(["position", "position", "position", "colors"])
    data = captioned_scenes(80, 30, train=True, train_tasks=tasks)
    found = [TASKS[label] for label in data.labels]
    assert set(found) == {"position", "colors"}
    assert stats.binomtest(found.count("position"), 80, 0.75).pvalue > 1e-4
    assert set(captioned_scenes(80, 30, train=False, train_tasks=tasks).labels.tolist()) == set(range(len(TASKS)))
    with pytest.raises(ValueError, match="there is no task 'shape'"):
        captioned_scenes(80, 30, train_tasks=["shape"])
