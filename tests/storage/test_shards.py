"""Trees and their bytes: what a shard can hold, and that a file can make nothing run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from optsteps.storage.shards import on_cpu, pack, storable, unpack
from optsteps.storage.store import DamagedShardWarning, ShardStore


@storable
@dataclass(frozen=True)
class Found:
    """A user's own, of a class outside the package."""

    paths: dict[int, Tensor]
    name: str
    cost: float = 0.0
    walk: list[tuple[str, int]] = field(default_factory=list)
    kind: Literal["a", "b"] | None = None
    scratch: Any = field(default=None, metadata={"stored": False})


@dataclass
class Unregistered:
    command: str


NAME = f"{Found.__module__}.Found"


def file_of(tree: Any, **tensors: Tensor) -> bytes:
    """What a file says, whoever wrote it."""
    return save(tensors or {"0": torch.ones(1)}, {"tree": json.dumps(tree)})


def instance(of: str, /, **values: Any) -> dict[str, Any]:
    return {"dataclass": [of, [[key, {"value": value}] for key, value in values.items()]]}


def test_a_registered_dataclass_comes_back() -> None:
    whole = Found({5: torch.ones(2)}, "oss", 3, [("edm", 1)], "a", scratch=object())
    again = unpack(pack([whole]))[0]
    assert type(again) is Found
    assert (again.name, again.cost, again.walk, again.kind, again.scratch) == ("oss", 3, [("edm", 1)], "a", None)
    assert torch.equal(again.paths[5], torch.ones(2))


class Elsewhere(Tensor):
    """A tensor that says it lies on another device until it is copied."""

    def cpu(self) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor) + 1


def test_a_shard_that_was_computed_lies_where_one_that_was_read_does(tmp_path: Path) -> None:
    there = torch.zeros(2).as_subclass(Elsewhere)
    whole = Found({5: there}, "oss", scratch=there)

    def check(found: Found) -> None:
        assert type(found.paths[5]) is Tensor
        assert torch.equal(found.paths[5], torch.ones(2))
        assert found.scratch is there  # what is kept for this process alone stays where it is

    check(on_cpu(whole))
    tree = on_cpu({"a": [whole, None, "b", 1.5], "c": (there,)})
    check(tree["a"][0])
    assert tree["a"][1:] == [None, "b", 1.5]
    assert isinstance(tree["c"], tuple)
    check(ShardStore(tmp_path).compute(["key"], lambda _: whole)[0])


def test_what_is_not_registered_is_refused_when_written() -> None:
    with pytest.raises(
        TypeError, match=r"cannot hold a Unregistered: decorate the class with optsteps\.storage\.shards"
    ):
        pack(Unregistered("ls"))
    with pytest.raises(TypeError, match="is no dataclass"):
        storable(Path)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        # the form of this file's first version: a module, a name and arguments
        ({"dataclass": ["optsteps.running.compose", "instantiate", []]}, "no shard"),
        (instance("optsteps.running.compose.instantiate", config="x"), "which is not registered"),
        (instance("os.system", command="ls"), "which is not registered"),
        (instance(f"{__name__}.Unregistered", command="ls"), "which is not registered"),
        (instance(NAME, name="x"), "has the fields name, not paths, name, cost, walk, kind"),
        (instance(NAME, paths=0, name="x", cost=0.0, walk=0, kind=None, scratch=1), "has the fields"),
        (instance(NAME, paths=1, name="x", cost=0.0, walk=1, kind=None), "paths of a .* is a int"),
        ({"value": {"a": 1}}, "a value is a dict"),
        ({"tensor": "9"}, "no shard"),
        ({"call": "x"}, "no node is of the kind 'call'"),
        ({"dict": [[["a"], {"value": 1}]]}, "no shard"),
        ([], "no shard"),
        ({"value": 1, "tensor": "0"}, "too many values"),
        (None, "no shard"),
    ],
)
def test_a_file_that_was_not_written_by_pack(tree: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unpack(file_of(tree))


@pytest.mark.parametrize("value", ["3", True, None, [1.0]])
def test_values_are_of_their_field_s_type(value: Any) -> None:
    tree = json.loads(json.dumps({"dataclass": [NAME, []]}))
    named = {"paths": {"dict": [[5, {"tensor": "0"}]]}, "name": {"value": "x"}, "walk": {"list": []}}
    named |= {
        "kind": {"value": None},
        "cost": {"list": [{"value": 1.0}]} if isinstance(value, list) else {"value": value},
    }
    tree["dataclass"][1] = list(named.items())
    with pytest.raises(ValueError, match=r"cost of a .*Found is a \w+, not a <class 'float'>"):
        unpack(file_of(tree))


def test_bytes_that_are_no_file() -> None:
    deep = save({"0": torch.ones(1)}, {"tree": '{"list":[' * 100_000 + "]}" * 100_000})
    for content in (b"", b"\x80\x04cposix\nsystem\n", save({"0": torch.ones(1)}), deep):
        with pytest.raises(ValueError, match="no shard"):
            unpack(content)


def test_such_a_shard_is_computed_again(tmp_path: Path) -> None:
    """Whole by its name, and yet not one that the store wrote."""
    store = ShardStore(tmp_path)
    (tmp_path / "ke" / "key.x.safetensors").mkdir(parents=True)
    path = tmp_path / "ke" / "content"
    path.write_bytes(file_of(instance("optsteps.running.compose.instantiate", config="x")))
    path.rename(path.with_name(f"key.{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors"))
    with pytest.warns(DamagedShardWarning, match=r"safetensors: this is no shard .* is deleted and computed again"):
        assert store.compute(["key"], lambda _: 7) == [7]
    assert store.get("key") == 7
