"""What the guides tell a reader to type and to run, typed and run."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from guides import ROOT, Block, Command, blocks, check, commands
from overrides import with_oss
from reader import HUB, bring_detector, bring_files, bring_pipeline, names, sizes

import optsteps
from optsteps import Schedule, finding
from optsteps.methods import Auto
from optsteps.processes import Process

GUIDES = [
    ROOT / "README.md",
    ROOT / "conf" / "README.md",
    *(
        ROOT / "optsteps" / room / "README.md"
        for room in (
            "solvers",
            "metrics",
            "export",
            "models/diffusers",
            "methods/auto",
            "methods/oss",
            "methods/ays",
            "methods/blackbox",
            "methods/bounds",
            "methods/monitors",
            "methods/paths",
        )
    ),
]
PAGES = [*GUIDES, *sorted((ROOT / "experiments").glob("**/README.md"))]
LINKED = [
    ROOT / "README.md",
    *(p for f in ("conf", "optsteps", "experiments") for p in (ROOT / f).glob("**/README.md")),
]
MODULES = {"optsteps": "run", "optsteps-train": "train", "optsteps-report": "report", "optsteps-export": "export"}
# of machines that tests do not have: these commands are composed alone
ELSEWHERE = {"runner=gpu", "runner=all_gpus", "runner=slurm", "hydra/launcher=submitit_slurm"}
NOT_HERE = re.compile(r"model\.(variant|offload)=|runner\.precision=float16")
# whose methods or rivals have the pool of `auto`, or all methods: composing one takes seconds
POOLED = re.compile(r"experiment=((?:auto|rivals|blackbox|affordable)\S*)")
# of a sweep's values, two are enough
SWEPT = re.compile(r"^([\w/@.]+=\w+,\w+),[\w,]+$")
TINY = ["teacher.steps=4", "search.samples=2", "test.samples=32", "test.oracle=0", "store.folder=null"]
# outputs/ is the reader's, whose sweeps are reported on
TINY += ["paths.outputs=tiny"]
AYS = ["method.max_sweeps=1", "method.levels=16"]
# what makes it tiny, or possible, with one of a command's words
ALONGSIDE = {
    "model=diffusers": ["test.samples=4", "runner=cpu"],
    # processes of a run meet in its store
    "runner.devices=4": ["store.folder=store"],
    "model=scenes": ["test.samples=12", "model.guidance=1"],
    "method=auto": ["search.samples=8"],
    "method=ays": AYS,
    "method=evolution": ["search.samples=48", "method.rounds=1", "method.population=40"],
    "method=bayesian": ["search.samples=48", "method.rounds=1"],
    "method=cmaes": ["search.samples=64", "method.rounds=1"],
    "method.criterion=geneval": ["search.samples=48", "rivals=none"],
    "method.criterion=data_distance": ["search.samples=64", "rivals=none"],
    "method=ays_fid": [*AYS, "search.samples=12"],
    "method=ays_published": ["method.max_sweeps=1", "method.max_iterations=1"],
    "dataset=mnist": ["search.data=16", "paths.data=."],
    "method.grid_steps=20": ["method.grid_steps=3"],
    # two sets of a few samples make no FID worth the name, but a run
    "metric=fidelity": ["metric.judges.2.sets=4", "metric.judges.2.figures=[fid,kid]"],
    # latents of eleven frames
    "method.frames=[0,5,10]": ["model.num_frames=41"],
    "experiment=tune_edm": ["hydra.sweeper.n_trials=2"],
    "hydra/sweeper=optuna": ["hydra.sweeper.n_trials=2"],
}


def of(pages: list[Path]) -> list[Command]:
    return [command for page in pages for command in commands(page)]


def file_blocks() -> list[Block]:
    return [block for page in GUIDES for block in blocks(page) if block.file is not None]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    """A folder with the files that the guides show and those that they suppose."""
    folder = tmp_path_factory.mktemp("desk")
    bring_files(folder, write_run)
    for block in file_blocks():
        path = folder / str(block.file)
        assert not path.exists(), f"{block.file} stands in two guides"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    return folder


@pytest.fixture
def at_desk(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The reader sits there: modules are found, and relative paths begin there."""
    monkeypatch.chdir(desk)
    monkeypatch.syspath_prepend(desk)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")  # which srun tells its tasks
    yield desk
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def composed_at_first(found: list[Command]) -> list[Any]:
    """The commands; slow are those of experiments, and those whose pooled experiments earlier ones have too."""
    seen, marked = set[str](), list[Any]()
    for command in found:
        pooled = {name for word in command.words for one in POOLED.findall(word) for name in one.split(",")}
        repeated = bool(pooled) and pooled <= seen
        of_experiments = command.words[0] == "optsteps" and command.page.is_relative_to(ROOT / "experiments")
        marked.append(pytest.param(command, marks=[pytest.mark.slow] * (repeated or of_experiments)))
        seen |= pooled
    return marked


@pytest.mark.parametrize("command", composed_at_first(of(PAGES)), ids=str)
def test_every_command_is_known_to_its_program(command: Command, at_desk: Path) -> None:
    check(command, at_desk)


