import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from optsteps.processes import EDM, VP, Flow, Process, process_from_dict

SCALED_LINEAR_BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
LINEAR_BETAS = np.linspace(1e-4, 0.02, 1000)
FUNCTIONS = ["alpha", "sigma", "noise_level", "log_snr"]

random_betas = st.lists(st.floats(1e-3, 0.5), min_size=2, max_size=30)
fixed_processes = [EDM(), Flow(), VP.linear(), VP.scaled_linear()]
processes = st.sampled_from(fixed_processes) | random_betas.map(VP.from_betas)


def _log_levels(betas: np.ndarray) -> np.ndarray:
    """log(sigma / alpha) at the integer timesteps, written as diffusers' schedulers write it."""
    alphas_cumprod = np.cumprod(1 - np.asarray(betas))
    return np.log(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5)


@st.composite
def processes_and_times(draw: st.DrawFn) -> tuple[Process, float]:
    process = draw(processes)
    least = 0.0 if isinstance(process, VP) else 1e-12
    noisy = st.floats(least, min(process.t_limit, 1e12))
    return process, draw(noisy | st.sampled_from([process.t_clean, process.t_limit]).filter(math.isfinite))


@st.composite
def processes_and_levels(draw: st.DrawFn) -> tuple[Process, float]:
    process = draw(processes)
    low, high = 1e-6, 1e6
    if isinstance(process, VP):
        low, high = process.noise_level([0.0, process.t_limit]).tolist()
    return process, draw(st.floats(low, high) | st.just(0.0))


@settings(deadline=None, max_examples=300)
@given(processes_and_times())
def test_time_comes_back_from_noise_level_and_log_snr(case: tuple[Process, float]) -> None:
    process, t = case
    # an EDM or flow time is a noise level in itself and keeps its relative precision, a timestep its absolute one
    expected = pytest.approx(t, rel=1e-9, abs=1e-9 if isinstance(process, VP) else 0)
    assert process.time_of_noise_level(process.noise_level(t)).item() == expected
    assert process.time_of_log_snr(process.log_snr(t)).item() == expected


@settings(deadline=None, max_examples=300)
@given(processes_and_levels())
def test_noise_level_and_log_snr_come_back_from_time(case: tuple[Process, float]) -> None:
    process, level = case
    assert process.noise_level(process.time_of_noise_level(level)).item() == pytest.approx(level, rel=1e-9, abs=0)
    log_snr = -math.log(level) if level > 0 else math.inf
    assert process.log_snr(process.time_of_log_snr(log_snr)).item() == pytest.approx(log_snr, rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=200)
@given(processes_and_times())
def test_the_four_functions_agree(case: tuple[Process, float]) -> None:
    process, t = case
    alpha, sigma, level, log_snr = (getattr(process, name)(t).item() for name in FUNCTIONS)
    assert alpha * level == pytest.approx(sigma, rel=1e-12) or alpha == 0
    assert log_snr == pytest.approx(-math.log(level) if level > 0 else math.inf, rel=1e-9, abs=1e-9)
    if isinstance(process, VP):
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-14)
    elif isinstance(process, Flow):
        assert (alpha, sigma) == (1 - t, t)
    else:
        assert (alpha, sigma) == (1, t)


@pytest.mark.parametrize(
    ("process", "betas"), [(VP.linear(), LINEAR_BETAS), (VP.scaled_linear(), SCALED_LINEAR_BETAS)], ids=["linear", "sd"]
)
def test_vp_at_its_timesteps_is_the_ddpm(process: VP, betas: np.ndarray) -> None:
    alphas_cumprod = np.cumprod(1 - betas)
    t = torch.arange(len(betas))
    np.testing.assert_allclose(process.alpha(t), alphas_cumprod**0.5, rtol=1e-12)
    np.testing.assert_allclose(process.sigma(t), (1 - alphas_cumprod) ** 0.5, rtol=1e-11)
    assert torch.equal(VP.from_betas(betas.tolist()).noise_level(t), VP.from_betas(torch.tensor(betas)).noise_level(t))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([LINEAR_BETAS, SCALED_LINEAR_BETAS]) | random_betas.map(np.array), st.floats(0, 1))
def test_vp_between_timesteps_is_diffusers_interpolation(betas: np.ndarray, place: float) -> None:
    process, log_levels = VP.from_betas(betas), _log_levels(betas)
    timesteps = np.arange(len(betas))
    t = place * timesteps[-1]
    level = np.exp(np.interp(t, timesteps, log_levels))
    assert process.noise_level(t).item() == pytest.approx(level, rel=1e-10)
    # EulerDiscreteScheduler._sigma_to_t: timesteps linear in log sigma
    level = process.noise_level(t).item()
    timestep = np.interp(np.log(level), log_levels, timesteps)
    assert process.time_of_noise_level(level).item() == pytest.approx(timestep, rel=1e-9, abs=1e-9)


