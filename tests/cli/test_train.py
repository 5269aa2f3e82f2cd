"""`optsteps-train`: trainings that are interrupted, resumed, and started from given weights."""

from __future__ import annotations

import logging
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from optsteps.cli.train import main
from optsteps.models.checkpoint import load_network
from optsteps.models.classifier import FeatureClassifier
from optsteps.models.training import Batch, DenoiserTraining, LossHistory
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


@pytest.mark.slow
def test_a_second_start_continues_from_the_checkpoint(folder: Path, interrupted: Run, resumed: Run) -> None:
    assert (resumed.steps_taken, resumed.checkpoint["global_step"]) == (STEPS - 12, STEPS)
    # the learning rate went on down its cosine, to zero
    assert resumed.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
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


def _cifar10_of_noise(folder: Path) -> None:
    """Six images to train on and six to test, in two classes."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        with zipfile.ZipFile(folder / f"cifar10-jpeg-{part}.zip", "w") as archive:
            for number in range(6):
                with archive.open(f"{part}/{'cat' if number % 2 else 'dog'}/{number:04}.jpg", "w") as file:
                    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG")


def test_cifar10_as_configured_but_small(tmp_path: Path) -> None:
    _cifar10_of_noise(tmp_path)
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


def test_the_classifier_of_cifar10_as_configured_but_small(tmp_path: Path) -> None:
    _cifar10_of_noise(tmp_path)
    argv = ["optsteps-train", "training=cifar10_classifier", f"paths.data={tmp_path}", f"paths.outputs={tmp_path}"]
    argv += ["training.max_steps=3", "training.batch_size=4", "training.task.network.widths=[4,8]"]
    with mock.patch.object(sys, "argv", [*argv, "trainer.accelerator=cpu"]):
        main()
    file = tmp_path / "train" / "cifar10_classifier" / "cifar10_classifier.safetensors"
    network, _ = load_network(file, FeatureClassifier)
    assert network.features(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    assert "ResidualClassifier" in file.with_suffix(".md").read_text()
