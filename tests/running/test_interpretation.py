"""A network under a wrong clock or prediction type is noticed, and a right one is not suspected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from optsteps import SearchProblem, build_schedule
from optsteps.denoisers import PREDICTIONS, Denoiser, GuidedDenoiser, ModelError, NetworkDenoiser, expand
from optsteps.models import Gaussian, GaussianMixture, pretrained
from optsteps.noise import unit_noise
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.running.interpretation import Interpretation, check_interpretation
from optsteps.solvers import build_solver
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import StoredWorkers
from optsteps.trajectories import Cache

CPU = torch.device("cpu")
PROCESSES = {"edm": EDM(), "vp": VP.scaled_linear(), "flow": Flow()}
# data of the size that images and latents have, in enough dimensions that a few samples tell
SIGNS = torch.randn(8, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sign()
MIXTURE = GaussianMixture(0.6 * SIGNS, [0.1] * 8)


def network(process: Process, prediction: str, time_scale: float = 1.0, exact: Any = MIXTURE) -> Callable[..., Tensor]:
    """The exact network of a mixture that predicts `prediction` and is called at `time_scale` t."""
    denoise = exact.denoiser(process)
    high, low = time_range(process)

    def called(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        t = (t.double() / time_scale).clamp(low, high)
        c_skip, c_out = PREDICTIONS[prediction](process.alpha(t), process.sigma(t))
        return (denoise(x, t) - expand(c_skip, x) * x) / expand(c_out, x)

    return called


def time_range(process: Process) -> tuple[float, float]:
    if isinstance(process, VP):
        return process.t_limit, 0.0
    return tuple(process.time_of_noise_level([80.0, 0.002]).tolist())  # type: ignore[return-value]


def problem(
    denoiser: Denoiser, process: Process, shape: tuple[int, ...] = (64,), cond: Any = None, **more: Any
) -> SearchProblem:
    high, low = time_range(process)
    teacher = build_schedule("time_uniform", process, 10, t_max=high, t_min=low)
    return SearchProblem(
        denoiser, process, build_solver("euler"), unit_noise(0, range(4), shape), teacher, cond, **more
    )


def checked(denoiser: Denoiser, process: Process, **more: Any) -> Interpretation:
    return check_interpretation(problem(denoiser, process, **more))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("where", PROCESSES)
def test_an_exact_network_is_not_suspected(where: str, prediction: str) -> None:
    process = PROCESSES[where]
    for scale in (1.0, 1000.0):
        denoiser = NetworkDenoiser(network(process, prediction, scale), process, prediction, scale)
        found = checked(denoiser, process)
        assert found.remark is None
        assert found.skill.errors.max() < 1.06
        assert found.skill.errors.min() < 0.7
        assert found.evaluations == 32 * (12 + 8), "nothing else was tried"


WRONG = [
    ("vp", "eps", "v"),
    ("vp", "v", "eps"),
    ("vp", "x0", "eps"),
    ("vp", "eps", "x0"),
    ("vp", "x0", "v"),
    ("flow", "velocity", "eps"),
    ("flow", "eps", "velocity"),
    ("flow", "velocity", "x0"),
    ("flow", "velocity", "v"),
    ("flow", "x0", "velocity"),
    ("edm", "eps", "x0"),
    ("edm", "x0", "eps"),
]


@pytest.mark.parametrize(("where", "true", "stated"), WRONG)
def test_a_wrong_prediction_type_is_refused(where: str, true: str, stated: str) -> None:
    process = PROCESSES[where]
    with pytest.raises(ModelError, match=f"taken for {true} instead of {stated}: state .* prediction={true} "):
        checked(NetworkDenoiser(network(process, true), process, stated), process)


@pytest.mark.parametrize(
    ("where", "prediction", "trained", "stated"),
    [
        ("flow", "velocity", 1000.0, 1.0),
        ("flow", "velocity", 1.0, 1000.0),
        ("vp", "eps", 0.001, 1.0),
        ("vp", "eps", 1.0, 0.001),
        ("vp", "v", 1.0, 0.001),
    ],
)
def test_a_wrong_clock_is_refused(where: str, prediction: str, trained: float, stated: float) -> None:
    process = PROCESSES[where]
    with pytest.raises(
        ModelError, match=rf"called with {trained:g} t instead of {stated:g} t: .* time_scale={trained:g}"
    ):
        checked(NetworkDenoiser(network(process, prediction, trained), process, prediction, stated), process)


def test_both_at_once() -> None:
    process = Flow()
    with pytest.raises(ModelError, match=r"prediction=velocity and time_scale=1000"):
        checked(NetworkDenoiser(network(process, "velocity", 1000.0), process, "eps"), process)


def test_a_network_that_is_given_as_a_denoiser() -> None:
    process = PROCESSES["vp"]
    with pytest.raises(ModelError, match="taken for eps instead of x0"):
        checked(network(process, "eps"), process)


def test_data_is_better_than_samples_and_costs_no_walk() -> None:
    process = Flow()
    data = MIXTURE.sample(100, torch.Generator().manual_seed(0)).float()
    right = NetworkDenoiser(network(process, "velocity"), process, "velocity")
    assert checked(right, process, data=data).evaluations == 32 * 8
    with pytest.raises(ModelError, match="taken for velocity instead of eps"):
        checked(replace(right, prediction="eps"), process, data=data)


@pytest.mark.parametrize("where", PROCESSES)
@pytest.mark.parametrize("std", [0.05, 1.0, 20.0])
def test_data_that_only_a_linear_denoiser_suits(where: str, std: float) -> None:
    """Gaussian: its exact denoiser has the errors of the best linear one at every level."""
    process = PROCESSES[where]
    for mean in (0.0, 3.0 * std):
        exact = Gaussian([mean] * 64, std).denoiser(process)
        assert checked(exact, process).remark is None, "all readings are tried, and none is better"


def test_guidance_is_left_out() -> None:
    """Scale 8 of two mixtures' exact denoisers: no denoiser, and not suspected."""
    process = Flow()
    plain = network(process, "velocity")
    other = network(process, "velocity", exact=GaussianMixture(0.6 * SIGNS[:4], [0.1] * 4))

    def conditional(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return torch.where(cond.bool()[:, None], other(x, t), plain(x, t))

    denoiser = GuidedDenoiser(NetworkDenoiser(conditional, process, "velocity"), 8.0, torch.zeros(1))
    found = checked(denoiser, process, cond=torch.ones(4))
    assert found.remark is None
    assert found.evaluations == 32 * (12 + 8)
    wrong = replace(denoiser, denoiser=replace(denoiser.denoiser, prediction="eps"))
    with pytest.raises(ModelError, match="prediction=velocity"):
        checked(wrong, process, cond=torch.ones(4))


def test_a_network_that_was_not_trained_is_remarked_upon() -> None:
    """Nothing is better than anything else: it is said, and the search goes on."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64))
    process = PROCESSES["vp"]
    for prediction in PREDICTIONS:
        denoiser = NetworkDenoiser(lambda x, t, cond: layers(x), process, prediction)
        found = checked(denoiser, process)
        assert found.remark is None or "is the model trained" in found.remark
    assert checked(NetworkDenoiser(lambda x, t, cond: 2 * layers(x), process, "x0"), process).remark is not None


@pytest.mark.parametrize("where", PROCESSES)
def test_a_shipped_model_is_not_suspected(where: str) -> None:
    process = PROCESSES[where]
    given = ("digits", "shipped:digits", process, CPU, (1, 8, 8), 80.0, 0.002)
    model = pretrained(*given)
    found = checked(model.denoiser, process, shape=model.shape, cond=model.cond(range(4), CPU))
    assert found.remark is None
    assert found.skill.errors.max() < 1.1
    assert found.skill.errors.min() < 0.6


def test_the_errors_are_kept(tmp_path: Any) -> None:
    """Asked again, in another run, it evaluates nothing."""
    calls = []

    def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        calls.append(len(x))
        return MIXTURE.denoiser(Flow())(x, t)

    cache = Cache(StoredWorkers(ShardStore(tmp_path), {"model": 1}))
    first = checked(denoiser, Flow(), cache=cache)
    spent = sum(calls)
    again = checked(denoiser, Flow(), cache=cache)
    assert sum(calls) == spent == first.evaluations
    assert torch.equal(first.skill.errors, again.skill.errors)


@pytest.mark.parametrize(
    ("scale", "stated", "advice"),
    [
        (1.0, ("velocity", 1.0), r"-network\(x, 1 - t, cond\) as the network$"),
        (1000.0, ("velocity", 1000.0), r"-network\(x, 1000 - t, cond\) as the network$"),
        (1000.0, ("velocity", 1.0), r"-network\(x, 1000 - t, cond\) as the network, with time_scale=1000$"),
        (1.0, ("x0", 1.0), r"-network\(x, 1 - t, cond\) as the network, with prediction=velocity$"),
    ],
)
def test_a_flow_s_clock_that_runs_the_other_way(scale: float, stated: tuple[str, float], advice: str) -> None:
    forwards = network(Flow(), "velocity")

    def backwards(x: Tensor, t: Tensor) -> Tensor:  # noise at 0, data at 1, as others train flows
        return -forwards(x, 1 - t / scale)

    with pytest.raises(ModelError, match=f"on a clock that runs from noise at 0 to data at 1: .*{advice}"):
        checked(NetworkDenoiser(backwards, Flow(), *stated), Flow())