def test_published_range_of_stable_diffusion() -> None:
    # sigma_min and sigma_max that k-diffusion and diffusers print for SD 1.5
    np.testing.assert_allclose(VP.scaled_linear().noise_level([0.0, 999.0]), [0.0292, 14.6146], atol=5e-5)


@pytest.mark.parametrize(
    ("process", "t_clean"), [(EDM(), 0), (Flow(), 0), (VP.linear(), -1)], ids=["edm", "flow", "vp"]
)
def test_clean_time(process: Process, t_clean: float) -> None:
    assert process.t_clean == t_clean
    assert [getattr(process, name)(t_clean).item() for name in FUNCTIONS] == [1, 0, 0, math.inf]
    assert process.time_of_noise_level(0.0).item() == t_clean
    assert process.time_of_log_snr(math.inf).item() == t_clean
    assert bool(process.contains(t_clean))


def test_noisy_end_of_a_flow() -> None:
    assert [getattr(Flow(), name)(1.0).item() for name in FUNCTIONS] == [0, 1, math.inf, -math.inf]
    assert Flow().time_of_noise_level(math.inf).item() == 1
    assert Flow().time_of_log_snr(-math.inf).item() == 1


@pytest.mark.parametrize(
    ("process", "inside", "outside"),
    [
        (EDM(), [0, 1e-300, 80, 1e300], [-1e-9, math.inf, math.nan]),
        (Flow(), [0, 0.5, 1], [-1e-9, 1 + 1e-9, math.inf, math.nan]),
        (VP.linear(), [-1, 0, 0.5, 999], [-2, -0.5, -1e-9, 999.001, math.inf, math.nan]),
    ],
    ids=["edm", "flow", "vp"],
)
def test_contains(process: Process, inside: list[float], outside: list[float]) -> None:
    assert process.contains(inside).all()
    assert not process.contains(outside).any()


@pytest.mark.parametrize(
    ("process", "expected"), [(EDM(), 0.5), (Flow(), 0.5), (VP.linear(), 1)], ids=["edm", "flow", "vp"]
)
def test_prior_std(process: Process, expected: float) -> None:
    assert process.prior_std(0.5).item() == expected


@pytest.mark.parametrize("process", fixed_processes, ids=repr)
@pytest.mark.parametrize("name", [*FUNCTIONS, "prior_std", "time_of_noise_level", "time_of_log_snr"])
def test_any_shape_comes_back_in_float64(process: Process, name: str) -> None:
    function: Callable[..., Tensor] = getattr(process, name)
    for shape in [(), (3,), (2, 0), (2, 3)]:
        out = function(torch.full(shape, 0.25, dtype=torch.float32))
        assert (out.shape, out.dtype) == (shape, torch.float64)
    assert function([0.25, 0.5]).tolist() == [function(0.25).item(), function(0.5).item()]


@pytest.mark.parametrize("process", fixed_processes, ids=repr)
def test_gradients(process: Process) -> None:
    scale = 999 if isinstance(process, VP) else 1
    t = (torch.tensor([0.0123, 0.3, 0.77]).double() * scale).requires_grad_()
    for name in FUNCTIONS:
        assert gradcheck(getattr(process, name), t)
    assert gradcheck(process.time_of_noise_level, process.noise_level(t).detach().requires_grad_())
    assert gradcheck(process.time_of_log_snr, process.log_snr(t).detach().requires_grad_())


@pytest.mark.parametrize("process", fixed_processes, ids=repr)
def test_gradients_stay_finite_at_the_ends(process: Process) -> None:
    t = torch.tensor([process.t_clean, min(process.t_limit, 80.0)], dtype=torch.float64, requires_grad=True)
    (process.alpha(t) + process.sigma(t)).sum().backward()
    assert t.grad is not None
    assert torch.isfinite(t.grad).all()


@settings(deadline=None, max_examples=100)
@given(processes)
def test_dict_round_trip_is_exact(process: Process) -> None:
    again = process_from_dict(json.loads(json.dumps(process.to_dict())))
    assert again == process
    assert hash(again) == hash(process)
    t = torch.linspace(0, min(process.t_limit, 80.0), 50, dtype=torch.float64)
    assert torch.equal(again.noise_level(t), process.noise_level(t))


