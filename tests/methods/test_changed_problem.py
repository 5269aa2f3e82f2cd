"""A method asked with another solver, or with fewer samples."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from problems import mixture_problem

from optsteps.methods import OSS, ChangedProblem
from optsteps.solvers import build_solver


def test_the_search_uses_its_own_solver_and_samples() -> None:
    problem = mixture_problem("edm", 12, 30)
    stochastic = dataclasses.replace(problem, solver=build_solver("er_sde_2"))
    with pytest.raises(ValueError, match="deterministic"):
        OSS().search(stochastic, [4])
    alone = OSS(average="mean")
    found = ChangedProblem(alone, build_solver("euler")).search(stochastic, [4])
    expected = alone.search(problem, [4])
    assert torch.equal(found.schedules[4].times, expected.schedules[4].times)
    few = ChangedProblem(alone, samples=5).search(problem, [4])
    assert few.per_sample is not None
    assert expected.per_sample is not None
    assert torch.equal(few.per_sample[4], expected.per_sample[4][:5])


def test_too_many_or_no_samples() -> None:
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        ChangedProblem(OSS(), samples=0)
    with pytest.raises(ValueError, match="wants 13 samples and the problem has 12"):
        ChangedProblem(OSS(), samples=13).search(mixture_problem("edm", 12, 30), [4])
