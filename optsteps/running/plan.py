"""The plan of a run: the network evaluations of every stage and their room in the store, before any is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.table import Table

from optsteps.comparison import TRACED
from optsteps.denoisers import call_nfe
from optsteps.fingerprint import PROBES
from optsteps.methods import GivenSchedules
from optsteps.methods.base import Evaluations, steps_between
from optsteps.running.experiment import Experiment
from optsteps.running.interpretation import evaluations_of_check
from optsteps.schedules import Schedule
from optsteps.storage.store import ShardStore
from optsteps.text.duration import duration

CHECK = "check the model"
CAPTION = (
    "Network evaluations, guidance counted as 2, of a run that finds nothing in the store: what searches share there, "
    "such as the teacher's walk, is spent once."
)
ABOUT = "~: depends on what the network answers, an estimate."


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: as in the run's progress.
        samples: number of samples that take part.
        evaluations: of all samples together; None where the number is known after the run only.
        exact: whether the number does not depend on the network's answers.
        kept: bytes of the states and predictions that the store keeps of it; 0 where the evaluations are not known.
    """

    name: str
    samples: int
    evaluations: int | None
    exact: bool = True
    kept: int = 0


def planned(experiment: Experiment) -> list[Stage]:
    """The stages of a run by one process that shares nothing, in their order; it evaluates nothing."""
    model, steps, solver = experiment.model, experiment.steps, experiment.solver
    guidance = call_nfe(model.denoiser)
    walk = guidance * experiment.walker.nfe(experiment.comparison_teacher)
    problem = experiment.problem(model.denoiser)
    comparison = experiment.comparison(model.denoiser)
    searches, calls, compared = [], 0, []
    size, precision = math.prod(model.shape), experiment.config.store.precision
    state = size * experiment.noise.element_size()
    state_of_search = state if precision in (None, "float32") else 2 * size

    def kept_by(search: Evaluations | None) -> int:
        """Bytes of the states and predictions that the store keeps of a search."""
        if search is None:
            return 0
        return state_of_search * (search.count // guidance if search.kept is None else search.kept)

    own_teachers: dict[float, Schedule] = {}
    for name, method in experiment.methods.items():
        evaluations = method.evaluations(problem, steps)
        count, exact = (None, False) if evaluations is None else (evaluations.count, evaluations.exact)
        searches.append(Stage(f"search {name}", len(problem.noise), count, exact, kept_by(evaluations)))
        # a formula's schedules cost nothing; all others lie between the teacher's ends
        computed = method.search(problem, steps).schedules if count == 0 else {}
        schedules = [computed.get(n) or steps_between(experiment.teacher, n) for n in steps]
        rows = 2 if method.chooses_orders(problem) else 1
        calls += sum(solver.nfe(schedule) for schedule in schedules) * rows
        compared += schedules * rows
        if isinstance(method, GivenSchedules) and method.own_start:
            teachers = [comparison.from_start_of(schedule).teacher for schedule in schedules]
            own_teachers |= {float(t.times[0]): t for t in teachers if t is not comparison.teacher}
    calls += sum(experiment.walker.nfe(teacher) for teacher in own_teachers.values())
    unseen, traced = len(experiment.unseen), min(TRACED, len(experiment.unseen))
    compared += own_teachers.values()

    def kept_of_walk(schedule: Schedule) -> int:
        """Bytes of a walk of the comparison: the traced samples' states and predictions, and the others' ends."""
        return state * (traced * (2 * len(schedule.times) - 1) + unseen - traced)

    probes = PROBES + 2 * min(PROBES, experiment.config.max_batch)
    checks = guidance * probes + evaluations_of_check(problem)
    stages = [
        *([Stage(CHECK, PROBES, checks, kept=state * checks // guidance)] if experiment.config.check_model else []),
        Stage("teacher", unseen, unseen * walk, kept=kept_of_walk(experiment.comparison_teacher)),
        *searches,
        Stage("compare", unseen, unseen * guidance * calls, kept=sum(map(kept_of_walk, compared))),
    ]
    oracle = experiment.oracle_method
    if oracle is not None:
        problem = experiment.oracle_problem(model.denoiser)
        search, samples = oracle.evaluations(problem, steps), len(problem.noise)
        walks = samples * guidance * sum(solver.nfe(steps_between(experiment.teacher, n)) for n in steps)
        count, exact = (None, False) if search is None else (search.count + walks, search.exact)
        stages.append(Stage("oracle", samples, count, exact, kept_by(search) + state * samples * len(steps)))
    return stages


def evaluations_by_stage(stages: Sequence[Stage]) -> dict[str, int | None]:
    """Planned evaluations by the names of the stages in the run's progress, which counts none of its checks."""
    return {stage.name: stage.evaluations for stage in stages if stage.name != CHECK}


def shortened(stages: Sequence[Stage], rows: int = 7) -> list[Stage]:
    """At most so many of the stages in their order: none that takes no evaluation, and the least searches together."""
    stages = [stage for stage in stages if stage.evaluations != 0]
    searches = [stage for stage in stages if stage.name.startswith("search ")]
    spare = len(stages) - rows
    if spare <= 0:
        return stages
    least = sorted(searches, key=lambda stage: stage.evaluations or 0)[: spare + 1]
    others = replace(least[0], name=f"search with {len(least)} others", **_sum(least))
    last = max(map(stages.index, searches))
    return [
        stage
        for k, some in enumerate(stages)
        for stage in (some, *([others] if k == last else ()))
        if stage not in least
    ]


def _sum(stages: Sequence[Stage]) -> dict[str, Any]:
    """Evaluations and bytes of the stages together, as fields of one."""
    counts = [stage.evaluations for stage in stages]
    known = [count for count in counts if count is not None]
    exact = all(stage.exact for stage in stages)
    total = sum(known) if len(known) == len(counts) else None
    return {"evaluations": total, "exact": exact, "kept": sum(stage.kept for stage in stages)}


def total(stages: Sequence[Stage]) -> int:
    """The known evaluations of all stages together."""
    return sum(stage.evaluations or 0 for stage in stages)


def plan_table(stages: Sequence[Stage], rate: float) -> Table:
    """The stages for the terminal, with their sum.

    Args:
        rate: evaluations per second.
    """
    about = any(not stage.exact for stage in stages)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), show_footer=True)
    all_of_them = total(stages)
    columns = (("stage", "in all"), ("samples", ""), ("evaluations of each", ""))
    for header, footer in (*columns, ("of all", f"{'~' if about else ''}{all_of_them:,}")):
        table.add_column(header, footer, justify="left" if header == "stage" else "right")
    table.add_column("about", duration(all_of_them / rate), justify="right")
    for stage in stages:
        if stage.evaluations is None:
            table.add_row(stage.name, f"{stage.samples:,}", "?", "?", "?")
            continue
        mark = "" if stage.exact else "~"
        each = f"{mark}{stage.evaluations / stage.samples:,.6g}"
        time = duration(stage.evaluations / rate)
        table.add_row(stage.name, f"{stage.samples:,}", each, f"{mark}{stage.evaluations:,}", time)
    return table


def plan_note(stages: Sequence[Stage], rate: float, store: ShardStore | None) -> str:
    """What the table's numbers are, and the room on the disk: a paragraph."""
    about = f" {ABOUT}" if any(not stage.exact for stage in stages) else ""
    note = (
        f"{CAPTION}{about} Times are about those of the network alone, at {_significant(rate)} evaluations per second."
    )
    if store is None:
        return note
    kept, free = sum(stage.kept for stage in stages), store.free()
    return f"{note} The store {store.folder} takes about {_size(kept)}, and {_size(free)} are free."


def _significant(number: float) -> str:
    """A number of two significant digits, in full."""
    return f"{float(f'{number:.2g}'):,.12g}"


def _size(count: int) -> str:
    return f"{_significant(count / 1e9)} GB" if count >= 1e8 else f"{_significant(count / 1e6)} MB"
