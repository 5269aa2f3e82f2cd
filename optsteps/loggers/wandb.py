"""Logger for Weights & Biases that falls back to an offline record, so that W&B can cost a run its upload alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from optsteps.deprecation import old_names
from optsteps.storage.store import digest
from optsteps.text.terminal import say

# tried in this order from the user's choice on: each needs less than the one before it
Mode = Literal["online", "offline", "disabled"]
MODES: tuple[Mode, ...] = ("online", "offline", "disabled")


class FallbackWandbLogger(WandbLogger):
    """Lightning's W&B logger with a fallback from online to offline.

    Where W&B cannot be reached, at the start or later, or has no API key, the W&B run goes on offline under the same
    id, and a line on the terminal says how to upload it. No failure of W&B stops the work that is logged. A network
    that is lost in the middle holds up the end of the work once, by twice `finish_timeout`.

    Args:
        save_dir: the run's folder; W&B's files go to wandb/ in it.
        project, entity, name, group, tags: as in W&B. None leaves the choice to W&B, and no group is a run by itself.
        mode: "online", "offline" or "disabled".
        id: of the W&B run. None: one that `save_dir` and the configuration determine, so that work started again in
            its folder with the same configuration continues the same W&B run.
        init_timeout: seconds that W&B may take to start.
        finish_timeout: seconds that W&B may take to upload what is left at the end.

    Raises:
        ValueError: `mode` is none of the three.
    """

    def __init__(
        self,
        save_dir: str,
        project: str,
        mode: Mode = "online",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        id: str | None = None,
        init_timeout: float = 20.0,
        finish_timeout: float = 60.0,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"logger.mode={mode!r}: W&B can be {', '.join(MODES)}")
        super().__init__(name, save_dir, id=id, project=project, entity=entity, group=group, tags=list(tags))
        self._modes = MODES[MODES.index(mode) :]
        self._limits: dict[str, Any] = {
            "init_timeout": init_timeout,
            "finish_timeout": finish_timeout,
            "finish_timeout_raises": True,
        }
        self._configuration: dict[str, Any] = {}
        self._nested = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at its first use."""
        if self._experiment is None:
            self._experiment = self._started()
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration, JSON data. The id is made from all of it but the logger's section."""
        self._configuration.update(params if isinstance(params, Mapping) else vars(params))
        with self._with_fallback():
            super().log_hyperparams(self._configuration)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers; Lightning's logger hands tables and pictures here, too."""
        with self._with_fallback():
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Log JSON data by which W&B compares runs."""
        with self._with_fallback():
            self.experiment.summary.update(dict(summary))

    @rank_zero_only
    def log_together(self, log: Callable[[], None]) -> None:
        """Call `log`, and again offline where W&B fails in the middle, so that one W&B run holds all that it logs."""
        tried = None
        while tried != self._modes[0]:
            tried = self._modes[0]
            with self._with_fallback():
                log()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run; what is logged after that continues it."""
        run, self._experiment = self._experiment, None
        if run is not None:
            try:
                run.finish(exit_code=0 if status == "success" else 1)
            except Exception as error:
                _say(f"not all was uploaded ({_one_line(error)}), do it later with: {_upload(run)}")
            _end_service(self._limits["finish_timeout"])  # which may still be writing the end of the record

    def _started(self) -> Any:
        import wandb  # takes a second, which only those pay who use it

        if wandb.run is not None:  # left by a job of this sweep that failed, or lost in the middle
            with suppress(Exception):
                wandb.run.finish(exit_code=1)
        if self._wandb_init["id"] is None:
            settings = {key: value for key, value in self._configuration.items() if key != "logger"}
            self._wandb_init["id"] = digest([self.save_dir, settings])[:16]
        for mode in self._modes:
            try:
                # otherwise W&B asks for a missing key at a terminal, and waits for who the user is without network
                wandb.setup(wandb.Settings(silent=True))
                run = wandb.init(mode=mode, config=self._configuration, settings=self._limits, **self._wandb_init)
            except Exception as error:
                self._step_down(error)
                continue
            if mode != "disabled":
                _say(str(run.url) if mode == "online" else f"recorded offline, upload it with: {_upload(run)}")
            return run
        raise AssertionError("a disabled run needs nothing")

    @contextmanager
    def _with_fallback(self) -> Iterator[None]:
        """Go on in the next mode where W&B raises anything inside; of nested blocks the outermost does so."""
        outermost, self._nested = not self._nested, True
        try:
            yield
        except Exception as error:
            if not outermost:
                raise
            self._step_down(error)
        finally:
            self._nested = not outermost

    def _step_down(self, error: Exception) -> None:
        _say(f"{self._modes[0]} mode failed ({_one_line(error)})")
        self._modes = self._modes[1:] or self._modes
        self._experiment = None
        _end_service(self._limits["finish_timeout"])  # which holds the id


def _end_service(seconds: float) -> None:
    """End W&B's process, which may try for minutes to upload what is left.

    After so many seconds it is left to itself, and ends with this process.
    """

    def end() -> None:
        import wandb

        with suppress(Exception, SystemExit):  # it exits with the status of its service
            wandb.teardown()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(seconds)


def _upload(run: Any) -> str:
    return f"wandb sync {Path(run.dir).parent}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _say(sentence: str) -> None:
    say(f"W&B: {sentence}", sys.stderr)


__getattr__ = old_names(__name__, SparingWandbLogger="FallbackWandbLogger")
