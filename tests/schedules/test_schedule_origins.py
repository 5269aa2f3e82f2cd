"""Hand-made families against their authors' code and tools: the cases of experiments/handmade_origins."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from optsteps.schedules import FAMILIES

SCRIPT = Path(__file__).parents[2] / "experiments" / "handmade_origins" / "origins.py"
PARTS = ["edm", "exponential", "beta", "flow_shift", "uniform", "quadratic", "ddim", "cosine", "published"]


@pytest.fixture(scope="module")
def origins() -> Any:
    pytest.importorskip("diffusers")
    pytest.importorskip("k_diffusion")
    spec = importlib.util.spec_from_file_location("handmade_origins", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", PARTS)
def test_a_family_is_its_origins(origins: Any, part: str) -> None:
    compared = [case for n in origins.STEPS for case in getattr(origins, part)(n)]
    assert len(compared) >= len(origins.STEPS)
    late = [(c.origin, c.setting, c.difference) for c in compared if not c.difference <= c.allowed + 1e-9]
    assert late == []


def test_every_family_has_an_origin(origins: Any) -> None:
    assert {case.family for part in PARTS for case in getattr(origins, part)(5)} == set(FAMILIES)
