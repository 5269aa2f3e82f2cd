"""One experiment: search with every method, compare on unseen samples, report."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch import Tensor

import optsteps
from optsteps.comparison import Row, Trial, verdicts
from optsteps.conditions import Cond
from optsteps.denoisers import Denoiser
from optsteps.experiment import Experiment, launched
from optsteps.methods import OSS, SearchProblem, SearchResult
from optsteps.models.checkpoint import resolve_weights
from optsteps.ranks import further_ranks, lost
from optsteps.reporting.loggers import log_results
from optsteps.reporting.run_folder import write_report
from optsteps.reporting.tables import terminal_table, verdict_sentences
from optsteps.store import ShardStore, digest, file_digest
from optsteps.workers import ALONE, StoredWorkers, Workers


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
    if config.runner.processes > 1 and config.store.folder is None:
        raise ValueError("several processes meet in the store: give a store.folder, or runner.processes=1")
    started = time.perf_counter()
    fabric = launched(config)
    logger: Logger = instantiate(config.logger)
    logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    experiment = Experiment.composed(config, fabric.device, method_name)
    workers = _workers(experiment, rank=0)
    counter = Counter(Console(stderr=True))
    denoiser = counter.watch(experiment.model.denoiser)
    with further_ranks(config, method_name, folder) as ranks, counter.progress:
        results = _searched(experiment, denoiser, workers, counter)
        rows = _compared(experiment, denoiser, workers, counter, results)
        failed = lost(ranks, folder)

    said = [v for figure in config.metric.verdicts for v in verdicts(rows, method_name, figure)]
    title = f"{experiment.model.name}: {method_name} with {experiment.solver.name}"
    paths = write_report(folder, title, rows, said, experiment.described(command), method_name, results)
    console = Console()
    console.print(terminal_table(rows))
    for sentence in failed:
        console.print(sentence, style="red")
    for sentence in verdict_sentences(said):
        console.print(sentence)
    console.print(f"report and schedules: {folder}")
    log_results(logger, rows, said, paths, time.perf_counter() - started)
    return rows


def compute(experiment: Experiment, rank: int) -> None:
    """The shards of a run, of which `rank` computes its share; no figure, no report."""
    workers, counter = _workers(experiment, rank), Counter(Console(quiet=True))
    results = _searched(experiment, experiment.model.denoiser, workers, counter)
    trial = experiment.trial(experiment.model.denoiser, workers)
    trial.teacher_samples()
    for n in experiment.steps:
        for found in results.values():
            trial.samples(found.schedules[n])
            trial.path_error(found.schedules[n])


def _searched(
    experiment: Experiment, denoiser: Denoiser, workers: Workers, counter: Counter
) -> dict[str, SearchResult]:
    """What every method finds."""
    problem, results = experiment.problem(denoiser, experiment.searched), {}
    for name, method in experiment.methods.items():
        with counter.stage(f"search {name}"):
            results[name] = method.search(problem, experiment.steps, _searching(experiment, workers, name))
    return results


def _searching(experiment: Experiment, workers: Workers, name: str) -> Workers:
    """The workers for a search, whose shards its config and that of the problem determine."""
    parts = {part: with_contents(experiment.resolved(part)) for part in ("solver", "teacher", "search", "dataset")}
    method = with_contents(experiment.method_config(name))
    return workers.on("search", steps=experiment.steps, method=method, **parts)


def _compared(
    experiment: Experiment,
    denoiser: Denoiser,
    workers: Workers,
    counter: Counter,
    results: Mapping[str, SearchResult],
) -> list[Row]:
    """All of it judged on unseen samples: the teacher, every schedule, and the oracle of the main method."""
    trial = experiment.trial(denoiser, workers)
    evaluations = len(trial.noise) * experiment.walker.nfe(experiment.judged_by) * getattr(denoiser, "nfe", 1)
    with counter.stage("teacher", evaluations):
        rows = [trial.judge_teacher()]
    with counter.stage("compare"):
        for n in experiment.steps:
            for name, found in results.items():
                rows.append(trial.judge(name, found.schedules[n], found.nfe, found.seconds))
    name, method = next(iter(experiment.methods.items()))
    count = experiment.config.test.oracle
    if isinstance(method, OSS) and results[name].per_sample is not None and count > 1:
        with counter.stage("oracle"):
            own = experiment.problem(denoiser, experiment.unseen[:count])
            searching = _searching(experiment, workers, name).on("oracle", samples=count)
            rows += _oracle(method, name, trial, own, method.search(own, experiment.steps, searching))
    return rows


def _workers(experiment: Experiment, rank: int) -> Workers:
    """Those of `config.store`, for shards that the model and the code determine, or this process alone."""
    config = experiment.config
    if config.store.folder is None:
        return ALONE
    limit = None if config.store.limit_gb is None else int(config.store.limit_gb * 1e9)
    facts = {
        "code": _code(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": experiment.device.type,
        "model": with_contents(experiment.resolved("model")),
        "process": with_contents(experiment.resolved("process")),
        "seed": config.seed,
    }
    store = ShardStore(Path(config.store.folder), limit)
    return StoredWorkers(store, facts, rank, config.runner.processes)


def with_contents(part: Any) -> Any:
    """A part of a config (JSON data) with the digest of a file's content for its name, and beside the name of a class
    or function from elsewhere that of its module's source."""
    if isinstance(part, dict):
        found = {key: with_contents(value) for key, value in part.items()}
        target = part.get("_target_", "")
        if target and not target.startswith("optsteps."):
            source = sys.modules[get_object(target).__module__].__file__
            found["_source_"] = source and file_digest(source)
        return found
    if isinstance(part, list):
        return [with_contents(value) for value in part]
    if isinstance(part, str) and len(part) < 256 and (part.startswith("shipped:") or Path(part).is_file()):
        return file_digest(resolve_weights(part) if part.startswith("shipped:") else part)
    return part


def _code() -> str:
    """Digest of this package's source: what another version of it computed is not taken for this one's."""
    root = Path(optsteps.__file__).parent
    return digest([[str(file.relative_to(root)), file_digest(file)] for file in sorted(root.rglob("*.py"))])


def _oracle(method: OSS, name: str, trial: Trial, problem: SearchProblem, found: SearchResult) -> list[Row]:
    """OSS per sample on the trial's own samples: a bound, marked as such."""
    assert found.per_sample is not None
    rows = []
    for n, paths in found.per_sample.items():
        orders = found.per_sample_orders[n] if found.per_sample_orders else [None] * len(paths)
        own = [method.path_schedule(problem, *pair) for pair in zip(paths, orders, strict=True)]
        rows.append(trial.judge_oracle(f"{name}_per_sample", own))
    return rows
