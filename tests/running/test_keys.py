"""Results belong to what was asked: whatever changes them is computed again, and nothing else is.

Every case is run three times, each time in a process of its own: the second time nothing has changed, the third time
what the case changes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict
from overrides import with_oss
from safetensors.torch import save_file

from optsteps.cli.common import CONFIG_DIR
from optsteps.running.compose import compose_experiment
from optsteps.running.keys import Keys, keys_of
from optsteps.running.launch import only_rank
from optsteps.running.progress import Progress
from optsteps.running.share import compute, probe_model
from optsteps.storage.store import ShardStore

FORK = multiprocessing.get_context("fork")
TINY = ["steps=[2]", "teacher.steps=4", "search.samples=2", "test.samples=2", "model=mixture", "metric=teacher"]
TINY += ["runner=cpu", "runner.threads=1", "logger=none"]
TINY += [f"~method@rivals.{name}" for name in ("edm", "time_uniform", "logsnr")]

# a user's model: what it is made of is for the cases to say
MODEL = """
import torch
from optsteps.models import Model

class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x, t, cond=None):
        return self.factor * x / (1 + t.reshape(-1, 1).to(x)) ** 2

def model(factor, process, name="mine"):
    return Model(name, Scaled(factor), process, (2,), (80.0, 0.002))
"""


def composed(folder: Path, *overrides: str, target: str | None = None, **model: Any) -> DictConfig:
    """The config of a small search; with `target`, of that model and with these settings of it."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", with_oss([*TINY, f"paths.outputs={folder / 'outputs'}", *overrides]))
    if target is not None:
        with open_dict(config):
            config.model = {"_target_": target, "name": "mine", **model}
    return config


def in_new_process(folder: Path, function: Callable[..., Any], *arguments: Any, **environment: str) -> Any:
    """What a function returns in a process of its own, at work in `folder` and able to import from it."""
    queue = FORK.Queue()

    def work() -> None:
        os.chdir(folder)
        os.environ.update(environment)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True  # a source written twice in a second looks the same to Python's cache
        try:
            queue.put((True, function(*arguments)))
        except BaseException as error:
            queue.put((False, repr(error)))
            raise

    process = FORK.Process(target=work)
    process.start()
    well, answer = queue.get(timeout=120)
    process.join(30)
    assert well, answer
    return answer


def work_done(config: DictConfig) -> tuple[int, int]:
    """Network evaluations of a run, beside those of the probe, and the shards that it computed."""
    shards, evaluations = 0, 0
    put, leave = ShardStore.put, Progress.__exit__

    def counting(self: ShardStore, *arguments: Any) -> None:
        nonlocal shards
        shards += 1
        put(self, *arguments)

    def leaving(self: Progress, *error: object) -> None:
        nonlocal evaluations
        evaluations = self.evaluations
        leave(self, *error)

    ShardStore.put, Progress.__exit__ = counting, leaving  # type: ignore[method-assign]
    compute(config, "oss", only_rank(config.runner))
    return evaluations, shards


@dataclass
class Case:
    """A user's work, and a change of it.

    Attributes:
        files: text by name, or tensors of a weights file.
        changed: the files that differ the third time.
        target: of the model.
        settings: of the model; {} stands for the folder.
        overrides: of the command; {} stands for the folder.
        environment, changed_environment: of the process, before and after.
        links, changed_links: symbolic links, before and after.
        stands: evaluations that the change leaves alone; None: all.
    """

    files: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    target: str | None = "mine.build"
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    changed_environment: dict[str, str] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()
    changed_links: tuple[tuple[str, str], ...] = ()
    stands: int | None = 0

    def write(self, folder: Path, changed: bool) -> None:
        files = {**self.files, **(self.changed if changed else {})}
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content)
            else:
                save_file({key: torch.tensor(value) for key, value in content.items()}, path)
        for name, to in self.changed_links if changed else self.links:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(folder / to, target_is_directory=True)


def built(expression: str, before: str = "") -> str:
    """A module whose `build` makes a model of the factor that an expression gives."""
    return (
        f"{MODEL}\n{before}\ndef build(process, device, name, **settings):\n    return model({expression}, process)\n"
    )


