"""A model that lies in pieces in all ranks of a run, which make every evaluation together: FSDP, tensor parallelism.

Rank 0 does everything as a run of one process does. It tells the other ranks the inputs of every call of the denoiser,
and these do nothing but call it, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

import torch
from torch import Tensor

from optsteps.conditions import Cond, moved
from optsteps.denoisers import Denoiser, ModelError, call_nfe
from optsteps.running.experiment import Experiment
from optsteps.running.launch import Rank
from optsteps.sampling import Walks
from optsteps.storage.division import Division


@dataclass(frozen=True)
class LedDenoiser:
    """The denoiser in rank 0, whose calls all ranks make together, without a graph.

    Args:
        denoiser: the piece of this rank.
        ranks: of the run.

    Raises:
        ModelError: at a call, inputs whose gradients are wanted.
    """

    denoiser: Denoiser
    ranks: Division
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def nfe(self) -> int:
        return call_nfe(self.denoiser)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        if torch.is_grad_enabled() and (x.requires_grad or t.requires_grad):
            raise ModelError(
                "a model that lies in pieces in several ranks gives no gradients, which this method needs: choose "
                "another method"
            )
        t = t.to(x.device)  # where the other ranks have it
        self.ranks.send(_inputs(next(self._numbers)), (x, t, cond))
        with torch.no_grad():
            return self.denoiser(x, t, cond)


def lead(experiment: Experiment, rank: Rank) -> tuple[Experiment, Rank]:
    """The experiment and the rank of a run's rank 0 as its only process has them, where the model lies in pieces.

    Raises:
        ValueError: the model samples by itself.
    """
    model = experiment.model
    if not model.model_parallel or rank.board is None:
        return experiment, rank
    if isinstance(model.denoiser, Walks):
        raise ValueError(
            f"the model {model.name} lies in pieces in several ranks and samples by its own call, which takes part in "
            "no evaluation of the others: wrap its network, or use runner.devices=1"
        )
    led = LedDenoiser(model.denoiser, Division(rank.board, rank.number, rank.world_size))
    return replace(experiment, model=replace(model, denoiser=led)), Rank(rank.device)


def follow(experiment: Experiment, rank: Rank) -> None:
    """Take part in every evaluation of rank 0, until it is through."""
    assert rank.board is not None
    ranks = Division(rank.board, rank.number, rank.world_size)
    for number in count():
        x, t, cond = ranks.received(_inputs(number))
        with torch.no_grad():
            experiment.model.denoiser(*moved((x, t, cond), experiment.device))


def _inputs(number: int) -> str:
    return f"inputs/{number}"