def test_processes_differ() -> None:
    assert len(set(fixed_processes)) == 4
    assert VP.linear(timesteps=500) != VP.linear()
    assert EDM() != Flow()


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([0.1, 0.0], "beta 0 at timestep 1"),
        ([0.1, 1.0, 0.2], "beta 1 at timestep 1"),
        ([-0.25, 0.1], "beta -0.25 at timestep 0"),
        ([0.1, math.nan], "beta nan at timestep 1"),
        ([0.1], r"at least 2 noise levels, got shape \(1,\)"),
        ([[0.1, 0.2], [0.1, 0.2]], r"shape \(2, 2\)"),
    ],
)
def test_bad_betas(betas: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VP.from_betas(betas)


@pytest.mark.parametrize(
    "levels", [[0.0, 0.0], [1.0, 0.5], [-math.inf, 0.0], [0.0, math.inf, math.inf], [math.nan, 1.0]]
)
def test_bad_log_noise_levels(levels: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and strictly increasing"):
        VP(levels)


@pytest.mark.parametrize(
    ("process", "level", "named"),
    [
        (EDM(), -1.0, "-1"),
        (EDM(), math.inf, "inf"),
        (EDM(), math.nan, "nan"),
        (EDM(), [1.0, -3.0], "-3"),
        (Flow(), -0.5, "-0.5"),
        (Flow(), math.nan, "nan"),
        (VP.linear(), 1000.0, "1000"),
        (VP.linear(), 1e-3, "0.001"),
        (VP.linear(), math.inf, "inf"),
        (VP.linear(), math.nan, "nan"),
        (VP.linear(), -1.0, "-1"),
        (VP.linear(), [0.0, 1000.0], "1000"),
    ],
)
def test_noise_level_out_of_range_is_named(process: Process, level: float | list[float], named: str) -> None:
    with pytest.raises(ValueError, match=f"noise level {named} is outside"):
        process.time_of_noise_level(level)


@pytest.mark.parametrize(
    ("process", "log_snr"),
    [(EDM(), -math.inf), (EDM(), math.nan), (Flow(), math.nan), (VP.linear(), -10.0), (VP.linear(), 10.0)],
)
def test_log_snr_out_of_range(process: Process, log_snr: float) -> None:
    with pytest.raises(ValueError, match="outside this process's range"):
        process.time_of_log_snr(log_snr)


def test_unknown_process() -> None:
    with pytest.raises(ValueError, match="unknown process 've'; known: edm, flow, vp"):
        process_from_dict({"name": "ve"})


# zero terminal SNR: the last timestep has alpha 0 --------------------------------------------------------------------


def rescaled(betas: np.ndarray) -> tuple[VP, np.ndarray]:
    """Of betas rescaled to zero terminal SNR (Lin et al., arXiv:2305.08891, Algorithm 1), and sqrt(alpha_bar)."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alphas = np.concatenate([root[:1] ** 2, root[1:] ** 2 / root[:-1] ** 2])
    return VP.from_betas(1 - alphas), root


@pytest.mark.parametrize("betas", [SCALED_LINEAR_BETAS, LINEAR_BETAS], ids=["scaled linear", "linear"])
def test_zero_terminal_snr(betas: np.ndarray) -> None:
    process, root = rescaled(betas)
    t = torch.arange(1000)
    assert (process.t_limit, process.t_finite) == (999, 998)
    torch.testing.assert_close(process.alpha(t), torch.from_numpy(root), rtol=1e-6, atol=0)
    assert (process.alpha(999), process.sigma(999), process.noise_level(999)) == (0, 1, math.inf)
    assert process.log_snr(999) == -math.inf
    # alpha / sigma falls linearly over the last interval, so that levels stay continuous and increasing
    last = process.noise_level([998.0, 998.25, 998.5, 998.75, 999.0])
    torch.testing.assert_close(1 / last, (1 / last[0]) * torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))
    between = torch.linspace(997.5, 999, 40, dtype=torch.float64)
    assert bool((process.noise_level(between).diff() > 0).all())
    torch.testing.assert_close(process.time_of_log_snr(process.log_snr(between)), between, rtol=1e-12, atol=0)
    torch.testing.assert_close(process.time_of_noise_level([math.inf, 0.0]), torch.tensor([999.0, -1.0]).double())
    inner = torch.tensor([12.5, 500.0, 998.5], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda t: (process.alpha(t), process.sigma(t), process.log_snr(t)), inner)


def test_zero_terminal_snr_is_stored_as_plain_json() -> None:
    process, _ = rescaled(SCALED_LINEAR_BETAS)
    text = json.dumps(process.to_dict(), allow_nan=False)
    assert process_from_dict(json.loads(text)) == process


def test_what_is_no_list_of_betas_is_told() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    with pytest.raises(ValueError, match=r"fall from 0\.9999 to 4\.03.*of alphas_cumprod take VP.from_log_alpha_bar"):
        VP.from_betas(alphas_cumprod)
    levels = VP.from_log_alpha_bar(alphas_cumprod.log()).noise_level([0.0, 999.0])
    torch.testing.assert_close(levels, VP.from_betas(betas).noise_level([0.0, 999.0]))
    with pytest.raises(ValueError, match=r"fall from 0\.02 to 0\.0001"):
        VP.from_betas(betas.flip(0))
    with pytest.raises(ValueError, match=r"betas are numbers, got 'linear': VP.linear\(\)"):
        VP.from_betas("linear")  # type: ignore[arg-type]
    VP.from_betas([0.02, 0.01])  # few may fall


@pytest.mark.parametrize("process", [EDM(), VP.linear(), Flow()], ids=lambda process: process.name)
def test_noise_levels_in_the_wrong_order_are_named_as_they_were_given(process: Process) -> None:
    with pytest.raises(ValueError, match=r"largest and then the smallest, got 0\.02 and 80: give them in that order"):
        process.time_range(0.02, 80.0)
