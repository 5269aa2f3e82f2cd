"""One experiment: search with every method, compare on unseen samples, report."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from optsteps.comparison import Comparison, Row, verdicts
from optsteps.denoisers import Denoiser, call_nfe
from optsteps.export import run_snippets
from optsteps.loggers.results import log_results
from optsteps.methods import OSS, GivenSchedules, SearchProblem, SearchResult
from optsteps.reporting.run.folder import USAGE, write_report
from optsteps.reporting.run.summary import run_summary, terminal_text
from optsteps.running.experiment import Experiment, launched
from optsteps.running.keys import Facts, Keys, import_targets, keys_of, problem_facts
from optsteps.running.plan import plan_table, planned
from optsteps.running.probe import Probe
from optsteps.running.progress import Progress
from optsteps.running.ranks import Rank, further_ranks, lost, place
from optsteps.storage.files import write_atomically
from optsteps.storage.sources import remember_sources
from optsteps.storage.store import ShardStore, digest
from optsteps.storage.workers import ALONE, StoredWorkers, Workers
from optsteps.text.terminal import say

log = logging.getLogger(__name__)


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
            stages = planned(Experiment.composed(config, launched(config.runner), method_name))
            say(terminal_text(lambda console: console.print(plan_table(stages))))
        return []
    if here.rank > 0:  # of another node, or a task of SLURM's: rank 0 reports
        with further_ranks(config, method_name, folder, here):
            compute(config, method_name, here)
        return []
    device = launched(config.runner)
    logger: Logger = instantiate(config.logger)
    try:
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        experiment = _composed(config, device, method_name)
        facts = experiment.described(command)  # before anything is spent: it may fail
        probe = experiment.probe()
        keys = keys_of(experiment, probe, _called(device))
        store = _store(config, keys, here)
        with further_ranks(config, method_name, folder, here) as ranks, _progress(config, device, here) as progress:
            for name, reason in experiment.left_out.items():
                log.warning("%s is left out of the comparison: %s", name, reason)
            checked = _checked(experiment, probe, store, progress)
            denoiser = progress.watch(experiment.model.denoiser)
            trial = experiment.trial(denoiser, store)
            rows = [_teacher(experiment, trial, progress)]
            results = _searched(experiment, denoiser, store, keys, progress)
            rows += _compared(experiment, trial, denoiser, store, keys, progress, results)
            failed = lost(ranks, folder, here)
        said = [v for figure in config.metric.verdicts for v in verdicts(rows, method_name, figure)]
        title = f"{experiment.model.name}: {method_name} with {experiment.solver.name}"
        usage = [_usage(folder, results[method_name])] if experiment.model.in_diffusers else []
        facts = {**facts, **keys.described, **checked}
        paths = write_report(folder, title, rows, said, facts, method_name, results, experiment.model.decode)
    except SystemExit as error:  # of a model, a data set or a judge: with status 0 it would pass for a result
        logger.finalize("failed")
        raise ValueError(f"something in this run called sys.exit({error.code!r}) before there was a result") from error
    except BaseException:
        logger.finalize("failed")
        raise
    log_results(logger, rows, said, [*usage, *paths], time.perf_counter() - begun)
    places = [("report and schedules", folder), *(("how to sample with them", path) for path in usage)]
    say(run_summary(rows, said, failed, places))
    return rows


def _usage(folder: Path, found: SearchResult) -> Path:
    """Python to paste, for the pipeline that the schedules were searched for."""
    write_atomically(folder / USAGE, run_snippets(found.schedules, folder=folder).encode())
    return folder / USAGE


def compute(config: DictConfig, method_name: str, here: Rank) -> None:
    """A rank's share of the shards of a run; no figure, no report."""
    device = launched(config.runner, here.local_rank)
    experiment = _composed(config, device, method_name)
    probe = experiment.probe()
    keys = keys_of(experiment, probe, _called(device))
    store = _store(config, keys, here)
    with _progress(config, device, here) as progress:
        _checked(experiment, probe, store, progress)
        denoiser = progress.watch(experiment.model.denoiser)
        trial = experiment.trial(denoiser, store)
        with progress.stage("teacher"):
            trial.teacher_samples()
        results = _searched(experiment, denoiser, store, keys, progress)
        with progress.stage("compare"):
            for n in experiment.steps:
                for schedule, found in experiment.compared(results, n).values():
                    there = trial.from_start_of(schedule) if found.own_start else trial
                    there.teacher_samples()
                    there.samples(schedule)
                    there.path_error(schedule)


