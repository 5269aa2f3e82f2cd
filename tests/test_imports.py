"""Imports are quick: in a fresh interpreter, no layer loads what it does not need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import optsteps

# a layer whose functions a notebook calls with plain torch
LAYERS = [
    "processes",
    "noise",
    "conditions",
    "denoisers",
    "sampling",
    "trajectories",
    "schedules",
    "solvers",
    "methods",
    "metrics.base",
    "comparison",
    "storage",
    "fingerprint",
    "text",
    "export",
    "models",
]
HEAVY = {"hydra", "omegaconf", "lightning", "wandb", "torchmetrics", "torch_fidelity", "transformers", "diffusers"}
HEAVY |= {"matplotlib", "rich", "pydantic", "sklearn", "plotly"}
UPPER = {"optsteps.running", "optsteps.cli", "optsteps.reporting", "optsteps.loggers"}


def loaded(code: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter has loaded at the end of `code`."""
    report = "import sys, atexit\natexit.register(lambda: print(*sys.modules, sep='\\n', file=sys.stderr))\n"
    command = [sys.executable, "-c", report + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(done.stderr.splitlines())


@pytest.fixture(scope="module")
def loaded_by_layers() -> dict[str, set[str]]:
    """The modules that a fresh interpreter has loaded after each of the layers, which it imports one after another."""
    code = "import importlib, json, sys\nloaded = {}\nfor layer in sys.argv[1:]:\n"
    code += "    importlib.import_module(f'optsteps.{layer}')\n    loaded[layer] = list(sys.modules)\n"
    command = [sys.executable, "-c", code + "print(json.dumps(loaded))", *LAYERS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {layer: set(modules) for layer, modules in json.loads(done.stdout).items()}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_loads_what_it_needs(layer: str, loaded_by_layers: dict[str, set[str]]) -> None:
    """The first layer that fails is the one that loads too much: it comes after layers that do not."""
    assert f"optsteps.{layer}" in loaded_by_layers[layer]
    assert not loaded_by_layers[layer] & (HEAVY | UPPER)


def test_every_name_of_the_package_loads_what_it_needs() -> None:
    modules = loaded("from optsteps import *")
    assert {"torch", "optsteps.sampling", "optsteps.export"} <= modules
    assert not modules & (HEAVY | UPPER)


def test_the_package_alone_loads_nothing() -> None:
    modules = loaded("import optsteps; optsteps.__version__")
    assert "optsteps" in modules
    assert not modules & {*HEAVY, *UPPER, "torch", "numpy"}


def test_a_module_of_the_package_is_an_attribute_of_it() -> None:
    modules = loaded("import optsteps; assert optsteps.solvers.build_solver('euler').name == 'euler'; print()")
    assert "optsteps.solvers" in modules
    with pytest.raises(AttributeError, match="module 'optsteps' has no attribute 'solver'"):
        _ = optsteps.solver


LINES = [
    "run --help",
    "run nosuch=1",
    "run solver=eulre",
    "run store.limt=3",
    "run steps=null",
    "run -m solver=eulre",
    "train --help",
    "train seed=-1",
]
ANSWERS = """
import importlib, json, pathlib, sys
loaded = {}
for line in LINES:
    command, *sys.argv[1:] = line.split()
    sys.argv[0] = f"optsteps-{command}"
    try:
        importlib.import_module(f"optsteps.cli.{command}").main()
    except SystemExit:
        pass
    loaded[line] = list(sys.modules)
pathlib.Path(FILE).write_text(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded_by_commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The modules that a fresh interpreter has loaded after each of the lines, which it answers one after another."""
    folder = tmp_path_factory.mktemp("lines")
    code = f"LINES, FILE = {LINES!r}, 'loaded.json'{ANSWERS}"
    subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    return {line: set(modules) for line, modules in json.loads((folder / "loaded.json").read_text()).items()}


@pytest.mark.parametrize("line", LINES)
def test_a_command_answers_before_anything_heavy_is_loaded(line: str, loaded_by_commands: dict[str, set[str]]) -> None:
    """The first line that fails is the one that loads too much: it comes after lines that do not."""
    assert f"optsteps.cli.{line.split()[0]}" in loaded_by_commands[line]
    light = {"hydra", "omegaconf", "pydantic"}
    assert not loaded_by_commands[line] & {*HEAVY - light, "torch", "numpy", "optsteps.running.run"}
