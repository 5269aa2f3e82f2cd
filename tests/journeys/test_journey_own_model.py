"""A researcher has a trained network, and wants times for its own sampling loop."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# trained networks, in place of which the exact ones for two blurred points stand here, at -1 and 1 in every pixel
DDPM = """
import torch

betas = torch.linspace(1e-4, 0.02, 1000)
alpha_bar = (1 - betas).cumprod(0)


class Network(torch.nn.Module):
    def forward(self, x, timestep):  # whole timesteps; predicts eps
        alpha, sigma = (c[timestep].view(-1, 1, 1, 1) for c in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
        variance = sigma**2 + 0.01 * alpha**2
        centre = torch.tanh((alpha * x / variance).sum((1, 2, 3), keepdim=True))
        return (x - alpha * (centre + 0.01 * alpha / variance * (x - alpha * centre))) / sigma
"""
FLOW = """
import torch


class Network(torch.nn.Module):
    def forward(self, x, t):  # t from 1, noise, to 0; predicts the velocity
        t = t.view(-1, 1, 1, 1)
        variance = t**2 + 0.01 * (1 - t) ** 2
        centre = torch.tanh(((1 - t) * x / variance).sum((1, 2, 3), keepdim=True))
        x_0 = centre + 0.01 * (1 - t) / variance * (x - (1 - t) * centre)
        return (x - x_0) / t.clamp(min=1e-6)
"""
YAML = "_target_: my_package.my_model\n"
FEW = "test.samples=64 test.oracle=0 logger=none"


def test_a_ddpm_with_discrete_betas(desk: Any) -> None:
    code = """
from their_ddpm import Network, betas
from optsteps.denoisers import NetworkDenoiser
from optsteps.models import Model
from optsteps.processes import VP

def my_model():
    network, process = Network().eval(), VP.from_betas(betas)
    denoiser = NetworkDenoiser(NETWORK, process, "eps")
    return Model("mine", denoiser, process, shape=(1, 4, 4), noise_levels=(200.0, 0.001))
"""
    desk.has("their_ddpm.py", DDPM)
    desk.writes("my_conf/model/mine.yaml", YAML)
    run = f"optsteps --config-dir my_conf model=mine {FEW}"

    desk.writes("my_package.py", code.replace("NETWORK", "network"))
    desk.types(
        run,
        "tensors used as indices must be long",
        "such as lambda x, t: network(x, t.round().long()) with teacher.snap=true",
        refused=True,
    )
    desk.writes("my_package.py", code.replace("NETWORK", "lambda x, t: network(x, t.round().long())"))
    desk.types(
        f"{run} teacher.snap=true hydra.run.dir=run",
        "At 5 NFE auto is better than",
        "At 10 NFE auto is better than",
        "better than edm by",
        "report and schedules:",
    )
    assert sum(desk.own_lines.values()) <= 15

    table = desk.types("optsteps-export run/schedule_10.json --to csv").splitlines()
    assert table[0] == "step,time,noise_level,log_snr"
    times = [float(line.split(",")[1]) for line in table[1:]]
    assert len(times) == 11
    assert times[0] == 999
    assert all(time == round(time) for time in times)


def test_a_flow_from_1_to_0(desk: Any) -> None:
    desk.has("their_flow.py", FLOW)
    desk.writes("my_conf/model/mine.yaml", YAML)
    desk.writes(
        "my_package.py",
        """
import math
from their_flow import Network
from optsteps.denoisers import NetworkDenoiser
from optsteps.models import Model

def my_model(process):
    denoiser = NetworkDenoiser(Network().eval(), process, "velocity")
    return Model("mine", denoiser, process, shape=(1, 4, 4), noise_levels=(math.inf, 0.0))
""",
    )
    desk.types("optsteps --config-dir my_conf model=mine process=flow method=oss plan=true", "oss", "evaluations")
    desk.types(
        f"optsteps --config-dir my_conf model=mine process=flow method=oss {FEW} hydra.run.dir=run",
        "At 10 NFE oss is better than ",
        "report and schedules:",
    )
    assert sum(desk.own_lines.values()) <= 15
    metrics = json.loads(desk.reads("run/metrics.json"))
    compared = {row["method"] for row in metrics["rows"]}
    assert compared == {
        "teacher",
        "oss",
        "edm",
        "time_uniform",
        "logsnr",
        "flow_shift",
    }
    assert "takes 999 to 0.001001 of the model's range" in metrics["facts"]["teacher"]

    desk.types("optsteps-export run/schedule_10.json --to kdiffusion --output sigmas.json")
    sigmas = json.loads(desk.reads("sigmas.json"))
    assert (len(sigmas), sigmas[0], sigmas[-1]) == (11, 1.0, 0.0)
    # their own sampling loop: dx/dt = v from one time to the next
    desk.has(
        "sample.py",
        f"""
import torch
from their_flow import Network

torch.manual_seed(0)
x, network = torch.randn(64, 1, 4, 4), Network()
for t, t_next in zip({sigmas}, {sigmas[1:]}):
    x = x + (t_next - t) * network(x, torch.full((64,), t))
print("from the points:", (x.abs() - 1).abs().mean().item() < 0.15)
""",
    )
    desk.types("python sample.py", "from the points: True")
