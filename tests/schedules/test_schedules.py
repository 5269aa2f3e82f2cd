import itertools
import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from optsteps import Schedule, build_schedule
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.schedules import FAMILIES, Final

SD = VP.scaled_linear()
ZERO_SNR = VP.from_betas(torch.cat([torch.linspace(1e-4, 0.02, 999), torch.ones(1)]).double().numpy())
# a process and a range of its times with finite positive noise levels
RANGES: dict[str, tuple[Process, float, float]] = {
    "edm": (EDM(), 80.0, 0.002),
    "vp": (VP.linear(), 999.0, 0.0),
    "sd": (SD, 987.6, 1.5),
    "flow": (Flow(), 0.987, 0.003),
}
FORMULAS = [name for name in FAMILIES if name != "published"]
SD15 = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]

betas = st.lists(st.floats(1e-3, 0.5), min_size=2, max_size=20)
json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    process: Process = draw(st.sampled_from([EDM(), Flow()]) | betas.map(VP.from_betas))
    noisy = st.lists(st.floats(0, min(process.t_limit, 1e300)), min_size=2, max_size=10, unique=True)
    times = sorted(draw(noisy), reverse=True)
    if process.t_clean < 0 and draw(st.booleans()):
        times.append(process.t_clean)
    n, channels = len(times) - 1, draw(st.integers(1, 3))
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    amplitude = st.lists(numbers, min_size=n * channels * 2, max_size=n * channels * 2)
    orders = draw(st.none() | st.lists(st.integers(1, 9), min_size=n, max_size=n))
    columns, weights = draw(st.integers(1, 4)), None
    if orders is None and draw(st.booleans()):
        flat = draw(st.lists(numbers, min_size=n * columns, max_size=n * columns))
        weights = torch.tensor(flat, dtype=torch.float64).reshape(n, columns).tril(-1)
    noisy_times = st.floats(0, min(process.t_limit, 1e300), exclude_min=process.t_clean == 0)
    told_times = draw(st.none() | st.lists(noisy_times, min_size=n, max_size=n))
    return Schedule(
        times,
        process,
        orders=orders,
        initial_scale=draw(st.none() | st.floats(0, exclude_min=True, allow_infinity=False)),
        amplitude=draw(
            st.none() | amplitude.map(lambda flat: torch.tensor(flat, dtype=torch.float64).reshape(n, channels, 2))
        ),
        metadata=draw(st.dictionaries(st.text(), json_data, max_size=3)),
        weights=weights,
        told_times=told_times,
        told_as="x0" if told_times is None else draw(st.sampled_from(["x0", "slope"])),
    )


@settings(deadline=None, max_examples=150)
@given(schedules())
def test_json_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, schedule: Schedule) -> None:
    path = tmp_path_factory.mktemp("round_trip") / "new" / "schedule.json"
    schedule.save(path)
    again = Schedule.load(path)
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert torch.equal(again.times, schedule.times)
    assert torch.equal(again.noise_levels, schedule.noise_levels)
    assert (again.orders, again.initial_scale, again.told_as) == (
        schedule.orders,
        schedule.initial_scale,
        schedule.told_as,
    )
    assert again.metadata == schedule.metadata
    for name in ("amplitude", "weights", "told_times"):
        before, after = getattr(schedule, name), getattr(again, name)
        assert (before is None and after is None) or torch.equal(before, after)
    carries = schedule.weights is not None or schedule.told_times is not None
    version = 4 if schedule.told_as == "slope" else 3 if carries else 2
    assert json.loads(path.read_text())["version"] == version
    again.save(path.with_name("again.json"))
    assert path.with_name("again.json").read_bytes() == path.read_bytes()
    path.with_name("again.json").unlink()
    assert list(path.parent.iterdir()) == [path]


def test_attributes() -> None:
    s = Schedule(times=[80.0, 10.0, 1.0, 0.0], process=EDM())
    assert (s.times.dtype, s.times.tolist(), s.steps) == (torch.float64, [80, 10, 1, 0], 3)
    assert torch.equal(s.noise_levels, s.times)
    assert (s.scale.item(), Schedule([9, 1], EDM(), initial_scale=3.5).scale.item()) == (80, 3.5)
    assert Schedule([0.5, 0.2], Flow()).noise_levels.tolist() == [1, 0.25]
    assert Schedule([1.0, 0.2], Flow()).noise_levels[0].item() == math.inf
    with pytest.raises(AttributeError):
        s.times = torch.zeros(2)  # type: ignore[misc]


