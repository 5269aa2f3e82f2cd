"""The version of the code, as a run notes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import optsteps
from optsteps.running.version import code_version


def test_the_commit_tells_of_changed_and_of_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(optsteps, "__file__", str(package / "__init__.py"))
    (package / "__init__.py").write_text("")
    assert code_version() == "not a checkout"
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    commit = code_version()
    assert len(commit) == 12
    (package / "new.py").write_text("")
    assert code_version() == f"{commit}-untracked"
    (package / "__init__.py").write_text("changed = True")
    assert code_version() == f"{commit}-dirty-untracked"
    monkeypatch.setenv("PATH", "")
    assert code_version().startswith("unknown: git cannot be run")
