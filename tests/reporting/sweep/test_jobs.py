"""What became of the jobs of a sweep, from the notes in their folders alone."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optsteps.reporting.sweep.jobs import NO_END, UnfinishedJob, jobs_sentences, unfinished_jobs
from optsteps.storage.claims import Claim

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def plan(sweep: Path, *overrides: str, target: str = BASIC, params: dict[str, str] | None = None) -> None:
    """Hydra's own file on a sweep that was started."""
    sweep.mkdir(parents=True, exist_ok=True)
    hydra = {"overrides": {"task": list(overrides)}, "sweeper": {"_target_": target, "params": params}}
    (sweep / "multirun.yaml").write_text(yaml.safe_dump({"hydra": hydra}))


def attempt(
    folder: Path, overrides: Sequence[str] | None, failed: str | None = None, metrics: bool = True, job: bool = True
) -> Path:
    """The notes of a job in its folder."""
    (folder / ".hydra").mkdir(parents=True)
    if overrides is not None:
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
        state = "begun" if failed else "finished"
        (folder / "run.json").write_text(json.dumps({"state": state, "config": "c", "method": "oss"}))
    if job:
        record = {
            "digest": "d" * 8 + folder.name.split("-")[0],
            "commit": "c",
            **({"failed": failed} if failed else {}),
        }
        (folder / "job.json").write_text(json.dumps(record))
    if metrics:
        (folder / "metrics.json").write_text("{}")
    return folder


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Claim(path, "a job").held(pause=0.1):
        yield


STATES = ("finished", "failed", "killed", "killed early", "running", "starting", "missing", "failed, then killed")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(STATES), min_size=1, max_size=6), st.integers(1, 3))
def test_every_mixture_of_states(states: list[str], seeds: int) -> None:
    """Each job of the plan is named once with its state, in the plan's order but for the missing, which are last."""
    methods = [f"m{k}" for k in range(len(states))]
    jobs = list(itertools.product(zip(methods, states, strict=True), range(seeds)))
    expected: dict[str, list[tuple[str, ...]]] = {"failed": [], "running": [], "missing": []}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        sweep = Path(folder) / "sweep"
        plan(sweep, f"method={','.join(methods)}", f"seed={','.join(map(str, range(seeds)))}", "test.samples=8")
        for number, ((method, state), seed) in enumerate(jobs):
            overrides = (f"method={method}", f"seed={seed}", "test.samples=8")
            place = sweep / f"{number}-abc"
            if state == "finished":
                attempt(place, overrides)
                attempt(sweep / f"{number + 90}-old", overrides, NO_END, metrics=False, job=False)
            elif state == "failed":
                attempt(place, overrides, "ValueError: no\nsuch thing", metrics=False)
            elif state == "failed, then killed":
                attempt(place, overrides, "ValueError: no such thing", metrics=False)
                attempt(sweep / f"{number + 90}-abc", overrides, NO_END, metrics=False)
            elif state in ("killed", "killed early"):
                attempt(place, overrides if state == "killed" else None, NO_END, metrics=False)
            elif state == "running":
                attempt(place, overrides, NO_END, metrics=False)
                held.enter_context(claimed(place / ".run.claim"))
            elif state == "starting":
                attempt(place, None, NO_END, metrics=False)
                held.enter_context(claimed(sweep / ".locks" / f"dddddddd{number}"))
            shown = {"killed": "failed", "killed early": "failed", "failed, then killed": "failed"}
            kind = {"starting": "running", **shown}.get(state, state)
            if kind != "finished":
                varying = ((f"method={method}",) if len(methods) > 1 else ()) + ((f"seed={seed}",) if seeds > 1 else ())
                expected[kind].append(varying)
        found = unfinished_jobs(Path(folder))
        assert unfinished_jobs(sweep, Path(folder)) == found
    for kind, overrides in expected.items():
        assert [job.overrides for job in found if job.state == kind] == overrides
    assert len(found) == sum(map(len, expected.values()))
    assert [job.state == "missing" for job in found] == sorted(job.state == "missing" for job in found)
    for job in found:
        assert bool(job.reason) == (job.state == "failed")
        assert "\n" not in job.reason
    first, *named = jobs_sentences(found) or [""]
    assert len(named) == len(found)
    for kind, overrides in expected.items():
        assert (f"{len(overrides)} {kind}" in first) == bool(overrides)


def test_the_reason_is_the_one_that_was_noted(tmp_path: Path) -> None:
    plan(tmp_path, "seed=0,1,2,3")
    attempt(tmp_path / "0-a", ["seed=0"], "ValueError: " + "x" * 1000, metrics=False)
    attempt(tmp_path / "1-a", ["seed=1"], NO_END, metrics=False)
    attempt(tmp_path / "2-a", ["seed=2"], metrics=False)
    zero, one, two, three = unfinished_jobs(tmp_path)
    assert zero.reason.startswith("ValueError: xxx")
    assert len(zero.reason) < 400
    assert one.reason == "it was killed, or its machine went down"
    assert two.reason == "its metrics.json is gone"
    assert str(three) == f"seed=3 has no folder yet ({tmp_path})"


def test_a_run_without_a_sweep(tmp_path: Path) -> None:
    attempt(tmp_path / "a", ["seed=0"], job=False)
    attempt(tmp_path / "b", ["seed=1"], NO_END, metrics=False, job=False)
    assert [(job.state, job.folder, job.overrides) for job in unfinished_jobs(tmp_path)] == [
        ("failed", tmp_path / "b", ())
    ]


def test_settings_of_the_sweeper_are_planned_and_the_command_overrules_them(tmp_path: Path) -> None:
    plan(tmp_path, "method.rho=range(3,6)", params={"method.rho": "3,9", "seed": "1,2"})
    found = {job.overrides for job in unfinished_jobs(tmp_path)}
    assert found == {(f"method.rho={rho}", f"seed={seed}") for rho in (3, 4, 5) for seed in (1, 2)}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "hydra: 3",
        "hydra: {overrides: {task: [seed]}, sweeper: {_target_: a.BasicSweeper}}",
        "hydra: {overrides: {task: 7}, sweeper: {_target_: a.BasicSweeper}}",
        "hydra: {overrides: {task: [{a: b}]}, sweeper: {_target_: a.BasicSweeper}}",
        "hydra: {overrides: {task: ['method=glob(*)']}, sweeper: {_target_: a.BasicSweeper}}",
        "hydra: {overrides: {task: ['seed=interval(1,2)']}, sweeper: {_target_: a.BasicSweeper}}",
        "hydra: {overrides: {task: ['a=range(1000000000)']}, sweeper: {_target_: a.BasicSweeper}}",
        "hydra: {overrides: {task: ['a=range(1000)', 'b=range(1000)']}, sweeper: {_target_: a.BasicSweeper}}",
        "hydra: {overrides: {task: ['seed=0,1']}, sweeper: {_target_: optuna.OptunaSweeper}}",
    ],
)
def test_a_plan_that_cannot_be_read_hides_no_folder(text: str, tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").write_text(text)
    attempt(tmp_path / "0-a", ["seed=0"])
    failed = attempt(tmp_path / "1-a", ["seed=1"], "ValueError: no", metrics=False)
    assert unfinished_jobs(tmp_path) == [UnfinishedJob("failed", failed, ("seed=1",), "ValueError: no")]


def test_notes_that_cannot_be_read(tmp_path: Path) -> None:
    for name, text in (("a", "{"), ("b", "[1]"), ("c", '{"digest": "../../x", "failed": 3}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(text)
    assert [job.reason for job in unfinished_jobs(tmp_path)] == [*["its metrics.json is gone"] * 2, "3"]
