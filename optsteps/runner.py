"""One experiment: search with every method, compare on unseen samples, report."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import optsteps
from optsteps.comparison import Row, Trial, verdicts
from optsteps.denoisers import Denoiser
from optsteps.experiment import Experiment, launched
from optsteps.export import run_snippets
from optsteps.files import write_atomically
from optsteps.methods import OSS, SearchProblem, SearchResult
from optsteps.models.checkpoint import resolve_weights
from optsteps.plan import plan_table, planned
from optsteps.progress import Progress
from optsteps.ranks import Place, further_ranks, lost, place
from optsteps.reporting.loggers import log_results
from optsteps.reporting.run_folder import write_report
from optsteps.reporting.tables import terminal_table, verdict_sentences
from optsteps.store import ShardStore, digest, file_digest
from optsteps.workers import ALONE, StoredWorkers, Workers

log = logging.getLogger(__name__)
USAGE = "use_in_diffusers.py"


def run(config: DictConfig, folder: Path, method_name: str, command: str) -> list[Row]:
    """Run the experiment that `config` describes and leave its report in `folder`.

    Returns:
        The rows of its table; none for a rank other than 0, which only computes, nor where only a plan is asked for.

    Raises:
        ValueError, OSError: with one paragraph that says what is wrong.
    """
    begun = time.perf_counter()
    here = place(config.runner)
    if here.world_size > 1 and config.store.folder is None:
        raise ValueError("several processes meet in the store: give a store.folder, or runner.devices=1")
    if config.plan:
        if here.rank == 0:
            Console().print(plan_table(planned(Experiment.composed(config, launched(config.runner), method_name))))
        return []
    if here.rank > 0:  # of another node, or a task of SLURM's: rank 0 reports
        with further_ranks(config, method_name, folder, here):
            compute(config, method_name, here)
        return []
    device = launched(config.runner)
    logger: Logger = instantiate(config.logger)
    try:
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        experiment = Experiment.composed(config, device, method_name)
        store = _store(experiment, device, here)
        with further_ranks(config, method_name, folder, here) as ranks, _progress(config, device, here) as progress:
            for name, reason in experiment.left_out.items():
                log.warning("%s is left out of the comparison: %s", name, reason)
            denoiser = progress.watch(experiment.model.denoiser)
            trial = experiment.trial(denoiser, store)
            rows = [_teacher(experiment, trial, progress)]
            results = _searched(experiment, denoiser, store, progress)
            rows += _compared(experiment, trial, denoiser, store, progress, results)
            failed = lost(ranks, folder, here)
        said = [v for figure in config.metric.verdicts for v in verdicts(rows, method_name, figure)]
        title = f"{experiment.model.name}: {method_name} with {experiment.solver.name}"
        paths = write_report(
            folder, title, rows, said, experiment.described(command), method_name, results, experiment.model.decode
        )
        if experiment.model.in_diffusers:
            paths.append(_usage(folder, results[method_name]))
    except BaseException:
        logger.finalize("failed")
        raise
    console = Console()
    console.print(terminal_table(rows))
    for sentence in failed:
        console.print(sentence, style="red")
    for sentence in verdict_sentences(said):
        console.print(sentence)
    console.print(f"report and schedules: {folder}")
    if experiment.model.in_diffusers:
        console.print(f"how to sample with them: {folder / USAGE}")
    log_results(logger, rows, said, paths, time.perf_counter() - begun)
    return rows


def _usage(folder: Path, found: SearchResult) -> Path:
    """Python to paste, for the pipeline that the schedules were searched for."""
    write_atomically(folder / USAGE, run_snippets(found.schedules, folder=folder).encode())
    return folder / USAGE


def compute(config: DictConfig, method_name: str, here: Place) -> None:
    """A rank's share of the shards of a run; no figure, no report."""
    device = launched(config.runner, here.local_rank)
    experiment = Experiment.composed(config, device, method_name)
    store = _store(experiment, device, here)
    with _progress(config, device, here) as progress:
        denoiser = progress.watch(experiment.model.denoiser)
        trial = experiment.trial(denoiser, store)
        with progress.stage("teacher"):
            trial.teacher_samples()
        results = _searched(experiment, denoiser, store, progress)
        with progress.stage("compare"):
            for n in experiment.steps:
                for found in results.values():
                    trial.samples(found.schedules[n])
                    trial.path_error(found.schedules[n])


