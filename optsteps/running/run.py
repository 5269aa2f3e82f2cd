"""One run: search with every method, compare on unseen samples, report."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from optsteps.comparison import Comparison, Row, verdicts
from optsteps.deprecation import old_names
from optsteps.export import missing_solver, run_snippets
from optsteps.methods import SearchResult
from optsteps.reporting.run.folder import USAGE, write_config, write_report
from optsteps.reporting.run.summary import run_summary, terminal_text
from optsteps.running.compose import compose_experiment
from optsteps.running.device import device_name
from optsteps.running.facts import formula_range, run_facts
from optsteps.running.keys import keys_of
from optsteps.running.launch import Rank, only_rank
from optsteps.running.limits import check_budget, check_disk
from optsteps.running.oracle import judge_oracle
from optsteps.running.parallel import lead
from optsteps.running.plan import Stage, evaluations_by_stage, plan_note, plan_table, planned, shortened, total
from optsteps.running.share import Share, model_rate, probe_model, store_of
from optsteps.storage.files import write_atomically
from optsteps.storage.sources import remember_sources
from optsteps.storage.store import ShardStore
from optsteps.text.duration import duration
from optsteps.text.terminal import say

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


def show_plan(config: DictConfig, method_name: str) -> None:
    """Say what the run of the experiment that `config` describes would do.

    Raises:
        ValueError, OSError: it may not, with one paragraph that says why, or `config` is wrong.
    """
    experiment = compose_experiment(config, only_rank(config.runner).device, method_name)
    stages, rate, store = planned(experiment), model_rate(experiment), store_of(config)
    say(_shown(plan_table(stages, rate), plan_note(stages, rate, store)))
    _check_limits(config, stages, rate, store)


def run(config: DictConfig, folder: Path, method_name: str, command: str, rank: Rank, label: str = "") -> list[Row]:
    """Run the experiment that `config` describes and leave its report in `folder`.

    Args:
        config: resolved.
        folder: of the run.
        method_name: the main method's.
        command: that repeats the run.
        rank: number 0; the others `compute`.
        label: before every line of progress, where other jobs write to the same terminal.

    Returns:
        The rows of its table.

    Raises:
        ValueError, OSError: with one paragraph that says what is wrong.
    """
    start = time.perf_counter()
    try:
        experiment, rank = lead(compose_experiment(config, rank.device, method_name), rank)
    except SystemExit as error:
        raise _exited(error) from error
    except Exception:
        if config.logger.get("group") is not None:  # which shows all jobs of a sweep
            _logger(config).finalize("failed")
        raise
    logger = _logger(config)
    try:
        write_config(folder, config)
        for sentence in formula_range(experiment.teacher):
            log.warning("the teacher: %s", sentence)
        if experiment.model.in_diffusers:
            for sentence in missing_solver(experiment.solver.name, experiment.model.process):
                log.warning("%s: %s", USAGE, sentence)
        facts = run_facts(experiment, command)  # before anything is spent: it may fail
        stages = planned(experiment)
        _check_limits(config, stages, None, store_of(config))
        share = Share.of_rank(experiment, rank, label)
        rate = model_rate(experiment)
        _show_plan(config, stages, rate, label)
        share.progress.expect(evaluations_by_stage(stages))
        with share.progress:
            for name, reason in experiment.left_out.items():
                log.warning("%s is left out of the comparison: %s", name, reason)
            checks = share.check_model()
            comparison = experiment.comparison(share.denoiser, share.workers)
            rows = [_judge_teacher(share, comparison)]
            results = share.search()
            rows += _judge_schedules(share, comparison, results)
            rows += judge_oracle(share, comparison)
        verdict_rows = [v for figure in config.metric.verdicts for v in verdicts(rows, method_name, figure)]
        title = f"{experiment.model.name}: {method_name} with {experiment.solver.name}"
        usage = [_write_usage(folder, results[method_name])] if experiment.model.in_diffusers else []
        facts |= {**share.keys.described, **checks}
        decode = experiment.model.decode
        paths = write_report(folder, title, rows, verdict_rows, facts, method_name, results, decode, rate)
    except SystemExit as error:
        logger.finalize("failed")
        raise _exited(error) from error
    except BaseException:
        logger.finalize("failed")
        raise
    from optsteps.loggers.results import log_results

    log_results(logger, rows, verdict_rows, [*usage, *paths], time.perf_counter() - start)
    written = [("report and schedules", folder), *(("how to sample with them", path) for path in usage)]
    say(run_summary(rows, verdict_rows, written, rate))
    return rows


def _logger(config: DictConfig) -> Logger:
    """The logger, told of the config. It loads Lightning, which takes seconds: a run that is refused says so before."""
    logger: Logger = instantiate(config.logger)
    logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    return logger


def _exited(error: SystemExit) -> ValueError:
    """The error of a model, a data set or a judge that ends the process: with status 0 it would pass for a result."""
    return ValueError(f"something in this run called sys.exit({error.code!r}) before there was a result")


def results_key(config: DictConfig, method_name: str) -> str:
    """The digest of what determines the results of a run of `config`, as its metrics.json has it."""
    device = only_rank(config.runner).device
    experiment = compose_experiment(config, device, method_name)
    return keys_of(experiment, probe_model(experiment), device_name(device)).results


def _check_limits(config: DictConfig, stages: Sequence[Stage], rate: float | None, store: ShardStore | None) -> None:
    check_budget(stages, config.budget, rate)
    if store is not None:
        check_disk(stages, store)


def _show_plan(config: DictConfig, stages: Sequence[Stage], rate: float, label: str) -> None:
    """Say what the run will do, unless that is more than it may."""
    if label:  # other jobs write to the same terminal
        say(f"{label}: {total(stages):,} evaluations, about {duration(total(stages) / rate)}", sys.stderr)
    else:
        say(_shown(plan_table(shortened(stages), rate), plan_note(stages, rate, store_of(config))), sys.stderr)
    check_budget(stages, config.budget, rate)


def _shown(table: Table, note: str) -> str:
    return terminal_text(lambda console: console.print(table, note, sep="\n", markup=False, highlight=False))


def _judge_teacher(share: Share, comparison: Comparison) -> Row:
    """The teacher on unseen samples, before the searches: judges that cannot judge it say so before these are paid."""
    with share.progress.stage("teacher"):
        return comparison.judge_teacher()


def _judge_schedules(share: Share, comparison: Comparison, results: Mapping[str, SearchResult]) -> list[Row]:
    """Every schedule on unseen samples."""
    rows, steps = list[Row](), share.experiment.steps
    with share.progress.stage("compare"):
        for n in steps:
            compared = share.experiment.compared(results, n)
            for name, (schedule, result) in compared.items():
                cost = (result.nfe, result.seconds, result.own_start, result.evaluations)
                rows.append(comparison.judge(name, schedule, *cost, solver=result.solvers.get(n)))
                share.progress.advance(len(rows) / (len(steps) * len(compared)))
    return rows


def _write_usage(folder: Path, result: SearchResult) -> Path:
    """Python to paste, for the pipeline that the schedules were searched for."""
    write_atomically(folder / USAGE, run_snippets(result.schedules, folder=folder).encode())
    return folder / USAGE


# a sweep's server forks jobs off long after it has loaded all this
remember_sources()

__getattr__ = old_names(__name__, compute="optsteps.running.share.compute")
