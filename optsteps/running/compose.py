"""The composition of an experiment from its config."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from optsteps.denoisers import call_nfe
from optsteps.methods import GivenSchedules, HandMade, Method
from optsteps.models import Model
from optsteps.processes import Flow
from optsteps.running.clean_samples import clean_samples
from optsteps.running.device import set_max_batch, with_states_at
from optsteps.running.experiment import Experiment, draw_samples, unseen_samples
from optsteps.running.judges import JudgesOf, check_figures, choose_metric
from optsteps.running.targets import MODEL_ARGUMENTS, import_targets
from optsteps.schedules import PUBLISHED, Schedule, build_schedule
from optsteps.signatures import accepted
from optsteps.solvers import Solver, build_solver

# methods that come with a model, and that nobody named
_OF_THE_MODEL = ("own", "published")
# parts of `teacher` that are no parameters of its family
_TEACHER = ("family", "steps", "solver", "final", "snap")


def compose_experiment(config: DictConfig, device: torch.device, method_name: str) -> Experiment:
    """The experiment of a config whose main method goes by the name `method_name`. It evaluates nothing, unless
    `max_batch=auto` asks what fits on the device.

    In the config, `metric`, `max_batch` and the published family's `model` are completed, `process` is empty for a
    model that takes none and so brings its own, and a flow's default rivals are gone where the process is another.

    Raises:
        ValueError, OSError: with one paragraph that says what is wrong.
    """
    import_targets(config)
    model, device = with_states_at(config.runner.states, _model(config, device), device)
    set_max_batch(config, model, device)
    solver = instantiate(config.solver)
    teacher = _teacher(config, model, config.teacher.steps)
    comparison_teacher = _teacher(config, model, config.test.teacher_steps)
    walker = build_solver(config.teacher.solver) if config.teacher.solver is not None else solver
    methods = _methods(config, model, method_name)
    steps = _steps(config, model, solver, teacher)
    data, data_cond = clean_samples(config, model, device)
    choose_metric(config.metric, model)
    noise, cond = draw_samples(config, model, range(config.search.samples), device)
    experiment = Experiment(
        config=config,
        device=device,
        model=model,
        solver=solver,
        teacher=teacher,
        comparison_teacher=comparison_teacher,
        walker=walker,
        methods=methods,
        judges=[],
        steps=steps,
        snap=_snap(config, model),
        noise=noise,
        cond=cond,
        data=data,
        data_cond=data_cond,
        judges_of=JudgesOf(config.metric.judges, model),
    )
    experiment = _without_unable_rivals(experiment)
    judges = experiment.judges_of(unseen_samples(config))  # the slowest: some load networks
    check_figures(judges, config, model.shape, steps)
    return replace(experiment, judges=judges)


def _model(config: DictConfig, device: torch.device) -> Model:
    process = instantiate(config.process) or None  # process=own: the model brings it
    # called with objects here: instantiate would take a dataclass among its arguments for a config
    named = instantiate(config.model, _partial_=True)
    build = partial(named.func, *named.args)
    arguments = accepted(build, {**named.keywords, "process": process, "device": device}, MODEL_ARGUMENTS)
    if "process" not in arguments:
        config.process = None
    model = build(**arguments)
    if not isinstance(model, Model):
        raise ValueError(
            f"{config.model._target_} returned {type(model).__name__}; let it return an optsteps.models.Model, with "
            "the denoiser, its process, the shape of a sample and the noise levels it is used at"
        )
    if model.process is None:
        raise ValueError(f"process=own, but {model.name} brings no process; choose edm, vp, ddpm or flow")
    return model


def _snap(config: DictConfig, model: Model) -> bool:
    """Whether times are rounded to timesteps."""
    return model.snap if config.teacher.snap is None else config.teacher.snap


def _teacher(config: DictConfig, model: Model, steps: int) -> Schedule:
    """The many-step schedule of `teacher`, over the model's range."""
    t_max, t_min = model.time_range
    options = {key: value for key, value in config.teacher.items() if key not in _TEACHER}
    options |= {"final": config.teacher.final or model.final, "snap": _snap(config, model)}
    return build_schedule(config.teacher.family, model.process, t_max=t_max, t_min=t_min, steps=steps, **options)


def _steps(config: DictConfig, model: Model, solver: Solver, teacher: Schedule) -> list[int]:
    """The students' step counts: `steps` or, of every count of `nfe`, the most steps that it pays for."""
    if config.nfe is None:
        return list(config.steps)
    per_call, ends = call_nfe(model.denoiser), teacher.times[[0, -1]]
    return sorted({solver.steps(nfe // per_call, model.process, *ends) for nfe in config.nfe})


def _methods(config: DictConfig, model: Model, main: str) -> dict[str, Method]:
    """The main method, its rivals, and those that come with the model, by name."""
    if config.flow_rivals and not isinstance(model.process, Flow):
        config.rivals = {name: rival for name, rival in config.rivals.items() if name not in config.flow_rivals}
    _complete_published(config, model)
    rivals = {name: rival for name, rival in config.get("rivals", {}).items() if name != main}
    methods: dict[str, Method] = {main: instantiate(config.method)}
    methods |= {name: instantiate(rival) for name, rival in rivals.items()}
    if model.own_schedule is not None:
        methods.setdefault("own", GivenSchedules(model.own_schedule, own_start=True))
    if model.published is not None:
        methods.setdefault("published", HandMade("published", model=model.published))
    return methods


def _complete_published(config: DictConfig, model: Model) -> None:
    """Name the model's own kind wherever the family `published` does not say whose constants it takes.

    Raises:
        ValueError: nothing is published for models of its kind.
    """

    def complete(part: Any) -> None:
        if not isinstance(part, DictConfig):
            return
        if part.get("family") == "published" and part.get("model") is None:
            if model.published is None:
                raise ValueError(
                    f"the family 'published' has constants for {', '.join(PUBLISHED)}, and {model.name} is of "
                    "none of these kinds; name the ones to use (method.model=sd15), or leave the method out"
                )
            part.model = model.published
        for key in part:
            complete(part.get(key))

    complete(config.method)
    complete(config.get("rivals"))


def _without_unable_rivals(experiment: Experiment) -> Experiment:
    """The experiment without the rivals that nobody named and that cannot take part.

    Raises:
        ValueError: the main method, or a rival that somebody named, cannot take part.
    """
    problem, main = experiment.problem(experiment.model.denoiser), next(iter(experiment.methods))
    optional = {*experiment.config.optional_rivals, *_OF_THE_MODEL} - {main}
    methods, left_out = dict(experiment.methods), dict[str, str]()
    for name, method in experiment.methods.items():
        try:
            method.check(problem, experiment.steps)
        except ValueError as error:
            if name not in optional:
                raise ValueError(f"{name}: {error}") from error
            left_out[name] = str(error)
            del methods[name]
    return replace(experiment, methods=methods, left_out=left_out)
