"""A second opinion on figures that a search may have aimed at."""

from __future__ import annotations

from optsteps.metrics.prefixed import PrefixedJudge

SECOND = "second_"


class SecondJudge(PrefixedJudge):
    """Another judge's measurements, each named `second_` and the other judge's name.

    A search for the best figure of one judge may find what pleases that judge alone. A second judge of the same kind
    that the search never asks, such as an FID of another network's features, says how much of a gain is not its own.

    Args:
        judge: the other judge.
    """

    prefix = SECOND