def _checked(experiment: Experiment, probe: Probe, store: Workers, progress: Progress) -> dict[str, str]:
    """What the checks of the model say, by name, for the report; they refuse one that is none."""
    if not experiment.config.check_model:
        return {"checks of the model": "left out (check_model=false)"}
    with progress.stage("check the model"):
        interpretation = experiment.interpretation(store)
    facts = {
        "checks of the model": f"{probe.evaluations} evaluations to see that it answers the same twice and for every "
        f"sample by itself, {interpretation.evaluations} to see that it removes noise"
    }
    if interpretation.remark is not None:
        warnings.warn(interpretation.remark, stacklevel=2)
        facts["remark"] = interpretation.remark
    return facts


def _searched(
    experiment: Experiment, denoiser: Denoiser, store: Workers, keys: Keys, progress: Progress
) -> dict[str, SearchResult]:
    """What every method finds."""
    problem, results = experiment.problem(denoiser, experiment.searched, store), {}
    for name, method in experiment.methods.items():
        with progress.stage(f"search {name}"):
            workers = _searching(experiment, store, keys.problem, keys.methods[name], progress)
            found = method.search(problem, experiment.steps, workers)
            if experiment.snap and not isinstance(method, GivenSchedules):  # a given schedule is run as it is
                found = replace(found, schedules={n: schedule.snapped() for n, schedule in found.schedules.items()})
            results[name] = found
    return results


def _searching(experiment: Experiment, store: Workers, problem: Facts, method: Facts, progress: Progress) -> Workers:
    """The workers for a search, whose shards these facts of the problem and of the method determine."""
    return store.telling(progress.shard).on("search", steps=experiment.steps, problem=problem, method=method)


def _teacher(experiment: Experiment, trial: Comparison, progress: Progress) -> Row:
    """The teacher on unseen samples, before the searches: judges that cannot judge it say so before these are paid."""
    evaluations = len(trial.noise) * experiment.walker.nfe(experiment.comparison_teacher) * call_nfe(trial.denoiser)
    with progress.stage("teacher", evaluations):
        return trial.judge_teacher()


def _compared(
    experiment: Experiment,
    trial: Comparison,
    denoiser: Denoiser,
    store: Workers,
    keys: Keys,
    progress: Progress,
    results: Mapping[str, SearchResult],
) -> list[Row]:
    """Every schedule judged on unseen samples, and the oracle of the main method."""
    rows = []
    with progress.stage("compare"):
        for n in experiment.steps:
            compared = experiment.compared(results, n)
            for name, (schedule, found) in compared.items():
                rows.append(trial.judge(name, schedule, found.nfe, found.seconds, found.own_start))
                progress.advance(len(rows) / (len(experiment.steps) * len(compared)))
    if experiment.oracle is not None:
        name = next(iter(experiment.methods))
        with progress.stage("oracle"):
            own = experiment.problem(denoiser, experiment.oracle_samples, store)
            searching = _searching(experiment, store, problem_facts(own), keys.methods[name], progress)
            found = experiment.oracle.search(own, experiment.steps, searching.on("oracle", samples=len(own.noise)))
            rows += _oracle(experiment.oracle, name, trial, own, found)
    return rows


def _composed(config: DictConfig, device: torch.device, method_name: str) -> Experiment:
    """The experiment that a config describes, of code whose source is remembered."""
    import_targets(config)
    return Experiment.composed(config, device, method_name)


def _store(config: DictConfig, keys: Keys, here: Rank) -> Workers:
    """Those of `config.store`, for what the model determines, or this process alone."""
    if config.store.folder is None:
        return ALONE
    if not str(config.store.folder).strip():
        raise ValueError(
            f"store.folder={config.store.folder!r} names no folder: give one, or store.folder=null to keep nothing"
        )
    limit = None if config.store.limit_gb is None else int(config.store.limit_gb * 1e9)
    return StoredWorkers(ShardStore(Path(config.store.folder), limit), keys.model, here.rank, here.world_size)


def results_key(config: DictConfig, method_name: str) -> str:
    """What determines the results of a run of `config`, as its metrics.json has it."""
    device = launched(config.runner)
    experiment = _composed(config, device, method_name)
    return keys_of(experiment, experiment.probe(), _called(device)).results


def _progress(config: DictConfig, device: torch.device, here: Rank) -> Progress:
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


def _oracle(method: OSS, name: str, trial: Comparison, problem: SearchProblem, found: SearchResult) -> list[Row]:
    """OSS per sample on the trial's own samples: a bound, marked as such."""
    assert found.per_sample is not None
    rows = []
    for n, paths in found.per_sample.items():
        orders = found.per_sample_orders[n] if found.per_sample_orders else [None] * len(paths)
        own = [method.path_schedule(problem, *pair) for pair in zip(paths, orders, strict=True)]
        rows.append(trial.judge_oracle(f"{name}_per_sample", own))
    return rows


# a sweep's server forks jobs off long after it has loaded all this
remember_sources()
