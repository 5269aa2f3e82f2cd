"""What every scheduler of diffusers runs after it was told a schedule, against the schedule: the tables themselves."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optsteps import OptstepsScheduler, Schedule, apply, build_schedule, restore
from optsteps.export import read_schedule, to_comfyui, to_csv, to_diffusers, to_kdiffusion
from optsteps.export.diffusers.schedulers import KINDS
from optsteps.processes import EDM, VP, Flow, Process

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()  # some say at every call what they change
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SPACINGS = ["linspace", "leading", "trailing"]
few = settings(max_examples=25, deadline=None)


@st.composite
def vp_schedules(draw: st.DrawFn) -> Schedule:
    times = st.integers(0, 999) if draw(st.booleans()) else st.floats(0, 999, width=32)
    drawn = sorted(draw(st.lists(times, min_size=2, max_size=12, unique_by=round)), reverse=True)
    return Schedule([*map(float, drawn), *([-1.0] if draw(st.booleans()) else [])], VP.scaled_linear())


@st.composite
def flow_schedules(draw: st.DrawFn) -> Schedule:
    grid = st.integers(2, 1000).map(lambda k: k / 1000)
    times = grid if draw(st.booleans()) else st.floats(0.002, 1)
    drawn = sorted(draw(st.lists(times, min_size=2, max_size=12, unique_by=lambda t: round(t, 3))), reverse=True)
    return Schedule([*drawn, *([0.0] if draw(st.booleans()) else [])], Flow())


@st.composite
def flow_settings(draw: st.DrawFn) -> dict[str, Any]:
    chosen = draw(st.sampled_from(["plain", "shift", "dynamic", "linear", "terminal", "karras"]))
    return {
        "plain": {},
        "shift": {"shift": 3.0},
        "dynamic": {"use_dynamic_shifting": True, "shift": 3.0},
        "linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        "terminal": {"shift_terminal": 0.1, "use_dynamic_shifting": True},
        "karras": {"use_karras_sigmas": True, "shift": 2.0},
    }[chosen]


def assert_tables(scheduler: Any, schedule: Schedule, calls: torch.Tensor, levels: torch.Tensor) -> None:
    """The scheduler's own tables, as its step reads them, for the calls [n] and levels [n+1] expected."""
    if "Heun" in type(scheduler).__name__:  # twice each
        assert scheduler.timesteps[1:][::2].tolist() == scheduler.timesteps[2:][::2].tolist()
        assert scheduler.sigmas[1:-1][::2].tolist() == scheduler.sigmas[2:-1:2].tolist()
        timesteps, sigmas = (torch.cat([x[:1], x[1::2]]) for x in (scheduler.timesteps, scheduler.sigmas[:-1]))
        sigmas = torch.cat([sigmas, scheduler.sigmas[-1:]])
    else:
        timesteps, sigmas = scheduler.timesteps, scheduler.sigmas
    assert len(timesteps) == schedule.steps
    torch.testing.assert_close(timesteps.double(), calls, rtol=0, atol=1e-3)
    torch.testing.assert_close(sigmas.double(), levels, rtol=1e-5, atol=1e-5)


def told_or_refused(schedule: Schedule, scheduler: Any) -> Any:
    """The scheduler told the schedule, or None after a clear refusal."""
    try:
        told = to_diffusers(schedule, scheduler)
    except ValueError as error:
        refusal = str(error)
    else:
        built = told.build(scheduler.config)
        built.set_timesteps(**told.arguments)
        return built
    assert type(scheduler).__name__ in refusal
    assert "optsteps.apply" in refusal or "EulerDiscreteScheduler" in refusal
    return None


def must_obey(schedule: Schedule, name: str) -> bool:
    """What the classes can be told, from their documentation."""
    clean, last = bool(schedule.times[-1] == schedule.process.t_clean), schedule.times[-1].item()
    whole = torch.equal(schedule.times, schedule.times.round())
    return {
        "EulerDiscreteScheduler": True,
        "HeunDiscreteScheduler": whole and clean,
        "DPMSolverMultistepScheduler": whole and (clean or last == 0),
        "DPMSolverSinglestepScheduler": whole and (clean or last == 0),
        "FlowMatchEulerDiscreteScheduler": clean,
        "FlowMatchLCMScheduler": clean,
    }.get(name, False)


