"""The race on made-up errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import noise
from torch import Tensor

from optsteps.methods.auto.race import Heat, race
from optsteps.methods.candidates import Candidate, distinct
from optsteps.metrics.statistics import spread
from optsteps.processes import EDM, Flow
from optsteps.schedules import Schedule


@dataclass
class Told:
    """Samples with made-up errors [C, B], in dB, of the candidates with the times (number + 1, 0)."""

    levels: Tensor
    asked: list[tuple[list[int], list[int]]] = field(default_factory=list)
    beyond: list[Told] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return self.levels.shape[1]

    def errors(self, candidates: Sequence[Candidate], index: Tensor) -> Tensor:
        numbers = [int(one.schedule.times[0]) - 1 for one in candidates]
        self.asked.append((numbers, index.tolist()))
        return 10 ** (-self.levels[numbers][:, index] / 10)


def run(levels: Tensor, *beyond: Tensor) -> tuple[list[Heat], Told]:
    samples = Told(levels, beyond=[Told(part) for part in beyond])
    candidates = [Candidate((str(k),), Schedule([k + 1.0, 0.0], EDM())) for k in range(len(levels))]
    return race(candidates, samples), samples  # type: ignore[arg-type]


def names(candidates: Sequence[Candidate]) -> list[int]:
    return [int(candidate.names[0]) for candidate in candidates]


def constant(*levels: float, samples: int = 16, jitter: float = 0.0) -> Tensor:
    """Errors that differ by a constant between candidates, and by much between samples."""
    means = torch.tensor(levels, dtype=torch.float64)
    return means[:, None] + 5 * noise(samples) + jitter * noise(len(levels), samples, seed=1)


@settings(deadline=None)
@given(st.permutations([10.0, 12.0, 14.0, 17.0, 21.0, 13.0]))
def test_the_best_survives_where_differences_are_constant(levels: list[float]) -> None:
    heats, _ = run(constant(*levels))
    winner = heats[-1].ran[0]
    assert levels[names([winner])[0]] == 21.0


def test_of_equal_ones_the_first_is_preferred_and_all_samples_are_run_on() -> None:
    heats, samples = run(constant(12.0, 12.0, 12.0, 12.0, 12.0))
    assert [heat.samples for heat in heats] == [2, 4, 8, 16]
    assert [names(heat.ran) for heat in heats] == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [0, 1]]
    assert [heat.left for heat in heats] == [3, 2, 2, 2]
    # nobody runs twice on a sample
    assert samples.asked == [
        ([0, 1, 2, 3, 4], [0, 1]),
        ([0, 1, 2], [2, 3]),
        ([0, 1], [4, 5, 6, 7]),
        ([0, 1], list(range(8, 16))),
    ]


def test_what_is_clearly_worse_leaves_at_once() -> None:
    heats, _ = run(constant(20.0, 10.0, 5.0, 10.0, jitter=0.01))
    assert [heat.left for heat in heats] == [1]
    assert names(heats[0].ran)[0] == 0
    assert heats[0].samples == 2


def test_what_may_be_as_good_stays_while_it_is_among_the_better_half() -> None:
    levels = constant(20.0, 19.9, 19.8, 19.7, 19.6, 19.5, jitter=2.0)
    heats, _ = run(levels)
    seen = 0
    for heat, after in zip(heats, [*heats[1:], None], strict=True):
        ran = names(heat.ran)
        means = levels[ran, : heat.samples].mean(1)
        assert after is None or bool((means.diff() <= 0).all())
        assert heat.levels == pytest.approx(means.tolist())
        better = ran[: max(2, (len(ran) + 1) // 2)]
        best = levels[ran[0], : heat.samples]
        stays = [k for k in better if k == ran[0] or spread(best - levels[k, : heat.samples]).low <= 0]
        assert heat.left == len(stays)
        if after is not None:
            assert sorted(names(after.ran)) == sorted(stays)
        seen = heat.samples
    assert seen == levels.shape[1] or heats[-1].left == 1


def test_the_preferred_of_those_that_are_as_good_wins() -> None:
    """Within 0.1 dB, and only where the interval does not say that it is worse."""

    def winner(behind: float, jitter: float) -> int:
        levels = constant(12.0 - behind, 12.0, 5.0)
        levels[0] += jitter * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(8)
        heats, _ = run(levels)
        return names(heats[-1].ran)[0]

    assert [winner(0.08, 1.0), winner(0.08, 0.001), winner(0.15, 1.0)] == [0, 1, 1]


def test_the_best_of_all_samples_wins_where_few_would_choose_another() -> None:
    levels = constant(12.0, 12.0, samples=16)
    levels[0, :4] += torch.tensor([3.0, 0.0, 1.0, 0.2], dtype=torch.float64)  # of these samples the first is the better
    levels[1, 4:] += 2.0
    heats, _ = run(levels)
    assert names(heats[0].ran)[0] == 0
    assert (names(heats[-1].ran)[0], heats[-1].samples) == (1, 16)


def test_those_who_cannot_be_told_apart_go_on_over_the_samples_beyond() -> None:
    """Until it is known who is the better, or the samples end; not for a difference that is small for sure."""
    near, clear = constant(12.0, 11.9, 5.0), constant(12.0, 14.0, 5.0, samples=32)
    near[1] += torch.tensor([3.0, -3.0], dtype=torch.float64).repeat(8)
    clear[1] += torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(16)
    heats, samples = run(near, clear, clear)
    assert [heat.samples for heat in heats] == [2, 4, 8, 16, 48]
    assert (names(heats[-2].ran)[0], names(heats[-1].ran)[0], heats[-1].left) == (0, 1, 1)
    assert [len(part.asked) for part in samples.beyond] == [1, 0]
    assert samples.beyond[0].asked == [([0, 1], list(range(32)))]
    heats, samples = run(near, near, near)
    assert [heat.samples for heat in heats] == [2, 4, 8, 16, 32, 48]
    level = constant(12.0, 12.0, 5.0)
    level[1] += torch.tensor([0.1, -0.1], dtype=torch.float64).repeat(8)
    heats, samples = run(level, near)
    assert [(heat.samples, heat.left) for heat in heats][-1] == (16, 2)
    assert not samples.beyond[0].asked


@pytest.mark.parametrize("samples", [2, 3, 5, 16])
def test_a_candidate_that_diverged_leaves(samples: int) -> None:
    levels = constant(12.0, 12.0, 12.0, 12.0, samples=samples)
    levels[0, 1] = -math.inf
    heats, _ = run(levels)
    assert names(heats[0].ran)[-1] == 0
    assert all(0 not in names(heat.ran) for heat in heats[1:])
    assert heats[-1].samples == samples
    everyone, _ = run(torch.full((3, samples), -math.inf, dtype=torch.float64))
    assert names(everyone[-1].ran)[0] == 0


def test_an_error_of_0_is_the_best_there_is() -> None:
    levels = constant(12.0, 12.0)
    levels[1] = math.inf
    heats, _ = run(levels)
    assert names(heats[-1].ran)[0] == 1


def test_one_candidate_has_won() -> None:
    heats, samples = run(constant(3.0))
    assert [(heat.samples, heat.left) for heat in heats] == [(2, 1)]
    assert len(samples.asked) == 1


# --- distinct


def test_schedules_that_coincide_become_one_with_all_names() -> None:
    one, other = Schedule([2.0, 1.0, 0.0], EDM()), Schedule([2.0, 1.5, 0.0], EDM())
    close = replace(one, times=[2.0, 1.0 + 1e-12, 0.0], metadata={"method": "another"})
    found = distinct([Candidate((k,), of) for k, of in (("a", one), ("b", other), ("c", close), ("a", close))])
    assert [candidate.names for candidate in found] == [("a", "c"), ("b",)]
    assert [candidate.schedule for candidate in found] == [one, other]
    flow = Schedule([1.0, 0.5, 0.0], Flow())
    assert len(distinct([Candidate((name,), flow) for name in "ab"])) == 1
    assert len(distinct([Candidate(("a",), flow, solver) for solver in ("euler", "heun")])) == 2


CHANGES: dict[str, Callable[[Schedule], Schedule]] = {
    "times": lambda schedule: replace(schedule, times=[2.0, 1.0001, 0.0]),
    "orders": lambda schedule: replace(schedule, orders=[1, 1]),
    "scale": lambda schedule: replace(schedule, initial_scale=3.0),
    "amplitude": lambda schedule: replace(schedule, amplitude=torch.ones(2, 1, 2)),
    "weights": lambda schedule: replace(schedule, weights=[[0.0], [0.1]]),
    "told times": lambda schedule: replace(schedule, told_times=[2.0, 0.9]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_schedules_whose_samples_differ_stay_apart(change: Callable[[Schedule], Schedule]) -> None:
    one = Schedule([2.0, 1.0, 0.0], EDM())
    assert len(distinct([Candidate(("a",), one), Candidate(("b",), change(one))])) == 2
