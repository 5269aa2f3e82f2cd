"""The sweep that a command started: the names of its jobs' folders, and what became of the jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from optsteps.reporting.sweep.jobs import JOB

Record = dict[str, Any]


def job_digest(config: DictConfig) -> str:
    """The digest that a job is known by: of its resolved config without the logger, the folders and the budget, which
    change no result."""
    from optsteps.storage.store import digest  # which loads torch: a command answers before

    parts = {key: config[key] for key in config if key not in ("logger", "store", "paths", "hydra", "budget")}
    resolve = partial(OmegaConf.to_container, resolve=True)
    facts = {key: resolve(part) if OmegaConf.is_config(part) else part for key, part in parts.items()}
    return digest({**facts, "precision": OmegaConf.select(config, "store.precision")})


# for the name of a job's folder
OmegaConf.register_new_resolver("job_digest", lambda *, _root_: job_digest(_root_)[:6], replace=True)


class Sweep(Callback):
    """Remembers which sweep this process started, so that its failed jobs are known however the sweep ends.

    Attributes:
        folder: of the sweep; None where there is none.
        refused: jobs that never had a process of their own, by what they set, each with the reason.
    """

    folder: ClassVar[Path | None] = None
    refused: ClassVar[list[str]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Sweep.folder = Path(config.hydra.sweep.dir).absolute()

    @classmethod
    def failed(cls) -> list[str]:
        """Every job that was refused, failed or did not come to its end, each with the reason; none without a sweep."""
        jobs = records(cls.folder) if cls.folder is not None else ()
        return [*cls.refused, *(f"{file.parent}: {record['failed']}" for file, record in jobs if "failed" in record)]


def records(sweep: Path) -> Iterator[tuple[Path, Record]]:
    """Every job.json so far and what it says of its job; a damaged one is named, and put aside."""
    for file in sorted(sweep.glob(f"*/{JOB}")):
        try:
            record = json.loads(file.read_text())
            if not {"digest", "commit"} <= record.keys():
                raise ValueError("it does not say which job it is of")
            yield file, record
        except FileNotFoundError:  # a failed job that another process tries again
            continue
        except (ValueError, AttributeError, RecursionError) as error:
            print(f"{file} is damaged ({error}); it is put aside, and its job counts as unfinished", file=sys.stderr)
            with suppress(FileNotFoundError):  # by another process
                file.replace(file.with_suffix(".damaged"))
