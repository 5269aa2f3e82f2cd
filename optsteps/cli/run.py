"""`optsteps`: one experiment, or with -m a sweep of them."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from optsteps.cli.common import CONFIG_DIR, readable_errors
from optsteps.runner import run


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def job(config: DictConfig) -> None:
    """Compose and call."""
    chosen = HydraConfig.get()
    command = " ".join(["optsteps", *sys.argv[1:]])
    run(config, Path(chosen.runtime.output_dir), chosen.runtime.choices["method"], command)


@readable_errors
def main() -> None:
    """Entry point."""
    job()


if __name__ == "__main__":
    main()