@pytest.mark.parametrize(
    "name", [name for name, kind in KINDS.items() if "vp" in kind.takes and kind.table == "sigmas"]
)
@given(schedule=vp_schedules(), spacing=st.sampled_from(SPACINGS), karras=st.booleans())
@few
@pytest.mark.mostly_slow(3)
def test_vp(name: str, schedule: Schedule, spacing: str, karras: bool) -> None:
    options = {"timestep_spacing": spacing, "use_karras_sigmas": karras}
    if name in ("EulerAncestralDiscreteScheduler", "DPMSolverSinglestepScheduler"):
        options.pop("use_karras_sigmas" if "Ancestral" in name else "timestep_spacing")
    scheduler = getattr(diffusers, name)(**SD, **options)
    told = told_or_refused(schedule, scheduler)
    assert told is not None or not must_obey(schedule, name)
    assert told is None or KINDS[name].takes["vp"] is not None
    if told is not None:
        assert_tables(told, schedule, schedule.times[:-1], schedule.noise_levels)
    if name != "DEISMultistepScheduler" or schedule.times[-1] != -1:  # that one has no step to noise level 0
        applied = apply(scheduler, schedule)
        for number in (1, 50):  # whatever a pipeline says
            applied.set_timesteps(number, device="cpu")
            if "Heun" in name and schedule.times[-1] != -1:
                assert applied.timesteps[-1].item() == pytest.approx(schedule.times[-1].item(), abs=1e-3)
            else:
                assert_tables(applied, schedule, schedule.times[:-1], schedule.noise_levels)
        assert restore(applied) is scheduler


FLOW = [name for name, kind in KINDS.items() if "flow" in kind.takes and name != "LTXEulerAncestralRFScheduler"]


@pytest.mark.parametrize("name", FLOW)
@given(schedule=flow_schedules(), options=flow_settings(), mu=st.floats(0.3, 2))
@few
def test_flow(name: str, schedule: Schedule, options: dict[str, Any], mu: float) -> None:
    scheduler = flow_scheduler(name, options)
    told = told_or_refused(schedule, scheduler)
    assert told is not None or not must_obey(schedule, name)
    calls = 1000 * schedule.times[:-1]
    if told is not None:
        # UniPC cuts them to integers and is told ones that it does not change
        assert_tables(told, schedule, calls, schedule.times)
    hard = name in ("DEISMultistepScheduler", "DPMSolverSinglestepScheduler")  # not from t = 1, and DEIS not to 0
    if not (hard and (schedule.times[0] > 0.999 or schedule.times[-1] == 0)) and "Heun" not in name:
        applied = ignoring_scale(scheduler, schedule)
        applied.set_timesteps(50, device="cpu", mu=mu)
        assert_tables(applied, schedule, calls, schedule.times)
        applied.set_timesteps(sigmas=[1.0, 0.5], mu=mu)  # as FluxPipeline does
        assert_tables(applied, schedule, calls, schedule.times)


def flow_scheduler(name: str, options: dict[str, Any]) -> Any:
    cls = getattr(diffusers, name)
    if "FlowMatch" in name:
        known = {"shift": options.get("shift", 1.0)} if "Heun" in name else options
        return cls(**known)
    renamed = {{"shift": "flow_shift"}.get(key, key): value for key, value in options.items()}
    renamed.pop("time_shift_type", None)
    if name != "UniPCMultistepScheduler":
        renamed.pop("shift_terminal", None)
    return cls(use_flow_sigmas=True, prediction_type="flow_prediction", **renamed)


def ignoring_scale(scheduler: Any, schedule: Schedule) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return apply(scheduler, schedule)


def test_unipc_is_told_flows_on_its_grid() -> None:
    schedule = build_schedule("flow_shift", Flow(), 10, t_max=0.999, t_min=0.0, snap=True)
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", use_dynamic_shifting=True, shift_terminal=0.1
    )
    told = told_or_refused(schedule, scheduler)
    assert told.timesteps.tolist() == (1000 * schedule.times[:-1]).round().long().tolist()
    torch.testing.assert_close(told.sigmas.double(), schedule.times, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"step 0 of 10 .*calls the network at 999, where the schedule has 1000"):
        to_diffusers(Schedule([1.0, *schedule.times[1:].tolist()], Flow()), scheduler)


