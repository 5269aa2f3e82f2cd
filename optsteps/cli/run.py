"""`optsteps`: one experiment, with -m a sweep of them, or the first files of a part of one's own."""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from optsteps.cli.common import CONFIG_DIR
from optsteps.cli.errors import errors_pass_hydra, readable_errors, settle_arguments
from optsteps.cli.new import new
from optsteps.cli.rival_names import check_rival_names
from optsteps.cli.schema import Run, checked
from optsteps.cli.sweep import Sweep
from optsteps.cli.version import versions
from optsteps.deprecation import CHOICES
from optsteps.text.terminal import say


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def job(config: DictConfig) -> float | None:
    """Check what was composed, and run it; the objective is for sweepers."""
    with errors_pass_hydra(Sweep.refused):
        return _job(config)
    return None


def _job(config: DictConfig) -> float | None:
    hydra_config = HydraConfig.get()
    composed = _composed(config)
    config = checked(config, Run)  # while Hydra is there to be asked
    named = _named_rivals(hydra_config.overrides.task)
    for key in ("optional_rivals", "flow_rivals"):
        config[key] = [name for name in config[key] if name not in named]
    folder, method = Path(hydra_config.runtime.output_dir), hydra_config.runtime.choices["method"]
    check_rival_names(config.get("rivals", {}), method, hydra_config.runtime.choices, hydra_config.overrides.task)
    in_sweep = hydra_config.mode != RunMode.RUN
    if not in_sweep:  # what follows is silent for some seconds
        say(f"{time.strftime('%H:%M:%S')} loading {config.model.name}", sys.stderr)
    from optsteps.cli.job import run_job  # loads torch and Lightning: a mistake in the command is reported before

    for group, choice in hydra_config.runtime.choices.items():
        if f"{group}={choice}" in CHOICES:
            warnings.warn(f"{group}={choice} is {CHOICES[f'{group}={choice}']} now", FutureWarning, stacklevel=2)
    return run_job(config, folder, method, _command(hydra_config), composed, in_sweep)


def _composed(config: DictConfig) -> dict[Path, str]:
    """The files that Hydra would write into a run's folder before anybody could ask whose it is."""
    hydra = HydraConfig.instance().cfg
    parts = {"config.yaml": config, "hydra.yaml": hydra, "overrides.yaml": HydraConfig.get().overrides.task}
    return {Path(".hydra", name): OmegaConf.to_yaml(part) for name, part in parts.items()}


def _named_rivals(overrides: Sequence[str]) -> set[str]:
    """Rivals that the command line chose, by their names in the comparison."""
    keys = [override.split("=")[0] for override in overrides if not override.startswith("~")]
    return {key.partition("@rivals.")[2] for key in keys if "@rivals." in key}


def _command(hydra_config: HydraConf) -> str:
    """The command that repeats this run alone. A sweep's job has overrides of its own, and maybe another process."""
    if hydra_config.mode == RunMode.RUN:
        return shlex.join(["optsteps", *sys.argv[1:]])
    sources = hydra_config.runtime.config_sources
    added = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    return shlex.join(["optsteps", *added, *hydra_config.overrides.task])


@readable_errors
def main() -> None:
    """Entry point; exits with 1 where a job of a sweep failed."""
    if sys.argv[1:2] == ["new"]:
        new(sys.argv[2:])
    elif sys.argv[1:] == ["--version"]:
        say(versions())
    else:
        _run_jobs()


def _run_jobs() -> None:
    settle_arguments()
    Sweep.folder, Sweep.refused = None, []
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