def _searched(
    experiment: Experiment, denoiser: Denoiser, store: Workers, progress: Progress
) -> dict[str, SearchResult]:
    """What every method finds."""
    problem, results = experiment.problem(denoiser, experiment.searched, store), {}
    for name, method in experiment.methods.items():
        with progress.stage(f"search {name}"):
            workers = _searching(experiment, store, name, progress)
            results[name] = method.search(problem, experiment.steps, workers)
    return results


def _searching(experiment: Experiment, store: Workers, name: str, progress: Progress) -> Workers:
    """The workers for a search, whose shards its config and that of the problem determine."""
    asked = ("seed", "solver", "teacher", "search", "dataset", "store.precision")
    parts = {part.replace(".", "_"): with_contents(experiment.resolved(part)) for part in asked}
    method = with_contents(experiment.method_config(name))
    return store.telling(progress.shard).on("search", steps=experiment.steps, method=method, **parts)


def _teacher(experiment: Experiment, trial: Trial, progress: Progress) -> Row:
    """The teacher on unseen samples, before the searches: judges that cannot judge it say so before these are paid."""
    evaluations = len(trial.noise) * experiment.walker.nfe(experiment.judged_by) * getattr(trial.denoiser, "nfe", 1)
    with progress.stage("teacher", evaluations):
        return trial.judge_teacher()


def _compared(
    experiment: Experiment,
    trial: Trial,
    denoiser: Denoiser,
    store: Workers,
    progress: Progress,
    results: Mapping[str, SearchResult],
) -> list[Row]:
    """Every schedule judged on unseen samples, and the oracle of the main method."""
    rows = []
    with progress.stage("compare"):
        for n in experiment.steps:
            for name, found in results.items():
                rows.append(trial.judge(name, found.schedules[n], found.nfe, found.seconds))
                progress.advance(len(rows) / (len(experiment.steps) * len(results)))
    if experiment.oracle is not None:
        name = next(iter(experiment.methods))
        with progress.stage("oracle"):
            own = experiment.problem(denoiser, experiment.oracle_samples, store)
            searching = _searching(experiment, store, name, progress).on("oracle", samples=len(own.noise))
            found = experiment.oracle.search(own, experiment.steps, searching)
            rows += _oracle(experiment.oracle, name, trial, own, found)
    return rows


def _store(experiment: Experiment, device: torch.device, here: Place) -> Workers:
    """Those of `config.store`, for what the model, its device and the code determine, or this process alone."""
    config = experiment.config
    if config.store.folder is None:
        return ALONE
    limit = None if config.store.limit_gb is None else int(config.store.limit_gb * 1e9)
    facts = {
        "code": _code(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": _called(device),
        "model": with_contents(experiment.resolved("model")),
        "process": with_contents(experiment.resolved("process")),
    }
    return StoredWorkers(ShardStore(Path(config.store.folder), limit), facts, here.rank, here.world_size)


def _progress(config: DictConfig, device: torch.device, here: Place) -> Progress:
    """The ranks of a run leave their counts beside its store."""
    folder = None
    if here.world_size > 1:
        run = digest(OmegaConf.to_container(config, resolve=True))
        folder = Path(config.store.folder) / "progress" / run
        if here.rank == 0:
            for old in folder.glob("*.json"):
                old.unlink()
    return Progress(_called(device), here.rank, folder)


def _called(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def with_contents(part: Any) -> Any:
    """A part of a config (JSON data) with the digest of the content for the name of a file, or of a folder that holds a
    saved pipeline or network, and beside the name of a class or function from elsewhere that of its module's source.
    """
    if isinstance(part, dict):
        found = {key: with_contents(value) for key, value in part.items()}
        target = part.get("_target_", "")
        if target and not target.startswith("optsteps."):
            source = sys.modules[get_object(target).__module__].__file__
            found["_source_"] = source and file_digest(source)
        return found
    if isinstance(part, list):
        return [with_contents(value) for value in part]
    if not isinstance(part, str) or len(part) > 240:  # a prompt; no name is as long
        return part
    if part.startswith("shipped:") or Path(part).is_file():
        return file_digest(resolve_weights(part) if part.startswith("shipped:") else part)
    if any((Path(part) / file).is_file() for file in ("model_index.json", "config.json")):
        return _folder_digest(Path(part))
    return part


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest([[str(file.relative_to(folder)), file_digest(file)] for file in files])


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
