"""Schedules of files as methods: taken as they are or resampled, and refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Watched, mixture_problem

from optsteps.methods import FileSchedules, HandMade
from optsteps.processes import EDM, VP
from optsteps.schedules import Schedule, build_schedule, resampled
from optsteps.solvers import build_solver

STEPS = 4


def edm_file(folder: Path, **changes: Any) -> str:
    facts = {"times": [80.0, 5.0, 1.0, 0.1, 0.0], "process": EDM(), "metadata": {"range": "given"}, **changes}
    Schedule(**facts).save(folder / "hers.json")
    return str(folder / "hers.json")


def test_its_own_number_of_steps_is_the_file_s(tmp_path: Path) -> None:
    problem = mixture_problem("edm", samples=2, teacher_steps=20)
    watched = Watched(problem.denoiser)
    path = edm_file(tmp_path)
    result = FileSchedules(path).search(dataclasses.replace(problem, denoiser=watched), [STEPS, 7])
    given = Schedule.load(path)
    assert result.schedules[STEPS].facts == given.facts
    assert result.schedules[7].facts == resampled(given, 7).facts
    assert result.schedules[7].metadata == {"range": "its file's", "resampled_from_steps": STEPS}
    assert result.evidence == {"decisions": [f"7 steps: resampled from the {STEPS} of hers.json"]}
    assert result.nfe == 0
    assert watched.batches == []
    assert FileSchedules(path).evaluations(problem, [4]).count == 0


@pytest.mark.parametrize("text", ["80, 5, 1, 0.1, 0", "[80, 5, 1, 0.1, 0]", "noise_level\n80\n5\n1\n0.1\n0\n"])
def test_lists_are_read_for_the_models_process(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    for name in ("edm", "vp"):
        problem = mixture_problem(name, samples=1, teacher_steps=5)
        schedule = FileSchedules(str(tmp_path / "list.txt")).search(problem, [STEPS]).schedules[STEPS]
        assert schedule.process == problem.process
        np.testing.assert_allclose(schedule.noise_levels, [80, 5, 1, 0.1, 0], rtol=1e-9)


def test_published_levels_are_those_of_the_family() -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    for name in ("sd15", "sdxl"):
        found = FileSchedules(f"published:{name}").search(problem, [6, 10])
        assert found.schedules == HandMade("published", model=name).search(problem, [6, 10]).schedules
    with pytest.raises(ValueError, match=r"no published levels for 'sd3'; known: sd15"):
        FileSchedules("published:sd3").check(problem, [10])


def test_orders_are_the_file_s(tmp_path: Path) -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    method = FileSchedules(edm_file(tmp_path, orders=[1, 2, 2, 1]))
    assert method.chooses_orders(problem)
    assert method.search(problem, [STEPS]).schedules[STEPS].orders == (1, 2, 2, 1)
    with pytest.raises(ValueError, match="do not carry over to 5 steps"):
        method.check(problem, [STEPS, 5])


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"resample": False}, r"hers\.json holds a schedule of 4 steps, not of 7: run with steps=\[4\]"),
        (
            {"times": [9.0, 5.0, 1.0], "process": VP.linear()},
            {},
            r"hers\.json holds a schedule for VP.*the model has EDM",
        ),
        ({"times": [160.0, 5.0]}, {}, "begins at noise level 160, above the model's range, which begins at 80"),
        ({"times": [80.0, 0.001]}, {}, r"goes down to noise level 0\.001, below the model's range.*0\.002"),
        ({"times": [80.0, 0.001, 0.0]}, {}, r"goes down to noise level 0\.001"),
        ({"amplitude": torch.ones(4, 3, 2)}, {}, "an amplitude for 3 channels, and the model has 2"),
        ({"weights": torch.zeros(4, 1)}, {}, "weights or told times, which do not carry over to 7 steps"),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    with pytest.raises(ValueError, match=message):
        FileSchedules(edm_file(tmp_path, **changes), **options).check(problem, [7])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"weights": [[0.0], [0.1], [0.2], [0.3]]}, r"hers\.json: .*weights .* which heun does not take"),
        ({"told_times": [70.0, 6.0, 1.0, 0.2]}, r"hers\.json: .* a step of heun takes two evaluations"),
    ],
)
def test_weights_and_told_times_are_the_file_s(parts: dict[str, Any], message: str, tmp_path: Path) -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    method = FileSchedules(edm_file(tmp_path, **parts))
    assert method.search(problem, [STEPS]).schedules[STEPS].carried == parts
    with pytest.raises(ValueError, match=message):
        method.check(dataclasses.replace(problem, solver=build_solver("heun")), [STEPS])


def test_a_range_within_rounding_or_up_to_a_teacher_that_ends_clean(tmp_path: Path) -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    FileSchedules(edm_file(tmp_path, times=[80.5, 1.0, 0.00199])).check(problem, [2])
    clean = dataclasses.replace(problem, teacher=build_schedule("edm", EDM(), 5, 80.0, 0.002, "zero"))
    FileSchedules(edm_file(tmp_path, times=[80.0, 1.0, 0.0001])).check(clean, [2])


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = Path(edm_file(tmp_path))
    path.write_text(json.dumps({**json.loads(path.read_text()), "times": [80.0, 4.0, 1.0, 0.1, 0.0]}))
    with pytest.raises(ValueError, match="its checksum is not that of its content"):
        FileSchedules(str(path))
    with pytest.raises(OSError, match=r"none\.json"):
        FileSchedules(str(tmp_path / "none.json"))
    path.write_text("80, five, 1")
    with pytest.raises(ValueError, match=r"hers\.json: line 1: 'five' is not a number"):
        FileSchedules(str(path)).check(mixture_problem("edm", samples=1, teacher_steps=5), [2])


def test_samples_that_stay_noisy_are_named(tmp_path: Path) -> None:
    problem = mixture_problem("edm", samples=2, teacher_steps=20)  # down to noise level 0.002
    for last, said in ((1.0, ["2 steps: it ends at noise level 1, so its samples stay noisy"]), (0.05, None)):
        found = FileSchedules(edm_file(tmp_path, times=[80.0, 5.0, last])).search(problem, [2])
        assert found.evidence.get("decisions") == said
    coarse = dataclasses.replace(problem, teacher=build_schedule("edm", EDM(), 20, t_max=80.0, t_min=1.0))
    assert FileSchedules(edm_file(tmp_path, times=[80.0, 5.0, 1.0])).search(coarse, [2]).evidence == {}
