"""Who of a pool takes part where a model answers no predictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from problems import mixture_problem
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.denoisers import CountedDenoiser, ModelError, NoPredictionError
from optsteps.methods import OSS, HandMade
from optsteps.methods.candidates import proposed
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
