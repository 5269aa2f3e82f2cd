"""What a run will spend: the network evaluations of every stage, before any of them is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from optsteps.comparison import TRACED
from optsteps.denoisers import call_nfe
from optsteps.fingerprint import PROBES
from optsteps.methods import GivenSchedules
from optsteps.methods.base import steps_between
from optsteps.running.experiment import Experiment
from optsteps.running.interpretation import evaluations_of_check
from optsteps.schedules import Schedule

CAPTION = (
    "Network evaluations, guidance counted as 2, of a run that finds nothing in the store: what searches share there, "
    "such as the teacher's walk, is spent once."
)
ABOUT = "~: depends on what the network answers, an estimate."


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: as the run's progress calls it; the comparison's two parts are one stage there.
        samples: how many take part.
        evaluations: of all of them together; None where only the run tells.
        exact: are they so many whatever the network answers?
    """

    name: str
    samples: int
    evaluations: int | None
    exact: bool = True


def planned(experiment: Experiment) -> list[Stage]:
    """The stages of a run by one process that shares nothing, in their order; it evaluates nothing."""
    model, steps, solver = experiment.model, experiment.steps, experiment.solver
    guidance = call_nfe(model.denoiser)
    walk = guidance * experiment.walker.nfe(experiment.comparison_teacher)
    problem = experiment.problem(model.denoiser, experiment.searched)
    trial = experiment.trial(model.denoiser)
    searches, calls = [], 0
    own_teachers: dict[float, Schedule] = {}
    for name, method in experiment.methods.items():
        found = method.evaluations(problem, steps)
        count, exact = (None, False) if found is None else (found.count, found.exact)
        searches.append(Stage(f"search {name}", len(problem.noise), count, exact))
        # a formula's schedules cost nothing; all others lie between the teacher's ends
        known = method.search(problem, steps).schedules if count == 0 else {}
        schedules = [known.get(n) or steps_between(experiment.teacher, n) for n in steps]
        calls += sum(solver.nfe(schedule) for schedule in schedules) * (2 if method.chooses_orders(problem) else 1)
        if isinstance(method, GivenSchedules) and method.own_start:
            beginning = [trial.from_start_of(schedule).teacher for schedule in schedules]
            own_teachers |= {float(t.times[0]): t for t in beginning if t is not trial.teacher}
    calls += sum(experiment.walker.nfe(teacher) for teacher in own_teachers.values())
    unseen, traced = len(experiment.unseen), min(TRACED, len(experiment.unseen))
    size = min(PROBES, experiment.config.max_batch)
    checks = guidance * (PROBES + 2 * size) + evaluations_of_check(problem)
    stages = [
        *([Stage("check the model", PROBES, checks)] if experiment.config.check_model else []),
        Stage("teacher", unseen, unseen * walk),
        *searches,
        Stage("compare: samples", unseen, unseen * guidance * calls),
        Stage("compare: along the way", traced, traced * (walk + guidance * calls)),
    ]
    if experiment.oracle is not None:
        own = experiment.problem(model.denoiser, experiment.oracle_samples)
        search = experiment.oracle.evaluations(own, steps)
        walks = guidance * sum(solver.nfe(steps_between(experiment.teacher, n)) for n in steps)
        stages.append(Stage("oracle", len(own.noise), search.count + walks * len(own.noise), search.exact))
    return stages


def plan_table(stages: Sequence[Stage]) -> Table:
    """The stages for the terminal, with their sum."""
    about = any(not stage.exact for stage in stages)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), show_footer=True)
    table.caption, table.caption_justify = f"{CAPTION} {ABOUT}" if about else CAPTION, "left"
    known = [stage.evaluations for stage in stages if stage.evaluations is not None]
    total = f"{'~' if about else ''}{sum(known):,}"
    for header, footer in (("stage", "in all"), ("samples", ""), ("evaluations of each", ""), ("of all", total)):
        table.add_column(header, footer, justify="left" if header == "stage" else "right")
    for stage in stages:
        if stage.evaluations is None:
            table.add_row(stage.name, f"{stage.samples:,}", "?", "?")
            continue
        mark = "" if stage.exact else "~"
        each = f"{mark}{stage.evaluations / stage.samples:,.6g}"
        table.add_row(stage.name, f"{stage.samples:,}", each, f"{mark}{stage.evaluations:,}")
    return table