@pytest.mark.parametrize(
    "line",
    [
        ["optsteps", "solver=eular"],
        ["optsteps", "method.rhoo=5"],
        ["optsteps", "method=edm", "method.rhoo=5"],
        ["optsteps", "step=[5]"],
        ["optsteps", "method=oss,ays"],
        ["optsteps", "-m", "method=oss,aye"],
        ["optsteps-train", "training=none"],
        ["optsteps-report", "outputs", "--row", "method", "--format", "md", "--colour"],
        ["optsteps-export", "schedule_10.json", "--to", "comfy"],
        ["make", "runn"],
        ["make", "run", "ARGS=solver=eular"],
        ["python", "experiments/none.py"],
        ["python", "experiments/resume/kill.py", "--killls"],
        ["pip", "install", "optsteps[nothing]"],
        ["opstteps"],
    ],
    ids=" ".join,
)
def test_what_does_not_exist_is_noticed(line: list[str], at_desk: Path) -> None:
    with pytest.raises(Exception, match=r"."):
        check(Command(ROOT / "README.md", 1, {}, line, False), at_desk)


def run(command: Command, folder: Path) -> None:
    """A command in a tiny form, in this process; a sweep, or one of several processes, in its own."""
    program, *arguments = command.words
    if program == "optsteps" and "--help" not in arguments:
        arguments = tiny(arguments, folder)
    if program == "optsteps-train":
        arguments += ["training.max_steps=2", "trainer.val_check_interval=1", "paths.data=."]
    module = importlib.import_module(f"optsteps.cli.{MODULES[program]}")
    if "-m" in arguments or any(word.startswith("runner.devices=") for word in arguments):
        paths = os.pathsep.join([str(folder), str(ROOT)])
        command_line = [sys.executable, "-m", module.__name__, *arguments]
        subprocess.run(command_line, env={**os.environ, "PYTHONPATH": paths}, check=True)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *arguments])
        try:
            module.main()
        except SystemExit as end:  # as after --help
            if end.code:
                raise


def tiny(arguments: list[str], folder: Path) -> list[str]:
    """The arguments, without what needs a GPU, with overrides that make the run a matter of seconds."""
    count = "nfe=[4]" if any(word.startswith("nfe=") for word in arguments) else "steps=[2]"
    added = [count, *TINY]
    for word, overrides in ALONGSIDE.items():
        added += overrides if word in arguments else []
    for word in arguments:
        if word.startswith("model.path="):
            bring_pipeline(folder, word.removeprefix("model.path="))
            added = sizes(word.removeprefix("model.path=")) + added
    if "metric=geneval" in arguments:
        added += bring_detector(folder)
    if any(word.startswith("runner") for word in arguments if not NOT_HERE.match(word)):
        added = [word for word in added if not word.startswith("runner")]
    return with_oss([SWEPT.sub(r"\1", word) for word in arguments if not NOT_HERE.match(word)] + added)


def runnable(pages: list[Path]) -> list[Command]:
    return [c for c in of(pages) if c.words[0] in MODULES and not c.long and not ELSEWHERE & set(c.words)]


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    "command",
    [
        # the whole pool names candidates for the network: tests/cli/test_run.py runs solver=auto and method=evolution
        pytest.param(c, marks=[pytest.mark.slow] * bool({"method=bayesian", "solver=auto"} & set(c.words)))
        for c in runnable(GUIDES[:1])
        if "-m" not in c.words
    ],
    ids=str,
)
def test_the_commands_of_the_first_page_run(command: Command, at_desk: Path) -> None:
    run(command, at_desk)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in runnable(GUIDES) if "-m" in c.words or c.page != GUIDES[0]], ids=str)
def test_the_commands_of_the_guides_run(command: Command, at_desk: Path) -> None:
    run(command, at_desk)


def bring_few_methods_and_steps(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`find` and `tune` ask some methods of their pool, and the teachers that they and OSS follow have few steps."""
    whole, build_schedule = finding._auto, optsteps.build_schedule

    def with_few_methods(*settings: Any) -> Auto:
        auto = whole(*settings)
        auto.pool = {name: auto.pool[name] for name in (*finding.HAND_MADE, *finding.HAND_MADE_FOR_FLOWS, "gits")}
        return auto

    def with_few_steps(family: str, process: Process, steps: int, *further: Any, **named: Any) -> Schedule:
        return build_schedule(family, process, min(steps, 20), *further, **named)

    monkeypatch.setattr(finding, "_auto", with_few_methods)
    if "OSS()" in page.read_text():
        monkeypatch.setattr(optsteps, "build_schedule", with_few_steps)
    monkeypatch.setattr(optsteps, "find", partial(optsteps.find, teacher=20))
    monkeypatch.setattr(optsteps, "tune", partial(optsteps.tune, samples=14, teacher=10))


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.parent.name == "diffusers")) for p in GUIDES],  # many pipelines
    ids=[str(page.relative_to(ROOT)) for page in GUIDES],
)
def test_the_python_of_a_page_runs_in_its_order(
    page: Path, at_desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(at_desk, tmp_path / "desk")  # what a page writes is no other page's
    monkeypatch.chdir(tmp_path / "desk")
    bring_few_methods_and_steps(page, monkeypatch)
    namespace = names(str(page.relative_to(ROOT)))
    for block in blocks(page):
        if block.language == "python" and block.file is None:
            code = "\n" * (block.line - 1) + block.text  # so that an error names the page's line
            exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if heading:
            assert heading in headings(linked), target


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_first_page_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1500
    assert len(text.splitlines()) <= 150


def test_all_pipelines_of_the_guides_have_a_stand_in() -> None:
    paths = {w.removeprefix("model.path=") for c in of(GUIDES) for w in c.words if w.startswith("model.path=")}
    assert paths == {*HUB, "my_unet", "my_flow_unet", "my_pipeline"}