WEIGHTS = "from safetensors.torch import load_file"
READS = {
    "a path in the code": ('load_file("weights.safetensors")["w"]', "weights.safetensors"),
    "a folder": ('load_file("folder/weights.safetensors")["w"]', "folder/weights.safetensors"),
    "a long path": ("load_file(settings['path'])['w']", "/".join(["long" * 20] * 4) + "/weights.safetensors"),
    "a path from home": (
        "load_file(__import__('os').path.expanduser(settings['path']))['w']",
        "weights.safetensors",
    ),
}
HELPER = "from helper import factor"
PARTIAL = "from functools import partial\nimport parts\nbuild = partial(parts.build, name='mine')\n"
DECORATED = """
import functools
from base import model
def twice(function):
    @functools.wraps(function)
    def made(process, device, name):
        return model(2 * function(), process)
    return made
@twice
def build():
    return %s
"""
SOLVER = """
import os
from optsteps.solvers.multistep import Euler
class Mine(Euler):
    name = "mine"
    def step(self, state, x, t, t_next, denoise, order=None):
        x, state = super().step(state, x, t, t_next, denoise, order)
        return x * %s, state
    def moves(self, schedule, x):
        return super(Euler.__mro__[1], self).moves(schedule, x)
"""
METHOD = """
from optsteps.methods import OSS
class Mine(OSS):
    def __init__(self, **settings):
        super().__init__(max_batch=%s, **settings)
"""
CRITERION = "import os\ndef small(samples, reference):\n    return %s * float((samples - reference).square().mean())\n"
EMBEDDING = """
import torch
from optsteps.models import Model
from safetensors.torch import load_file
class Classes:
    def __init__(self, table):
        self.table = table
    def __call__(self, x, t, cond=None):
        return self.table[cond].to(x) * x / (1 + t.reshape(-1, 1).to(x))
def build(process, device, name, **settings):
    table = load_file("weights.safetensors")["table"]
    return Model(name, Classes(table), process, (2,), (80.0, 0.002), num_classes=len(table))
"""
GLOBAL = "import torch\nfrom safetensors.torch import load_file\nW = load_file('weights.safetensors')['w']\n"
LAZY = MODEL.replace(
    "        return self.factor", "        from helper import factor\n        return factor * self.factor"
)

CASES: dict[str, Case] = {
    "a module that it imports": Case(
        {"mine.py": built("factor", HELPER), "helper.py": "factor = 1.0"}, {"helper.py": "factor = 1.1"}
    ),
    "a package that it imports": Case(
        {
            "mine.py": built("factor", "from pack.inner import factor"),
            "pack/__init__.py": "",
            "pack/inner.py": "from .deep import factor",
            "pack/deep.py": "factor = 1.0",
        },
        {"pack/deep.py": "factor = 1.1"},
    ),
    **{
        f"weights in {name}": Case(
            {"mine.py": built(expression, WEIGHTS), file: {"w": [1.0]}},
            {file: {"w": [1.1]}},
            settings={"path": {"a long path": file, "a path from home": f"~/{file}"}.get(name, "none")},
            environment={"HOME": "{}"},
        )
        for name, (expression, file) in READS.items()
    },
    "a target that is a partial": Case(
        {"mine.py": PARTIAL, "parts.py": built("1.0").replace("name, **settings", "name")},
        {"parts.py": built("1.1").replace("name, **settings", "name")},
    ),
    "a target that is decorated": Case(
        {"mine.py": DECORATED % 0.5, "base.py": MODEL}, {"base.py": MODEL.replace("** 2", "** 1.9")}
    ),
    "the environment": Case(
        {"mine.py": built("float(os.environ['FACTOR'])", "import os")},
        environment={"FACTOR": "1.0"},
        changed_environment={"FACTOR": "1.0001"},
    ),
    "a solver's source": Case(
        {"own.py": SOLVER % "1"},
        {"own.py": SOLVER % "1.01"},
        target=None,
        overrides=["solver._target_=own.Mine", "~solver.name"],
        # the predictions of the search, and of the oracle's, are where Euler's coefficients lead, which are inherited
        stands=12,
    ),
    "a solver's environment": Case(
        {"own.py": SOLVER % "float(os.environ['FACTOR'])"},
        target=None,
        overrides=["solver._target_=own.Mine", "~solver.name"],
        environment={"FACTOR": "1.0"},
        changed_environment={"FACTOR": "1.001"},
        stands=12,
    ),
    "a link to another folder": Case(
        {
            "mine.py": built("load_file(settings['path'] + '/unet/weights.safetensors')['w']", WEIGHTS),
            "pipeline/model_index.json": "{}",
            "a/weights.safetensors": {"w": [1.0]},
            "b/weights.safetensors": {"w": [1.1]},
        },
        settings={"path": "pipeline"},
        links=(("pipeline/unet", "a"),),
        changed_links=(("pipeline/unet", "b"),),
    ),
    # of our own
    "a module that a call imports": Case(
        {"mine.py": LAZY + built("1.0")[len(MODEL) :], "helper.py": "factor = 1.0"}, {"helper.py": "factor = 1.1"}
    ),
    "a class that no probe shows": Case(
        {"mine.py": EMBEDDING, "weights.safetensors": {"table": [[1.0]] * 12}},
        {"weights.safetensors": {"table": [[1.0]] * 11 + [[1.1]]}},
        overrides=["search.samples=12"],
    ),
    "a global of another module": Case(
        {"mine.py": built("W", "from held import W"), "held.py": GLOBAL, "weights.safetensors": {"w": [1.0]}},
        {"weights.safetensors": {"w": [1.1]}},
    ),
    "a method of one's own": Case(
        {"own.py": METHOD % 128},
        {"own.py": METHOD % "128, average='pooled'"},
        target=None,
        overrides=["method._target_=own.Mine", "~method.max_batch", "~method.average"],
        stands=None,
    ),
}


