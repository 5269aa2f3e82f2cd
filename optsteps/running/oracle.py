"""The oracle: the main method searches every sample of the comparison for itself, a bound that no schedule reaches."""

from __future__ import annotations

from optsteps.comparison import Comparison, Row
from optsteps.methods import Method
from optsteps.running.experiment import Experiment
from optsteps.running.keys import problem_facts
from optsteps.running.share import Share


def oracle_method(experiment: Experiment) -> Method | None:
    """The method of the oracle, where the main method has one and `test.oracle` asks for it."""
    return next(iter(experiment.methods.values())).alone() if experiment.config.test.oracle > 1 else None


def judge_oracle(share: Share, comparison: Comparison) -> list[Row]:
    """The oracle's rows, one for every step count; none where there is no oracle."""
    experiment = share.experiment
    method, name = oracle_method(experiment), next(iter(experiment.methods))
    if method is None:
        return []
    with share.progress.stage("oracle"):
        problem = experiment.oracle_problem(share.denoiser, share.workers)
        workers = share.search_workers(name, problem_facts(problem)).on("oracle", samples=len(problem.noise))
        result = method.search(problem, experiment.steps, workers)
        return [
            comparison.judge_oracle(f"{name}_per_sample", method.sample_schedules(problem, result, n))
            for n in result.schedules
        ]
