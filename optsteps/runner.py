"""One experiment: search with every method, compare on unseen samples, report."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch import Tensor

import optsteps
from optsteps.comparison import Row, Trial, VerdictRow, verdicts
from optsteps.conditions import Cond
from optsteps.datasets import ImageSet, to_unit_range
from optsteps.denoisers import Denoiser
from optsteps.methods import OSS, Method, SearchProblem, SearchResult
from optsteps.metrics import entropy
from optsteps.metrics.judges import Judge, TeacherJudge
from optsteps.models import Model
from optsteps.models.checkpoint import resolve_weights
from optsteps.noise import sample_generator, unit_noise
from optsteps.reporting.run_folder import write_report
from optsteps.reporting.tables import terminal_table, verdict_sentences
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver
from optsteps.store import ShardStore, digest, file_digest
from optsteps.workers import ALONE, StoredWorkers, Workers

# samples from this number on are for judging: no search sees them
FIRST_TEST_SAMPLE = 1_000_000


class Counter:
    """Shows progress by the network evaluations that pass through `watch`."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} evaluations"),
            TimeElapsedColumn(),
            console=console,
        )
        self.current: Any = None

    @contextmanager
    def stage(self, name: str, evaluations: float | None = None) -> Iterator[None]:
        """Evaluations inside count for this line; a total is shown where it is known."""
        self.current = self.progress.add_task(name, total=evaluations)
        yield
        done = self.progress.tasks[self.current].completed
        self.progress.update(self.current, total=done, completed=done)
        self.current = None

    def watch(self, denoiser: Denoiser) -> Denoiser:
        """`denoiser`, reporting here."""
        nfe = getattr(denoiser, "nfe", 1)

        def watched(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            out = denoiser(x, t, cond)
            if self.current is not None:
                self.progress.advance(self.current, nfe * len(x))
            return out

        watched.nfe = nfe  # type: ignore[attr-defined]
        return watched


def run(config: DictConfig, folder: Path, method_name: str, command: str) -> list[Row]:
    """Run the experiment that `config` describes and leave its report in `folder`.

    Raises:
        ValueError, OSError: with one paragraph that says what is wrong.
    """
    fabric: L.Fabric = instantiate(config.runner)
    fabric.launch()
    logger: Logger = instantiate(config.logger)
    logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    process = instantiate(config.process)
    # called with objects here: instantiate would take a dataclass among its arguments for a config
    model: Model = instantiate(config.model, _partial_=True)(process=process, device=fabric.device)
    solver = instantiate(config.solver)
    t_max, t_min = model.time_range
    options = {k: v for k, v in config.teacher.items() if k not in ("family", "steps", "solver")}
    many_steps = partial(build_schedule, config.teacher.family, process, t_max=t_max, t_min=t_min, **options)
    teacher, judged_by = (many_steps(steps=n) for n in (config.teacher.steps, config.test.teacher_steps))
    walker = build_solver(config.teacher.solver) if config.teacher.solver is not None else solver
    methods: dict[str, Method] = {method_name: instantiate(config.method)}
    for name, rival in config.get("rivals", {}).items():
        if name != method_name:
            methods[name] = instantiate(rival)
    judges = _judges(config, model)
    steps = list(config.steps)
    if config.nfe is not None:
        per_call = getattr(model.denoiser, "nfe", 1)
        steps = sorted({solver.steps(nfe // per_call, process, *teacher.times[[0, -1]]) for nfe in config.nfe})

    data, data_cond = _clean_samples(config, model, fabric.device)

    workers = _workers(config, fabric)
    counter = Counter(Console(stderr=True))
    denoiser = counter.watch(model.denoiser)

    def samples(index: range) -> tuple[Tensor, Cond]:
        return unit_noise(config.seed, index, model.shape).to(fabric.device), model.cond(index, fabric.device)

    def stated(index: range) -> SearchProblem:
        noise, cond = samples(index)
        return SearchProblem(denoiser, process, solver, noise, teacher, cond, data, data_cond, walker)

    unseen = range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + config.test.samples)
    noise, cond = samples(unseen)
    trial = Trial(
        denoiser,
        process,
        solver,
        judged_by,
        noise,
        cond,
        judges,
        config.seed,
        torch.tensor(unseen),
        config.max_batch,
        teacher_solver=walker,
        workers=workers,
    )
    rows: list[Row] = []
    with counter.progress:
        problem = stated(range(config.search.samples))
        parts = {part: _resolved(config, part) for part in ("solver", "teacher", "search", "dataset")}
        searching = workers.on("search", steps=steps, **parts)
        results: dict[str, SearchResult] = {}
        for name, method in methods.items():
            with counter.stage(f"search {name}"):
                asked = _resolved(config, "method" if name == method_name else f"rivals.{name}")
                results[name] = method.search(problem, steps, searching.on("method", config=asked))
        with counter.stage("teacher", len(noise) * walker.nfe(judged_by) * getattr(denoiser, "nfe", 1)):
            rows.append(trial.judge_teacher())
        with counter.stage("compare"):
            for n in steps:
                for name, result in results.items():
                    rows.append(trial.judge(name, result.schedules[n], result.nfe, result.seconds))
        main = methods[method_name]
        if isinstance(main, OSS) and results[method_name].per_sample is not None and config.test.oracle > 1:
            with counter.stage("oracle"):
                own = stated(unseen[: config.test.oracle])
                found = main.search(own, steps, searching.on("oracle", config=_resolved(config, "method")))
                rows += _oracle(main, method_name, trial, own, found)

    said = [v for figure in config.metric.verdicts for v in verdicts(rows, method_name, figure)]
    facts = _facts(config, model, solver.name, [teacher, judged_by], judges, command, fabric.device)
    title = f"{model.name}: {method_name} with {solver.name}"
    paths = write_report(folder, title, rows, said, facts, method_name, results)
    console = Console()
    console.print(terminal_table(rows))
    for sentence in verdict_sentences(said):
        console.print(sentence)
    console.print(f"report and schedules: {folder}")
    _log(logger, rows, said, paths)
    return rows


def _judges(config: DictConfig, model: Model) -> list[Judge]:
    judges = []
    for judge in config.metric.judges:
        built = instantiate(judge)
        if isinstance(built, partial):  # a judge that needs the model's true distribution
            if model.distribution is None:
                raise ValueError(
                    f"metric={built.func.__name__} needs a model whose density is known; {model.name} has none"
                )
            built = built(distribution=model.distribution)
        judges.append(built)
    return judges


def _workers(config: DictConfig, fabric: L.Fabric) -> Workers:
    """Those of `config.store`, for shards that the model and the code determine, or this process alone."""
    if config.store.folder is None:
        return ALONE
    limit = None if config.store.limit_gb is None else int(config.store.limit_gb * 1e9)
    model = _resolved(config, "model")
    if isinstance(model.get("weights"), str):  # a file, not those of a mixture
        model["weights"] = file_digest(resolve_weights(model["weights"]))
    facts = {
        "code": _code(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": fabric.device.type,
        "model": model,
        "process": _resolved(config, "process"),
        "seed": config.seed,
    }
    store = ShardStore(Path(config.store.folder), limit)
    return StoredWorkers(store, facts, fabric.global_rank, fabric.world_size)


def _resolved(config: DictConfig, part: str) -> Any:
    """A part of the config as JSON data, None where there is none."""
    found = OmegaConf.select(config, part)
    return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found


def _code() -> str:
    """Digest of this package's source: what another version of it computed is not taken for this one's."""
    root = Path(optsteps.__file__).parent
    return digest([[str(file.relative_to(root)), file_digest(file)] for file in sorted(root.rglob("*.py"))])


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


def _oracle(method: OSS, name: str, trial: Trial, problem: SearchProblem, found: SearchResult) -> list[Row]:
    """OSS per sample on the trial's own samples: a bound, marked as such."""
    assert found.per_sample is not None
    rows = []
    for n, paths in found.per_sample.items():
        orders = found.per_sample_orders[n] if found.per_sample_orders else [None] * len(paths)
        own = [method.path_schedule(problem, *pair) for pair in zip(paths, orders, strict=True)]
        rows.append(trial.judge_oracle(f"{name}_per_sample", own))
    return rows


def _facts(
    config: DictConfig,
    model: Model,
    solver: str,
    teachers: Sequence[Schedule],
    judges: Sequence[Judge],
    command: str,
    device: torch.device,
) -> dict[str, str]:
    teacher, judged_by = teachers
    facts = {
        "model": model.name,
        "process": repr(model.process),
        "solver": solver,
        "teacher": _described(config, teacher, solver),
        "search samples": f"numbers 0 to {config.search.samples - 1} of seed {config.seed}",
        "test samples": f"numbers {FIRST_TEST_SAMPLE} to {FIRST_TEST_SAMPLE + config.test.samples - 1} of that seed",
        "command": command,
        "device": str(device),
        "versions": f"optsteps {optsteps.__version__}, torch {torch.__version__}, lightning {L.__version__}, "
        f"Python {platform.python_version()}",
        "commit": _commit(),
    }
    if judged_by.steps != teacher.steps:
        facts["teacher of the comparison"] = _described(config, judged_by, solver)
    for judge in judges:
        if isinstance(judge, TeacherJudge) and judge.data_range is not None:
            facts["PSNR data range"] = f"{judge.data_range:g}"
    if model.distribution is not None:
        value = entropy(model.distribution, 100_000, torch.Generator().manual_seed(0)).value
        facts["entropy of the true distribution"] = f"{value:.3f} nats"
    return facts


def _described(config: DictConfig, teacher: Schedule, solver: str) -> str:
    walk = f"{teacher.steps} steps of {config.teacher.solver or solver}"
    return f"{config.teacher.family}, {walk}, t {teacher.times[0]:g} to {teacher.times[-1]:g}"


def _commit() -> str:
    """The commit the code was run from, where it lies in a git checkout."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(optsteps.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "not a checkout"


def _log(logger: Logger, rows: Sequence[Row], found: Sequence[VerdictRow], paths: Sequence[Path]) -> None:
    """Figures to every logger; tables and pictures to W&B."""
    for row in rows:
        figures = {f"{row.method}/{name}": figure.interval.value for name, figure in row.figures.items()}
        logger.log_metrics({**figures, f"{row.method}/nfe": row.nfe}, step=row.steps)
    if isinstance(logger, WandbLogger):
        names = sorted({name for row in rows for name in row.figures})
        columns = ["method", "steps", "nfe", "oracle", *names]
        table = [
            [
                r.method,
                r.steps,
                r.nfe,
                r.oracle,
                *(r.figures[n].interval.value if n in r.figures else None for n in names),
            ]
            for r in rows
        ]
        logger.log_table("comparison", columns=columns, data=table)
        said = [
            [v.rival, v.nfe, v.figure, v.difference.value, v.difference.low, v.difference.high, v.verdict]
            for v in found
        ]
        logger.log_table(
            "verdicts", columns=["rival", "nfe", "figure", "difference", "low", "high", "verdict"], data=said
        )
        for path in paths:
            if path.suffix == ".png":
                logger.log_image(path.stem, images=[str(path)])
    logger.finalize("success")