def test_schedule_keeps_a_copy_and_the_graph_of_its_times(tmp_path: Path) -> None:
    times = torch.tensor([2.0, 1.0], dtype=torch.float64, requires_grad=True)
    schedule = Schedule(times, EDM())
    schedule.save(tmp_path / "schedule.json")
    schedule.noise_levels.sum().backward()
    assert times.grad is not None
    assert times.grad.tolist() == [1, 1]
    with torch.no_grad():
        times[0] = 5
    assert schedule.times[0].item() == 2


def test_equality_sees_every_field() -> None:
    same: dict[str, Any] = {"times": [3, 2, 1], "process": EDM()}
    changed: list[dict[str, Any]] = [
        {"times": [3, 2, 1.0000001]},
        {"times": [3, 1]},
        {"process": VP.linear()},
        {"orders": [1, 2]},
        {"initial_scale": 3.0},
        {"amplitude": torch.ones(2, 1, 2)},
        {"metadata": {"a": 1}},
        {"weights": [[0.0], [0.5]]},
        {"weights": [[0.0], [0.25]]},
        {"weights": [[0.0, 0.0], [0.5, 0.0]]},
        {"told_times": [3, 2]},
        {"told_times": [3, 2.5]},
        {"told_times": [3, 2.5], "told_as": "slope"},
        {"told_times": [3, 2], "weights": [[0.0], [0.5]]},
    ]
    variants = [Schedule(**same), *(Schedule(**{**same, **change}) for change in changed)]
    assert Schedule(**same) == variants[0]
    assert all((a == b) == (i == j) for i, a in enumerate(variants) for j, b in enumerate(variants))
    assert variants[0] != "a schedule"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"times": [1.0]}, r"at least two times, got shape \(1,\)"),
        ({"times": [[2.0, 1.0]]}, r"got shape \(1, 2\)"),
        ({"times": [2.0, math.nan, 1.0]}, "value 2 of the schedule's times is nan"),
        ({"times": [math.inf, 1.0]}, "value 1 of the schedule's times is inf"),
        ({"times": [3.0, 2.0, 2.0]}, r"value 3 is 2\.0 after 2\.0"),
        ({"times": [3.0, 1.0, 2.0]}, r"strictly decreasing, but value 3 is 2\.0 after 1\.0"),
        ({"times": [1.0, -0.1]}, r"value 2 of the schedule's times is -0\.1, outside the process EDM"),
        ({"times": [1.5, 0.5], "process": Flow()}, r"value 1 of the schedule's times is 1\.5, outside .*from 0 to 1"),
        ({"times": [1000.0, 1.0], "process": SD}, r"1000\.0, outside .*from -1 to 999"),
        ({"times": [9.0, -0.5], "process": SD}, r"value 2 of the schedule's times is -0\.5"),
        ({"orders": [1]}, r"2 integers of at least 1.*got \(1,\)"),
        ({"orders": [1, 0]}, r"got \(1, 0\)"),
        ({"orders": [1, 1.5]}, r"orders must be integers, got 1\.5"),
        ({"initial_scale": 0.0}, "initial_scale must be finite and positive, got 0"),
        ({"initial_scale": math.nan}, "got nan"),
        ({"amplitude": torch.ones(3, 1, 2)}, r"shape \[2, channels, 2\], got \(3, 1, 2\)"),
        ({"amplitude": torch.ones(2, 2)}, r"got \(2, 2\)"),
        ({"amplitude": torch.full((2, 1, 2), math.nan)}, "amplitude must be finite"),
        ({"weights": torch.zeros(3, 1)}, r"weights must have shape \[2, K\].*got \(3, 1\)"),
        ({"weights": torch.zeros(2, 0)}, r"K of at least 1, got \(2, 0\)"),
        ({"weights": [0.0, 1.0]}, r"got \(2,\)"),
        ({"weights": [[0.0], [0.0, 1.0]]}, "expected sequence of length"),
        ({"weights": [[0.0], [math.inf]]}, "weight 1 of step 2 is inf; weights must be finite"),
        ({"weights": [[math.nan], [0.0]]}, "weight 1 of step 1 is nan"),
        ({"weights": [[0.5], [0.0]]}, r"weight 1 of step 1 is 0\.5, but only 0 outputs are remembered.*must be 0"),
        ({"weights": [[0.0, 0.0], [1.0, -2.0]]}, r"weight 2 of step 2 is -2\.0, but only 1 outputs"),
        ({"weights": [[0.0], [1.0]], "orders": [1, 2]}, "weights take the place of orders"),
        ({"told_times": [3.0]}, r"told_times must be 2 times, one a step; got shape \(1,\)"),
        ({"told_times": [3.0, 2.0, 1.0]}, r"got shape \(3,\)"),
        ({"told_as": "eps"}, r"told_as must be 'x0' or 'slope', got 'eps'"),
        (
            {"told_times": [998, 600], "told_as": "slope", "times": [999, 600, 0], "process": ZERO_SNR},
            r"step 1 is at 999\.0 and the network is told 998\.0, and at one of them alpha is 0",
        ),
        (
            {"told_times": [998, 999], "told_as": "slope", "times": [998, 600, 0], "process": ZERO_SNR},
            r"step 2 is at 600\.0 and the network is told 999\.0",
        ),
        ({"told_as": "slope"}, r"says how told times are taken, and there are none"),
        ({"told_times": [3.0, math.nan]}, r"the network is told nan at step 2"),
        ({"told_times": [math.inf, 2.0]}, r"told inf at step 1"),
        ({"told_times": [3.0, 0.0]}, r"told 0\.0 at step 2, which is no time of the process EDM.* from above 0 to inf"),
        ({"told_times": [0.5, 1.1], "times": [0.5, 0.2, 0.1], "process": Flow()}, r"told 1\.1 at step 2.* 0 to 1"),
        ({"told_times": [9.0, -1.0], "times": [9.0, 5.0, -1.0], "process": SD}, r"told -1\.0 at step 2.* -1 to 999"),
    ],
)
def test_bad_schedules(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**{"times": [3.0, 2.0, 1.0], "process": EDM(), **fields})


