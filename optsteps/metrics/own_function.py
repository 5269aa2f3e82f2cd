"""Judge that asks a function of one's own about images and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement, sample_wise


class FunctionJudge(Judge):
    """The mean of what a function says of every sample: a preference model, say.

    In a config, `function: {_target_: hydra.utils.get_method, path: my_module.score}` names it.

    Args:
        function: of samples [B, ...] and their prompts, a list of B strings; where the model takes none, of the samples
            and their condition. It returns a number for each, [B].
        figure: the name of the mean.
        higher_is_better: its direction.
        prompts: of the samples, in their order; None for a model without prompts.

    Raises:
        ValueError: in `judge`, there are not as many prompts as samples, or not one finite number for each.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Any], Any],
        figure: str,
        higher_is_better: bool = True,
        prompts: Sequence[str] | None = None,
    ) -> None:
        self.function, self.figure, self.higher_is_better = function, figure, higher_is_better
        self.prompts = None if prompts is None else list(prompts)

    @property
    def figures(self) -> dict[str, bool | None]:
        return {self.figure: self.higher_is_better}

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        if self.prompts is not None and len(self.prompts) != len(x):
            raise ValueError(f"{self.figure}: there are {len(self.prompts)} prompts for {len(x)} samples")
        values = torch.as_tensor(self.function(x, cond if self.prompts is None else self.prompts)).detach()
        if values.shape != x.shape[:1]:
            raise ValueError(
                f"the function of {self.figure!r} returned shape {tuple(values.shape)} for {len(x)} samples; let it "
                "return one number for each"
            )
        bad = (~values.double().isfinite()).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"the function of {self.figure!r} returned {values[bad[0]].item()} for sample {bad[0] + 1} of "
                f"{len(x)}; let it return a finite number for each"
            )
        return {self.figure: sample_wise(values.double(), self.higher_is_better)}
