"""What determines a result: the facts that a finished shard lies under in the store, and a run's results as a whole.

Facts are of what is in memory: what a denoiser answers and holds, tensors rather than the files they came from, source
as it was loaded.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
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
from optsteps.metrics.judges import Judge, MeasurementCriterion
from optsteps.noise import unit_noise
from optsteps.running.experiment import Experiment
from optsteps.running.probe import Probe
from optsteps.solvers import Solver
from optsteps.storage.sources import code_facts, remember_sources
from optsteps.storage.store import digest

Facts = dict[str, Any]
# digest of what a thing holds
Held = Callable[[Any], str]
_PACKAGE = "optsteps."
# of a run's facts, what determines its results
RESULTS_KEY = "key of the results"


def import_targets(config: DictConfig) -> None:
    """Import what a config names, and remember its source before anything is made of it."""
    for target in _targets(OmegaConf.to_container(config, resolve=True)):
        with suppress(Exception):  # whoever instantiates it says what is wrong
            get_object(target)
    remember_sources()


@dataclass(frozen=True)
class Keys:
    """What determines the results of an experiment, as JSON data.

    Attributes:
        model: every evaluation of its denoiser, on this kind of machine.
        problem: what its searches are asked.
        methods: what each does with it, by name.
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
    """Look at all that an experiment consists of.

    Args:
        probe: of the experiment's model.
        device: the name of what it runs on.
    """
    held = partial(fingerprint_held, read={})
    outputs = fingerprint_outputs(probe.outputs)
    problem = experiment.problem(experiment.model.denoiser, experiment.searched)
    facts, asked = model_facts(experiment, outputs, device, held), problem_facts(problem)
    methods = {
        name: method_facts(method, experiment.method_config(name), problem, held)
        for name, method in experiment.methods.items()
    }
    results = digest([facts, asked, methods, _comparison_facts(experiment, problem, held)])
    return Keys(facts, asked, methods, results, outputs)


def model_facts(experiment: Experiment, outputs: str, device: str, held: Held) -> Facts:
    """What determines every evaluation of the experiment's denoiser, `outputs` being their fingerprint."""
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
    """What a search is asked: samples, data, teacher and solvers."""
    walker = problem.teacher_solver or problem.solver
    return {
        "samples": fingerprint((problem.noise, problem.cond)),
        "data": fingerprint((problem.data, problem.data_cond)),
        "teacher": problem.teacher.facts,
        "solver": solver_facts(problem.solver, problem.teacher, problem.noise),
        "walker": solver_facts(walker, problem.teacher, problem.noise),
        "precision": str(problem.cache.precision),
    }


def method_facts(method: Method, config: Any, problem: SearchProblem, held: Held) -> Facts:
    """What a method does with its question.

    Args:
        config: of the method, as JSON data.
        problem: solvers and criteria of the method's own are tried on its kind of samples.
    """
    own = [value for value in getattr(method, "__dict__", {}).values() if isinstance(value, Solver)]
    criterion = getattr(method, "criterion", None)
    return {
        "code": code_facts({type(method).__module__, *_modules(config)}),
        "config": _plain(config),
        "settings": plain_settings(method),
        "held": held(method),
        "solvers": [solver_facts(solver, problem.teacher, problem.noise) for solver in own],
        "criterion": _criterion_facts(criterion, _images(problem), held),
    }


def _comparison_facts(experiment: Experiment, problem: SearchProblem, held: Held) -> Facts:
    """What is compared on which samples, and by whom it is judged."""
    model, unseen, images = experiment.model, experiment.unseen, _images(problem)
    decode, own = model.decode, model.own_schedule
    return {
        "teacher": experiment.comparison_teacher.facts,
        "own schedules": own and [own(n).facts for n in experiment.steps],
        "conditions": fingerprint(model.cond(unseen, experiment.device)),
        "prompts": model.prompts and model.prompts(unseen),
        "metadata": model.metadata and str(model.metadata(unseen)),
        "decoder": decode and _tried(lambda: fingerprint(decode(images[0][:1]))),
        "judges": [_judge_facts(judge, images, held) for judge in experiment.judges],
        "code": code_facts({"optsteps.comparison", *_modules(experiment.resolved("metric"))}),
    }


def _criterion_facts(criterion: Any, images: tuple[Tensor, Tensor], held: Held) -> Any:
    """Of what a method makes small, where it is more than a name."""
    if isinstance(criterion, MeasurementCriterion):
        return _judge_facts(criterion.judge, images, held)
    return _tried(lambda: criterion(*images)) if callable(criterion) else None


def _judge_facts(judge: Judge, images: tuple[Tensor, Tensor], held: Held) -> Facts:
    """What a judge holds, and of a user's its figures of fixed images."""
    facts: Facts = {"settings": plain_settings(judge), "held": held(judge)}
    inner = [value for value in getattr(judge, "__dict__", {}).values() if isinstance(value, Judge)]
    facts["judges"] = [_judge_facts(one, images, held) for one in inner]
    if not type(judge).__module__.startswith(_PACKAGE):
        facts["figures"] = _tried(
            lambda: {name: figure.interval.value for name, figure in judge.judge(*images, None).items()}
        )
    return facts


def _tried(function: Callable[[], Any]) -> str:
    """What a function of the user's returns for made-up input, or that it does not take it."""
    try:
        return repr(function())
    except Exception as error:
        return type(error).__name__


def _images(problem: SearchProblem) -> tuple[Tensor, Tensor]:
    """Samples [8, ...] in [-1, 1] of the problem's kind and others to compare them with, always the same."""
    shape, like = problem.noise.shape[1:], problem.noise
    one, other = ((unit_noise(seed, range(PROBES), shape) / 2).clamp(-1, 1).to(like) for seed in (0, 1))
    return one, other


def _targets(config: Any) -> Iterator[str]:
    """The names of classes and functions in a config (JSON data)."""
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _targets(part)


def _modules(config: Any) -> set[str]:
    """Names of the modules whose classes and functions a config names: where they are found and, for this package's,
    which its subpackages offer by shorter names, where they are written."""
    found = set()
    for target in _targets(config):
        written = getattr(get_object(target), "__module__", None)
        if isinstance(written, str):
            found.add(written)
        if not target.startswith(_PACKAGE):
            parts = target.split(".")
            found |= {name for k in range(1, len(parts)) if (name := ".".join(parts[:k])) in sys.modules}
    return found


def _plain(config: Any) -> Any:
    """A config (JSON data) without the names of files and folders that are there: what counts is what comes of them.
    Infinite numbers, which JSON has none of, are words."""
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_plain(value) for value in config]
    if isinstance(config, float) and not math.isfinite(config):
        return str(config)
    if isinstance(config, str) and os.path.exists(os.path.expanduser(config)):
        return "a path"
    return config