# families ------------------------------------------------------------------------------------------------------------


def _build(family: str, where: str, steps: int, **parameters: Any) -> Schedule:
    process, t_max, t_min = RANGES[where]
    return build_schedule(family, process, steps=steps, t_max=t_max, t_min=t_min, **parameters)


@pytest.mark.parametrize("where", RANGES)
@pytest.mark.parametrize("family", FORMULAS)
@settings(deadline=None, max_examples=15)
@given(steps=st.integers(2, 120), final=st.sampled_from(["t_min", "zero"]))
def test_every_family_under_every_process(family: str, where: str, steps: int, final: str) -> None:
    process, t_max, t_min = RANGES[where]
    schedule = _build(family, where, steps, final=final)
    times = schedule.times.tolist()
    assert schedule.steps == steps
    assert (schedule.process, schedule.metadata["family"]) == (process, family)
    assert times[0] == t_max
    # beta has noise level 0 in the place of the formula's last time
    assert times[-2:][final == "t_min"] == t_min or (family, final) == ("beta", "zero")
    assert final == "t_min" or times[-1] == process.t_clean
    assert all(a > b for a, b in itertools.pairwise(times))


@st.composite
def whole_ranges(draw: st.DrawFn) -> tuple[Process, float, float]:
    """A process of any kind and all of its range, or all but ends at which noise levels are infinite or 0."""
    kind = draw(st.sampled_from(["edm", "flow", "vp", "cosine", "sd", "ddpm"]))
    if kind == "edm":
        return EDM(), draw(st.floats(2e-2, 1e7)), draw(st.floats(1e-9, 9e-3))
    if kind == "flow":
        return Flow(), 1 - draw(st.floats(1e-12, 0.4)), draw(st.floats(1e-12, 0.4))
    timesteps = draw(st.integers(20, 1000))
    if kind == "cosine":  # as diffusers' squaredcos_cap_v2: noise level 20291.3 at 1000 timesteps
        angle = (np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * np.pi / 2
        alpha_bar = np.cos(angle) ** 2
        process = VP.from_betas(torch.from_numpy((1 - alpha_bar[1:] / alpha_bar[:-1]).clip(max=0.999)))
    elif kind == "vp":
        process = VP.from_betas(draw(st.lists(st.floats(1e-3, 0.5), min_size=20, max_size=40)))
    else:
        process = VP.scaled_linear(timesteps=timesteps) if kind == "sd" else VP.linear(timesteps=timesteps)
    return process, process.t_limit, 0.0


@pytest.mark.parametrize("family", FORMULAS)
@settings(deadline=None, max_examples=80)
@given(whole=whole_ranges(), steps=st.integers(1, 12), final=st.sampled_from(["t_min", "zero"]))
def test_a_whole_range_is_never_refused_for_its_ends(
    family: str, whole: tuple[Process, float, float], steps: int, final: str
) -> None:
    process, t_max, t_min = whole
    schedule = build_schedule(family, process, steps + 1, t_max, t_min, final=final)
    assert schedule.times[0].item() == t_max
    assert schedule.times[-1].item() == (t_min if final == "t_min" else process.t_clean)
    assert schedule.steps == steps + 1


def test_the_cosine_process_of_diffusers_keeps_its_whole_range() -> None:
    angle = (np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2
    alpha_bar = np.cos(angle) ** 2
    process = VP.from_betas(torch.from_numpy((1 - alpha_bar[1:] / alpha_bar[:-1]).clip(max=0.999)))
    assert process.noise_level(999.0).item() == pytest.approx(20291.3, rel=1e-4)
    times = build_schedule("cosine", process, 10, 999.0, 0.0, final="zero").times
    assert times[[0, -2, -1]].tolist() == [999, 0, -1]


@pytest.mark.parametrize("family", FORMULAS)
def test_one_step_is_the_two_ends(family: str) -> None:
    assert _build(family, "edm", 1).times.tolist() == [80, 0.002]


def _karras(high: float, low: float, n: int, rho: float) -> np.ndarray:
    i = np.arange(n + 1)
    return (high ** (1 / rho) + i / n * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def _arctan(high: float, low: float, n: int, scale: float) -> np.ndarray:
    return scale * np.tan(np.linspace(np.arctan(high / scale), np.arctan(low / scale), n + 1))


def _polyexponential(high: float, low: float, n: int, rho: float) -> np.ndarray:
    return np.exp(np.linspace(1, 0, n + 1) ** rho * (np.log(high) - np.log(low)) + np.log(low))


@pytest.mark.parametrize("where", RANGES)
@pytest.mark.parametrize(
    ("family", "parameters", "levels"),
    [
        ("edm", {}, lambda high, low, n: _karras(high, low, n, 7)),
        ("edm", {"rho": 3.0}, lambda high, low, n: _karras(high, low, n, 3)),
        ("logsnr", {}, lambda high, low, n: np.geomspace(high, low, n + 1)),
        ("exponential", {}, lambda high, low, n: np.geomspace(high, low, n + 1)),
        ("exponential", {"rho": 0.6}, lambda high, low, n: _polyexponential(high, low, n, 0.6)),
        ("cosine", {}, lambda high, low, n: _arctan(high, low, n, 1)),
        ("cosine", {"scale": 0.5}, lambda high, low, n: _arctan(high, low, n, 0.5)),
    ],
)
def test_families_defined_in_noise_levels(
    family: str, parameters: dict[str, float], levels: Callable[..., np.ndarray], where: str
) -> None:
    process, t_max, t_min = RANGES[where]
    expected = levels(*process.noise_level([t_max, t_min]).tolist(), 13)
    np.testing.assert_allclose(_build(family, where, 13, **parameters).noise_levels, expected, rtol=1e-9)


@pytest.mark.parametrize("where", RANGES)
@pytest.mark.parametrize(
    ("family", "parameters", "times"),
    [
        ("time_uniform", {}, lambda high, low, n: np.linspace(high, low, n + 1)),
        ("time_quadratic", {}, lambda high, low, n: np.linspace(high**0.5, low**0.5, n + 1) ** 2),
        ("beta", {}, lambda high, low, n: low + (high - low) * stats.beta.ppf(np.linspace(1, 0, n + 1), 0.6, 0.6)),
        (
            "beta",
            {"alpha": 1.5, "beta": 0.8},
            lambda high, low, n: low + (high - low) * stats.beta.ppf(np.linspace(1, 0, n + 1), 1.5, 0.8),
        ),
    ],
)
def test_families_defined_in_times(
    family: str, parameters: dict[str, float], times: Callable[..., np.ndarray], where: str
) -> None:
    _, t_max, t_min = RANGES[where]
    np.testing.assert_allclose(_build(family, where, 13, **parameters).times, times(t_max, t_min, 13), rtol=1e-12)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_flow_shift_is_sd3s(shift: float) -> None:
    u = np.linspace(1, 0, 11)
    times = build_schedule("flow_shift", Flow(), steps=10, t_max=1.0, t_min=0.0, shift=shift).times
    np.testing.assert_allclose(times, shift * u / (1 + (shift - 1) * u), rtol=1e-12)


@pytest.mark.parametrize("where", RANGES)
@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_flow_shift_multiplies_noise_levels(shift: float, where: str) -> None:
    unshifted = _build("flow_shift", where, 10, shift=shift).noise_levels.numpy() / shift
    u = unshifted / (1 + unshifted)
    np.testing.assert_allclose(np.diff(u), np.diff(u).mean(), rtol=1e-7)


@pytest.mark.parametrize("process", [EDM(), SD, Flow(), VP.linear()], ids=["edm", "sd", "flow", "ddpm"])
def test_ddim_steps_through_a_ddpm(process: Process) -> None:
    """alpha_bar of the linear betas at uniform timesteps, written out."""
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    levels = np.sqrt((1 - alpha_bar) / alpha_bar)
    high, low = levels[[600, 40]]
    ends = process.time_of_noise_level([high, low]).tolist()
    found = build_schedule("ddim", process, steps=8, t_max=ends[0], t_min=ends[1]).noise_levels
    np.testing.assert_allclose(found, levels[np.linspace(600, 40, 9).round().astype(int)], rtol=1e-9)


def test_ddim_beyond_the_range_of_a_ddpm() -> None:
    inner = build_schedule("ddim", Flow(), steps=9, t_max=0.9999, t_min=0.0)
    assert inner.times[[0, -1]].tolist() == [0.9999, 0.0]
    timesteps = VP.linear().time_of_noise_level(inner.noise_levels[1:-1])
    np.testing.assert_allclose(timesteps, np.linspace(999, 0, 10)[1:-1], rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "timesteps"),
    [
        # the timesteps that AYS's authors released beside the noise levels, SD's own clock rounded
        ("sd15", [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0]),
        ("sdxl", [999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0]),
    ],
)
def test_published_constants_snap_to_stable_diffusion(model: str, timesteps: list[int]) -> None:
    times = build_schedule("published", SD, steps=10, model=model).times
    assert times[[0, -1]].tolist() == [999, 0]
    np.testing.assert_allclose(times, timesteps, atol=1)


@pytest.mark.parametrize(
    ("model", "ends"), [("sd15", (14.615, 0.029)), ("deepfloyd_if", (160.41, 0.006)), ("svd", (700.0, 0.002))]
)
def test_published_ends_under_edm(model: str, ends: tuple[float, float]) -> None:
    assert build_schedule("published", EDM(), steps=10, model=model).times[[0, -1]].tolist() == pytest.approx(ends)


@pytest.mark.parametrize("process", [EDM(), SD, Flow()], ids=["edm", "sd", "flow"])
@pytest.mark.parametrize("steps", [3, 10, 20, 50])
def test_published_interpolation_is_log_linear(process: Process, steps: int) -> None:
    expected = np.exp(np.interp(np.linspace(0, 10, steps + 1), np.arange(11), np.log(SD15)))
    if process is SD:
        expected = expected.clip(*SD.noise_level([0.0, 999.0]).tolist())
    np.testing.assert_allclose(build_schedule("published", process, steps=steps).noise_levels, expected, rtol=1e-9)
    zero = build_schedule("published", process, steps=steps, final="zero")
    np.testing.assert_allclose(zero.noise_levels, [*expected[:-1], 0], rtol=1e-9)


def test_published_is_what_diffusers_comfyui_and_a1111_run() -> None:
    sd15 = build_schedule("published", EDM(), steps=10, final="zero").noise_levels.tolist()
    assert sd15 == pytest.approx([14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0])
    sdxl = build_schedule("published", EDM(), steps=10, final="zero", model="sdxl").noise_levels.tolist()
    assert sdxl == pytest.approx([14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113, 0.0])
    assert build_schedule("published", SD, steps=1, final="zero").times.tolist() == [999, -1]


def test_snapped_to_timesteps() -> None:
    dense = build_schedule("logsnr", SD, steps=100, t_max=999.0, t_min=0.2, final="zero")
    snapped = build_schedule("logsnr", SD, steps=100, t_max=999.0, t_min=0.2, final="zero", snap=True)
    assert snapped.times.tolist() == sorted({float(round(t)) for t in dense.times.tolist()}, reverse=True)
    assert snapped.times[-2:].tolist() == [0, -1]
    assert snapped.steps < 100
    flow = build_schedule("flow_shift", Flow(), steps=50, t_max=1.0, t_min=0.0, snap=True)
    assert (1000 * flow.times).tolist() == pytest.approx((1000 * flow.times).round().tolist(), abs=1e-12)
    # only the clean time is 0
    assert Schedule([0.5, 1e-5, 0.0], Flow()).snapped().times.tolist() == [0.5, 0.001, 0.0]
    assert Schedule([0.5, 0.25], Flow()).snapped(timesteps=10).times.tolist() == [0.5, 0.2]
    kept = Schedule([10.2, 5.4, -1.0], SD, orders=[1, 2], initial_scale=0.5).snapped()
    assert (kept.times.tolist(), kept.orders, kept.initial_scale) == ([10, 5, -1], (1, 2), 0.5)


def test_what_cannot_be_snapped() -> None:
    with pytest.raises(ValueError, match="EDM process has no timesteps"):
        Schedule([80.0, 1.0], EDM()).snapped()
    with pytest.raises(ValueError, match="1 of the 2 steps vanish"):
        Schedule([10.2, 9.9, 3.0], SD, orders=[1, 2]).snapped()
    with pytest.raises(ValueError, match="at least two times"):
        Schedule([10.2, 9.9], SD).snapped()


# refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["edm", "logsnr", "exponential"])
@pytest.mark.parametrize("where", ["flow", "zero terminal SNR"])
def test_families_in_noise_levels_start_at_an_infinite_one(family: str, where: str) -> None:
    process = Flow() if where == "flow" else VP.from_betas([*torch.linspace(1e-3, 0.2, 40).tolist(), 1.0])
    last, below, t_min = (1.0, 0.999, 0.01) if where == "flow" else (40.0, 39.0, 1.0)
    found = build_schedule(family, process, steps=4, t_max=last, t_min=t_min).times
    under = build_schedule(family, process, steps=4, t_max=below, t_min=t_min).times
    assert found.tolist() == [last, *under[1:].tolist()]


@pytest.mark.parametrize("final", ["t_min", "zero"])
@pytest.mark.parametrize("family", ["edm", "logsnr", "exponential"])
@pytest.mark.parametrize(("process", "t_max", "least"), [(Flow(), 1.0, 0.001), (Flow(), 0.9, 0.001), (SD, 999.0, 0.0)])
def test_families_in_noise_levels_end_at_level_0_after_the_least_positive_one(
    process: Process, t_max: float, least: float, family: str, final: Final
) -> None:
    found = build_schedule(family, process, steps=4, t_max=t_max, t_min=process.t_clean, final=final)
    expected = build_schedule(family, process, steps=4, t_max=t_max, t_min=least, final="zero")
    assert found.times.tolist() == expected.times.tolist()
    levels = process.noise_level([min(t_max, process.t_finite), least]).tolist()
    assert found.metadata["formula_levels"] == levels
    assert "formula_levels" not in build_schedule(family, process, steps=4, t_max=0.9, t_min=0.01).metadata


@pytest.mark.parametrize("family", ["time_uniform", "time_quadratic", "beta", "flow_shift", "cosine", "ddim"])
def test_families_with_inner_times_there_start_a_flow_at_its_noisy_end(family: str) -> None:
    assert build_schedule(family, Flow(), steps=4, t_max=1.0, t_min=0.0).times[[0, -1]].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "karras"}, "unknown schedule 'karras'; known: edm, .*published"),
        ({"t_max": 1.0, "t_min": 1.0}, r"t_max = 1 and t_min = 1 .* t_max > t_min"),
        ({"t_max": 0.5, "t_min": 1.0}, "t_max = 0.5"),
        ({"t_min": -1.0}, "t_min = -1"),
        ({"t_max": math.nan}, "t_max = nan"),
        ({"t_max": math.inf}, "t_max = inf"),
        ({"t_max": None}, "edm needs t_max and t_min"),
        ({"process": SD, "t_max": 1000.0, "t_min": 1.0}, r"t_max = 1000 .*-1 to 999"),
        ({"steps": 0}, "at least 1 steps, got 0"),
        ({"steps": 2.5}, "got 2.5"),
        ({"steps": 1, "final": "zero"}, "at least 2 steps, got 1"),
        ({"final": "t_max"}, "final must be 't_min' or 'zero', got 't_max'"),
        ({"name": "logsnr", "t_min": 0.0}, "t_min = 0 the noise level is 0.*final='zero'"),
        ({"name": "time_quadratic", "process": SD, "t_min": -1.0}, "t_min of at least 0, got -1"),
        ({"rho": 0.0}, "rho must be positive, got 0"),
        ({"name": "exponential", "rho": -1.0}, "rho must be positive, got -1"),
        ({"name": "cosine", "scale": 0.0}, "scale must be positive, got 0"),
        ({"name": "beta", "alpha": 0.0}, "alpha and beta must be positive, got 0"),
        ({"name": "beta", "of": "sigma"}, "of must be 'time' or 'noise_level', got 'sigma'"),
        ({"name": "flow_shift", "shift": -3.0}, "shift must be positive, got -3"),
        ({"rhoo": 7.0}, "rhoo"),
        (
            {"name": "published", "model": "sd3"},
            "no published levels for 'sd3'; known: sd15, sdxl, deepfloyd_if",
        ),
        ({"name": "published", "model": "svd", "process": SD}, r"svd run from 700 to 0\.002.*another model"),
    ],
)
def test_refusals(fields: dict[str, Any], message: str) -> None:
    request = {"name": "edm", "process": EDM(), "steps": 5, "t_max": 80.0, "t_min": 0.002, **fields}
    with pytest.raises(ValueError, match=message):
        build_schedule(**request)


