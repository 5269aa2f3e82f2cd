"""What a config describes, ready to be run: a model and its samples, a solver, a teacher, methods and judges."""

from __future__ import annotations

import inspect
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import optsteps
from optsteps.comparison import Comparison
from optsteps.conditions import Cond
from optsteps.datasets import ImageSet, to_unit_range
from optsteps.denoisers import Denoiser, DeviceDenoiser, call_nfe, fitting_batch
from optsteps.fingerprint import probe_inputs, probed
from optsteps.methods import OSS, GivenSchedules, HandMade, Method, SearchProblem, SearchResult
from optsteps.metrics import entropy
from optsteps.metrics.judges import Judge, TeacherJudge
from optsteps.models import Model
from optsteps.noise import FIRST_TEST_SAMPLE, sample_generator, unit_noise
from optsteps.running.interpretation import Interpretation, check_interpretation
from optsteps.running.objective import check_objective
from optsteps.running.probe import Probe, probe
from optsteps.schedules import PUBLISHED_LEVELS, Schedule, build_schedule
from optsteps.solvers import Solver, build_solver
from optsteps.storage.workers import ALONE, Workers
from optsteps.text.suggestion import suggestion
from optsteps.trajectories import Cache


@dataclass(frozen=True)
class Experiment:
    """One experiment of the command line.

    Attributes:
        config: all of it, composed.
        device: where samples and the states of searches live; the model too, where `runner.states` is "device".
        model, solver: what is sampled, and how.
        teacher, comparison_teacher: the many-step schedules of the searches and of the comparison.
        walker: the teacher's solver.
        methods: by name, the main one first.
        judges: what is measured.
        steps: the students' step counts.
        snap: are the times of schedules to be timesteps?
        data, data_cond: clean samples for methods that need them, or None.
        left_out: rivals by default that cannot take part, and why.
    """

    config: DictConfig
    device: torch.device
    model: Model
    solver: Solver
    teacher: Schedule
    comparison_teacher: Schedule
    walker: Solver
    methods: dict[str, Method]
    judges: list[Judge]
    steps: list[int]
    snap: bool
    data: Tensor | None
    data_cond: Cond
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def composed(cls, config: DictConfig, device: torch.device, method: str) -> Experiment:
        """From a config whose main method goes by the name `method`.

        Raises:
            ValueError, OSError: with one paragraph that says what is wrong.
        """
        process = instantiate(config.process) or None  # process=own: the model brings it
        # called with objects here: instantiate would take a dataclass among its arguments for a config
        model: Model = instantiate(config.model, _partial_=True)(process=process, device=device)
        if model.process is None:
            raise ValueError(f"process=own, but {model.name} brings no process; choose edm, vp, ddpm or flow")
        process = model.process
        if config.runner.states not in ("device", "cpu", "disk"):
            raise ValueError(f"runner.states must be 'device', 'cpu' or 'disk', got {config.runner.states!r}")
        if config.runner.states != "device" and device.type != "cpu":
            model, device = replace(model, denoiser=DeviceDenoiser(model.denoiser, device)), torch.device("cpu")
        if config.max_batch == "auto":
            # a plan counts the same evaluations in batches of any size, and makes none
            config.max_batch = _MOST if config.plan else _fitting_batch(model, device)
            for part in (config.method, *config.get("rivals", {}).values()):
                _set_max_batch(part, config.max_batch)
        solver = instantiate(config.solver)
        t_max, t_min = model.time_range
        options = {k: v for k, v in config.teacher.items() if k not in ("family", "steps", "solver", "final", "snap")}
        options["final"] = config.teacher.final or model.final
        options["snap"] = snap = model.snap if config.teacher.snap is None else config.teacher.snap
        many_steps = partial(build_schedule, config.teacher.family, process, t_max=t_max, t_min=t_min, **options)
        teacher, comparison_teacher = (many_steps(steps=n) for n in (config.teacher.steps, config.test.teacher_steps))
        walker = build_solver(config.teacher.solver) if config.teacher.solver is not None else solver
        _name_published(config, model)
        rivals = {name: part for name, part in config.get("rivals", {}).items() if name != method}
        methods = {method: instantiate(config.method), **{name: instantiate(part) for name, part in rivals.items()}}
        if model.own_schedule is not None:
            methods.setdefault("own", GivenSchedules(model.own_schedule, own_start=True))
        if model.published is not None:
            methods.setdefault("published", HandMade("published", model=model.published))
        steps = list(config.steps)
        if config.nfe is not None:
            per_call = call_nfe(model.denoiser)
            steps = sorted({solver.steps(nfe // per_call, process, *teacher.times[[0, -1]]) for nfe in config.nfe})
        data = _clean_samples(config, model, device)
        judges = _judges(config, model, _unseen(config))
        whole = cls(
            config, device, model, solver, teacher, comparison_teacher, walker, methods, judges, steps, snap, *data
        )
        whole._check_figures()
        return whole._admitted()

    def resolved(self, part: str) -> Any:
        """A part of the config as JSON data, None where there is none."""
        found = OmegaConf.select(self.config, part)
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found

    def method_config(self, name: str) -> Any:
        """The config of one of the methods as JSON data."""
        return self.resolved("method" if name == next(iter(self.methods)) else f"rivals.{name}")

    def samples(self, index: range) -> tuple[Tensor, Cond]:
        """Unit noise [b, ...] and condition of the samples `index`."""
        noise = unit_noise(self.config.seed, index, self.model.shape).to(self.device)
        return noise, self.model.cond(index, self.device)

    def problem(self, denoiser: Denoiser, index: range, workers: Workers = ALONE) -> SearchProblem:
        """What the methods are asked, with these samples; trajectories and predictions are kept where `workers` say."""
        noise, cond = self.samples(index)
        scratch = Path(self.config.runner.scratch) if self.config.runner.states == "disk" else None
        cache = Cache(workers, _kept_in(self.config.store.precision), scratch)
        process, data = self.model.process, (self.data, self.data_cond)
        return SearchProblem(denoiser, process, self.solver, noise, self.teacher, cond, *data, self.walker, cache)

    def probe(self) -> Probe:
        """The model's answers to a few fixed inputs, checked before anything is spent on it unless `check_model` says
        otherwise."""
        model = self.model
        x, t, cond = probe_inputs(
            model.process, model.shape, model.time_range, lambda some: model.cond(some, self.device)
        )
        x, size = x.to(self.device), min(len(x), self.config.max_batch)
        if self.config.check_model:
            return probe(model.denoiser, x, t, cond, size)
        return Probe(probed(model.denoiser, x, t, cond, size), call_nfe(model.denoiser) * len(x))

    def interpretation(self, workers: Workers = ALONE) -> Interpretation:
        """How well the model removes noise, which is kept where `workers` say."""
        problem = self.problem(self.model.denoiser, self.searched, workers)
        return check_interpretation(problem, self.config.max_batch)

    def _admitted(self) -> Experiment:
        """With the methods that can take part. A rival that nobody named, and that cannot, is left out."""
        problem = self.problem(self.model.denoiser, self.searched)
        able, left_out = {}, {}
        for name, method in self.methods.items():
            try:
                method.check(problem, self.steps)
            except ValueError as error:
                if name == next(iter(self.methods)) or name not in {*self.config.optional_rivals, "own", "published"}:
                    raise ValueError(f"{name}: {error}") from error
                left_out[name] = str(error)
            else:
                able[name] = method
        return replace(self, methods=able, left_out=left_out)

    def _check_figures(self) -> None:
        """Refuse what the judges cannot measure, and figures that they do not have, before anything is sampled."""
        known: dict[str, bool | None] | None = {}
        for judge in self.judges:
            judge.check(len(self.unseen), self.model.shape)
            known = None if known is None or judge.figures is None else {**known, **judge.figures}
        check_objective(self.config.objective, known, self.steps)
        if known is None:  # a judge of somebody's own, which tells its figures when it has measured them
            return
        comparable = [name for name, higher_is_better in known.items() if higher_is_better is not None]
        for name in self.config.metric.verdicts:
            if name not in comparable:
                raise ValueError(
                    f"metric.verdicts names {name!r}, but the figures of this metric that can be better or worse are "
                    f"{', '.join(comparable)}{suggestion(name, comparable)}"
                )

    @property
    def searched(self) -> range:
        """The samples that searches see."""
        return range(self.config.search.samples)

    @property
    def unseen(self) -> range:
        """The samples of the comparison."""
        return _unseen(self.config)

    @property
    def oracle(self) -> OSS | None:
        """What searches every sample of the comparison for itself, where the main method is OSS and it is wanted."""
        main = next(iter(self.methods.values()))
        return main.alone() if isinstance(main, OSS) and self.config.test.oracle > 1 else None

    @property
    def oracle_samples(self) -> range:
        """The unseen samples that the oracle searches."""
        return self.unseen[: self.config.test.oracle]

    def trial(self, denoiser: Denoiser, workers: Workers = ALONE) -> Comparison:
        """The comparison on unseen samples, which are kept where `workers` say."""
        noise, cond = self.samples(self.unseen)
        return Comparison(
            denoiser,
            self.model.process,
            self.solver,
            self.comparison_teacher,
            noise,
            cond,
            self.judges,
            self.config.seed,
            torch.tensor(self.unseen),
            self.config.max_batch,
            teacher_solver=self.walker,
            cache=Cache(workers),
        )

    def compared(self, results: Mapping[str, SearchResult], steps: int) -> dict[str, tuple[Schedule, SearchResult]]:
        """What is judged with so many steps, by the name of its row: a schedule and the search it is from.

        A schedule whose steps have orders of their own has a further row, its times under the orders that the solver
        gives to every rival, which says how much of the difference is the orders'.
        """
        rows = {}
        for name, result in results.items():
            schedule = result.schedules[steps]
            rows[name] = schedule, result
            if schedule.orders is not None:
                rows[f"{name}_without_orders"] = replace(schedule, orders=None), result
        return rows

    def described(self, command: str) -> dict[str, str]:
        """What the run was, by name, for its report."""
        config, model = self.config, self.model
        facts = {
            "model": model.name,
            "process": repr(model.process),
            **model.facts,
            "solver": self.solver.name,
            "teacher": self._walk(self.teacher),
            "search samples": f"numbers 0 to {config.search.samples - 1} of seed {config.seed}",
            "test samples": f"numbers {self.unseen[0]} to {self.unseen[-1]} of that seed",
            "command": command,
            "device": str(self.device),
            "max_batch": str(config.max_batch),
            "versions": f"optsteps {optsteps.__version__}, torch {torch.__version__}, lightning {L.__version__}, "
            f"Python {platform.python_version()}",
            "commit": code_version(),
        }
        if self.comparison_teacher.steps != self.teacher.steps:
            facts["teacher of the comparison"] = self._walk(self.comparison_teacher)
        for judge in self.judges:
            if isinstance(judge, TeacherJudge) and judge.data_range is not None:
                facts["PSNR data range"] = f"{judge.data_range:g}"
        if self.left_out:
            facts["left out"] = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
        if model.distribution is not None:
            value = entropy(model.distribution, 100_000, torch.Generator().manual_seed(0)).value
            facts["entropy of the true distribution"] = f"{value:.3f} nats"
        return facts

    def _walk(self, teacher: Schedule) -> str:
        walk = f"{teacher.steps} steps of {self.walker.name}"
        return f"{self.config.teacher.family}, {walk}, t {teacher.times[0]:g} to {teacher.times[-1]:g}"


def _kept_in(precision: str | None) -> torch.dtype | None:
    if precision not in (None, "float32", "float16", "bfloat16"):
        raise ValueError(f"store.precision must be null, float32, float16 or bfloat16, got {precision!r}")
    return None if precision is None else getattr(torch, precision)


def _unseen(config: DictConfig) -> range:
    return range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + config.test.samples)


_MOST = 256  # samples in a batch whose size is "auto"


def _fitting_batch(model: Model, device: torch.device) -> int:
    """As many samples as the network takes at once on this machine."""
    x = unit_noise(0, range(_MOST), model.shape).to(device)
    t = torch.full((_MOST,), model.time_range[0], dtype=torch.float64)
    cond = model.cond(range(_MOST), device)
    return fitting_batch(model.denoiser, model.process.prior_std(t[0]).to(x) * x, t, cond)


def _name_published(config: DictConfig, model: Model) -> None:
    """The model's own kind, wherever the family `published` is asked for without saying whose constants.

    Raises:
        ValueError: nothing is published for models of its kind.
    """

    def complete(part: Any) -> None:
        if not isinstance(part, DictConfig):
            return
        if part.get("family") == "published" and part.get("model") is None:
            if model.published is None:
                raise ValueError(
                    f"the family 'published' has constants for {', '.join(PUBLISHED_LEVELS)}, and {model.name} is of "
                    "none of these kinds; name the ones to use (method.model=sd15), or leave the method out"
                )
            part.model = model.published
        for key in part:
            complete(part.get(key))

    complete(config.method)
    complete(config.get("rivals"))


def _set_max_batch(method: DictConfig, size: int) -> None:
    """In place of "auto", which a method, and one inside it, may have copied already."""
    for key, part in method.items():
        if key == "max_batch" and part == "auto":
            method[key] = size
        elif isinstance(part, DictConfig):
            _set_max_batch(part, size)


def launched(runner: DictConfig, local_rank: int = 0) -> torch.device:
    """The device of this process, number `local_rank` on its node, which Lightning chooses; and its threads.

    Raises:
        ValueError: there is no such device.
    """
    if runner.threads is not None:
        torch.set_num_threads(runner.threads)
    on_gpu = runner.accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    devices = [local_rank % torch.cuda.device_count()] if on_gpu else 1
    try:
        # the environment of a cluster is for `ranks` to read: to Lightning each process is alone
        fabric = L.Fabric(accelerator=runner.accelerator, devices=devices, plugins=[LightningEnvironment()])
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ValueError(
            f"this machine has no device for runner.accelerator={runner.accelerator!r}; choose runner=cpu or auto"
        ) from error
    fabric.launch()
    return fabric.device


# what of a model, or of its samples, a judge may ask for by the name of its argument
_NEEDED = {
    "distribution": "whose density is known",
    "decode": "whose samples are decoded into images",
    "prompts": "that takes prompts",
    "metadata": "whose prompts, in GenEval's form, say what images are held to",
}


def _judges(config: DictConfig, model: Model, unseen: range) -> list[Judge]:
    had = {
        "distribution": model.distribution,
        "decode": model.decode,
        "prompts": model.prompts and model.prompts(unseen),
        "metadata": model.metadata and model.metadata(unseen),
    }

    def complete(judge: Any) -> Any:
        """A judge with what it needs of the model, and so the judge that it hands its figures on from."""
        if not isinstance(judge, partial):
            return judge
        needed = [name for name in _NEEDED if name in inspect.signature(judge.func).parameters]
        for name in needed:
            if had[name] is None:
                raise ValueError(f"{judge.func.__name__} needs a model {_NEEDED[name]}; {model.name} has none")
        inner = {name: complete(value) for name, value in judge.keywords.items()}
        return judge.func(*judge.args, **{**inner, **{name: had[name] for name in needed}})

    return [complete(instantiate(judge)) for judge in config.metric.judges]


def _clean_samples(config: DictConfig, model: Model, device: torch.device) -> tuple[Tensor | None, Cond]:
    """`search.data` clean samples with their condition; none where neither a dataset nor a number is asked for."""
    chosen = config.get("dataset")
    count = config.search.data or (1024 if chosen else 0)
    if count == 0:
        return None, None
    generator = sample_generator(config.seed, 0, stream=3)
    if chosen:
        images: ImageSet = instantiate(chosen)
        shape = tuple(images.images.shape[1:])
        if shape != model.shape:
            raise ValueError(
                f"{images.name} has images of shape {shape}, {model.name} makes {model.shape}; choose the dataset that "
                "the model was trained on"
            )
        if count > len(images):
            raise ValueError(f"search.data={count}, but {images.name} has {len(images)} images")
        some = torch.randperm(len(images), generator=generator)[:count]  # files may be sorted by class
        labels = images.labels[some].to(device) if model.num_classes else None
        return to_unit_range(images.images[some]).to(device), labels
    if model.distribution is None:
        raise ValueError(f"search.data={count} needs data: choose a dataset (dataset=mnist), or leave it null")
    return model.distribution.sample(count, generator).to(device), None


def code_version() -> str:
    """The commit the code was run from, where it lies in a git checkout and there is git to be asked; whether files
    were changed or added since."""
    try:
        commit = _git("describe", "--always", "--dirty", "--abbrev=12")
        added = _git("ls-files", "--others", "--exclude-standard")
    except OSError as error:
        return f"unknown: git cannot be run ({error.strerror})"
    if not commit:
        return "not a checkout"
    return f"{commit}-untracked" if added else commit


def _git(*arguments: str) -> str:
    """What git says of this package's folder; nothing where it is no checkout."""
    folder = Path(optsteps.__file__).parent
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
