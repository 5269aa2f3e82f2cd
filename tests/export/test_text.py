"""Text that other tools read, there and back."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optsteps import Schedule, build_schedule
from optsteps.export import (
    apply,
    diffusers_snippet,
    read_schedule,
    run_snippets,
    to_comfyui,
    to_csv,
    to_diffusers,
    to_kdiffusion,
)
from optsteps.export.diffusers.arguments import load_scheduler
from optsteps.processes import EDM, VP, Flow, Process

SD = VP.scaled_linear()
RANGES: dict[str, tuple[Process, float, float]] = {
    "edm": (EDM(), 1e-4, 700.0),
    "vp": (SD, 0.0, 999.0),
    "flow": (Flow(), 1e-6, 1.0),
}
WRITERS = {
    "comfyui": to_comfyui,
    "comfyui-json": lambda schedule: to_comfyui(schedule, "json"),
    "kdiffusion": to_kdiffusion,
    "csv": to_csv,
}


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    process, low, high = RANGES[draw(st.sampled_from(sorted(RANGES)))]
    times = draw(st.lists(st.floats(low, high), min_size=2, max_size=10, unique_by=lambda t: round(t, 6)))
    final = [process.t_clean] if draw(st.booleans()) else []
    return Schedule([*sorted(times, reverse=True), *final], process)


@pytest.mark.filterwarnings("ignore:the schedule ends at noise level")
@settings(deadline=None)
@given(schedules(), st.sampled_from(sorted(WRITERS)))
def test_round_trips(schedule: Schedule, form: str) -> None:
    text = WRITERS[form](schedule)
    back = read_schedule(text, schedule.process, form)
    if form == "csv" or schedule.process.name == "edm":
        assert back == schedule
    else:  # from noise levels and back
        torch.testing.assert_close(back.times, schedule.times, rtol=1e-12, atol=1e-9)
    assert read_schedule(text, schedule.process).times.tolist() == back.times.tolist()
    sigmas = schedule.times if schedule.process.name == "flow" else schedule.noise_levels
    if form == "comfyui":
        # what ComfyUI's node makes of it: it knows no exponents
        assert [float(x) for x in re.findall(r"[-+]?(?:\d*\.*\d+)", text)] == sigmas.tolist()
    elif form != "csv":
        assert json.loads(text) == sigmas.tolist()


def test_the_table() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(build_schedule("flow_shift", Flow(), 4, t_max=1.0, t_min=0.0)))))
    assert list(rows[0]) == ["step", "time", "noise_level", "log_snr"]
    assert [row["step"] for row in rows] == list("01234")
    assert list(rows[0].values()) == ["0", "1.0", "inf", "-inf"]
    assert list(rows[-1].values()) == ["4", "0.0", "0.0", "inf"]


def test_text_and_lists_read_back() -> None:
    schedule = build_schedule("edm", EDM(), 4, t_max=80.0, t_min=0.002, final="zero")
    assert to_comfyui(schedule) == to_comfyui(schedule, "json")[1:-1]
    for source in (to_comfyui(schedule), schedule.times.tolist()):
        assert read_schedule(source, EDM()).times.tolist() == schedule.times.tolist()


@pytest.mark.parametrize(
    ("method", "function"),
    [
        ("to_diffusers", "to_diffusers(schedule, scheduler)"),
        ("to_comfyui", "to_comfyui(schedule, form)"),
        ("to_csv", "to_csv(schedule)"),
        ("from_levels", "read_schedule(source, process)"),
    ],
)
def test_methods_of_the_schedule_before_name_the_functions(method: str, function: str) -> None:
    schedule = build_schedule("edm", EDM(), 4, t_max=80.0, t_min=0.002)
    for holder in (schedule, Schedule):
        with pytest.raises(AttributeError, match=re.escape(f"Schedule.{method} is no longer a method: call ")) as error:
            getattr(holder, method)
        assert str(error.value).endswith(f"optsteps.export.{function}")
    assert method not in vars(schedule)


# the constants of AYS for Stable Diffusion 1.5, as people paste them
AYS = "14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029"


@pytest.mark.parametrize(
    "text", [AYS, f"[{AYS}]", f"[{AYS},\n]\n", AYS.replace(", ", "\n"), AYS.replace(",", ";"), "noise_level\n" + AYS]
)
def test_published_constants(text: str, tmp_path: Path) -> None:
    text = text.replace(", ", "\n") if text.startswith("noise") else text
    expected = build_schedule("published", SD, 10, model="sd15").times
    (tmp_path / "sigmas").write_text(text)
    for source in (text, tmp_path / "sigmas"):
        found = read_schedule(source, SD).times
        assert found[[0, -1]].tolist() == [999, 0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    zero = read_schedule(AYS.replace("0.029", "0.0"), SD)
    assert zero.times[-1] == -1
    assert zero.noise_levels[-1] == 0


@pytest.mark.parametrize(
    ("source", "process", "message"),
    [
        ("", SD, "empty text"),
        ("14.6, x, 0", SD, "line 1: 'x' is not a number"),
        ("14.6\n3\n\nthree", SD, "line 4: 'three' is not a number"),
        ("[14.6, 3", SD, "line 1: this list cannot be read"),
        ('[14.6, "3"]', SD, """line 1: '"3"' is not a number"""),
        ('{"a": 1}', SD, "holds 0 lists called sigmas, noise_levels, timesteps"),
        ("[14.6,\n True]", SD, "line 2: 'True' is not a number; a schedule is a list"),
        ("a = [14.6, 3]\nb = [2, 1]", SD, "line 1: this list cannot be read; a schedule is one list"),
        ("[[14.6, 3], [2]]", SD, "this list cannot be read"),
        ("14.6", SD, "at least two sigmas, got 1"),
        ("80, 14, 0", SD, "value 1, 80, is outside the noise levels of VP.* for another model"),
        ("14, -1", SD, "value 2, -1, is outside"),
        ("14, nan", EDM(), "value 2, nan, is outside"),
        ("14, 3, 5", EDM(), "value 3 is 5 after 3$"),
        ("14.610, 3.10, 5.00", SD, r"value 3 is 5\.00 after 3\.10"),
        ("[999, 850, 900]", SD, "value 3 is 900 after 850"),
        ("[14, 8.50, -3.0]", SD, r"value 3, -3\.0, is outside"),
        ("timestep\n1000\n700\n", SD, "value 1, 1000, is no timestep of VP"),
        ('{"sigmas": [14.60, 1.50, 2]}', SD, r"value 3 is 2 after 1\.50"),
        ("14.615, 1, 0", Flow(), r"value 1, 14\.615, is no time of a flow"),
        ("step,log_snr\n0,1\n", SD, "needs a column time, noise_level, sigma, timestep; got step, log_snr"),
        ("time,noise_level\n999,14\nhm,3\n", SD, "line 3: 'hm' is not a number"),
        ("time\n999\n1000\n", SD, r"value 2 of the schedule's times is 1000\.0, outside"),
        ("time,noise_level,time\n999,14,3\n", SD, "2 columns called time"),
        ("14,6 5,1", SD, "a comma may be a decimal point"),
        ("999,850\n736,645", SD, "a comma may be a decimal point"),
        ("14,6, 5,1, 0", SD, "a comma may be a decimal point"),
        ("1.0, 1.2", Flow(), r"value 2, 1\.2, is no time of a flow"),
        ("0.975, 0.98", Flow(), r"value 2 is 0\.98 after 0\.975"),  # as typed
        ("[" * 100_000, SD, "cannot be read"),
        ('{"a":' * 100_000, SD, "nested too deeply"),
        ('{"1": {"inputs": {"sigmas": "3, 0"}}, "2": {"inputs": {"sigmas": "2, 0"}}}', SD, "holds 2 lists called"),
    ],
)
def test_what_cannot_be_read(source: str, process: Process, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_schedule(source, process)


@pytest.mark.parametrize(
    "text",
    [
        "[14.615, 2.5, .5, 0.]",
        "[14.615,  # the noisy end\n 2.5, .5,\n 0.]  # clean",
        "# by hand\n14.615, 2.5  # two\n.5, 0.",
        "(14.615, 2.5, 0.5, 0)",
        "\ufeff14.615\n2.5\n0.5\n0\n",
        '{"5": {"inputs": {"sigmas": "14.615, 2.5, .5, 0."}}, "6": {"inputs": {"sigmas": ["5", 0]}}}',
        '{"5": {"inputs": {"sigmas": [14.615, 2.5, 0.5, 0.0]}}}',
        '{"nodes": [{"type": "ManualSigmas", "widgets_values": ["14.615, 2.5, .5, 0."]}, {"type": "Note"}]}',
        '{"sigmas": [14.615, 2.5, 0.5, 0.0], "model": "sd15"}',
        "sigmas = [14.615, 2.5, .5, 0.,]  # three steps",
        "SIGMAS: list[float] = [\n    14.615,\n    2.5, .5,  # the middle\n    0.,\n]\n",
        '"sigmas": (14.615, 2.5, .5, 0.),',
        "sigmas = torch.tensor([14.615, 2.5, .5, 0.], dtype=torch.float32)",
        "np.array((14.615, 2.5, .5, 0.))",
        "sigma\n14.615\n2.5\n.5\n0\n",
        "\ufeffstep, sigma\n0, 14.615\n1, 2.5\n2, .5\n3, 0\n",
    ],
)
def test_lists_as_people_write_them(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    times = read_schedule(tmp_path / "list.txt", SD).times
    assert SD.noise_level(times).tolist() == pytest.approx([SD.noise_level(999.0).item(), 2.5, 0.5, 0])


@pytest.mark.parametrize("text", ["14,6 5,1 0", "14,6; 5,1; 0", "14,6;5,1;0,0"])
def test_decimal_commas(text: str) -> None:
    with pytest.warns(UserWarning, match="commas between digits were read as decimal points"):
        assert read_schedule(text, EDM()).times.tolist() == [14.6, 5.1, 0]


def test_arguments_of_diffusers_end_at_noise_level_0() -> None:
    listed = [1.0, 0.975, 0.725, 0.421875]
    read = read_schedule(listed, Flow(), "diffusers-sigmas")
    assert read.times.tolist() == [*listed, 0]
    assert read_schedule([*listed, 0.0], Flow(), "diffusers-sigmas") == read  # written out already
    with pytest.warns(UserWarning, match=r"ends at noise level 0\.73.*end=append-zero"):
        assert read_schedule(str(listed), Flow()).steps == 3
    assert read_schedule(str(listed), Flow(), end="append-zero") == read
    assert read_schedule(listed, Flow(), end="replace-by-zero").times.tolist() == [1, 0.975, 0.725, 0]
    assert read_schedule("2.5", EDM(), end="append-zero").times.tolist() == [2.5, 0]
    with pytest.raises(ValueError, match="end must be one of as-listed, append-zero, replace-by-zero, got 'zero'"):
        read_schedule(listed, Flow(), end="zero")  # type: ignore[arg-type]


def test_own_arguments_read_back() -> None:
    pytest.importorskip("diffusers")
    for schedule, scheduler in (
        (build_schedule("flow_shift", Flow(), 8, t_max=1.0, t_min=0.0), "FlowMatchEulerDiscreteScheduler"),
        (build_schedule("edm", SD, 8, t_max=999.0, t_min=30.0, final="zero", snap=True), "EulerDiscreteScheduler"),
    ):
        ((name, values),) = to_diffusers(schedule, scheduler).arguments.items()
        back = read_schedule(list(values), schedule.process, f"diffusers-{name}")
        torch.testing.assert_close(back.times, schedule.times, rtol=0, atol=1e-8)


def test_timesteps_are_no_other_models_levels() -> None:
    steps = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    assert read_schedule(str(steps), SD).times.tolist() == [*steps, -1]
    assert read_schedule("timestep\n" + "\n".join(map(str, steps)), SD).times.tolist() == [*steps, -1]
    assert read_schedule(json.dumps({"timesteps": steps}), SD).times.tolist() == [*steps, -1]
    assert read_schedule(json.dumps({"timesteps": [800, 400, 100]}), SD).times.tolist() == [800, 400, 100, -1]
    assert read_schedule(json.dumps({"timesteps": [14, 8, 4]}), SD).times.tolist() == [14, 8, 4, -1]
    assert read_schedule(json.dumps({"timesteps": [14, 8]}), SD, end="replace-by-zero").times.tolist() == [14, -1]
    flow = "[1000.0000, 937.5001, 833.3333, 625.0000, 0.0000]"
    assert read_schedule(flow, Flow()).times.tolist() == pytest.approx([1, 0.9375001, 0.8333333, 0.625, 0])
    assert read_schedule([640, 320], SD, "diffusers-timesteps").times.tolist() == [640, 320, -1]
    with pytest.raises(ValueError, match="EDM process has no timesteps"):
        read_schedule([999, 1], EDM(), "diffusers-timesteps")
    with pytest.raises(ValueError, match=r"value 1, 700\.0, is outside the noise levels"):  # SVD's are no timesteps
        read_schedule("700.0, 54.5, 15.886, 0", SD)


PUBLISHED = Path(os.environ.get("OPTSTEPS_DATA", Path(__file__).parents[3] / "shared" / "data")) / "published_lists"
# the cosine betas of DeepFloyd-IF (Nichol & Dhariwal, arXiv:2102.09672)
_SIGNAL = torch.cos((torch.linspace(0, 1, 1001, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2) ** 2
COSINE = VP.from_betas((1 - _SIGNAL[1:] / _SIGNAL[:-1]).clamp(max=0.999))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published_lists is not in OPTSTEPS_DATA")
@pytest.mark.filterwarnings("ignore:the schedule ends at noise level")
@pytest.mark.parametrize(
    ("name", "process", "options", "expected"),
    [
        ("ays_sd15_comfy", SD, {"end": "replace-by-zero"}, [14.6146, 6.47457, *[None] * 7, 0.151523, 0]),
        ("ays_sd15_diffusers_sigmas", SD, {}, [14.6146, 6.475, *[None] * 7, 0.152, 0]),
        ("ays_svd", EDM(), {"end": "replace-by-zero"}, [700, 54.5, *[None] * 7, 0.034, 0]),
        ("ays_if", COSINE, {"end": "replace-by-zero"}, [160.41, 8.081, *[None] * 7, 0.03, 0]),
        ("gits_1.00_6", SD, {}, [14.6146, 7.49001646, None, None, None, 0.57119018, 0.02916753]),
        ("oss_flux", Flow(), {"end": "replace-by-zero"}, [0.9968, 0.9886, *[None] * 7, 0.2808, 0]),
        ("oss_wan", Flow(), {"end": "replace-by-zero"}, [1, 0.997, *[None] * 17, 0.208, 0]),
        ("flux2_turbo_diffusers", Flow(), {"form": "diffusers-sigmas"}, [1, 0.6509, *[None] * 5, 0.00031, 0]),
        ("ltx2_distilled_diffusers", Flow(), {"form": "diffusers-sigmas"}, [1, 0.99375, *[None] * 5, 0.421875, 0]),
        ("ltx2_distilled_comfy", Flow(), {}, [1, 0.99375, *[None] * 5, 0.421875, 0]),
        ("wan22_lightning_timesteps", Flow(), {}, [1, 0.9375001, 0.8333333, 0.625, 0]),
        ("sida_one_step", SD, {"end": "append-zero"}, [2.5, 0]),
    ],
)
def test_lists_in_circulation(
    name: str, process: Process, options: dict[str, Any], expected: list[float | None]
) -> None:
    """As the table beside the lists says what their users run."""
    schedule = read_schedule(PUBLISHED / f"{name}.txt", process, **options)
    levels = (schedule.times if process == Flow() else schedule.noise_levels).tolist()
    assert len(levels) == len(expected)
    for level, known in zip(levels, expected, strict=True):
        assert known is None or level == pytest.approx(known, rel=1e-4)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published_lists is not in OPTSTEPS_DATA")
def test_timesteps_in_circulation() -> None:
    times = read_schedule(PUBLISHED / "ays_sd15_diffusers_timesteps.txt", SD).times.tolist()
    assert (times[0], times[-2:], len(times)) == (999, [24, -1], 11)


def test_a_saved_workflow() -> None:
    workflow = PUBLISHED / "workflow_api.json"
    if not workflow.is_file():
        pytest.skip("published_lists is not in OPTSTEPS_DATA")
    assert read_schedule(workflow, Flow()).times.tolist() == [0.909375, 0.725, 0.421875, 0]


@pytest.mark.parametrize("form", [None, "kdiffusion", "comfyui", "comfyui-json"])
@given(st.lists(st.floats(1e-3, 500), min_size=2, max_size=30, unique_by=lambda level: round(level, 2)))
@settings(deadline=None, max_examples=30)
def test_printed_tensors_and_arrays(form: str | None, levels: list[float]) -> None:
    levels = sorted(levels, reverse=True)
    tensor = torch.tensor(levels, dtype=torch.float64)
    for text in (
        repr(tensor),
        f"torch.{tensor}\n",
        repr(np.array(levels)),
        f"np.array([{str(np.array(levels))[1:-1]}])",
    ):
        read = read_schedule(text, EDM(), form, "append-zero")
        torch.testing.assert_close(read.times[:-1], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["kdiffusion", "comfyui", "comfyui-json"])
def test_a_list_of_sigmas_with_and_without_brackets(form: str) -> None:
    for text in ("3, 2, 1e-3", "[3, 2, 1e-3]", "3\n2\n1e-3"):
        assert read_schedule(text, EDM(), form).times.tolist() == [3, 2, 1e-3]


def test_another_form() -> None:
    with pytest.raises(ValueError, match="not of the form kdiffusion; it looks like csv"):
        read_schedule("noise_level\n3\n2", EDM(), "kdiffusion")
    with pytest.raises(ValueError, match="not of the form csv; it looks like comfyui"):
        read_schedule("3, 2, 1", EDM(), "csv")


@pytest.mark.parametrize(
    "more",
    [{"initial_scale": 0.9}, {"amplitude": [[[1.0, 0.0]]]}, {"weights": [[0.0]]}, {"told_times": [998.0]}],
    ids=["initial scale", "amplitude", "weights", "told times"],
)
def test_sigmas_cannot_say_everything(more: dict[str, Any]) -> None:
    schedule = Schedule([999, 0], SD, **more)
    for write in (to_comfyui, to_kdiffusion, to_csv):
        with pytest.raises(ValueError, match=r"a (list of sigmas|table of times) cannot say"):
            write(schedule)
    with pytest.raises(ValueError, match="form must be 'text' or 'json', got 'xml'"):
        to_comfyui(Schedule([999, 0], SD), "xml")  # type: ignore[arg-type]


def test_orders_are_not_lost() -> None:
    clean = [80.0, 20.0, 5.0, 1.0, 0.0]
    searched = {"solver": "dpmpp_2m"}
    for orders, runs in (((1, 2, 1, 1), False), ((1, 2, 2, 2), True), ((2, 2, 2, 1), True), ((1, 1, 1, 1), True)):
        schedule = Schedule(clean, EDM(), orders, metadata=searched)
        for write, tool in ((to_comfyui, "ComfyUI"), (to_kdiffusion, "k-diffusion")):
            if runs:
                assert read_schedule(write(schedule), EDM()).times.tolist() == clean
            else:
                with pytest.raises(ValueError, match=rf"orders \[1, 2, 1, 1\].*{tool} would run \[1, 2, 2, 1\].*fixed"):
                    write(schedule)
        assert read_schedule(to_csv(schedule), EDM()).orders == orders
    with pytest.raises(ValueError, match="orders must be integers"):
        read_schedule("time,order\n3,1.5\n1,\n", EDM())


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun"])
def test_a_tool_that_runs_another_variant_is_named(solver: str) -> None:
    times, own, theirs = [1.0, 0.5, 0.0], {"solver": solver}, {"solver": solver, "flow_as": "edm"}
    for write in (to_comfyui, to_kdiffusion):
        with pytest.warns(UserWarning, match=rf"searched with {solver} in the form solver.flow_as=flow, and .* edm"):
            write(Schedule(times, Flow(), metadata=own))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write(Schedule(times, Flow(), metadata=theirs))
            write(Schedule(times, Flow(), metadata={"solver": "euler"}))
            write(Schedule([80.0, 1.0, 0.0], EDM(), metadata=own))
    pytest.importorskip("diffusers")
    with pytest.warns(UserWarning, match=r"solver.flow_as=edm, and DPMSolverMultistepScheduler samples .* flow"):
        apply(
            Pipe(load_scheduler("DPMSolverMultistepScheduler", Flow())),
            Schedule([0.9, 0.5, 0.0], Flow(), metadata={"solver": "dpmpp_2m", "flow_as": "edm"}),
        )


# snippets: run on a stand-in for a pipeline


class Pipe:
    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def __call__(self, prompt: str, **arguments: Any) -> Pipe:
        self.images = prompt
        self.scheduler.set_timesteps(**(arguments or {"num_inference_steps": 50}))
        return self

    def __getitem__(self, place: int) -> Any:
        return self.images


def pasted(snippet: str, scheduler: Any) -> Any:
    pipe = Pipe(scheduler)
    exec(snippet, {"pipe": pipe})
    assert pipe.images == "your prompt"
    return pipe.scheduler


@pytest.mark.parametrize(
    ("solver", "where", "expected", "applies"),
    [
        ("euler", "vp", "EulerDiscreteScheduler", False),
        ("heun", "vp", "HeunDiscreteScheduler", False),
        ("dpmpp_2m", "vp", "DPMSolverMultistepScheduler", False),
        ("unipc", "vp", "UniPCMultistepScheduler", True),
        ("er_sde_3", "vp", "EulerDiscreteScheduler", False),
        ("euler", "flow", "FlowMatchEulerDiscreteScheduler", False),
        ("unipc", "flow", "UniPCMultistepScheduler", False),
        ("dpmpp_2m", "flow", "DPMSolverMultistepScheduler", True),
        ("euler", "edm", "EDMEulerScheduler", False),
    ],
)
@pytest.mark.filterwarnings("ignore:the schedule starts from noise")
def test_snippets(solver: str, where: str, expected: str, applies: bool, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    process, low, high = {**RANGES, "flow": (Flow(), 0.0, 0.999), "vp": (SD, -1.0, 999.0)}[where]
    inner = torch.linspace(high, max(low, 0.0), 6, dtype=torch.float64)[:-1].tolist()
    schedule = (
        Schedule([*inner, process.t_clean], process, metadata={"solver": solver}).snapped()
        if where != "edm"
        else (Schedule([*inner, 0.0], process, metadata={"solver": solver}))
    )
    schedule.save(tmp_path / "s.json")
    snippet = diffusers_snippet(schedule, path=tmp_path / "s.json")
    assert ("optsteps.apply(" in snippet.replace("# FluxPipeline drops", "")) is applies
    sd = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    loaded = {
        "vp": lambda: diffusers.PNDMScheduler(**sd),
        "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "edm": diffusers.EDMDPMSolverMultistepScheduler,
    }[where]()
    scheduler = pasted(snippet, loaded)
    assert type(scheduler).__name__ == expected
    levels = schedule.times if where == "flow" else schedule.noise_levels
    sigmas = scheduler.sigmas if solver != "heun" else torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]])
    torch.testing.assert_close(sigmas.double()[: len(levels)], levels, rtol=1e-5, atol=1e-5)


def test_snippets_of_a_run(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    found = {n: build_schedule("flow_shift", Flow(), n, t_max=1.0, t_min=0.0) for n in (6, 4)}
    text = run_snippets(found, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert text.index("# 4 steps") < text.index("# 6 steps")
    assert text.count("shift=1.0,") == 2
    refused = run_snippets(found, diffusers.FlowMatchHeunDiscreteScheduler(), tmp_path)
    assert f"Schedule.load({str(tmp_path / 'schedule_4.json')!r})" in refused
    assert "# FlowMatchHeunDiscreteScheduler takes neither" in refused
    own_grid = run_snippets({4: Schedule([999, 500, -1], SD)}, diffusers.DDIMScheduler())
    assert "# DDIMScheduler computes" in own_grid
    assert "EulerDiscreteScheduler.from_config(" in own_grid
    ipndm = run_snippets({2: Schedule([999, 500, -1], SD, metadata={"solver": "ipndm"})})
    assert "# no scheduler of diffusers is known that runs a given schedule with ipndm under this process: the" in ipndm
    assert "the export takes EulerDiscreteScheduler, another solver" in ipndm
    assert "no scheduler of diffusers" not in text + own_grid
    amplified = run_snippets({1: Schedule([999, -1], SD, amplitude=[[[1.0, 0.0]]])})
    assert "optsteps.apply(" in amplified


@pytest.mark.parametrize(
    ("parts", "what"),
    [({"weights": [[0.0], [0.5]]}, "weights of its own"), ({"told_times": [998, 490]}, "times of its own")],
)
def test_weights_and_told_times_are_for_this_package_s_sampler(
    parts: dict[str, Any], what: str, tmp_path: Path
) -> None:
    schedule = Schedule([999, 500, -1], SD, **parts)
    for write in (to_comfyui, to_kdiffusion, to_csv):
        with pytest.raises(ValueError, match=rf"{what}.* cannot say; sample with optsteps\.sample"):
            write(schedule)
    snippet = run_snippets({2: schedule}, folder=tmp_path)
    assert f"{what}" in snippet
    assert "optsteps.apply(" in snippet  # OptstepsScheduler obeys them


@pytest.mark.parametrize("process", [SD, EDM(), Flow()], ids=lambda process: process.name)
@pytest.mark.parametrize(
    ("key", "column"), [("noise_levels", "noise_level"), ("sigmas", "sigma"), ("timesteps", "timestep")]
)
def test_a_key_says_what_a_column_says(process: Process, key: str, column: str) -> None:
    numbers = [900, 500, 100] if key == "timesteps" else [0.9, 0.5, 0.05]
    if key == "timesteps" and process.name == "edm":
        with pytest.raises(ValueError, match="no timesteps"):
            read_schedule(json.dumps({key: numbers}), process)
        return
    table = "\n".join([column, *map(str, numbers)])
    assert read_schedule(json.dumps({"name": "x", key: numbers}), process) == read_schedule(table, process)