def test_a_whole_number_of_steps_may_come_as_a_float() -> None:
    request = {"name": "edm", "process": EDM(), "t_max": 80.0, "t_min": 0.002, "final": "zero"}
    assert build_schedule(**request, steps=10.0) == build_schedule(**request, steps=10)


def test_published_records_no_range_that_it_does_not_use() -> None:
    assert build_schedule("published", SD, steps=10, t_max=999.0, t_min=0.0).metadata == {
        "family": "published",
        "final": "t_min",
    }


# files ---------------------------------------------------------------------------------------------------------------


def _fail(error: type[BaseException]) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error("No space left on device")

    return fail


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("function", ["replace", "fdopen", "chmod"])
def test_interrupted_save_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: type[BaseException]
) -> None:
    old, new = _build("edm", "edm", 3), _build("edm", "edm", 4)
    old.save(tmp_path / "old.json")
    with monkeypatch.context() as patch:
        patch.setattr(os, function, _fail(error))
        for name in ["old.json", "new.json"]:
            with pytest.raises(error, match="No space"):
                new.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert Schedule.load(tmp_path / "old.json") == old


def test_metadata_that_json_cannot_hold_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Tensor"):
        Schedule([2, 1], EDM(), metadata={"bad": torch.ones(1)}).save(tmp_path / "schedule.json")
    assert not list(tmp_path.iterdir())


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_truncated_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("truncated") / "schedule.json"
    _build("edm", "edm", 3).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=r"schedule\.json is not a schedule"):
        Schedule.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"version": 3},
        {"version": 4},
        {"version": 5},
        {"told_as": "velocity"},
        {"weights": "large"},
        {"weights": [[1.0], [0.0], [0.0]]},
        {"told_times": [1.0]},
        {"process": {"name": "ve"}},
        {"process": {"name": "vp"}},
        {"process": 3},
        {"times": None},
        {"times": "80"},
        {"times": ["80", "1"]},
        {"times": [1.0, 2.0]},
        {"times": [2.0, -1.0]},
        {"orders": 3},
        {"orders": ["a", "b", "c"]},
        {"initial_scale": "large"},
        {"amplitude": "large"},
        {"metadata": 3},
    ],
    ids=str,
)
def test_content_that_is_no_schedule_names_the_file(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "schedule.json"
    _build("edm", "edm", 3).save(path)
    # of version 1, which has no checksum to fail first
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1, **change}))
    with pytest.raises(ValueError, match=r"schedule\.json"):
        Schedule.load(path)


