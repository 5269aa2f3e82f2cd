"""What the judge of a function of one's own makes of its answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optsteps.metrics.judges import FunctionJudge

ANSWERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "one number": (lambda x: x.mean(), r"'liked' returned shape \(\) for 3 samples; let it return one number for each"),
    "a column": (lambda x: x[:, :1], r"'liked' returned shape \(3, 1\) for 3 samples"),
    "no number": (
        lambda x: torch.tensor([1.0, float("nan"), float("inf")]),
        "'liked' returned nan for sample 2 of 3; let it return a finite number for each",
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_cannot_be_judged_names_the_function_and_the_value(answer: str) -> None:
    function, said = ANSWERS[answer]
    with pytest.raises(ValueError, match=said):
        FunctionJudge(lambda x, _: function(x), "liked").judge(torch.ones(3, 2), torch.ones(3, 2), None)


def test_integers_and_truths_are_numbers_too() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0]])
    for function, mean in ((lambda x, _: x[:, 0].long(), 2.0), (lambda x, _: x[:, 0] > 1, 2 / 3)):
        found = FunctionJudge(function, "liked").judge(x, x, None)["liked"]
        assert found.interval.value == pytest.approx(mean)
