"""The oracle: the main method searches every sample of the comparison for itself, a bound that no schedule reaches."""

from __future__ import annotations

from optsteps.comparison import Comparison, Row
from optsteps.running.share import Share


def judge_oracle(share: Share, comparison: Comparison) -> list[Row]:
    """The oracle's rows, one for every step count; none where there is no oracle."""
    method, name = share.experiment.oracle_method, next(iter(share.experiment.methods))
    if method is None:
        return []
    with share.progress.stage("oracle"):
        problem, result = share.search_for_oracle(method)
        return [
            comparison.judge_oracle(f"{name}_per_sample", method.sample_schedules(problem, result, n))
            for n in result.schedules
        ]
