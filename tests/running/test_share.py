"""What a rank makes of the searches' results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace

from problems import mixture_problem

from optsteps.methods import Method, SearchProblem, SearchResult
from optsteps.running.share import Share
from optsteps.storage.workers import ALONE, Workers


def test_a_search_of_its_own_that_counts_per_sample_has_a_total() -> None:
    class Older(Method):
        def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
            return SearchResult({n: problem.teacher for n in steps}, nfe=2.5)

    problem = mixture_problem("edm", 6, 8)
    given = SimpleNamespace(methods={"older": Older()}, problem=lambda *_: problem, steps=[2], snap=False)
    share = SimpleNamespace(
        experiment=given,
        denoiser=problem.denoiser,
        workers=ALONE,
        keys=SimpleNamespace(problem={}),
        progress=SimpleNamespace(stage=lambda _: nullcontext()),
        search_workers=lambda *_: ALONE,
    )
    found = Share.search(share)["older"]  # type: ignore[arg-type]
    assert (found.nfe, found.evaluations) == (2.5, 15)
