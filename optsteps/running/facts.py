"""The facts of a run, by name, for its report."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

import optsteps
from optsteps.metrics import entropy
from optsteps.metrics.judges import TeacherJudge
from optsteps.running.experiment import Experiment
from optsteps.running.version import code_version
from optsteps.schedules import Schedule


def run_facts(experiment: Experiment, command: str) -> dict[str, str]:
    """What is run, on which samples and machine, and with which versions.

    Args:
        command: that repeats the run.
    """
    config, model, unseen = experiment.config, experiment.model, experiment.unseen
    facts = {
        "model": model.name,
        "process": repr(model.process),
        **model.facts,
        "solver": experiment.solver.name,
        "teacher": _walk(experiment, experiment.teacher),
        "search samples": f"numbers 0 to {config.search.samples - 1} of seed {config.seed}",
        "test samples": f"numbers {unseen[0]} to {unseen[-1]} of that seed",
        "command": command,
        "device": str(experiment.device),
        "max_batch": str(config.max_batch),
        "versions": f"optsteps {optsteps.__version__}, torch {torch.__version__}, lightning {version('lightning')}, "
        f"Python {platform.python_version()}",
        "commit": code_version(),
    }
    if experiment.comparison_teacher.steps != experiment.teacher.steps:
        facts["teacher of the comparison"] = _walk(experiment, experiment.comparison_teacher)
    for judge in experiment.judges:
        if isinstance(judge, TeacherJudge) and judge.data_range is not None:
            facts["PSNR data range"] = f"{judge.data_range:g}"
    if experiment.left_out:
        facts["left out"] = "; ".join(f"{name}: {reason}" for name, reason in experiment.left_out.items())
    if model.distribution is not None:
        value = entropy(model.distribution, 100_000, torch.Generator().manual_seed(0)).value
        facts["entropy of the true distribution"] = f"{value:.3f} nats"
    return facts


def _walk(experiment: Experiment, teacher: Schedule) -> str:
    """A teacher's schedule and solver, in words."""
    walk = f"{teacher.steps} steps of {experiment.walker.name}"
    sentence = f"{experiment.config.teacher.family}, {walk}, t {teacher.times[0]:g} to {teacher.times[-1]:g}"
    return "; ".join([sentence, *formula_range(teacher)])


def formula_range(teacher: Schedule) -> list[str]:
    """A sentence where the family's formula covers less than the model's range, which is infinite or ends at 0."""
    if "formula_levels" not in teacher.metadata:
        return []
    (high, low), family = teacher.metadata["formula_levels"], teacher.metadata["family"]
    return [f"{family} is a formula between finite noise levels, and takes {high:g} to {low:g} of the model's range"]
