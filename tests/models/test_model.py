"""A model says what is wrong with its description."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from optsteps.models import mixture
from optsteps.processes import EDM

MODEL = mixture("one", EDM(), torch.device("cpu"), [[0.0, 0.0]], [0.5], 80.0, 0.002)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": ()}, r"shape must be that of one sample, such as \(3, 64, 64\) or \(2,\), got \(\)"),
        ({"noise_levels": (80.0,)}, r"such as \(80\.0, 0\.002\), got \(80\.0,\)"),
        ({"noise_levels": 80.0}, r"got 80\.0"),
        ({"noise_levels": "80"}, "got '80'"),
    ],
)
def test_what_is_no_description_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MODEL, **changes)


def test_lists_of_a_config_are_taken() -> None:
    levels: Any = OmegaConf.create([80.0, 0.002])
    assert replace(MODEL, noise_levels=levels, shape=OmegaConf.create([2])).time_range == MODEL.time_range  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got 0\.002 and 80: give them in that order"):
        _ = replace(MODEL, noise_levels=(0.002, 80.0)).time_range
