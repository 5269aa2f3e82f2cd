"""The code that counts: of a module and what it imports, as it was when it was loaded."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from optsteps.storage.sources import code_facts, remember_sources


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a user's, importable."""
    folder = tmp_path / "users_own"
    folder.mkdir()
    (folder / "__init__.py").write_text("from . import first\n")
    (folder / "first.py").write_text("import numpy\nfrom .second import number\n")
    (folder / "second.py").write_text("number = 1\n\ndef late():\n    from users_own import third\n")
    (folder / "third.py").write_text("number = 3\n")
    (folder / "other.py").write_text("number = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "users_own"]:
        del sys.modules[name]


def test_all_that_a_module_imports_counts(package: Path) -> None:
    """At the top, within a function, of the package around it; neither Python's own nor what lies beside."""
    importlib.import_module("users_own.first")
    facts = code_facts(["users_own.first"])
    assert set(facts) == {"numpy", "users_own", *(f"users_own.{name}" for name in ("first", "second", "third"))}
    assert facts["numpy"] == importlib.import_module("numpy").__version__


def test_a_loaded_module_counts_as_it_was(package: Path) -> None:
    importlib.import_module("users_own.first")
    remember_sources()
    before = code_facts(["users_own.first"])
    for name in ("second", "third"):
        (package / f"{name}.py").write_text("number = 10\n")
    (package / "first.py").unlink()
    after = code_facts(["users_own.first"])
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"users_own.third"}  # which was not loaded, and would be as it is now
    importlib.import_module("users_own.third")
    (package / "third.py").write_text("number = 30\n")
    assert code_facts(["users_own.first"])["users_own.third"] != after["users_own.third"]


def test_of_this_package_counts_what_computes() -> None:
    """Trajectories outlive a change of a method, of a solver that does not walk them, or of a report."""
    facts = code_facts(["optsteps.trajectories"])
    own = {name for name in facts if name.startswith("optsteps")}
    assert {"optsteps.sampling", "optsteps.schedules.schedule", "optsteps.processes", "optsteps.denoisers"} <= own
    for part in ("cli", "reporting", "export", "methods", "metrics", "running", "solvers.unipc"):
        assert not [name for name in own if name.startswith(f"optsteps.{part}")]
    assert {"optsteps.methods.oss.search", "optsteps.methods.oss.grid"} <= code_facts(["optsteps.methods.oss"]).keys()
