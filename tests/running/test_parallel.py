"""A model that lies in pieces in the ranks of a run, by torch's own `fully_shard`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from optsteps.cli import run as command
from optsteps.denoisers import ModelError
from optsteps.running.parallel import LedDenoiser
from optsteps.storage.division import Division

MODULE = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from optsteps.denoisers import NetworkDenoiser
from optsteps.models import Model
from optsteps.processes import Flow


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2))

    def forward(self, x, t, cond):
        return self.inner(torch.cat([x, t[:, None], cond[:, None] / 8], 1)) - x


def build():
    torch.manual_seed(0)
    network = Network()
    whole = sum(p.numel() for p in network.parameters())
    if dist.is_initialized():
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in network.inner[0], network.inner[2], network:
            fully_shard(layer, mesh=mesh)
    here = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in network.parameters())
    denoiser = NetworkDenoiser(network, Flow(), "velocity")
    return Model("mine", denoiser, Flow(), (2,), (float("inf"), 0.0), num_classes=8,
                 model_parallel=True, facts={"here": f"{here} of {whole}"})
"""
FEW = ["--config-dir=conf", "model=mine", "metric=teacher", "method=path", "rivals=[flow_shift]", "logger=none"]
FEW += ["steps=[2,3]", "teacher.steps=8", "search.samples=6", "test.samples=8", "test.oracle=0"]
FEW += ["runner=cpu", "runner.threads=1", "runner.timeout=60", "store.folder=null", "check_model=false"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with such a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: mine.build\n")


def found(monkeypatch: pytest.MonkeyPatch, name: str, *overrides: str) -> tuple[str, list[Any], dict[str, bytes]]:
    """How much of the model a run had in rank 0, the figures that it found, and its schedules."""
    monkeypatch.setattr(sys, "argv", ["optsteps", *FEW, f"hydra.run.dir={name}", *overrides])
    command.main()
    metrics = json.loads(Path(name, "metrics.json").read_text())
    rows = [{key: value for key, value in row.items() if key != "search_seconds"} for row in metrics["rows"]]
    return metrics["facts"]["here"], rows, {p.name: p.read_bytes() for p in Path(name).glob("schedule_*.json")}


@pytest.mark.slow
@pytest.mark.usefixtures("here", "blank_pictures")
def test_a_model_in_pieces_finds_what_a_whole_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit."""
    whole, *expected = found(monkeypatch, "whole")
    half, *same = found(monkeypatch, "pieces", "runner.devices=2")
    assert (whole, half) == ("450 of 450", "225 of 450")
    assert same == expected
    assert "Traceback" not in Path("pieces", "ranks", "1.log").read_text()


def test_no_gradients() -> None:
    led = LedDenoiser(lambda x, t, cond: x, Division(torch.distributed.HashStore(), 0, 1))
    x, t = torch.ones(1, 2), torch.ones(1, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ModelError, match="choose another method"):
        led(x, t)
    with torch.no_grad():
        assert led(x, t) is x