@pytest.mark.parametrize("continuous", [False, True])
def test_edm(continuous: bool) -> None:
    schedule = build_schedule("logsnr", EDM(), 9, t_max=70.0, t_min=0.01, final="zero")
    told = to_diffusers(schedule, "EulerDiscreteScheduler" if continuous else "EDMEulerScheduler")
    scheduler = told.build({"timestep_type": "continuous", "prediction_type": "v_prediction"} if continuous else {})
    scheduler.set_timesteps(**told.arguments)
    torch.testing.assert_close(scheduler.sigmas.double(), schedule.times, rtol=1e-5, atol=1e-6)
    expected = 0.25 * schedule.times[:-1].log()
    torch.testing.assert_close(scheduler.timesteps.double(), expected, rtol=0, atol=1e-5)
    scale = told.noise_ratio * float(scheduler.init_noise_sigma)
    assert scale == pytest.approx(70.0, rel=1e-6)
    for name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"):
        applied = apply(getattr(diffusers, name)(), schedule)
        applied.set_timesteps(3)
        torch.testing.assert_close(applied.sigmas.double(), schedule.times, rtol=1e-6, atol=0)
        torch.testing.assert_close(applied.timesteps.double(), expected, rtol=0, atol=1e-6)
        assert applied.init_noise_sigma == 70.0


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDPMParallelScheduler", "LCMScheduler", "TCDScheduler"])
def test_schedulers_that_hold_integers_alone(name: str) -> None:
    final, times = (0.0 if name == "TCDScheduler" else -1.0), [999.0, 500.0, 37.0]
    schedule = Schedule([*times, final], VP.scaled_linear())
    scheduler = getattr(diffusers, name)(**SD)
    assert told_or_refused(schedule, scheduler).timesteps.tolist() == times
    applied = apply(scheduler, schedule)
    applied.set_timesteps(50)
    assert applied.timesteps.tolist() == times
    between = Schedule([999.0, 500.5, final], VP.scaled_linear())
    for door in (to_diffusers, lambda s, x: apply(x, s)):
        with pytest.raises(ValueError, match=r"step 1 of 2 .*at 500, where the schedule has 500.5.*snap=True"):
            door(between, scheduler)
    elsewhere = Schedule([*times, 3.0], VP.scaled_linear())
    with pytest.raises(ValueError, match=f"the last step with {name} ends at level 0"):
        to_diffusers(elsewhere, scheduler)


def test_ltx_calls_once_too_often_by_itself() -> None:
    schedule = build_schedule("flow_shift", Flow(), 4, t_max=1.0, t_min=0.0)
    with pytest.raises(ValueError, match=r"calls the network at 5 times for the 4 steps"):
        to_diffusers(schedule, "LTXEulerAncestralRFScheduler")
    applied = apply(diffusers.LTXEulerAncestralRFScheduler(), schedule)
    applied.set_timesteps(30)
    assert applied.timesteps.tolist() == (1000 * schedule.times[:-1]).float().tolist()


def test_a_clock_that_runs_backwards() -> None:
    schedule = build_schedule("flow_shift", Flow(), 4, t_max=1.0, t_min=0.0)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, shift=3.0)
    for door in (told_or_refused(schedule, scheduler), apply(scheduler, schedule)):
        assert_tables(door, schedule, 1000 * (1 - schedule.times[:-1]), 1 - schedule.times)


SD_PROCESS, LINEAR = VP.scaled_linear(), VP.linear()


