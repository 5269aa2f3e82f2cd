"""`optsteps-export` as a user starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from optsteps import Schedule, build_schedule
from optsteps.cli import export as command
from optsteps.processes import VP, Flow
from optsteps.schedules import PUBLISHED, PUBLISHED_LEVELS, published_schedule, resampled

AYS = "14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029"


def start(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["optsteps-export", *map(str, arguments)])
    command.main()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    schedule = build_schedule("edm", VP.scaled_linear(), 6, t_max=999.0, t_min=12.0, final="zero", snap=True)
    schedule.save(tmp_path / "schedule_6.json")
    return tmp_path / "schedule_6.json"


def test_every_form(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    schedule = Schedule.load(saved)
    for form in ("comfyui", "comfyui-json", "kdiffusion", "csv"):
        start(monkeypatch, saved, "--to", form)
        printed = capsys.readouterr().out
        start(monkeypatch, saved, "--to", form, "--output", tmp_path / form)
        assert capsys.readouterr().out == ""
        assert (tmp_path / form).read_text().strip() == printed.strip()
        # and back: the process by name or from a file
        for process in ("sd", saved):
            start(
                monkeypatch, tmp_path / form, "--from", form, "--process", process, "--output", tmp_path / "back.json"
            )
            assert Schedule.load(tmp_path / "back.json").times.tolist() == pytest.approx(schedule.times.tolist())
    assert printed.startswith("step,time,noise_level,log_snr\n0,999.0,14.61")


def test_weights_and_told_times_go_to_schedule_files_and_to_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    schedule = Schedule([999, 500, -1], VP.scaled_linear(), weights=[[0.0], [0.25]], told_times=[998.5, 510])
    schedule.save(tmp_path / "schedule_2.json")
    start(monkeypatch, tmp_path / "schedule_2.json", "--to", "schedule", "--output", tmp_path / "again.json")
    assert Schedule.load(tmp_path / "again.json") == schedule
    for form in ("comfyui", "comfyui-json", "kdiffusion", "csv"):
        with pytest.raises(SystemExit):
            start(monkeypatch, tmp_path / "schedule_2.json", "--to", form)
        said = capsys.readouterr().err
        assert "weights of its own" in said
        assert "sample with optsteps.sample, or in a pipeline of diffusers with optsteps.apply, which obey them" in said
    start(monkeypatch, tmp_path / "schedule_2.json", "--to", "diffusers")
    assert "optsteps.apply(pipe, optsteps.Schedule.load(" in capsys.readouterr().out


def test_from_one_form_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "ays.txt").write_text(AYS)
    start(monkeypatch, tmp_path / "ays.txt", "--from", "comfyui", "--process", "sd", "--to", "csv")
    assert [line.split(",")[1] for line in capsys.readouterr().out.splitlines()[1::10]] == ["999.0", "0.0"]


def test_a_list_that_0_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "list.txt").write_text("[1.0, 0.75, 0.5]")
    for options in (["--from", "diffusers-sigmas"], ["--from", "kdiffusion", "--end", "append-zero"]):
        start(monkeypatch, tmp_path / "list.txt", *options, "--process", "flow", "--to", "comfyui")
        assert capsys.readouterr().out == "1.0, 0.75, 0.5, 0.0\n"


def test_diffusers(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    diffusers = pytest.importorskip("diffusers")
    start(monkeypatch, saved, "--to", "diffusers")
    printed = capsys.readouterr().out
    assert "from diffusers import EulerDiscreteScheduler\n" in printed
    assert "    timesteps=[999, " in printed
    start(monkeypatch, saved, "--to", "diffusers", "--scheduler", "DPMSolverMultistepScheduler")
    assert "DPMSolverMultistepScheduler.from_config(" in capsys.readouterr().out
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    diffusers.UniPCMultistepScheduler(**betas).save_pretrained(tmp_path / "model" / "scheduler")
    start(monkeypatch, saved, "--to", "diffusers", "--scheduler", tmp_path / "model")
    assert f"optsteps.apply(pipe, optsteps.Schedule.load({str(saved)!r}))" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["--to", "comfyui", "diffusers"]),
        (["--to", "schedule"], ["--output"]),
        (["--to", "csv", "--scheduler", "DDIMScheduler"], ["--to diffusers"]),
        (["--to", "csv", "--process", "sd"], ["--from"]),
        (["--to", "csv", "--end", "append-zero"], ["--from"]),
        (["--from", "comfyui"], ["--process", "sd, ddpm, flow, edm"]),
        (["--from", "comfyui", "--process", "nonsense"], ["nonsense", "sd, ddpm, flow, edm"]),
        (["--from", "csv", "--process", "sd"], ["schedule_6.json", "not of the form csv"]),
        (["--to", "diffusers", "--scheduler", "NoScheduler"], ["NoScheduler", "EulerDiscreteScheduler"]),
    ],
)
def test_errors_are_one_paragraph(
    options: list[str], expected: list[str], saved: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, saved, *options)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("optsteps-export: error:")
    assert error.count("\n") == 1
    for word in expected:
        assert word in error


def test_files_that_are_no_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "sigmas.txt").write_text("14.6, hm, 0")
    (tmp_path / "table.csv").write_text("step,time\n0,999\n1,-1\n")
    (tmp_path / "damaged.json").write_text('{"format": "optsteps.schedule", "version": 1}')
    for options, message in (
        ([tmp_path / "none.json", "--to", "csv"], "none.json"),
        ([tmp_path / "sigmas.txt", "--to", "csv"], "is not a schedule file, and looks like the form comfyui: read it"),
        ([tmp_path / "table.csv", "--to", "comfyui"], "with --from csv --process NAME, the process of its model (sd,"),
        ([tmp_path / "damaged.json", "--to", "csv"], "damaged.json is not a schedule of this version ('orders')"),
        ([tmp_path / "sigmas.txt", "--from", "comfyui", "--process", "sd"], "sigmas.txt: line 1: 'hm' is not a number"),
    ):
        with pytest.raises(SystemExit):
            start(monkeypatch, *options, "--output", tmp_path / "out")
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    build_schedule("flow_shift", Flow(), 2, t_max=1.0, t_min=0.0, shift=3.0).save(tmp_path / "s.json")
    start(monkeypatch, tmp_path / "s.json", "--to", "comfyui")
    assert capsys.readouterr().out == "1.0, 0.75, 0.0\n"


def test_another_number_of_steps(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    start(monkeypatch, saved, "--steps", 8, "--to", "kdiffusion")
    assert json.loads(capsys.readouterr().out) == resampled(Schedule.load(saved), 8).noise_levels.tolist()
    (tmp_path / "ays.txt").write_text(AYS)
    read = [tmp_path / "ays.txt", "--from", "comfyui", "--process", "edm"]
    start(monkeypatch, *read, "--steps", 20, "--output", tmp_path / "20.json")
    levels = [float(level) for level in AYS.split(", ")]
    expected = np.exp(np.interp(np.linspace(0, 10, 21), np.arange(11), np.log(levels)))
    np.testing.assert_allclose(Schedule.load(tmp_path / "20.json").times, expected, rtol=1e-12)
    Schedule([3, 2, 1], VP.linear(), orders=[1, 2]).save(saved)
    with pytest.raises(SystemExit):
        start(monkeypatch, saved, "--steps", 8, "--to", "comfyui")
    error = capsys.readouterr().err
    assert "--steps 8: the 2 steps of this schedule have orders" in error


@pytest.mark.parametrize("name", list(PUBLISHED_LEVELS))
def test_published_levels_by_name(name: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """As their users have them: the levels, the last replaced by 0, and any other number of steps."""
    start(monkeypatch, f"published:{name}", "--to", "comfyui")
    printed = [float(level) for level in capsys.readouterr().out.split(",")]
    assert printed[1:-1] == pytest.approx(PUBLISHED_LEVELS[name][1:-1])
    assert printed[0] == pytest.approx(PUBLISHED_LEVELS[name][0], rel=1e-4)
    assert printed[-1] == 0
    start(monkeypatch, f"published:{name}", "--steps", 8, "--to", "comfyui")
    assert len(capsys.readouterr().out.split(",")) == 9


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_library_as_its_users_run_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    listed = PUBLISHED[name]
    start(monkeypatch, f"published:{name}", "--to", "schedule", "--output", tmp_path / "s.json")
    schedule = Schedule.load(tmp_path / "s.json")
    values = [*listed.values[:-1], 0.0] if listed.zero == "replaces" else [*listed.values, 0.0]
    run = schedule.times if listed.of_flow else schedule.noise_levels
    assert (schedule.process, schedule.steps) == (listed.process(), listed.steps)
    assert run.tolist() == pytest.approx(values, rel=1e-4)
    start(monkeypatch, f"published:{name}", "--steps", 5, "--to", "kdiffusion")
    five = json.loads(capsys.readouterr().out)
    assert (len(five), five[-1]) == (6, 0)


def test_which_schedule_to_take(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    start(monkeypatch, "--list")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"published:{name}" for name in PUBLISHED]
    assert "Wan 2.2 Lightning, distilled, 4 steps, euler, shift 5, 0 after the last value" in lines[-1]
    start(monkeypatch, "--list", "SDXL", "--steps", 8)
    [answer] = capsys.readouterr().out.splitlines()
    assert answer.startswith(
        "optsteps-export published:sdxl --steps 8 --to comfyui  # made for Stable Diffusion XL, 10 "
    )
    assert "For another model, finetune or solver it is a guess; measured: optsteps model=" in answer
    start(monkeypatch, "--list", "flux")
    assert len(capsys.readouterr().out.splitlines()) == 2
    with pytest.raises(SystemExit):
        start(monkeypatch, "--list", "pony")
    assert "nothing is published for a model like 'pony'" in capsys.readouterr().err


def test_parts_and_timesteps(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    sdxl = published_schedule("sdxl")
    for part, first, last in (("2:5", 2, 5), (":4", 0, 4), ("levels=1.4:0.2", 4, 8), ("strength=0.35", 7, 10)):
        start(monkeypatch, "published:sdxl", "--part", part, "--to", "kdiffusion")
        assert json.loads(capsys.readouterr().out) == sdxl.noise_levels[first : last + 1].tolist()
    start(monkeypatch, "published:sdxl", "--snap", "--to", "kdiffusion")
    assert json.loads(capsys.readouterr().out) == sdxl.snapped().noise_levels.tolist()
    form = "a part is written 2:8, levels=5:0.1 or strength=0.6"
    unwritten = dict.fromkeys(("x", "levels=3", "size=1:2", "strength=1:2", "strength="), form)
    for part, message in {**unwritten, "7:3": "no step is left", "strength=2": "strength must"}.items():
        with pytest.raises(SystemExit):
            start(monkeypatch, "published:sdxl", "--part", part, "--to", "csv")
        said = capsys.readouterr().err
        assert f"published:sdxl, --part {part}: {message}" in " ".join(said.split())


def test_the_node_pack(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    start(monkeypatch, saved, "--to", "comfyui-nodes", tmp_path / "pack")
    start(monkeypatch, "published:flux_oss", "--to", "comfyui-nodes", tmp_path / "pack")
    written = {str(path.relative_to(tmp_path / "pack")) for path in (tmp_path / "pack").rglob("*.*")}
    assert {"__init__.py", "nodes.py", "schedules/schedule_6.json", "schedules/flux_oss.json"} <= written
    for options in (["--to", "comfyui-nodes"], [tmp_path, "--to", "comfyui"]):
        with pytest.raises(SystemExit):
            start(monkeypatch, saved, *options)
        assert "name its FOLDER" in capsys.readouterr().err


def test_nothing_is_published_for_others(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with pytest.raises(SystemExit):
        start(monkeypatch, "published:sd9", "--to", "comfyui")
    assert "nothing is published for 'sd9'; known: sd15, sdxl" in capsys.readouterr().err
