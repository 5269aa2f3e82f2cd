"""The judges of a config, completed with what the model has, and checked before anything is sampled."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from optsteps.metrics.base import Judge
from optsteps.models import Model
from optsteps.running.objective import check_objective
from optsteps.text.suggestion import suggestion

# what of a model, or of its samples, a judge may ask for by the name of its argument
_OF_THE_MODEL = {
    "distribution": "whose density is known",
    "decode": "whose samples are decoded into images",
    "prompts": "that takes prompts",
    "metadata": "whose prompts, in GenEval's form, say what images are held to",
}


def choose_metric(metric: DictConfig, model: Model) -> None:
    """Complete `metric` with the verdicts and judges of `metric.by_model` that fit the model, where it has none.

    Raises:
        ValueError: it has none, and no others for samples of this kind.
    """
    with open_dict(metric):
        by_model = metric.pop("by_model", {})
    for part in ("verdicts", "judges"):
        if metric[part] is None:
            kind = _kind(model)
            if kind not in by_model:
                raise ValueError(
                    f"metric.{part} is null, and metric.by_model has none for {kind}; give metric.{part}=[...], or "
                    "choose a metric (metric=teacher)"
                )
            metric[part] = by_model[kind][part]


def _kind(model: Model) -> str:
    """The kind of a model's samples: "density" and "points" are vectors of coordinates, of a known density or not."""
    if len(model.shape) == 1 and model.decode is None:
        return "points" if model.distribution is None else "density"
    return "images" if model.decode is None else "latents"


@dataclass
class JudgesOf:
    """The judges of `metric.judges` for samples of any numbers; what does not depend on these is made once.

    Args:
        judges: of the config.
        model: whose samples they judge.

    Raises:
        ValueError: when it is called, a judge needs what the model does not have.
    """

    judges: Sequence[Any]
    model: Model
    _completed: dict[int, Any] = field(default_factory=dict, repr=False)

    def __call__(self, samples: Sequence[int]) -> list[Judge]:
        """The judges of the samples with these numbers."""
        model = self.model
        available = {
            "distribution": model.distribution,
            "decode": model.decode,
            "prompts": model.prompts and model.prompts(samples),
            "metadata": model.metadata and model.metadata(samples),
        }
        return [self._complete(judge, available) for judge in self._instantiated]

    @cached_property
    def _instantiated(self) -> list[Any]:
        return [instantiate(judge) for judge in self.judges]

    def _complete(self, judge: Any, available: Mapping[str, Any]) -> Any:
        """A judge with what it needs of the model, and so the judge whose measurements it hands on."""
        if not isinstance(judge, partial):
            return judge
        if id(judge) in self._completed:
            return self._completed[id(judge)]
        parameters = inspect.signature(judge.func).parameters
        needed = [name for name in _OF_THE_MODEL if name in parameters]
        for name in needed:
            if available[name] is None and parameters[name].default is inspect.Parameter.empty:
                raise ValueError(
                    f"{judge.func.__name__} needs a model {_OF_THE_MODEL[name]}; {self.model.name} has none"
                )
        inner = {name: self._complete(value, available) for name, value in judge.keywords.items()}
        completed = judge.func(*judge.args, **{**inner, **{name: available[name] for name in needed}})
        if not (needed or any(isinstance(value, partial) for value in judge.keywords.values())):
            self._completed[id(judge)] = completed  # a detector, say, whose network is loaded once
        return completed


def check_figures(judges: Sequence[Judge], config: DictConfig, shape: tuple[int, ...], steps: Sequence[int]) -> None:
    """Refuse what the judges cannot measure, and figures that they do not have.

    Args:
        config: whose `metric.verdicts` and `objective` name figures, and whose `test.samples` are judged.
        shape: of one sample.
        steps: the students' step counts.

    Raises:
        ValueError: a judge cannot take so many samples of this shape, two have a figure of one name, or a figure is not
            measured.
    """
    figures: dict[str, bool | None] | None = {}
    for judge in judges:
        judge.check(config.test.samples, shape)
        twice = sorted(set(figures or ()) & set(judge.figures or ()))
        if twice:
            raise ValueError(
                f"two judges of metric.judges measure {', '.join(twice)}, and one would hide the other: put one inside "
                "optsteps.metrics.judges.SecondJudge, whose figures are named second_..."
            )
        figures = None if figures is None or judge.figures is None else {**figures, **judge.figures}
    check_objective(config.objective, figures, steps)
    if figures is None:  # a judge of somebody's own, whose figures are known when it has measured them
        return
    comparable = [name for name, higher_is_better in figures.items() if higher_is_better is not None]
    for name in config.metric.verdicts:
        if name not in comparable:
            raise ValueError(
                f"metric.verdicts names {name!r}, but the figures of this metric that can be better or worse are "
                f"{', '.join(comparable)}{suggestion(name, comparable)}"
            )