# another case of the fast ones does nearly the same
SLOW = ("weights in a folder", "weights in a path from home", "a solver's environment", "a target that is decorated")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
@pytest.mark.mostly_slow(3)
def test_what_changes_a_result_is_computed_again(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    environment = {key: value.format(tmp_path) for key, value in case.environment.items()}
    whole = "method.grid_steps=all"  # of a search that reads nothing of its own
    config = composed(tmp_path, whole, *case.overrides, target=case.target, **case.settings)

    case.write(tmp_path, changed=False)
    evaluations, shards = in_new_process(tmp_path, work_done, config, **environment)
    assert evaluations > 0
    assert in_new_process(tmp_path, work_done, config, **environment) == (0, 0)
    case.write(tmp_path, changed=True)
    again, computed = in_new_process(tmp_path, work_done, config, **{**environment, **case.changed_environment})
    assert again == evaluations - (evaluations if case.stands is None else case.stands)
    assert computed == shards if case.stands == 0 else computed > 0


def keys(config: DictConfig) -> Keys:
    experiment = compose_experiment(config, torch.device("cpu"), "oss")
    return keys_of(experiment, probe_model(experiment), "cpu")


REPLACED = (
    built("loaded()", WEIGHTS)
    + """
import os, shutil
def loaded():
    w = load_file("weights.safetensors")["w"].clone()  # which would show what is written into the mapped file
    if "REPLACE" in os.environ:
        shutil.copy("later.safetensors", "weights.safetensors")
        shutil.copy("later.py", "helper.py")
    import helper
    return helper.factor * w
"""
)


def test_what_is_replaced_after_it_was_loaded_does_not_count(tmp_path: Path) -> None:
    """Old results never lie under the key of new weights and sources."""
    case = Case({"mine.py": REPLACED.replace("import os", "import helper, os"), "helper.py": "factor = 1.0"})
    case.files |= {"later.py": "factor = 3.0", "weights.safetensors": {"w": [1.0]}, "later.safetensors": {"w": [2.0]}}
    case.write(tmp_path, changed=False)
    config = composed(tmp_path, target="mine.build")
    before = in_new_process(tmp_path, keys, config)
    replaced = in_new_process(tmp_path, keys, config, REPLACE="1")
    after = in_new_process(tmp_path, keys, config)
    assert before == replaced
    assert after.model["held"] != before.model["held"]
    assert after.model["outputs"] != before.model["outputs"]
    assert after.model["code"]["helper"] != before.model["code"]["helper"]


def test_what_a_denoiser_runs_on_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of packages, threads, and the instructions that decide over the last bits."""
    (tmp_path / "mine.py").write_text(built("1.0", "import diffusers"))
    config = composed(tmp_path, target="mine.build")
    first = in_new_process(tmp_path, keys, config)
    assert {"diffusers", "transformers", "torch"} <= first.model["code"].keys()
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "OTHER")
    assert in_new_process(tmp_path, keys, config).model["device"] != first.model["device"]
    monkeypatch.undo()
    versions = {"diffusers": "0", "transformers": "00"}
    for package, version in versions.items():
        monkeypatch.setattr(f"{package}.__version__", version)
    other = in_new_process(tmp_path, keys, config)
    assert other.model["code"] == {**first.model["code"], **versions}


def test_data_count_by_their_content(tmp_path: Path) -> None:
    """Images changed in their folder: the search is another, the model's own work is not."""
    module = (
        "import torch\nfrom optsteps.datasets import ImageSet\ndef images():\n    return ImageSet(%s, %s, 'mine')\n"
    )
    images = "torch.arange(40, dtype=torch.uint8).reshape(10, 1, 2, 2)"
    model = built("1.0").replace("(2,)", "(1, 2, 2)").replace("reshape(-1, 1)", "reshape(-1, 1, 1, 1)")
    (tmp_path / "mine.py").write_text(model)
    config = composed(tmp_path, "search.data=4", target="mine.build")
    with open_dict(config):
        config.dataset = {"_target_": "own.images"}
    found = []
    for some in (images, images, f"{images} + 1"):
        (tmp_path / "own.py").write_text(module % (some, "torch.zeros(10).long()"))
        found.append(in_new_process(tmp_path, keys, config))
    assert found[0] == found[1]
    assert found[2].problem["data"] != found[1].problem["data"]
    assert found[2].results != found[1].results
    assert found[2].model == found[1].model


def test_judges_and_decoders_count(tmp_path: Path) -> None:
    """What judges images determines a run's results, and what a search makes small its shards."""
    judge = (
        "import os\nfrom optsteps.metrics.judges import Judge, sample_wise\nclass Mine(Judge):\n"
        "    def judge(self, x, teacher, cond):\n"
        "        return {'mine': sample_wise(float(os.environ['FACTOR']) * x.flatten(1).mean(1), True)}\n"
    )
    decoded = built("1.0", "import os\nfrom dataclasses import replace").replace(
        "return model(1.0, process)",
        "return replace(model(1.0, process), decode=lambda x: float(os.environ['DECODED']) * x)",
    )
    (tmp_path / "own.py").write_text(judge + CRITERION % "float(os.environ['SMALL'])")
    (tmp_path / "mine.py").write_text(decoded)
    config = composed(tmp_path, "method=ays", target="mine.build")
    with open_dict(config):
        config.metric.judges = [{"_target_": "own.Mine"}]
        config.method.criterion = {"_target_": "hydra.utils.get_method", "path": "own.small"}
    environment = dict.fromkeys(("FACTOR", "DECODED", "SMALL"), "1.0")
    first = in_new_process(tmp_path, keys, config, **environment)
    for name in environment:
        other = in_new_process(tmp_path, keys, config, **{**environment, name: "1.1"})
        assert other.results != first.results
        assert other.model == first.model
        assert (other.methods == first.methods) == (name != "SMALL")


def test_words_of_a_config_are_no_files(tmp_path: Path) -> None:
    """Long words, none at all beside a config.json, and words that are the name of a folder: all are words to the
    model. A model that was moved is the same."""
    (tmp_path / "mine.py").write_text(built("load_file(settings['path'])['w']", WEIGHTS))
    (tmp_path / "config.json").write_text("{}")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file({"w": torch.ones(1)}, tmp_path / name / "w.safetensors")
    words = {"long": "words " * 500, "none": "", "null": "\0"}
    configs = [composed(tmp_path, target="mine.build", path=f"{name}/w.safetensors", **words) for name in ("a", "b")]
    first = in_new_process(tmp_path, keys, configs[0])
    assert first.model["config"]["model"] | words == first.model["config"]["model"]
    assert in_new_process(tmp_path, keys, configs[1]) == first
    (tmp_path / "config.json").write_text("{'other': 1}")
    assert in_new_process(tmp_path, keys, configs[0]) == first
    reworded = composed(tmp_path, target="mine.build", path="a/w.safetensors", **{**words, "none": "x"})
    assert in_new_process(tmp_path, keys, reworded) != first


def test_the_fingerprint_is_of_the_probe_s_answers(tmp_path: Path) -> None:
    found = keys(composed(tmp_path))
    assert found.fingerprint in found.described.values()
    assert keys(composed(tmp_path, check_model=False)).fingerprint == found.fingerprint
