"""Who refuses a model that answers no predictions, and walks that no second one repeats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from problems import mixture_problem
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.denoisers import CountedDenoiser, ModelError, NoPredictionError
from optsteps.methods import (
    AYS,
    CRS,
    GITS,
    LD3,
    OSS,
    Auto,
    Entropic,
    HandMade,
    Method,
    Path,
    TimestepAligner,
)
from optsteps.methods.candidates import proposed
from optsteps.solvers import build_solver
from optsteps.storage.workers import ALONE


def test_methods_that_ask_for_predictions_are_left_out_with_the_reason() -> None:
    def walks_alone(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        raise NoPredictionError("it walks alone")

    def broken(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        raise RuntimeError("out of order")

    pool = {"edm": HandMade("edm"), "oss": OSS()}
    problem = mixture_problem("edm", 4, 8)
    found, left_out = proposed(pool, replace(problem, denoiser=CountedDenoiser(walks_alone)), [2], ALONE)
    assert [one.names for one in found[2]] == [("edm",)]
    assert left_out == ["oss, which asks for predictions (it walks alone)"]
    with pytest.raises(ModelError, match="out of order"):
        proposed(pool, replace(problem, denoiser=CountedDenoiser(broken)), [2], ALONE)


class WalksAlone:
    """A model that gives whole walks and answers no predictions."""

    answers = False

    def walk(self, *arguments: Any) -> Any:
        raise AssertionError("nothing is walked before the refusal")

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        raise NoPredictionError("it walks alone")


@pytest.mark.parametrize(
    "method",
    [AYS(), OSS(), LD3(), CRS(), Entropic(), TimestepAligner(HandMade("edm"))],
    ids=lambda method: type(method).__name__,
)
def test_methods_that_ask_for_predictions_say_so_before_anything_is_spent(method: Method) -> None:
    problem = replace(mixture_problem("edm", 4, 8), denoiser=WalksAlone())
    with pytest.raises(ValueError, match="asks for predictions at states of its own, and this model gives whole walks"):
        method.check(problem, [2])


@pytest.mark.parametrize(
    "method",
    [Auto({"edm": HandMade("edm")}), GITS(), LD3(), OSS(), Path(), TimestepAligner(HandMade("edm"))],
    ids=lambda method: type(method).__name__,
)
@pytest.mark.parametrize("walk", ["solver", "teacher_solver"])
def test_a_walk_with_noise_of_its_own_is_refused_before_anything_is_spent(method: Method, walk: str) -> None:
    problem = mixture_problem("edm", 4, 8)
    method.check(replace(problem, teacher_solver=build_solver("heun")), [2])
    changed: Any = {walk: build_solver("sde_dpmpp_2m")}
    with pytest.raises(ValueError, match=r"stochastic solver 'sde_dpmpp_2m' does not repeat.*ays, or oss_euler"):
        method.check(replace(problem, **changed), [2])
