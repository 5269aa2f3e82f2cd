"""Claims: which of the processes that share a folder does a piece of work, and whether it still lives."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

log = logging.getLogger(__name__)
# seconds without a sign of life after which the owner of a claim has lost it
PATIENCE = 60.0


class Claim:
    """The right to do one piece of work, which one process at a time has.

    Its owner gives a sign of life three times in `patience` seconds for as long as it holds the claim, whatever it
    computes. The claim is free when it is given back, when its owner has died (seen at once on the same machine), and
    when its owner has given no sign of life for `patience` seconds: one that is suspended, or whose machine is gone. An
    owner that wakes up after that does its work a second time, so a claim is for work whose result is the same whoever
    does it.

    Args:
        path: of the file that says who has it.
        work: what it is about, for the line that says for whom this process waits.
        patience: the same for all that share the file.
    """

    def __init__(self, path: Path, work: str, patience: float = PATIENCE) -> None:
        self.work, self.patience = work, patience
        # the object remembers since when it has seen no sign of life
        self._lease = SoftFileLease(path, lease_duration=patience)
        self._waiting_since: float | None = None
        self._told = False

    def taken(self) -> bool:
        """Whether the claim is this process's now.

        Who asks again and again is told once, after a while, whose it is.

        Raises:
            OSError: the folder is missing or cannot be written.
        """
        if self._lease.is_locked:
            return True
        try:
            self._lease.acquire(timeout=0)
        except Timeout:
            now = time.monotonic()
            self._waiting_since = self._waiting_since or now
            if not self._told and now - self._waiting_since >= self.patience / 4:
                self._told = True
                since = time.strftime("%H:%M:%S", time.localtime(time.time() - (now - self._waiting_since)))
                log.warning(
                    f"waiting since {since} for {self.work}, which {self.owner()} has claimed; it is done here when "
                    f"that process gives no sign of life for {self.patience:g} s"
                )
            return False
        return True

    @contextmanager
    def held(self, pause: float) -> Iterator[None]:
        """Have the claim while the body runs; until it is free, look every `pause` seconds."""
        while not self.taken():
            time.sleep(pause)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Give the claim back."""
        self._lease.release()

    def silent_for(self) -> float:
        """Seconds since its owner's last sign of life; 0 where nobody has it."""
        try:
            return max(0.0, time.time() - Path(self._lease.lock_file).stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def owner(self) -> str:
        """The process that has it, and where that runs."""
        owner = self._lease.owner
        return "a process" if owner is None else f"process {owner.pid} on {owner.hostname}"