@pytest.mark.parametrize(
    ("scheduler", "times", "process", "expected"),
    [
        ("DDIMScheduler", [999, -1], SD_PROCESS, "spacing of its own grid.*EulerDiscreteScheduler"),
        ("PNDMScheduler", [999, -1], SD_PROCESS, "spacing of its own grid"),
        ("SCMScheduler", [999, -1], SD_PROCESS, "how SCMScheduler is told a schedule is not known; known schedulers"),
        ("NoScheduler", [999, -1], SD_PROCESS, "how NoScheduler is told"),
        ("EulerDiscreteScheduler", [1, 0], Flow(), "schedule's is Flow.*FlowMatchEulerDiscreteScheduler"),
        ("FlowMatchEulerDiscreteScheduler", [1, 0.1], Flow(), "ends at level 0, where the schedule has 0.1.*'zero'"),
        ("FlowMatchHeunDiscreteScheduler", [1, 0], Flow(), "neither timesteps nor sigmas for a flow.*optsteps.apply"),
        (diffusers.EulerDiscreteScheduler(**SD), [999, -1], LINEAR, "at timestep 0.*different models"),
        (diffusers.EulerDiscreteScheduler(num_train_timesteps=10), [999, -1], LINEAR, "has 10 timesteps .* has 1000"),
    ],
)
def test_refusals(scheduler: Any, times: list[float], process: Process, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        to_diffusers(Schedule(times, process), scheduler)


def test_refusals_of_apply() -> None:
    with pytest.raises(ValueError, match="belong to different models"):
        apply(diffusers.EulerDiscreteScheduler(), Schedule([999, -1], SD_PROCESS))
    with pytest.raises(ValueError, match=r"PNDMScheduler computes .* EulerDiscreteScheduler"):
        apply(diffusers.PNDMScheduler(**SD), Schedule([999, -1], SD_PROCESS))
    amplified = Schedule([999, -1], SD_PROCESS, amplitude=[[[1.0, 0.0]]])
    with pytest.raises(ValueError, match="amplitude"):
        to_diffusers(amplified, diffusers.EulerDiscreteScheduler(**SD))
    for parts in ({"weights": [[0.0], [0.1]]}, {"told_times": [999, 480]}):
        carrying = Schedule([999, 500, -1], SD_PROCESS, **parts)
        with pytest.raises(ValueError, match=r"no scheduler of diffusers applies; sample with optsteps\.sample"):
            to_diffusers(carrying, diffusers.DPMSolverMultistepScheduler(**SD))


@pytest.mark.parametrize(
    ("scheduler", "parts", "why"),
    [
        ("DDIMScheduler", {}, "spacing of its own grid.*with the solver euler"),
        ("DEISMultistepScheduler", {}, r"computes NaN or infinity in step 1.* to 0.*with the solver deis"),
        ("PNDMScheduler", {"metadata": {"solver": "ipndm"}}, "with the solver ipndm"),
        ("EulerDiscreteScheduler", {"amplitude": [[[1.0, 0.0]], [[0.9, 0.0]]]}, "an amplitude"),
        ("DPMSolverMultistepScheduler", {"weights": [[0.0], [0.1]]}, "weights.*with the solver dpmpp_2m"),
        ("DPMSolverMultistepScheduler", {"told_times": [999, 480]}, "network is told.*with the solver dpmpp_2m"),
    ],
)
def test_what_a_scheduler_cannot_run_is_run_in_its_place(scheduler: str, parts: dict[str, Any], why: str) -> None:
    original = getattr(diffusers, scheduler)(**SD)
    before, schedule = dict(original.config), Schedule([999, 100, -1], SD_PROCESS, **parts)
    with pytest.warns(UserWarning, match=f"{why}"):
        applied = apply(original, schedule)
    assert isinstance(applied, OptstepsScheduler)
    assert isinstance(applied, type(original))
    assert dict(applied.config) == before
    assert type(type(applied).from_config(applied.config)) is type(original)
    for copied in (applied, copy.deepcopy(applied), pickle.loads(pickle.dumps(applied))):
        copied.set_timesteps(30)
        assert copied.timesteps.tolist() == [999, 480 if "told_times" in parts else 100]
        assert restore(copied).config == original.config
    assert restore(applied) is original


@pytest.mark.parametrize(
    ("orders", "obeyed"),
    [([1, 2, 2, 2, 2, 1], True), ([1, 2, 2, 2, 1, 1], False), ([1, 1, 1, 1, 1, 1], True), ([1, 2, 3, 3, 2, 1], True)],
)
def test_orders(orders: list[int], obeyed: bool) -> None:
    schedule = Schedule([999, 800, 600, 400, 200, 100, -1], SD_PROCESS, orders)
    scheduler = diffusers.DPMSolverMultistepScheduler(**SD)
    if obeyed:
        told = to_diffusers(schedule, scheduler)
        assert told.settings.get("solver_order", 2) == max(orders)
    else:
        with pytest.raises(ValueError, match=r"have the orders \[1, 2, 2, 2, 1, 1\].*optsteps.apply"):
            to_diffusers(schedule, scheduler)
        assert apply(scheduler, schedule).config.solver_order == 2
    if max(orders) > 1:
        with pytest.raises(ValueError, match="orders"):
            to_diffusers(schedule, diffusers.EulerDiscreteScheduler(**SD))
        with pytest.raises(ValueError, match="orders"):
            apply(diffusers.EulerDiscreteScheduler(**SD), schedule)


def test_a_scale_of_the_noise() -> None:
    schedule = Schedule([999, 500, -1], SD_PROCESS, initial_scale=0.9)
    assert to_diffusers(schedule, "EulerDiscreteScheduler").noise_ratio == pytest.approx(0.9, abs=1e-5)
    assert to_diffusers(schedule, "DPMSolverMultistepScheduler").noise_ratio == 0.9
    assert apply(diffusers.DPMSolverMultistepScheduler(**SD), schedule).init_noise_sigma == 0.9
    flow = Schedule([0.98, 0.5, 0.0], Flow())
    assert to_diffusers(flow, "FlowMatchEulerDiscreteScheduler").noise_ratio == 0.98
    with pytest.warns(UserWarning, match=r"noise times 0\.98"):
        apply(diffusers.FlowMatchEulerDiscreteScheduler(), flow)


COSINE = {"beta_schedule": "squaredcos_cap_v2"}


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize(
    "name",
    [
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "DPMSolverMultistepScheduler",
    ],
)
def test_noise_levels_of_thousands_are_no_fault(name: str, steps: int) -> None:
    settings = {} if name == "LMSDiscreteScheduler" else COSINE
    betas = diffusers.EulerDiscreteScheduler(**COSINE).betas.double()
    scheduler = getattr(diffusers, name)(**settings or {"trained_betas": betas.tolist()})
    times = torch.linspace(999, 0, steps).round().tolist()
    schedule = Schedule([*times, -1.0], VP.from_betas(betas))
    assert schedule.noise_levels[0] > 10_000
    applied = apply(scheduler, schedule)
    applied.set_timesteps(5)
    assert len(applied.timesteps) == (2 * steps - 1 if "Heun" in name else steps)
    if KINDS[name].takes["vp"] is not None:
        told = to_diffusers(schedule, scheduler)
        assert told.arguments == {"timesteps": times}


@given(
    drawn=st.sets(st.integers(0, 999), min_size=2, max_size=15),
    clean=st.booleans(),
    way=st.sampled_from(["comfyui", "comfyui-json", "kdiffusion", "csv", "noise levels", "file"]),
)
@few
def test_snapped_schedules_survive_our_own_text(drawn: set[int], clean: bool, way: str) -> None:
    times = [*map(float, sorted(drawn, reverse=True)), *([-1.0] if clean else [])]
    schedule = Schedule(times, SD_PROCESS).snapped()
    read = read_back(schedule, way)
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"):
        if must_obey(schedule, name):
            told = to_diffusers(read, name)
            if name == "EulerDiscreteScheduler" and not clean:  # it ends at a positive level by sigmas alone
                continue
            assert told.arguments == {"timesteps": [int(t) for t in times[:-1]]}
    if clean:
        assert to_diffusers(read, "DDPMScheduler").arguments == {"timesteps": [int(t) for t in times[:-1]]}
        applied = apply(diffusers.DPMSolverMultistepScheduler(**SD), read)
        applied.set_timesteps(7)
        assert applied.timesteps.tolist() == times[:-1]
        assert not applied.timesteps.is_floating_point()


@given(drawn=st.sets(st.integers(1, 999), min_size=2, max_size=15), digits=st.sampled_from([7, 9, 17]))
@few
def test_flows_on_the_grid_survive_digits_that_are_lost(drawn: set[int], digits: int) -> None:
    times = [k / 1000 for k in sorted(drawn, reverse=True)]
    text = ", ".join(f"{t * (1 + 4e-8):.{digits}g}" for t in times) + ", 0"  # what float32 makes of them
    told = to_diffusers(read_schedule(text, Flow()), "UniPCMultistepScheduler")
    scheduler = told.build({})
    scheduler.set_timesteps(**told.arguments)
    assert scheduler.timesteps.tolist() == sorted(drawn, reverse=True)


def read_back(schedule: Schedule, way: str) -> Schedule:
    """Written and read again."""
    if way == "file":
        with TemporaryDirectory() as folder:
            schedule.save(path := Path(folder) / "s.json")
            return Schedule.load(path)
    if way == "noise levels":
        return read_schedule("noise_level\n" + "\n".join(map(repr, schedule.noise_levels.tolist())), SD_PROCESS)
    text = {
        "comfyui": to_comfyui,
        "comfyui-json": lambda s: to_comfyui(s, "json"),
        "kdiffusion": to_kdiffusion,
        "csv": to_csv,
    }[way](schedule)
    return read_schedule(text, SD_PROCESS)


def test_folders(tmp_path: Any) -> None:
    schedule = build_schedule("flow_shift", Flow(), 4, t_max=1.0, t_min=0.0)
    saved = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, shift_terminal=0.02)
    saved.save_pretrained(tmp_path / "pipe" / "scheduler")
    for folder in (tmp_path / "pipe", str(tmp_path / "pipe" / "scheduler")):
        told = to_diffusers(schedule, folder)
        assert told.scheduler == "FlowMatchEulerDiscreteScheduler"
        assert told.settings == {"shift": 1.0, "shift_terminal": None}
    with pytest.raises(ValueError, match="holds no scheduler"):
        to_diffusers(schedule, tmp_path)
