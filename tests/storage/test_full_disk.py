"""Disks without room: asked before, and named."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from optsteps.storage.files import write_atomically, zeros_on_disk


def test_more_states_than_the_disk_has_room_for(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(OSError, match=r"GB free; name a folder with room") as raised:
        zeros_on_disk([2, free], torch.uint8, tmp_path)
    assert raised.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no room for a file")
def test_states_have_their_room_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file would end the process (a bus error) where a page finds no room later."""
    unlink, reserved = os.unlink, []

    def seen(path: str) -> None:
        reserved.append(os.stat(path).st_blocks * 512)
        unlink(path)

    monkeypatch.setattr("optsteps.storage.files.os.unlink", seen)
    zeros = zeros_on_disk([1000, 1000], torch.float32, tmp_path)
    assert reserved[0] >= 4_000_000
    assert zeros.shape == (1000, 1000)
    assert int(zeros.count_nonzero()) == 0
    assert zeros_on_disk([0, 3], torch.float32, tmp_path).shape == (0, 3)


def test_an_error_of_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdopen

    def full(handle: int, *args: Any) -> Any:
        real(handle, *args).close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("optsteps.storage.files.os.fdopen", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'metrics.json'}'$"):
        write_atomically(tmp_path / "metrics.json", b"{}")
    assert list(tmp_path.iterdir()) == []