def test_a_flipped_bit_is_never_another_schedule(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    schedule = Schedule([80.0, 3.25, 0.5, 0.002], EDM(), orders=[1, 2, 1], metadata={"solver": "dpmpp_2m"})
    schedule.save(path)
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(bytes(damaged))
            with suppress(ValueError):
                assert Schedule.load(path) == schedule


def test_a_file_changed_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    Schedule([80.0, 3.25, 0.5], EDM(), metadata={1: "a", 10: "b", 9: "c"}).save(path)
    assert Schedule.load(path).metadata == {"1": "a", "10": "b", "9": "c"}
    path.write_text(path.read_text().replace("3.25", "3.5"))
    with pytest.raises(ValueError, match=r'checksum is not that of its content.*say "version": 1'):
        Schedule.load(path)
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    assert Schedule.load(path).times.tolist() == [80, 3.5, 0.5]


def test_files_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    path.write_text(
        '{"format": "optsteps.schedule", "version": 1, "steps": 2, "times": [2.0, 1.0, 0.0], '
        '"process": {"name": "edm"}, "orders": [1, 1], "initial_scale": null, "amplitude": null, '
        '"metadata": {"method": "oss"}}'
    )
    assert Schedule.load(path) == Schedule([2.0, 1.0, 0.0], EDM(), orders=[1, 1], metadata={"method": "oss"})


COMMITTED = {
    1: Path(__file__).parents[2] / "experiments/mnist_fid/schedule_10.json",
    2: Path(__file__).parents[2] / "experiments/mnist_main/schedule_10.json",
}


@pytest.mark.parametrize("version", COMMITTED)
def test_committed_files_of_both_earlier_versions(version: int, tmp_path: Path) -> None:
    content = json.loads(COMMITTED[version].read_text())
    assert content["version"] == version
    schedule = Schedule.load(COMMITTED[version])
    assert (schedule.weights, schedule.told_times) == (None, None)
    assert list(schedule.facts) == ["times", "process", "orders", "initial_scale", "amplitude"]
    assert schedule.facts == {name: content[name] for name in schedule.facts}
    assert schedule.metadata == content["metadata"]
    schedule.save(tmp_path / "again.json")
    if version == 2:
        assert (tmp_path / "again.json").read_bytes() == COMMITTED[2].read_bytes()
    else:
        assert json.loads((tmp_path / "again.json").read_text())["version"] == 2


def test_files_of_version_4(tmp_path: Path) -> None:
    schedule = Schedule([2.0, 1.0, 0.0], EDM(), told_times=[2.0, 0.9], told_as="slope")
    schedule.save(tmp_path / "schedule.json")
    content = json.loads((tmp_path / "schedule.json").read_text())
    assert (content["version"], content["told_times"], content["told_as"]) == (4, [2.0, 0.9], "slope")
    assert Schedule.load(tmp_path / "schedule.json") == schedule


@pytest.mark.parametrize("parts", [{"weights": [[0.0], [0.1]]}, {"told_times": [2.0, 0.9]}], ids=str)
def test_files_of_version_3(parts: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    schedule = Schedule([2.0, 1.0, 0.0], EDM(), **parts)
    assert (
        schedule.facts == {**Schedule([2.0, 1.0, 0.0], EDM()).facts, **parts} == {**schedule.facts, **schedule.carried}
    )
    schedule.save(path)
    content = json.loads(path.read_text())
    assert content["version"] == 3
    assert {name: content[name] for name in ("weights", "told_times") if name in content} == parts
    path.write_text(path.read_text().replace("0.1", "0.2").replace("0.9", "0.8"))
    with pytest.raises(ValueError, match="checksum is not that of its content"):
        Schedule.load(path)
    # changed by hand, as the error says: nothing is lost
    path.write_text(path.read_text().replace('"version": 3', '"version": 1'))
    changed = {name: [[0.0], [0.2]] if name == "weights" else [2.0, 0.8] for name in parts}
    assert Schedule.load(path) == Schedule([2.0, 1.0, 0.0], EDM(), **changed)


def test_weights_and_told_times_keep_a_copy_and_their_graph() -> None:
    weights = torch.tensor([[0.0], [0.5]], dtype=torch.float64, requires_grad=True)
    told = torch.tensor([2.0, 1.0], dtype=torch.float64, requires_grad=True)
    schedule = Schedule([2.0, 1.0, 0.0], EDM(), weights=weights, told_times=told)
    assert schedule.weights is not None
    assert schedule.told_times is not None
    (schedule.weights.sum() + 3 * schedule.told_times.sum()).backward()
    assert weights.grad is not None
    assert told.grad is not None
    assert (weights.grad.flatten().tolist(), told.grad.tolist()) == ([1, 1], [3, 3])
    with torch.no_grad():
        weights[1] = 7
        told[1] = 7
    assert schedule.carried == {"weights": [[0.0], [0.5]], "told_times": [2.0, 1.0]}


def test_told_times_are_snapped_with_the_times() -> None:
    found = Schedule([0.9012, 0.5, 0.0], Flow(), told_times=[0.8996, 0.0001]).snapped()
    assert (found.times.tolist(), found.told_times.tolist()) == ([0.901, 0.5, 0.0], [0.9, 0.001])  # type: ignore[union-attr]
    found = Schedule([900.4, 500.0, -1.0], SD, told_times=[901.6, 480.2]).snapped()
    assert (found.times.tolist(), found.told_times.tolist()) == ([900, 500, -1], [902, 480])  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"1 of the 3 steps vanish.*orders, an amplitude or told times"):
        Schedule([900.4, 900.2, 500.0, -1.0], SD, told_times=[900, 800, 480]).snapped()


def test_weights_belong_to_times_that_no_snapping_moves() -> None:
    still = Schedule([900.0, 500.0, -1.0], SD, weights=[[0.0], [0.5]], told_times=[900.0, 480.3])
    assert still.snapped() == Schedule([900, 500, -1], SD, weights=[[0.0], [0.5]], told_times=[900, 480])
    with pytest.raises(ValueError, match=r"weights, which belong to its times as they are.*teacher that is snapped"):
        Schedule([900.2, 500.0, -1.0], SD, weights=[[0.0], [0.5]]).snapped()


def test_other_json_and_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    for content in ["[]", "{}", "3", "null", "\xff"]:
        path.write_text(content, encoding="latin-1")
        with pytest.raises(ValueError, match=r"schedule\.json"):
            Schedule.load(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        Schedule.load(tmp_path / "missing.json")


def test_a_formula_of_ones_own_is_built_as_the_families_are() -> None:
    def squares(process: Process, ramp: torch.Tensor, ends: torch.Tensor, power: float = 2.0) -> torch.Tensor:
        return ends[0] + ramp**power * (ends[1] - ends[0])

    built = build_schedule(squares, EDM(), 4, 9.0, 1.0, power=1.0)
    assert built.times.tolist() == [9.0, 7.0, 5.0, 3.0, 1.0]
    assert (built.metadata["family"], built.metadata["power"]) == ("squares", 1.0)
    assert build_schedule(squares, EDM(), 3, 9.0, 1.0, final="zero").times.tolist() == [9.0, 7.0, 1.0, 0.0]
    with pytest.raises(ValueError, match=r"'squares' has the parameters \['power'\]"):
        build_schedule(squares, EDM(), 4, 9.0, 1.0, rho=3.0)
