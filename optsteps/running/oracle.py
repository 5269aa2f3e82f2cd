"""The oracle: the main method searches every sample of the comparison for itself, a bound that no schedule reaches."""

from __future__ import annotations

from optsteps.comparison import Comparison, Row
from optsteps.methods import OSS
from optsteps.running.experiment import Experiment
from optsteps.running.keys import problem_facts
from optsteps.running.share import Share


def oracle_method(experiment: Experiment) -> OSS | None:
    """The method of the oracle, where the main method has one and `test.oracle` asks for it."""
    main = next(iter(experiment.methods.values()))
    return main.alone() if isinstance(main, OSS) and experiment.config.test.oracle > 1 else None


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
        assert result.per_sample is not None
        rows = []
        for n, paths in result.per_sample.items():
            orders = result.per_sample_orders[n] if result.per_sample_orders else [None] * len(paths)
            schedules = [method.path_schedule(problem, *pair) for pair in zip(paths, orders, strict=True)]
            rows.append(comparison.judge_oracle(f"{name}_per_sample", schedules))
        return rows
