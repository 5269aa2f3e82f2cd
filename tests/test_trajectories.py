"""Walks and predictions: what `sample` and the denoiser say, in batches, and kept by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optsteps import build_schedule, sample
from optsteps.denoisers import CountedDenoiser
from optsteps.models.analytic import GaussianMixture
from optsteps.noise import unit_noise
from optsteps.processes import EDM
from optsteps.solvers import build_solver
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import StoredWorkers
from optsteps.trajectories import Cache, Trajectories

EXACT = GaussianMixture([[-2.0, 0.0], [2.0, 0.5]], [0.3, 0.2]).denoiser(EDM())
NOISE = unit_noise(0, range(16), (2,)).double()
COND = {"shift": NOISE.flip(0)}
SCHEDULE = build_schedule("edm", EDM(), 4, t_max=80.0, t_min=0.002)


class Shifted:
    """The exact denoiser with a condition; counts the samples it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        self.seen += len(x)
        return EXACT(x, t) + 0.1 * cond["shift"]


def kept(folder: Path, facts: Any = None, precision: torch.dtype | None = None) -> Cache:
    return Cache(StoredWorkers(ShardStore(folder), facts or {}), precision)


@pytest.mark.parametrize("max_batch", [1, 5, 16, 512])
@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "sde_dpmpp_2m"])
def test_walks_in_batches(name: str, max_batch: int) -> None:
    solver, trajectories = build_solver(name), Trajectories(Shifted(), max_batch)
    path = sample(Shifted(), SCHEDULE, solver, NOISE, COND, seed=3, return_trajectory=True)
    states = trajectories.states(SCHEDULE, solver, NOISE, COND, seed=3)
    assert states.shape == (16, 5, 2)
    torch.testing.assert_close(states, path.transpose(0, 1), rtol=1e-12, atol=1e-12)
    assert trajectories.evaluations == 16 * solver.nfe(SCHEDULE)
    ends = trajectories.ends(SCHEDULE, solver, NOISE, COND, seed=3)
    torch.testing.assert_close(ends, path[-1], rtol=1e-12, atol=1e-12)
    assert trajectories.evaluations == 2 * 16 * solver.nfe(SCHEDULE)


@pytest.mark.parametrize("max_batch", [3, 512])
def test_predictions_in_batches(max_batch: int) -> None:
    t = torch.linspace(0.1, 9.0, 16, dtype=torch.float64)
    trajectories = Trajectories(Shifted(), max_batch)
    torch.testing.assert_close(trajectories.predictions(NOISE, t, COND), Shifted()(NOISE, t, COND))
    assert trajectories.evaluations == 16


def test_what_was_computed_is_read(tmp_path: Path) -> None:
    """Values and counts alike; anything else that determines them is another shard."""
    solver, denoiser, t = build_solver("ipndm"), Shifted(), torch.full((16,), 2.0, dtype=torch.float64)

    def asked(
        solver: Any = solver, schedule: Any = SCHEDULE, noise: Tensor = NOISE, cond: Any = COND, **more: Any
    ) -> Any:
        trajectories = Trajectories(denoiser, 8, kept(tmp_path, **more))
        found = [
            trajectories.states(schedule, solver, noise, cond),
            trajectories.predictions(noise, t[: len(noise)], cond),
        ]
        return found, trajectories.evaluations

    first, evaluations = asked()
    assert denoiser.seen == evaluations
    again, counted = asked()
    assert denoiser.seen == evaluations == counted
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (
        {"solver": build_solver("ipndm", order=2)},
        {"solver": build_solver("euler")},
        {"schedule": build_schedule("edm", EDM(), 5, t_max=80.0, t_min=0.002)},
        {"noise": NOISE + 1e-12},
        {"noise": NOISE.float()},
        {"cond": {"shift": NOISE}},
        {"facts": {"weights": "others"}},
        {"precision": torch.bfloat16},
    ):
        before = denoiser.seen
        asked(**other)
        assert denoiser.seen > before, other


def test_more_samples_are_new_batches_only(tmp_path: Path) -> None:
    solver, denoiser = build_solver("euler"), Shifted()
    trajectories = Trajectories(denoiser, 4, kept(tmp_path))
    some = trajectories.ends(SCHEDULE, solver, NOISE[:8], {"shift": COND["shift"][:8]})
    before = denoiser.seen
    assert torch.equal(trajectories.ends(SCHEDULE, solver, NOISE, COND)[:8], some)
    assert denoiser.seen == before + 8 * 4


def test_ends_of_kept_trajectories(tmp_path: Path) -> None:
    """A walk that was kept whole is not walked again for its end."""
    solver, denoiser = build_solver("euler"), Shifted()
    trajectories = Trajectories(denoiser, 8, kept(tmp_path))
    states, before = trajectories.states(SCHEDULE, solver, NOISE, COND), denoiser.seen
    assert torch.equal(trajectories.ends(SCHEDULE, solver, NOISE, COND), states[:, -1])
    assert denoiser.seen == before
    assert trajectories.evaluations == 2 * 16 * 4


def test_stochastic_walks_are_kept_by_seed_and_number(tmp_path: Path) -> None:
    solver, trajectories = build_solver("sde_dpmpp_2m"), Trajectories(Shifted(), 8, kept(tmp_path))
    found = [
        trajectories.ends(SCHEDULE, solver, NOISE, COND, seed, torch.arange(16) + first)
        for seed, first in ((0, 0), (1, 0), (0, 16), (0, 0))
    ]
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_anything_else_once(tmp_path: Path) -> None:
    calls = []

    def compute(denoiser: CountedDenoiser) -> dict[str, Tensor]:
        calls.append(1)
        return {"mean": denoiser(NOISE, torch.ones(16, dtype=torch.float64), COND).mean(0)}

    trajectories = Trajectories(Shifted(), 8, kept(tmp_path))
    found = [trajectories.once("mean", (NOISE, COND), compute, level=level)["mean"] for level in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert len(calls) == 2
    assert trajectories.evaluations == 48


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    """Returned rounded, in the samples' dtype, by who computes and by who reads."""
    solver, exact = (
        build_solver("euler"),
        Trajectories(Shifted(), 8).states(SCHEDULE, build_solver("euler"), NOISE, COND),
    )
    for _ in range(2):
        states = Trajectories(Shifted(), 8, kept(tmp_path, precision=dtype)).states(SCHEDULE, solver, NOISE, COND)
        assert states.dtype == torch.float64
        assert torch.equal(states, exact.to(dtype).double())
