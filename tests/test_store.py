"""Shards on disk: exact, shared between processes, never half-written, never damaged."""

from __future__ import annotations

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

from optsteps.store import DamagedShardWarning, ShardStore, digest, file_digest

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
    assert file.name == f"abc.{file_digest(file)}.safetensors"


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

    assert ShardStore(folder).compute([f"key{k}" for k in range(6)], shard, first) == [0, 1, 4, 9, 16, 25]


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


def test_keys_are_of_the_facts() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1}) != digest({"a": 1, "b": [2.5]})
    with pytest.raises(TypeError):
        digest({"a": torch.ones(1)})
