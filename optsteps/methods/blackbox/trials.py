"""What a search has asked so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optsteps.conditions import fingerprint


@dataclass(frozen=True)
class Trials:
    """Points of a space with what was measured there, in the order in which they were asked.

    Attributes:
        numbers: float64 [T, P].
        values: float64 [T]; the smaller the better.
        errors: standard errors [T] of the values' differences to the first one.
    """

    numbers: Tensor
    values: Tensor
    errors: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def and_then(self, other: Trials) -> Trials:
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("numbers", "values", "errors"))
        return Trials(*(torch.cat(pair) for pair in pairs))

    @property
    def order(self) -> list[int]:
        """The numbers of the trials, best first; of equal ones the earlier."""
        return self.values.argsort(stable=True).tolist()

    @property
    def fingerprint(self) -> str:
        return fingerprint((self.numbers, self.values, self.errors))
