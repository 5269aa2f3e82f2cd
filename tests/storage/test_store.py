"""Shards on disk: exact, shared between processes, never half-written, never damaged."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from optsteps.storage.store import DamagedShardWarning, ShardStore, UnwritableStoreWarning, digest

LEAVES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(-9, 99), inner, max_size=3)
    ),
    max_leaves=8,
)
TENSORS = [
    torch.arange(6.0).reshape(2, 3),
    torch.tensor([math.inf, math.nan], dtype=torch.float64),
    torch.tensor([], dtype=torch.long),
    torch.tensor(True),
    torch.ones(3, 4, dtype=torch.bfloat16).t(),
]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(a.double().nan_to_num(7), b.double().nan_to_num(7))
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_a_tree_comes_back_as_it_was(tmp_path: Path, tree: Any) -> None:
    store = ShardStore(tmp_path / digest(str(tree)))
    whole = {"tree": tree, 5: TENSORS, "shared": (TENSORS[0], TENSORS[0][1])}
    store.put("key", whole)
    assert same(store.get("key"), whole)


def test_every_reader_of_safetensors_can_look(tmp_path: Path) -> None:
    ShardStore(tmp_path).put("abc", {"path": TENSORS[0]})
    (file,) = tmp_path.glob("*/*.safetensors")
    assert torch.equal(load_file(file)["0"], TENSORS[0])
    assert file.name == f"abc.{hashlib.sha256(file.read_bytes()).hexdigest()}.safetensors"


def test_what_a_shard_cannot_hold(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    for tree, message in (({"a": {1, 2}}, "a shard cannot hold a set"), ({(1,): 2}, "keys of strings and integers")):
        with pytest.raises(TypeError, match=message):
            store.put("key", tree)
    assert store.get("key") is None


def test_damage_is_always_seen(tmp_path: Path) -> None:
    """1,000 single bytes changed or files cut off: none is used, none crashes, each is told of."""
    store, rng = ShardStore(tmp_path), np.random.default_rng(0)
    tree = {"path": torch.randn(3, 4, 5), "nfe": 17}
    store.put("key", tree)
    (file,) = tmp_path.glob("*/*.safetensors")
    content = file.read_bytes()
    for trial in range(1000):
        if trial % 2:
            place, change = int(rng.integers(len(content))), int(rng.integers(1, 256))
            damaged = content[:place] + bytes([content[place] ^ change]) + content[place + 1 :]
        else:
            damaged = content[: int(rng.integers(len(content)))]
        file.write_bytes(damaged)
        with pytest.warns(DamagedShardWarning, match="is damaged"):
            assert store.get("key") is None
        assert not file.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.compute(["key"], lambda _: tree)[0]["nfe"] == 17
        assert same(store.get("key"), tree)


def test_old_shards_give_way(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, limit=10_000)
    for k in range(6):
        store.put(f"key{k}", torch.zeros(500))  # 2,000 bytes and a header
        os.utime(next(tmp_path.glob(f"*/key{k}.*")), ns=(k, k))
        if k == 2:
            store.get("key0")  # used again: younger than its successors
    kept = {k for k in range(6) if store.get(f"key{k}") is not None}
    assert kept == {0, 3, 4, 5}
    ShardStore(tmp_path, limit=1).put("large", torch.zeros(5000))
    assert [path.name.split(".")[0] for path in tmp_path.glob("*/*.safetensors")] == ["large"]


def _slow(folder: Path, first: int) -> None:
    """Compute six shards of a tenth of a second each, leaving a mark for every one computed."""

    def shard(number: int) -> int:
        time.sleep(0.1)
        (folder / f"computed{number}.{os.getpid()}").touch()
        return number**2

    positions = [(first + k) % 6 for k in range(6)]
    assert ShardStore(folder).compute([f"key{k}" for k in range(6)], shard, positions) == [k**2 for k in positions]


@pytest.mark.parametrize("offset", [0, 3])
def test_processes_share_the_work(tmp_path: Path, offset: int) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_slow, args=(tmp_path, first)) for first in (0, offset)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    assert len(list(tmp_path.glob("computed*"))) == 6  # each once
    assert len({path.suffix for path in tmp_path.glob("computed*")}) == 2  # both did something


def _die(folder: Path) -> None:
    with ShardStore(folder).claimed("key0") as mine:
        assert mine
        (folder / "claimed").touch()
        time.sleep(60)


def test_a_dead_process_s_claim_is_free(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die, args=(tmp_path,))
    process.start()
    while not (tmp_path / "claimed").exists():
        time.sleep(0.01)
    with ShardStore(tmp_path).claimed("key0") as mine:
        assert not mine
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert ShardStore(tmp_path).compute(["key0"], lambda k: k + 1) == [1]


def test_a_hung_process_does_not_stop_the_others(tmp_path: Path) -> None:
    """Suspended at its first shard: another computes all of them, and when it wakes up it finds the same."""

    def work() -> None:
        def shard(number: int) -> int:
            (tmp_path / f"began{number}").touch()
            time.sleep(1.0)
            return number

        assert ShardStore(tmp_path / "store", patience=1.0).compute(["key0", "key1"], shard) == [0, 1]

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    while not (tmp_path / "began0").exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert ShardStore(tmp_path / "store", patience=1.0).compute(["key0", "key1"], lambda k: k) == [0, 1]
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.join(60)
    assert process.exitcode == 0
    assert not list((tmp_path / "store").glob("*/*.claim"))


OTHERS = ["models/unet/model.safetensors", "ke/model.safetensors", "ke/key9.safetensors", "notes.txt"]
# the name of a shard, in the folder of other keys
OTHERS.append(f"un/key9.{'0' * 64}.safetensors")


def _write(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"0" * 5000)


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_somebody_else_is_no_store(name: str, tmp_path: Path) -> None:
    _write(tmp_path, [name])
    with pytest.raises(ValueError, match=f"{name.split('/')[0]}.*a folder of its own"):
        ShardStore(tmp_path, limit=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_eviction_deletes_shards_alone(tmp_path: Path) -> None:
    """Whatever else somebody has put into the store by now."""
    store = ShardStore(tmp_path, limit=1)
    store.put("key0", torch.zeros(500))
    _write(tmp_path, OTHERS)
    store.put("key1", torch.zeros(500))
    assert all((tmp_path / name).exists() for name in OTHERS)
    assert store.get("key0") is None
    assert store.get("key1") is not None


def test_a_store_of_an_earlier_version_is_a_store(tmp_path: Path) -> None:
    """One without a mark, in which a process was killed."""
    ShardStore(tmp_path).put("key0", 7)
    (tmp_path / ".optsteps_store").unlink()
    (file,) = tmp_path.glob("*/*.safetensors")
    for name in ("ke/key1.lock", f"ke/.{file.name}.a8f3", "progress/0123/1.json"):
        _write(tmp_path, [name])
    assert ShardStore(tmp_path).get("key0") == 7
    ShardStore(tmp_path).put("key1", 8)
    assert (tmp_path / ".optsteps_store").exists()


def test_what_was_half_written_an_hour_ago_is_cleared_away(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, limit=10**6)
    store.put("key0", 7)
    (file,) = tmp_path.glob("*/*.safetensors")
    left = [f"ke/.{file.name}.a8f3", "ke/key5.claim"]
    _write(tmp_path, left)
    for name in left:
        os.utime(tmp_path / name, (0, 0))
    ShardStore(tmp_path, limit=1000).put("key1", 8)
    assert not any((tmp_path / name).exists() for name in left)


def test_a_shard_evicted_while_it_is_read_does_not_come_back_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ShardStore(tmp_path)
    store.put("key0", 7)
    read = Path.read_bytes

    def evicted(self: Path) -> bytes:
        content = read(self)
        self.unlink()
        return content

    monkeypatch.setattr(Path, "read_bytes", evicted)
    assert store.get("key0") == 7
    assert not list(tmp_path.glob("*/*.safetensors"))


def test_a_store_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    """What it lacks is computed; nothing is kept, a damaged shard stays where it is."""
    folder = tmp_path / "store"
    ShardStore(folder).put("key0", 7)
    ShardStore(folder).put("key2", 9)
    damaged = next(folder.glob("*/key2.*"))
    damaged.write_bytes(b"")

    def read() -> None:
        if os.geteuid() == 0:  # whom no mode keeps out
            os.setgid(65534)
            os.setuid(65534)
        with pytest.warns(UnwritableStoreWarning, match="computed and not kept") as caught:
            assert ShardStore(folder).compute(["key0", "key1", "key2"], lambda k: k) == [7, 1, 2]
        assert sum(warning.category is UnwritableStoreWarning for warning in caught) == 1

    for path in [*tmp_path.parents][:-2]:  # pytest's own folders are for one user
        if path.stat().st_uid == os.geteuid() and "pytest" in str(path):
            path.chmod(0o755)
    files = sorted(folder.rglob("*"))
    for path in [tmp_path, folder, *files]:
        path.chmod(0o555)
    try:
        process = multiprocessing.get_context("fork").Process(target=read)
        process.start()
        process.join(60)
    finally:
        for path in [tmp_path, folder, *files]:
            path.chmod(0o755)
    assert process.exitcode == 0
    assert sorted(folder.rglob("*")) == files


def test_keys_of_numbers_that_are_not_finite() -> None:
    keys = {digest({"noise_max": value}) for value in (math.inf, -math.inf, math.nan, 1.0)}
    assert len(keys) == 4
    assert digest({"noise_max": math.inf}) in keys


def test_keys_are_of_the_facts() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1}) != digest({"a": 1, "b": [2.5]})
    with pytest.raises(TypeError):
        digest({"a": torch.ones(1)})
