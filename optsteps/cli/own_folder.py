"""A run's folder, which belongs to one run with one config from its start to its end."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from optsteps.reporting.run.folder import results, write_config
from optsteps.reporting.run.reading import CONFIG
from optsteps.reporting.sweep.jobs import RUN
from optsteps.storage.claims import Claim
from optsteps.storage.files import write_atomically
from optsteps.storage.store import digest

# parts of a config that change no result
_WITHOUT_EFFECT = (
    *("logger", "paths", "budget"),
    *("store.folder", "store.limit_gb", "store.shared"),
    *("runner.devices", "runner.num_nodes", "runner.timeout"),
)


def run_in_own_folder(
    run: Callable[[], float | None], folder: Path, config: DictConfig, method: str, files: Mapping[Path, str]
) -> float | None:
    """Call `run` while the folder is claimed for it; arguments and errors as in `claimed`."""
    with claimed(folder, config, method, files):
        return run()


@contextmanager
def claimed(folder: Path, config: DictConfig, method: str, files: Mapping[Path, str]) -> Iterator[None]:
    """Claim a folder for the run of `config` while the body runs.

    The same run started again in its folder first deletes the results that it left there. It is quick, because finished
    shards are in the store. So results never lie beside a config that is not theirs, whenever a run is cut off.

    Args:
        folder: is created where it is missing. Its run.json says which run has it, since when, and whether the run is
            finished; its config.yaml is the run's config.
        config: resolved.
        method: the main method's name.
        files: further files that are there from the start, by their paths in the folder.

    Raises:
        ValueError: another process is at work there, or there are results of another config.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = Claim(folder / ".run.claim", f"the run folder {folder}")
    waits = not claim.taken()
    if waits and claim.silent_for() < claim.patience:
        raise ValueError(
            f"{claim.owner()} runs in {folder}{_since(folder)}: wait for it, or choose another folder with "
            "hydra.run.dir=..."
        )
    with claim.held(pause=1.0):
        identity = digest({"method": method, **_flat(config)})
        same, leftovers = _record(folder).get("config") == identity, results(folder)
        if leftovers and not same:
            raise ValueError(
                f"{folder} holds the results of another run ({leftovers[0].name}{_differing(folder, config)}), which "
                "this one would mix with its own: choose another folder with hydra.run.dir=..., or empty this one"
            )
        if waits and not same:  # its owner may wake up and write
            raise ValueError(
                f"{folder} is that of another run, which did not end and gives no sign of life{_since(folder)}: end "
                "it, or choose another folder with hydra.run.dir=..."
            )
        for path in leftovers:
            path.unlink()
        record: dict[str, Any] = {"state": "begun", "config": identity, "method": method}
        record |= {"begun": time.strftime("%Y-%m-%d %H:%M:%S"), "host": platform.node(), "pid": os.getpid()}
        write_config(folder, config)
        for path, text in files.items():
            write_atomically(folder / path, text.encode())
        _write(folder, record)
        yield
        _write(folder, {**record, "state": "finished", "ended": time.strftime("%Y-%m-%d %H:%M:%S")})


def _flat(config: DictConfig) -> dict[str, Any]:
    """The values of a resolved config that change its results, by dotted keys."""
    values = {}

    def walk(part: Any, prefix: str) -> None:
        for key, value in part.items():
            name = f"{prefix}{key}"
            if name not in _WITHOUT_EFFECT:
                walk(value, f"{name}.") if isinstance(value, dict) and value else values.update({name: value})

    walk(OmegaConf.to_container(config), "")
    return values


def _differing(folder: Path, config: DictConfig) -> str:
    """The first differences from the config of the run that has this folder, as the end of a sentence."""
    try:
        other = OmegaConf.load(folder / CONFIG)
        assert isinstance(other, DictConfig)
        theirs, ours = _flat(other), _flat(config)
    except Exception:  # whatever is in that file, it would only have made the message longer
        return ""
    names = [name for name in dict.fromkeys([*theirs, *ours]) if theirs.get(name) != ours.get(name)]
    shown = [f"{name}={theirs.get(name)}, here {ours.get(name)}" for name in names[:3]]
    return "".join(f"; {part}" for part in (*shown, *(["..."] if len(names) > 3 else [])))


def _record(folder: Path) -> dict[str, Any]:
    """The content of run.json; empty where there is none, or none that a run wrote."""
    try:
        record = json.loads((folder / RUN).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _since(folder: Path) -> str:
    begun = _record(folder).get("begun")
    return f" since {begun}" if begun else ""


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomically(folder / RUN, json.dumps(record, indent=1).encode())
