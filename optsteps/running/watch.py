"""The watch that the ranks of a run keep on each other, so that none waits for one that is gone."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch.distributed as dist

# keys of the board
_ALIVE, _LOST, _OVER, _ENDED = "alive", "lost", "over", "ended"


class Watch:
    """Ends this rank, while the body runs, when another one is lost or rank 0 is through.

    Every rank gives signs of life on the board, whatever it computes. A rank is lost when it leaves the body with an
    error, or when its signs stay out: it has died, is suspended, or its machine is gone. Then every other rank says so
    and ends with exit status 1. A lost one that the same process has started is killed, which a suspended one is not by
    itself. Where rank 0 leaves the body, the others are interrupted at whatever they compute.

    Args:
        board: key-value store of the process group, by a connection that nothing else uses.
        rank, world_size: this process's number, and how many there are.
        patience: seconds without a sign of life after which a rank is lost.
        log: where to read what a rank said, by its number.
        tell: is given a sentence on the lost rank before this process ends.

    Attributes:
        over: whether rank 0 is through, so that an error of this rank is none.
    """

    def __init__(
        self,
        board: dist.Store,
        rank: int,
        world_size: int,
        patience: float,
        log: Callable[[int], str],
        tell: Callable[[str], None],
    ) -> None:
        self.board, self.rank, self.patience, self.log, self.tell = board, rank, patience, log, tell
        self.over = False
        self._pause = min(0.25, patience / 20)
        # the last sign of every other rank, and when it was seen
        self._signs = {other: ("", time.monotonic()) for other in range(world_size) if other != rank}
        self._left = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Watch:
        if self.rank > 0:  # a shell's background process ignores interrupts
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._beating.start()
        # in a thread of its own: a question to the board of a process that is suspended has no answer
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: Any) -> None:
        if self.rank > 0 and error is None:
            while True:  # until rank 0 is through: it may miss the signs of life
                time.sleep(1)
        self._left.set()
        self._beating.join(self.patience)
        with suppress(dist.DistError):
            if self.rank == 0:
                self._close()
            elif kind is not None and not self.over:
                self.board.set(_LOST, f"rank {self.rank} ended with {kind.__name__}: {error}{self._see(self.rank)}")

    def _close(self) -> None:
        """Let the other ranks end, and wait until they do: their board may be in this process."""
        self.board.set(_OVER, "")
        until = time.monotonic() + self.patience
        while self.board.add(_ENDED, 0) < len(self._signs) and time.monotonic() < until:
            time.sleep(self._pause / 10)

    def _beat(self) -> None:
        """Give signs of life, and see the others'."""
        count = 0
        try:
            while not self._left.wait(self._pause):
                count += 1
                self.board.set(f"{_ALIVE}/{self.rank}", f"{count} {os.getpid()} {os.getppid()} {platform.node()}")
                for other, (before, _) in self._signs.items():
                    key = f"{_ALIVE}/{other}"
                    sign = self.board.get(key).decode() if self.board.check([key]) else ""
                    if sign != before:
                        self._signs[other] = sign, time.monotonic()
                if self.rank > 0 and self.board.check([_OVER]):
                    self.over = True
                    self._left.set()
                    self.board.add(_ENDED, 1)
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return
                if self.board.check([_LOST]):
                    self._end(self.board.get(_LOST).decode())
        except dist.DistError as error:
            self._end(f"rank 0 cannot be reached any more ({error}){self._see(0)}")

    def _look(self) -> None:
        """End where the signs of another rank stay out."""
        looked = time.monotonic()
        while not self._left.wait(self._pause):
            now = time.monotonic()
            if now - looked > self.patience / 2:  # this process was suspended itself, and has not seen them
                self._signs = {other: (sign, now) for other, (sign, _) in self._signs.items()}
            looked = now
            for other, (sign, seen) in self._signs.items():
                if now - seen > self.patience:
                    self._end(f"rank {other} has given no sign of life for {self.patience:g} s{self._see(other)}", sign)

    def _see(self, rank: int) -> str:
        return f" (see {self.log(rank)})"

    def _kill(self, sign: str) -> None:
        """Kill the process that gave a sign of life, if the one that started it has started this one too."""
        _, pid, *place = sign.split(" ", 2) if sign else ("", "0")
        if place == [f"{os.getppid()} {platform.node()}"]:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def _end(self, loss: str, sign: str = "") -> None:
        if self._left.is_set():
            return
        self.tell(loss)  # before a process that waits for the lost rank sees its end
        self._kill(sign)
        os._exit(1)  # the body may wait for what does not come
