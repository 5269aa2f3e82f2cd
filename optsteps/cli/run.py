"""`optsteps`: one experiment, or with -m a sweep of them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from optsteps.cli.common import CONFIG_DIR, readable_errors
from optsteps.cli.sweep import FailedJobs, run_job
from optsteps.experiment import code_version
from optsteps.runner import run
from optsteps.store import digest

OmegaConf.register_new_resolver("short_digest", lambda text: digest(text)[:6], replace=True)


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def job(config: DictConfig) -> None:
    """Compose and call."""
    chosen = HydraConfig.get()
    command = " ".join(["optsteps", *sys.argv[1:]])
    folder = Path(chosen.runtime.output_dir)
    one = partial(run, config, folder, chosen.runtime.choices["method"], command)
    if chosen.mode == RunMode.MULTIRUN:
        run_job(config, folder, code_version(), one)
    else:
        one()


@readable_errors
def main() -> None:
    """Entry point; exits with 1 where a job of a sweep failed."""
    job()
    if FailedJobs.reasons:
        print(f"{len(FailedJobs.reasons)} jobs failed:", *FailedJobs.reasons, sep="\n", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
