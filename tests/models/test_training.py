import json
import logging
import math
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
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
from optsteps.models.training import (
    Averages,
    Batch,
    ClassifierTraining,
    DenoiserTraining,
    FlowTraining,
    LossHistory,
    TrainingBatches,
    best_decay,
)
from optsteps.models.unet import UNet

pytest.importorskip("sklearn")

STEPS = 24  # two epochs of digits, 11 batches each, and a bit; validations and checkpoints every 4 steps
DECAYS = [0.5, 0.8]


class PowerCutError(Exception):
    pass


@dataclass
class Run:
    steps_taken: int
    weights: dict[str, Tensor] | None
    checkpoint: dict[str, Any]


def _train(folder: Path, power_cut_at: int | None = None, *more: str) -> Run:
    """`optsteps-train training=digits` with a tiny network; the power fails in the step numbered `power_cut_at`."""
    overrides = [
        "training=digits",
        f"training.max_steps={STEPS}",
        f"training.ema_decays={DECAYS}",
        "training.task.network.widths=[8]",
        "+training.task.network.dropout=0.1",
        "trainer.val_check_interval=4",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        f"paths.outputs={folder}",
        *more,
    ]
    steps_taken, step = 0, DenoiserTraining.training_step

    def counted(task: DenoiserTraining, batch: Batch, index: int) -> Tensor:
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
        mock.patch("optsteps.cli.train_job.LossHistory", lambda every: LossHistory(every // 20)),
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


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _train(tmp_path_factory.mktemp("straight"))


def _rows(run: Run) -> list[dict[str, float]]:
    return run.checkpoint["callbacks"]["LossHistory"]["rows"]


def test_an_interrupted_run_leaves_a_checkpoint_and_no_weights(interrupted: Run) -> None:
    assert interrupted.weights is None
    assert interrupted.checkpoint["global_step"] == 12
    assert [row["step"] for row in _rows(interrupted)] == [4, 5, 8, 10, 12]


def test_a_second_start_continues_from_the_checkpoint(folder: Path, interrupted: Run, resumed: Run) -> None:
    assert (resumed.steps_taken, resumed.checkpoint["global_step"]) == (STEPS - 12, STEPS)
    # the learning rate went on down its cosine, to zero
    assert resumed.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


def test_an_interrupted_training_sees_and_learns_what_an_uninterrupted_one_does(
    interrupted: Run, resumed: Run, straight: Run
) -> None:
    assert straight.steps_taken == STEPS
    assert _rows(resumed) == _rows(straight)
    assert sorted({row["step"] for row in _rows(straight)}) == [4, 5, 8, 10, 12, 15, 16, 20, 24]
    states = [run.checkpoint["state_dict"] for run in (resumed, straight)]
    # the weights themselves and each of their averages
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert {name.split(".stem")[0] for name in states[0] if "stem.weight" in name} == {
        "network",
        "averages.networks.0",
        "averages.networks.1",
    }


def test_the_weights_are_the_average_with_the_least_validation_loss(resumed: Run) -> None:
    assert resumed.weights is not None
    last = _rows(resumed)[-1]
    best = min(range(len(DECAYS)), key=lambda i: last[f"val/loss/{DECAYS[i]}"])
    state = resumed.checkpoint["state_dict"]
    for name, value in resumed.weights.items():
        torch.testing.assert_close(value, state[f"averages.networks.{best}.{name}"], rtol=0, atol=0)
    for other in ("network", f"averages.networks.{1 - best}"):
        assert any(not torch.equal(value, state[f"{other}.{name}"]) for name, value in resumed.weights.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.task.sigma_data=0.5", r"training\.task\.sigma_data = 0\.75.*training\.task\.sigma_data = 0\.5"),
        ("seed=7", r"seed = 0, which cannot go on with seed = 7.*hydra\.run\.dir"),
    ],
)
def test_a_folder_goes_on_with_its_own_settings_alone(
    folder: Path, resumed: Run, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    out = folder / "train" / "digits"
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.suffix != ".log"}
    with pytest.raises(SystemExit):
        _train(folder, None, override)
    assert re.search(message, capsys.readouterr().err)
    assert {
        path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.suffix != ".log"
    } == before


def test_the_model_card(folder: Path, resumed: Run) -> None:
    card = (folder / "train" / "digits" / "digits.md").read_text()
    facts = [
        "digits, 1,500 training samples",
        f"{STEPS} of batch size 128",
        "of 0.5, 0.8 by",
        "training=digits",
        "val/loss",
    ]
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
        mock.patch.object(
            sys, "argv", [*argv, "training.task.network.widths=[8]", "+training.task.network.dropout=0.1"]
        ),
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


def test_cifar10_as_configured_but_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        with zipfile.ZipFile(tmp_path / f"cifar10-jpeg-{part}.zip", "w") as archive:
            for number in range(6):
                with archive.open(f"{part}/{'cat' if number % 2 else 'dog'}/{number:04}.jpg", "w") as file:
                    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG")
    argv = ["optsteps-train", "training=cifar10", f"paths.data={tmp_path}", f"paths.outputs={tmp_path}"]
    argv += ["compile=false", "training.max_steps=3", "training.batch_size=4", "training.task.network.widths=[8,8]"]
    argv += ["trainer.accelerator=cpu", "training.task.network.embedding=8"]
    with mock.patch.object(sys, "argv", argv):
        main()
    file = tmp_path / "train" / "cifar10" / "cifar10.safetensors"
    assert {value.dtype for value in load_file(file).values()} == {torch.bfloat16}
    network, notes = load_network(file, UNet)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert (network.num_classes, network.augmentations, notes) == (10, 1, {"sigma_data": 0.5})
    assert "CIFAR-10 (JPEG), 6 training samples" in file.with_suffix(".md").read_text()


# what is learned from ------------------------------------------------------------------------------------------------


def _batches(first: int, rank: int = 0, ranks: int = 1, seed: int = 0) -> list[Batch]:
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    return list(TrainingBatches(images, torch.arange(10) * 10, 3, seed, first, 11, rank, ranks))


def test_batches_depend_on_seed_and_number_alone() -> None:
    batches = _batches(0)
    assert [batch.number for batch in batches] == list(range(11))
    for first in range(11):  # also in the middle of an epoch of three batches
        for left, right in zip(_batches(first), batches[first:], strict=True):
            assert left.number == right.number
            assert torch.equal(left.images, right.images)
            assert torch.equal(left.told, right.told)
    for epoch in range(3):
        seen = torch.cat([batch.images.flatten() for batch in batches[3 * epoch : 3 * epoch + 3]]).tolist()
        assert len(set(seen)) == 9
    assert not torch.equal(batches[0].told, batches[3].told), "every epoch has its own order"
    assert not torch.equal(batches[0].told, _batches(0, seed=1)[0].told)
    assert all(torch.equal(batch.told, batch.images.flatten().long() * 10) for batch in batches)


def test_ranks_share_a_batch() -> None:
    for whole, first, second in zip(_batches(0), _batches(0, 0, 2), _batches(0, 1, 2), strict=True):
        assert torch.equal(torch.cat([first.told, second.told]).sort()[0], whole.told.sort()[0])
        assert (len(first.told), len(second.told)) == (2, 1)


def test_averages_are_exponential_and_forget_the_beginning() -> None:
    network = torch.nn.BatchNorm1d(2)  # has an integer buffer too
    averages = Averages(network, [0.5, 0.99])
    rng = np.random.default_rng(0)
    expected = dict.fromkeys(averages.decays, np.full(2, np.nan))
    for step in range(1, 41):
        weights = rng.standard_normal(2)
        for decay in expected:
            kept = min(decay, (step - 1) / (step + 9))
            expected[decay] = weights if step == 1 else kept * expected[decay] + (1 - kept) * weights
        with torch.no_grad():
            network.weight.copy_(torch.from_numpy(weights))
            network.num_batches_tracked.fill_(step)
        averages.update(network, step)
    for decay, average in averages.by_decay().items():
        np.testing.assert_allclose(average.weight, expected[decay], rtol=1e-5)
        assert average.num_batches_tracked == 40
        assert not average.training
        assert not any(parameter.requires_grad for parameter in average.parameters())


@pytest.mark.parametrize("decays", [[], [1.0], [0.9, 0.9]])
def test_averages_need_decays(decays: list[float]) -> None:
    with pytest.raises(ValueError, match="ema_decays must be different numbers between 0 and 1, at least one; got"):
        Averages(torch.nn.Linear(1, 1), decays)


def test_the_best_decay_is_that_of_the_last_validation() -> None:
    rows = [
        {"step": 1, "val/loss/0.9": 1.0, "val/loss/0.99": 2.0},
        {"step": 2, "val/loss/0.9": 0.5, "val/loss/0.99": 0.4},
    ]
    assert best_decay([*rows, {"step": 3, "train/loss": 0.3}], [0.9, 0.99]) == 0.99
    assert best_decay(rows[:1], [0.9, 0.99]) == 0.9
    assert best_decay([], [0.9, 0.99]) == 0.9


def test_mirrored_images_are_told_of() -> None:
    network = UNet(1, [8], embedding=16, num_classes=4, augmentations=2)
    task = DenoiserTraining(network, 0.6, -0.9, 1.3, 0.0, 1e-3, 0.0, 10, [0.9], 0, mirrored=0.5)
    images = torch.randint(0, 256, (400, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    told, seen = task._augmented(images)
    labels = told.keywords["augmentation"]  # type: ignore[attr-defined]
    assert labels.shape == (400, 2)
    mirrored = labels[:, 0] == 1
    assert stats.binomtest(int(mirrored.sum()), 400, 0.5).pvalue > 1e-4
    assert torch.equal(seen[mirrored], images[mirrored].flip(-1))
    assert torch.equal(seen[~mirrored], images[~mirrored])
    assert not labels[:, 1].any()
    with pytest.raises(ValueError, match=r"mirrored = 0\.5 needs a network that can be told.*augmentations = 1"):
        DenoiserTraining(UNet(1, [8]), 0.6, -0.9, 1.3, 0.0, 1e-3, 0.0, 10, [0.9], 0, mirrored=0.5)


# the objectives ------------------------------------------------------------------------------------------------------


def _denoiser_task(label_dropout: float = 0.0) -> DenoiserTraining:
    network = UNet(1, [8], embedding=16, num_classes=4)
    return DenoiserTraining(network, 0.6, -0.9, 1.3, label_dropout, 1e-3, 0.0, 10, [0.9], 0)


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
    task = _denoiser_task()
    loss = task._loss(
        task.network,
        torch.from_numpy(images).to(torch.uint8),
        torch.zeros(5).long(),
        torch.from_numpy(quantiles),
        torch.from_numpy(eps).float(),
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("dropout", "label"), [(0.0, 2), (1.0, 4)])
def test_one_noise_level_per_stratum_and_dropped_labels(dropout: float, label: int) -> None:
    task, seen = _denoiser_task(dropout), {}

    def loss(_network: Any, images: Tensor, labels: Tensor, quantiles: Tensor, eps: Tensor) -> Tensor:
        seen.update(labels=labels, quantiles=quantiles, eps=eps)
        return torch.zeros(())

    with mock.patch.object(task, "_loss", loss), mock.patch.object(task, "log"):
        task.training_step(Batch(0, torch.zeros(64, 1, 4, 4, dtype=torch.uint8), torch.full((64,), 2)), 0)
    assert sorted((seen["quantiles"] * 64).floor().tolist()) == list(range(64))
    assert set(seen["labels"].tolist()) == {label}
    assert seen["eps"].shape == (64, 1, 4, 4)


def _classifier_task(max_shift: float, max_degrees: float, max_scale: float) -> ClassifierTraining:
    return ClassifierTraining(Classifier(1, 8, 4, 6), max_shift, max_degrees, max_scale, 0.0, 1e-3, 0.0, 10, [0.9], 0)


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
    # the step that no row holds yet goes into the next one
    again.on_train_batch_end(SimpleNamespace(global_step=6), None, {"loss": torch.tensor(4.0)})  # type: ignore[arg-type]
    assert again.rows[-1] == {"step": 6, "train/loss": 3}
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
    task = FlowTraining(network, 0.3, 1.2, 0.25, 1e-3, 0.0, warmup_steps=1, ema_decays=[0.9], seed=0)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task


def test_the_exact_velocity_has_no_flow_matching_loss() -> None:
    batch = Batch(0, torch.full((64, 3, 8, 8), 51, dtype=torch.uint8), torch.ones(64, 4, dtype=torch.long))
    torch.manual_seed(0)
    # eps - x_0 from x_t in float32: nearly nothing is left where t is small
    assert _flow_training(Velocity(-0.6)).training_step(batch, 0).item() < 1e-6
    # a velocity that is off by 0.2 / t
    network = Velocity(-0.4)
    loss = _flow_training(network).training_step(batch, 0).item()
    assert loss == pytest.approx((0.2 / network.asked[0][0]).square().mean().item(), rel=1e-3)


def test_times_of_flow_matching_are_logit_normal_and_some_prompts_are_dropped() -> None:
    batch = Batch(0, torch.zeros(4096, 3, 1, 1, dtype=torch.uint8), torch.ones(4096, 4, dtype=torch.long))
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
