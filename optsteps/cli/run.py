"""`optsteps`: one experiment, or with -m a sweep of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from optsteps.cli.common import CONFIG_DIR, readable_errors
from optsteps.cli.objective import run_for_objective
from optsteps.cli.own_folder import run_in_own_folder
from optsteps.cli.rival_names import check_rival_names
from optsteps.cli.schema import Run, checked
from optsteps.cli.sweep import Sweep, run_job
from optsteps.running.launch import this_rank
from optsteps.running.run import results_key
from optsteps.running.version import code_version
from optsteps.text.terminal import say


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def job(config: DictConfig) -> float | None:
    """Compose and call; the objective is for sweepers."""
    chosen = HydraConfig.get()
    composed = _composed(config)
    config = checked(config, Run)  # while Hydra is there to be asked
    named = _named_rivals(chosen.overrides.task)
    config.optional_rivals = [name for name in config.optional_rivals if name not in named]
    folder, method = Path(chosen.runtime.output_dir), chosen.runtime.choices["method"]
    check_rival_names(config.get("rivals", {}), method, chosen.runtime.choices, chosen.overrides.task)
    one = partial(run_for_objective, config, folder, method, _command(chosen))
    if config.plan or this_rank(config.runner).rank > 0:  # it leaves nothing, or helps rank 0, whose folder it is
        return one()
    one = partial(run_in_own_folder, one, folder, config, method, composed)
    if chosen.mode == RunMode.RUN:
        return one()
    return run_job(config, folder, code_version(), one, partial(results_key, config, method))


def _composed(config: DictConfig) -> dict[Path, str]:
    """What Hydra would write into a run's folder before anybody could ask whose it is."""
    hydra = HydraConfig.instance().cfg
    parts = {"config.yaml": config, "hydra.yaml": hydra, "overrides.yaml": HydraConfig.get().overrides.task}
    return {Path(".hydra", name): OmegaConf.to_yaml(part) for name, part in parts.items()}


def _named_rivals(overrides: Sequence[str]) -> set[str]:
    """Rivals that the command line chose, by their names in the comparison."""
    keys = [override.split("=")[0] for override in overrides if not override.startswith("~")]
    return {key.partition("@rivals.")[2] for key in keys if "@rivals." in key}


def _command(chosen: HydraConf) -> str:
    """What repeats this run alone. A sweep's job has overrides of its own, and maybe another process."""
    if chosen.mode == RunMode.RUN:
        return shlex.join(["optsteps", *sys.argv[1:]])
    added = [f"--config-dir={part.path}" for part in chosen.runtime.config_sources if part.provider == "command-line"]
    return shlex.join(["optsteps", *added, *chosen.overrides.task])


@readable_errors
def main() -> None:
    """Entry point; exits with 1 where a job of a sweep failed."""
    Sweep.folder = None
    try:
        job()
    finally:  # also where a launcher or a sweeper gave up
        failed = Sweep.failed()
        if failed:
            say("\n".join([f"{len(failed)} jobs failed:", *failed]), sys.stderr)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
