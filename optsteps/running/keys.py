"""Keys of results: the facts that determine a finished shard in the store, and a run's results as a whole.

Facts describe what is in memory: a denoiser's answers and what it holds, tensors rather than the files they came from,
and source as it was loaded.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hydra.utils import get_object
from torch import Tensor

from optsteps.conditions import fingerprint
from optsteps.fingerprint import (
    PROBES,
    fingerprint_held,
    fingerprint_outputs,
    plain_settings,
    solver_facts,
)
from optsteps.methods import Method, SearchProblem
from optsteps.metrics.base import Judge
from optsteps.metrics.criterion import MeasurementCriterion
from optsteps.noise import unit_noise
from optsteps.running.experiment import Experiment
from optsteps.running.probe import Probe
from optsteps.running.targets import target_nodes
from optsteps.solvers import Solver
from optsteps.storage.sources import code_facts
from optsteps.storage.store import digest

Facts = dict[str, Any]
# the digest of everything that an object holds
Held = Callable[[Any], str]
_PACKAGE = "optsteps."
# of a run's facts, the digest of what determines its results
RESULTS_KEY = "key of the results"


@dataclass(frozen=True)
class Keys:
    """The facts that determine the results of an experiment, as JSON data.

    Attributes:
        model: determine every evaluation of its denoiser, on this kind of machine.
        problem: determine the problem of its searches.
        methods: determine each method, by name.
        results: digest of these and of all else that its results depend on, beside its config.
        fingerprint: of the denoiser's outputs.
    """

    model: Facts
    problem: Facts
    methods: dict[str, Facts]
    results: str
    fingerprint: str

    @property
    def described(self) -> dict[str, str]:
        """For the run's report; a sweep knows a finished job by the key of its results."""
        return {
            "fingerprint of the model": self.fingerprint,
            RESULTS_KEY: self.results,
        }


def keys_of(experiment: Experiment, probe: Probe, device: str) -> Keys:
    """The keys of an experiment, from all that it consists of.

    Args:
        probe: of the experiment's model.
        device: the name of the device that computes.
    """
    held = partial(fingerprint_held, read={})
    outputs = fingerprint_outputs(probe.outputs)
    problem = experiment.problem(experiment.model.denoiser)
    of_model, of_problem = model_facts(experiment, outputs, device, held), problem_facts(problem)
    methods = {
        name: method_facts(method, experiment.method_config(name), problem, held)
        for name, method in experiment.methods.items()
    }
    results = digest([of_model, of_problem, methods, _comparison_facts(experiment, problem, held)])
    return Keys(of_model, of_problem, methods, results, outputs)


def model_facts(experiment: Experiment, outputs: str, device: str, held: Held) -> Facts:
    """Facts that determine every evaluation of the experiment's denoiser; `outputs` is their fingerprint."""
    config = {part: experiment.resolved(part) for part in ("model", "process")}
    return {
        "code": code_facts({"optsteps.trajectories", *_modules(config)}),
        "torch": torch.__version__,
        "device": [device, platform.machine(), torch.backends.cpu.get_cpu_capability()],
        "threads": torch.get_num_threads(),
        "config": _plain(config),
        "outputs": outputs,
        "held": held(experiment.model.denoiser),
    }


def problem_facts(problem: SearchProblem) -> Facts:
    """Facts that determine the problem of a search: samples, data, teacher and solvers."""
    return {
        "samples": fingerprint((problem.noise, problem.cond)),
        "data": fingerprint((problem.data, problem.data_cond)),
        "teacher": problem.teacher.facts,
        "solver": solver_facts(problem.solver, problem.teacher, problem.noise),
        "walker": solver_facts(problem.walker, problem.teacher, problem.noise),
        "precision": str(problem.cache.precision),
    }


