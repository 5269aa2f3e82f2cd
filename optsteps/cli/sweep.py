"""Sweeps that go on: a finished job is not done again, and one that fails or dies does not end the others.

Every job is a process of its own, whatever launcher starts it: what kills it leaves the launcher standing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from optsteps.cli.common import root_error
from optsteps.running.keys import RESULTS_KEY
from optsteps.storage.claims import Claim
from optsteps.storage.files import write_atomically
from optsteps.storage.store import digest
from optsteps.text.terminal import say

JOB, METRICS = "job.json", "metrics.json"
Record = dict[str, Any]


def job_digest(config: DictConfig) -> str:
    """What a job is called by: its resolved config, but for the logger and where things are kept, which change no
    result."""
    parts = {key: config[key] for key in config if key not in ("logger", "store", "paths", "hydra")}
    resolve = partial(OmegaConf.to_container, resolve=True)
    facts = {key: resolve(part) if OmegaConf.is_config(part) else part for key, part in parts.items()}
    return digest({**facts, "precision": OmegaConf.select(config, "store.precision")})


# for the name of a job's folder
OmegaConf.register_new_resolver("job_digest", lambda *, _root_: job_digest(_root_)[:6], replace=True)


def run_job(
    config: DictConfig, folder: Path, commit: str, run: Callable[[], float | None], key: Callable[[], str]
) -> float | None:
    """`run` the job of a sweep whose jobs lie beside `folder`, unless one of them is this one and finished: it has the
    same config, its results are there, and what determined them is what would determine them now.

    Args:
        config: the job's.
        folder: of the job; what became of it stands in job.json there.
        commit: version of the code, noted there.
        run: does the job and returns its objective; can be pickled.
        key: computes what the job's results are known by, as their metrics.json has it; can be pickled.

    Returns:
        The objective, of a finished job as it was noted; None where there is none or the job failed.
    """
    known = job_digest(config)
    locks = folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    # of two identical jobs at the same moment one runs, and the other finds it finished
    with Claim(locks / known, f"a job of the sweep {folder.parent}").held(pause=0.5):
        now = None
        for file, record in list(_records(folder.parent)):
            if record["digest"] != known:
                continue
            then = None if "failed" in record else _key_of_results(file.parent)
            if then is not None:
                now = now or _attempt(key, locks / f"{known}.json", {}, "key").get("key")
                if then == now:
                    note = "" if record["commit"] == commit else f", by {record['commit']} while this is {commit}"
                    say(f"job {folder.name} is finished: {file.parent}{note}")
                    return record.get("objective")
                say(f"job {folder.name} was finished by other code, weights or data ({file.parent}); it is run again")
            file.unlink()  # it is tried again, here
        record = _attempt(run, folder / JOB, {"digest": known, "commit": commit}, "objective")
    if "failed" in record:
        say(f"job {folder.name} failed: {record['failed']}")
    return record.get("objective")


class Sweep(Callback):
    """Remembers which sweep this process started, so that its failed jobs are known however the sweep ends."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Sweep.folder = Path(config.hydra.sweep.dir).absolute()

    @classmethod
    def failed(cls) -> list[str]:
        """Folder and reason of every job that failed or did not come to its end; none where there is no sweep."""
        records = _records(cls.folder) if cls.folder is not None else ()
        return [f"{file.parent}: {record['failed']}" for file, record in records if "failed" in record]


def _records(sweep: Path) -> Iterator[tuple[Path, Record]]:
    """What became of every job so far, and the file that says so; a damaged one is named, and put aside."""
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


def _key_of_results(folder: Path) -> str | None:
    """What the results of a run are known by, None where there are none."""
    try:
        key = json.loads((folder / METRICS).read_text())["facts"][RESULTS_KEY]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(key)


def _attempt(function: Callable[[], Any], file: Path, facts: Record, returned: str) -> Record:
    """Call a function in a new process; what became of it, with its value as `returned`, also noted in `file`."""
    # a server that has imported everything and computed nothing: children are forked off it at once, and no thread or
    # GPU context of ours comes with them
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optsteps.running.run"])
    # joblib's workers call for a method of their own, which the server does not know
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method(None, force=True)
    hydra = HydraConfig.get()
    log = partial(configure_log, DictConfig(OmegaConf.to_container(hydra.job_logging, resolve=True)), hydra.verbose)
    # stands until the job says otherwise: also where this process dies with it
    _write(file, {**facts, "failed": "did not come to its end: it was killed, or still runs"})
    process = context.Process(target=_job, args=(function, file, facts, returned, log, dict(os.environ)))
    process.start()
    process.join()
    if process.exitcode:
        killer = signal.Signals(-process.exitcode).name if process.exitcode < 0 else None
        how = f"was killed by {killer}" if killer else f"ended with exit status {process.exitcode}"
        _write(file, {**facts, "failed": f"its process {how}"})
    record: Record = json.loads(file.read_text())
    return record


def _job(
    function: Callable[[], Any],
    file: Path,
    facts: Record,
    returned: str,
    log: Callable[[], None],
    environment: dict[str, str],
) -> None:
    """The job's process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()  # the server's, as it was at its start
    os.environ.update(environment)
    log()
    try:
        record = {**facts, returned: function()}
    except Exception as error:  # whatever it is, the sweep is to know
        reason = root_error(error)
        told = {"failed": f"{type(reason).__name__}: {reason}", "traceback": traceback.format_exc()}
        record = {**facts, **told}
    _write(file, record)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(file: Path, record: Record) -> None:
    write_atomically(file, json.dumps(record, indent=1).encode())
