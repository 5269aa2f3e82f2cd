"""Claims, by which processes that share a folder agree who does a piece of work."""

from __future__ import annotations

import logging
import os
import platform
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
        path: of the file that names the owner.
        work: a description of the work, for the message that says what this process waits for.
        patience: in seconds, the same for all processes that share the file.
    """

    def __init__(self, path: Path, work: str, patience: float = PATIENCE) -> None:
        self.work, self.patience = work, patience
        # the lease object itself remembers since when it has seen no sign of life
        self._lease = SoftFileLease(path, lease_duration=patience)
        self._waiting_since: float | None = None
        self._warned = False

    def taken(self) -> bool:
        """Whether this process has the claim now; it takes a claim that is free.

        Where another process has it, a warning names that process once, after a quarter of the patience.

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
            if not self._warned and now - self._waiting_since >= self.patience / 4:
                self._warned = True
                since = time.strftime("%H:%M:%S", time.localtime(time.time() - (now - self._waiting_since)))
                log.warning(
                    f"waiting since {since} for {self.work}, which {self.owner()} has claimed; it is done here when "
                    f"that process gives no sign of life for {self.patience:g} s"
                )
            return False
        return True

    @contextmanager
    def held(self, pause: float) -> Iterator[None]:
        """Have the claim while the body runs. Until it is free, look again every `pause` seconds."""
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
        """Seconds since the owner's last sign of life; 0 where nobody has the claim."""
        try:
            return max(0.0, time.time() - Path(self._lease.lock_file).stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def alive(self) -> bool:
        """Whether somebody has the claim and gives signs of life. A death on this machine is seen at once."""
        owner = self._lease.owner
        if owner is None or self.silent_for() >= self.patience:
            return False
        if owner.hostname != platform.node():
            return True
        try:
            os.kill(owner.pid, 0)  # asks only whether it is there
        except ProcessLookupError:
            return False
        except OSError:  # it is somebody else's
            return True
        return True

    def owner(self) -> str:
        """The process that has the claim, and the machine that it runs on."""
        owner = self._lease.owner
        return "a process" if owner is None else f"process {owner.pid} on {owner.hostname}"
