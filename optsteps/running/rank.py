"""The program of a further rank: `python -m optsteps.running.rank CONFIG METHOD RANK WORLD_SIZE LOCAL_RANK`."""

from __future__ import annotations

import os
import sys
import threading

from omegaconf import DictConfig, OmegaConf

from optsteps.running.launch import Rank
from optsteps.running.share import compute


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the parent is gone, however it went
    os._exit(1)


def main() -> None:
    """Compute this rank's share, as long as the process that started it lives."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path, method, *numbers = sys.argv[1:]
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    compute(config, method, Rank(*map(int, numbers)))


if __name__ == "__main__":
    main()
