"""Where a model's states lie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.denoisers import DeviceDenoiser
from optsteps.models import Model, mixture
from optsteps.processes import EDM
from optsteps.running.device import with_states_at
from optsteps.sampling import Walks

GPU = torch.device("cuda")  # which need not be there


class Walking:
    answers = False

    def walk(self, *arguments: Any) -> Any:
        raise AssertionError

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        raise AssertionError


@pytest.fixture
def model() -> Model:
    return mixture("one", EDM(), torch.device("cpu"), [[0.0, 0.0]], [0.5], 80.0, 0.002)


@pytest.mark.parametrize("states", ["cpu", "disk"])
def test_a_denoiser_is_brought_its_states(model: Model, states: str) -> None:
    held, device = with_states_at(states, model, GPU)
    assert isinstance(held.denoiser, DeviceDenoiser)
    assert (held.denoiser.device, device) == (GPU, torch.device("cpu"))
    for same in (with_states_at("device", model, GPU), with_states_at(states, model, torch.device("cpu"))):
        assert same[0] is model


@pytest.mark.parametrize("states", ["cpu", "disk"])
def test_what_walks_by_itself_brings_them_itself_and_still_walks(model: Model, states: str) -> None:
    walks = replace(model, denoiser=Walking())
    held, device = with_states_at(states, walks, GPU)
    assert held is walks
    assert isinstance(held.denoiser, Walks)
    assert device == torch.device("cpu")


def test_an_unknown_place_is_named(model: Model) -> None:
    with pytest.raises(ValueError, match=r"runner\.states must be 'device', 'cpu' or 'disk', got 'tape'"):
        with_states_at("tape", model, GPU)
