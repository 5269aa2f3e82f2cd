"""The share that one rank has in the work of a run: its checks, its searches, and samples of the comparison."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.denoisers import Denoiser, call_nfe
from optsteps.fingerprint import probe_inputs, probed
from optsteps.methods import GivenSchedules, Method, SearchProblem, SearchResult
from optsteps.running.compose import compose_experiment
from optsteps.running.device import device_name
from optsteps.running.experiment import Experiment
from optsteps.running.interpretation import check_interpretation
from optsteps.running.keys import Facts, Keys, keys_of, problem_facts
from optsteps.running.launch import Rank
from optsteps.running.parallel import follow
from optsteps.running.probe import Probe, measured_rate, probe
from optsteps.running.progress import Progress
from optsteps.storage.division import Division
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import ALONE, GatheredWorkers, StoredWorkers, Workers


@dataclass(frozen=True)
class Share:
    """What one rank works with.

    Attributes:
        experiment: of the run.
        probe: of the experiment's model.
        keys: what determines its results.
        workers: all ranks of the run, or this process alone.
        progress: counts the evaluations of `denoiser`.
        denoiser: the model's.
    """

    experiment: Experiment
    probe: Probe
    keys: Keys
    workers: Workers
    progress: Progress
    denoiser: Denoiser

    @classmethod
    def of_rank(cls, experiment: Experiment, rank: Rank, label: str = "") -> Share:
        """The share of a rank, once the model has answered the probe.

        Args:
            experiment: composed for the rank's device.
            label: of the lines of its progress.

        Raises:
            ValueError: the model does not answer as a denoiser does, or the store has no name.
        """
        answers, name = probe_model(experiment), device_name(rank.device)
        keys = keys_of(experiment, answers, name)
        progress = Progress(name, rank.number, rank.world_size, rank.board, label)
        workers = _workers(experiment.config, keys, rank, progress)
        return cls(experiment, answers, keys, workers, progress, progress.watch(experiment.model.denoiser))

    def check_model(self) -> dict[str, str]:
        """Refuse a model that removes no noise; what the checks of the model say, by name, for the report."""
        config = self.experiment.config
        if not config.check_model:
            return {"checks of the model": "left out (check_model=false)"}
        with self.progress.stage("check the model"):
            problem = self.experiment.problem(self.experiment.model.denoiser, self.workers)
            interpretation = check_interpretation(problem, config.max_batch)
        facts = {
            "checks of the model": f"{self.probe.evaluations} evaluations to see that it answers the same twice and "
            f"for every sample by itself, {interpretation.evaluations} to see that it removes noise"
        }
        if interpretation.remark is not None:
            warnings.warn(interpretation.remark, stacklevel=2)
            facts["remark"] = interpretation.remark
        return facts

    def search(self) -> dict[str, SearchResult]:
        """The result of every method, by its name."""
        experiment, results = self.experiment, {}
        problem = experiment.problem(self.denoiser, self.workers)
        for name, method in experiment.methods.items():
            with self.progress.stage(f"search {name}"):
                result = method.search(problem, experiment.steps, self.search_workers(name, self.keys.problem))
                if result.nfe and not result.evaluations:  # a method with a search of its own that counts per sample
                    result = replace(result, evaluations=round(result.nfe * len(problem.noise)))
                if experiment.snap and not isinstance(method, GivenSchedules):  # a given schedule is run as it is
                    snapped = {n: schedule.snapped() for n, schedule in result.schedules.items()}
                    result = replace(result, schedules=snapped)
                results[name] = result
        return results

    def search_for_oracle(self, method: Method) -> tuple[SearchProblem, SearchResult]:
        """The problem of the oracle, and what its method finds."""
        problem, name = self.experiment.oracle_problem(self.denoiser, self.workers), next(iter(self.experiment.methods))
        workers = self.search_workers(name, problem_facts(problem)).on("oracle", samples=len(problem.noise))
        return problem, method.search(problem, self.experiment.steps, workers)

    def search_workers(self, method: str, problem: Facts) -> Workers:
        """The workers for a search of the method of that name, on a problem that these facts determine."""
        workers, facts = self.workers.telling(self.progress.shard), self.keys.methods[method]
        return workers.on("search", steps=self.experiment.steps, problem=problem, method=facts)


def compute(config: DictConfig, method_name: str, rank: Rank) -> None:
    """A rank's share of the shards of a run, or of every evaluation; no figure, no report."""
    experiment = compose_experiment(config, rank.device, method_name)
    if experiment.model.model_parallel:
        return follow(experiment, rank)
    share = Share.of_rank(experiment, rank)
    with share.progress as progress:
        share.check_model()
        comparison = experiment.comparison(share.denoiser, share.workers)
        with progress.stage("teacher"):
            comparison.walk_teacher()
        results = share.search()
        with progress.stage("compare"):
            for n in experiment.steps:
                for schedule, result in experiment.compared(results, n).values():
                    held = comparison.with_solver(result.solvers[n]) if n in result.solvers else comparison
                    begun_there = held.from_start_of(schedule) if result.own_start else held
                    begun_there.walk(schedule)
                    begun_there.walk_teacher()
        if experiment.oracle_method is not None:
            with progress.stage("oracle"):
                share.search_for_oracle(experiment.oracle_method)


def probe_model(experiment: Experiment) -> Probe:
    """The model's answers to a few fixed inputs, which are checked unless `check_model` is false."""
    model, (x, t, cond) = experiment.model, _probe_inputs(experiment)
    size = min(len(x), experiment.config.max_batch)
    if experiment.config.check_model:
        return probe(model.denoiser, x, t, cond, size)
    return Probe(probed(model.denoiser, x, t, cond, size), call_nfe(model.denoiser) * len(x))


def model_rate(experiment: Experiment) -> float:
    """Network evaluations per second, about."""
    return measured_rate(experiment.model.denoiser, *_probe_inputs(experiment), experiment.config.max_batch)


def store_of(config: DictConfig) -> ShardStore | None:
    """The store of `config`; None where nothing is kept.

    Raises:
        ValueError: it has no name, or its folder holds other things.
    """
    if config.store.folder is None:
        return None
    if not str(config.store.folder).strip():
        raise ValueError(
            f"store.folder={config.store.folder!r} names no folder: give one, or store.folder=null to keep nothing"
        )
    limit = None if config.store.limit_gb is None else int(config.store.limit_gb * 1e9)
    return ShardStore(Path(config.store.folder), limit)


def _probe_inputs(experiment: Experiment) -> tuple[Tensor, Tensor, Cond]:
    model, device = experiment.model, experiment.device
    x, t, cond = probe_inputs(model.process, model.shape, model.time_range, lambda numbers: model.cond(numbers, device))
    return x.to(device), t, cond


def _workers(config: DictConfig, keys: Keys, rank: Rank, progress: Progress) -> Workers:
    """Those of `config.store`, for what the model determines, or this process alone."""
    if rank.board is None:
        store = store_of(config)
        return ALONE if store is None else StoredWorkers(store, keys.model, found=progress.found)
    division = Division(rank.board, rank.number, rank.world_size)
    if config.store.shared and (store := store_of(config)) is not None:
        return StoredWorkers(store, keys.model, division, found=progress.found)
    store = store_of(config) if rank.number == 0 else None
    return GatheredWorkers(division, store, keys.model, found=progress.found)