def method_facts(method: Method, config: Any, problem: SearchProblem, held: Held) -> Facts:
    """Facts that determine what a method finds for a problem.

    Args:
        config: of the method, as JSON data.
        problem: the method's solvers and criterion are tried on samples of its kind.
    """
    solvers = [value for value in getattr(method, "__dict__", {}).values() if isinstance(value, Solver)]
    criterion, judge = getattr(method, "criterion", None), method.judge(problem)
    return {
        "code": code_facts({type(method).__module__, *_modules(config)}),
        "config": _plain(config),
        "settings": plain_settings(method),
        "held": held(method),
        "solvers": [solver_facts(solver, problem.teacher, problem.noise) for solver in solvers],
        "criterion": _criterion_facts(criterion, _images(problem), held),
        "judge": judge and _judge_facts(judge, _images(problem), held),
    }


def _comparison_facts(experiment: Experiment, problem: SearchProblem, held: Held) -> Facts:
    """Facts of the comparison: its teacher, samples and judges."""
    model, unseen, images = experiment.model, experiment.unseen, _images(problem)
    decode, own_schedule = model.decode, model.own_schedule
    return {
        "teacher": experiment.comparison_teacher.facts,
        "own schedules": own_schedule and [own_schedule(n).facts for n in experiment.steps],
        "conditions": fingerprint(model.cond(unseen, experiment.device)),
        "prompts": model.prompts and model.prompts(unseen),
        "metadata": model.metadata and str(model.metadata(unseen)),
        "decoder": decode and _tried(lambda: fingerprint(decode(images[0][:1]))),
        "judges": [_judge_facts(judge, images, held) for judge in experiment.judges],
        "code": code_facts({"optsteps.comparison", *_modules(experiment.resolved("metric"))}),
    }


def _criterion_facts(criterion: Any, images: tuple[Tensor, Tensor], held: Held) -> Any:
    """Facts of the criterion that a method minimises; None where it is a name, which the settings hold."""
    if isinstance(criterion, MeasurementCriterion):
        return _judge_facts(criterion.judge, images, held)
    return _tried(lambda: criterion(*images)) if callable(criterion) else None


def _judge_facts(judge: Judge, images: tuple[Tensor, Tensor], held: Held) -> Facts:
    """Facts of a judge; of a user's judge also its measurements of fixed images."""
    facts: Facts = {"settings": plain_settings(judge), "held": held(judge)}
    inner = [value for value in getattr(judge, "__dict__", {}).values() if isinstance(value, Judge)]
    facts["judges"] = [_judge_facts(value, images, held) for value in inner]
    if not type(judge).__module__.startswith(_PACKAGE):
        facts["figures"] = _tried(
            lambda: {name: figure.interval.value for name, figure in judge.judge(*images, None).items()}
        )
    return facts


def _tried(function: Callable[[], Any]) -> str:
    """The value of a user's function for made-up input, or the name of the error that it raises."""
    try:
        return repr(function())
    except Exception as error:
        return type(error).__name__


def _images(problem: SearchProblem) -> tuple[Tensor, Tensor]:
    """Samples [8, ...] in [-1, 1] of the problem's kind and others to compare them with, always the same."""
    shape, like = problem.noise.shape[1:], problem.noise
    samples, others = ((unit_noise(seed, range(PROBES), shape) / 2).clamp(-1, 1).to(like) for seed in (0, 1))
    return samples, others


def _modules(config: Any) -> set[str]:
    """Names of the modules of a config's classes and functions: the module that defines each of them and, for those of
    the user's, also the modules on the path by which the config names it."""
    modules = set()
    for _, node in target_nodes(config):
        target = node["_target_"]
        written = getattr(get_object(target), "__module__", None)
        if isinstance(written, str):
            modules.add(written)
        if not target.startswith(_PACKAGE):
            parts = target.split(".")
            modules |= {name for k in range(1, len(parts)) if (name := ".".join(parts[:k])) in sys.modules}
    return modules


def _plain(config: Any) -> Any:
    """A config (JSON data) without the names of existing files and folders, whose contents count elsewhere. Infinite
    numbers, which JSON does not have, become words."""
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_plain(value) for value in config]
    if isinstance(config, float) and not math.isfinite(config):
        return str(config)
    if isinstance(config, str) and os.path.exists(os.path.expanduser(config)):
        return "a path"
    return config
