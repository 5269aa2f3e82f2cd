"""What a denoiser answers and holds."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optsteps import build_schedule
from optsteps.denoisers import GuidedDenoiser, NetworkDenoiser
from optsteps.fingerprint import fingerprint_held, fingerprint_outputs, probe_inputs, probed, solver_facts
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.solvers import build_solver
from optsteps.solvers.multistep import Euler


@pytest.mark.parametrize(
    ("process", "ends"),
    [(EDM(), (80.0, 0.002)), (VP.linear(), (999.0, 0.0)), (Flow(), (1.0, 0.001)), (Flow(), (0.9, 0.1))],
)
def test_inputs_span_the_range(process: Process, ends: tuple[float, float]) -> None:
    x, t, cond = probe_inputs(process, (3, 2), ends, lambda index: torch.tensor(list(index)))
    again = probe_inputs(process, (3, 2), ends, lambda index: torch.tensor(list(index)))
    assert torch.equal(x, again[0])
    assert x.shape == (8, 3, 2)
    assert cond.tolist() == list(range(8))
    assert (t[0], t[3]) == ends
    assert bool((t[:4].diff() < 0).all())
    assert torch.equal(t[:4], t[4:])
    spread = (process.alpha(t) ** 2 / 4 + process.sigma(t) ** 2).sqrt()
    assert bool((x.flatten(1).std(1) / spread).sub(1).abs().max() < 0.8)


def test_no_denoiser_is_asked_at_the_clean_end() -> None:
    _, t, _ = probe_inputs(Flow(), (2,), (1.0, 0.0), lambda _: None)
    assert bool((t > 0).all())
    assert float(t[3]) < 0.002


def test_a_digest_is_of_every_bit() -> None:
    x, t, _ = probe_inputs(EDM(), (2,), (80.0, 0.002), lambda _: None)
    mixture = GaussianMixture([[-2.0, 0.0], [2.0, 0.5]], [0.3, 0.2])
    outputs = probed(mixture.denoiser(EDM()), x, t, None)
    assert fingerprint_outputs(outputs) == fingerprint_outputs(probed(mixture.denoiser(EDM()), x, t, None))
    other = outputs.clone()
    other[5, 1] = torch.nextafter(other[5, 1], torch.tensor(math.inf))
    assert fingerprint_outputs(other) != fingerprint_outputs(outputs)


def test_no_batch_is_larger_than_allowed() -> None:
    sizes = []

    def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        sizes.append((len(x), len(t), len(cond)))
        return x

    x, t, cond = probe_inputs(EDM(), (2,), (80.0, 0.002), lambda index: torch.tensor(list(index)))
    assert torch.equal(probed(denoiser, x, t, cond, 3), x)
    assert sizes == [(3, 3, 3), (3, 3, 3), (2, 2, 2)]


OF_A_MODULE = {"weight": torch.ones(3)}


def uses_a_global(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    return OF_A_MODULE["weight"] * x


def closing_over(weight: Tensor) -> Any:
    return lambda x, t, cond=None: weight * x


class Attribute:
    def __init__(self, weight: Any) -> None:
        self.inner = [{"weight": weight}]

    def call(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return x


def holders(weight: Tensor) -> list[Any]:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    nn.init.zeros_(network[0].weight)
    nn.init.zeros_(network[0].bias)
    network[1].running_mean.copy_(weight)  # a buffer
    OF_A_MODULE["weight"] = weight
    return [
        NetworkDenoiser(network, EDM(), "x0"),
        GuidedDenoiser(lambda x, t, cond: x, 2.0, weight[None]),
        closing_over(weight),
        Attribute(weight),
        Attribute(weight).call,
        Attribute(weight.numpy()),
        partial(uses_a_global, cond=weight),
        uses_a_global,
    ]


@pytest.mark.parametrize("number", range(8))
def test_whoever_holds_a_tensor_it_is_found(number: int) -> None:
    first = fingerprint_held(holders(torch.ones(3))[number])
    assert fingerprint_held(holders(torch.ones(3))[number]) == first
    assert fingerprint_held(holders(torch.tensor([1.0, 1.0, 1.0 + 2e-7]))[number]) != first


def test_nothing_is_held_by_others() -> None:
    assert fingerprint_held(lambda x, t, cond=None: x) == fingerprint_held(None) == fingerprint_held(np.float64(3))


def test_memory_that_comes_and_goes_is_left_alone() -> None:
    """As that is where sharded weights are gathered for a call."""
    weight, given_up = torch.ones(8), torch.ones(8)
    given_up.untyped_storage().resize_(0)
    assert fingerprint_held([weight, given_up]) == fingerprint_held([weight]) != fingerprint_held([])
    weight.untyped_storage().resize_(0)


class Own(Euler):
    """A solver that is no part of the package."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.function = lambda x: factor * x  # no JSON

    def moves(self, schedule: Any, x: Tensor) -> Any:
        def scaled(move: Any, state: Any, x: Tensor, denoise: Any) -> Any:
            x, state = move(state, x, denoise)
            return self.function(x), state

        return [partial(scaled, move) for move in super().moves(schedule, x)]


@pytest.mark.parametrize("process", [EDM(), Flow()])
def test_a_solver_of_one_s_own_counts_by_its_steps(process: Process) -> None:
    ends = {"t_max": 1.0, "t_min": 0.001} if process == Flow() else {"t_max": 80.0, "t_min": 0.002}
    schedule = build_schedule("time_uniform", process, 4, **ends)
    first, same, other = (solver_facts(Own(factor), schedule, torch.ones(5, 1, 2, 2)) for factor in (1.0, 1.0, 1.001))
    assert first == same != other
    assert solver_facts(build_solver("euler"), schedule, torch.ones(5, 2))["name"] == "euler"
