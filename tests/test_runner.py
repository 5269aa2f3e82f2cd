"""What decides whether two runs' shards are the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from optsteps.models.checkpoint import resolve_weights
from optsteps.runner import with_contents
from optsteps.store import file_digest


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    config = {"weights": str(file), "list": ["no file", 3, None, "words " * 500], "shipped": "shipped:mnist"}
    file.write_bytes(b"one")
    first = with_contents(config)
    assert first["shipped"] == file_digest(resolve_weights("shipped:mnist"))
    assert first["list"] == config["list"]
    assert with_contents({**config, "weights": str(file)}) == first
    file.write_bytes(b"two")
    assert with_contents(config) != first


def test_a_model_of_one_s_own_counts_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "my_models.py"
    module.write_text("def mine():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = with_contents({"_target_": "my_models.mine"})
    module.write_text("def mine():\n    return 2\n")
    assert with_contents({"_target_": "my_models.mine"}) != first
    assert "_source_" not in with_contents({"_target_": "optsteps.models.pretrained"})
    del sys.modules["my_models"]
