"""The code that counts: of a module and what it imports, as it was when it was loaded."""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import optsteps.schedules
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


# rooms of this package that no result depends on, and modules that only name, find and keep results
WITHOUT_EFFECT = ("cli", "export", "finding", "loggers", "reporting", "running", "text", "deprecation", "fingerprint")
KEEPING = ("storage.claims", "storage.documents", "storage.sources", "storage.store", "storage.workers")
MODULES = sorted(
    module.name.removeprefix("optsteps.")
    for module in pkgutil.walk_packages(optsteps.__path__, "optsteps.")
    if not module.name.startswith("optsteps.conf")
)


def rooms(*modules: str) -> set[str]:
    """The modules of this package that count for these, without its name."""
    names = code_facts([f"optsteps.{module}" for module in modules])
    return {name.removeprefix("optsteps.") for name in names if name.split(".")[0] == "optsteps"}


def within(names: Iterable[str], *packages: str) -> list[str]:
    return [name for name in names if name in packages or name.startswith(tuple(f"{part}." for part in packages))]


def test_of_this_package_counts_what_computes() -> None:
    """Trajectories outlive a change of a method, of a solver that does not walk them, or of a report."""
    walked = rooms("trajectories")
    assert {"sampling", "schedules.schedule", "processes", "denoisers", "solvers.base"} <= walked
    assert within(walked, *WITHOUT_EFFECT, *KEEPING, "methods", "metrics", "comparison", "models", "datasets") == []
    assert set(within(walked, "solvers")) == {"solvers.base", "solvers.brownian", "solvers.philox"}
    assert {"methods.oss.search", "methods.oss.grid"} <= rooms("methods.oss")


def test_nothing_without_effect_counts_for_what_computes() -> None:
    computing = [name for name in MODULES if not within([name], *WITHOUT_EFFECT)]
    assert len(computing) > 80
    assert within(rooms(*computing), *WITHOUT_EFFECT, *KEEPING) == []


@pytest.mark.parametrize("module", ["oss.search", "ays.search", "ays.published", "handmade", "changed_problem", "base"])
def test_a_method_outlives_the_others(module: str) -> None:
    """Whatever the faces of `optsteps.methods` and `optsteps.solvers` offer."""
    method, taking_part = module.split(".")[0], {"ays": ["handmade"]}
    others = {"oss", "ays", "handmade", "changed_problem"} - {method, *taking_part.get(method, [])}
    counting = rooms(f"methods.{module}")
    assert f"methods.{module}" in counting
    assert within(counting, *(f"methods.{other}" for other in others)) == []
    assert "methods" not in counting
    assert within(counting, "solvers.unipc", "solvers.adams", "solvers.dpmpp", "solvers.stochastic") == []


@pytest.mark.parametrize("solver", ["adams", "dpmpp", "multistep", "singlestep", "unipc"])
def test_a_solver_outlives_the_others(solver: str) -> None:
    others = {"adams", "dpmpp", "singlestep", "stochastic", "unipc"} - {solver}
    assert within(rooms(f"solvers.{solver}"), "methods", *(f"solvers.{other}" for other in others)) == []


def test_a_face_counts_as_the_modules_that_it_offers(package: Path) -> None:
    (package / "mine.py").write_text(
        "from optsteps import sample\nfrom optsteps.methods import OSS as Search\nfrom optsteps.metrics import toy\n"
    )
    facts = code_facts(["users_own.mine"])
    assert {"optsteps.sampling", "optsteps.methods.oss.search", "optsteps.metrics.toy"} <= facts.keys()
    assert not facts.keys() & {"optsteps", "optsteps.methods", "optsteps.methods.oss", "optsteps.metrics"}
    assert not [name for name in facts if name.startswith(("optsteps.methods.ays", "optsteps.metrics.judges"))]
    (package / "mine.py").write_text("from optsteps.solvers import build_solver\n")  # which stands in the face itself
    assert {"optsteps.solvers", "optsteps.solvers.unipc"} <= code_facts(["users_own.mine"]).keys()
    (package / "mine.py").write_text("import optsteps.methods\n")
    assert {"optsteps.methods", "optsteps.methods.ays.search"} <= code_facts(["users_own.mine"]).keys()
    for old in ("from optsteps.methods.klub import rates\n", "from optsteps import training\n"):
        (package / "mine.py").write_text(old)
        new = "optsteps.methods.ays.klub" if "klub" in old else "optsteps.models.training.denoising"
        assert new in code_facts(["users_own.mine"])


def facts_of(package: Path, content: str) -> dict[str, str]:
    (package / "mine.py").write_text(content)
    return code_facts(["users_own.mine"])


def test_what_is_reached_as_an_attribute_of_the_package_counts(package: Path) -> None:
    facts = facts_of(package, "import optsteps\nmethod = optsteps.methods.HandMade('edm')\n")
    assert {"optsteps.methods.handmade"} <= facts.keys()
    facts = facts_of(package, "import optsteps as o\nx = o.sample\ns = o.schedules.families.edm\n")
    assert {"optsteps.sampling", "optsteps.schedules.families"} <= facts.keys()
    facts = facts_of(package, "import optsteps.processes\nsolver = optsteps.solvers.UniPC()\n")
    assert {"optsteps.processes", "optsteps.solvers.unipc"} <= facts.keys()


@pytest.mark.parametrize(
    "change",
    [
        "_before = build_schedule\ndef build_schedule(*args, **kwargs):\n    return _before(*args, **kwargs)\n",
        "class build_schedule:\n    pass\n",
        "build_schedule = None\n",
        "build_schedule.limit = 3\n",
        "register(build_schedule)\n",
    ],
)
def test_a_face_that_changes_what_it_offers_counts(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    user = "from optsteps.schedules import build_schedule\n"
    assert "optsteps.schedules" not in facts_of(package, user)
    face = tmp_path / "__init__.py"
    face.write_text(Path(optsteps.schedules.__file__).read_text() + change)
    spec = importlib.util.spec_from_file_location(
        "optsteps.schedules", face, submodule_search_locations=list(optsteps.schedules.__path__)
    )
    changed = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "optsteps.schedules", changed)
    assert {"optsteps.schedules", "optsteps.schedules.families"} <= facts_of(package, user).keys()


def test_a_relative_import_that_leads_nowhere_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in modules that are run both as scripts and as parts of a package."""
    (tmp_path / "lonely.py").write_text(
        "try:\n    from .util import g\nexcept ImportError:\n    from useful import g\n"
    )
    (tmp_path / "useful.py").write_text("g = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert {"lonely", "useful"} <= code_facts(["lonely"]).keys()
