"""`optsteps-train`: train a network, resume it if it was interrupted, leave its EMA weights and a model card."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from optsteps.cli.common import CONFIG_DIR
from optsteps.cli.errors import errors_pass_hydra, readable_errors, settle_arguments
from optsteps.cli.schema import Train, checked
from optsteps.cli.version import versions
from optsteps.text.terminal import say


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def job(config: DictConfig) -> None:
    """Check what was composed, and train."""
    with errors_pass_hydra([]):
        config = checked(config, Train)
        from optsteps.cli.train_job import (
            train,
        )  # loads torch and Lightning: a mistake is reported before

        train(config, Path(HydraConfig.get().runtime.output_dir))


@readable_errors
def main() -> None:
    """Entry point."""
    if sys.argv[1:] == ["--version"]:
        say(versions())
    else:
        settle_arguments()
        job()


if __name__ == "__main__":
    main()
