import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optsteps.denoisers import (
    CountedDenoiser,
    DeviceDenoiser,
    EDMDenoiser,
    GuidedDenoiser,
    ModelError,
    NetworkDenoiser,
    evaluate,
    fitting_batch,
)
from optsteps.processes import EDM, VP, Flow

PROCESSES = {"edm": EDM(), "vp": VP.scaled_linear(), "flow": Flow()}
TARGETS = {
    "x0": lambda x_0, eps, alpha, sigma: x_0,
    "eps": lambda x_0, eps, alpha, sigma: eps,
    "v": lambda x_0, eps, alpha, sigma: alpha * eps - sigma * x_0,
    "velocity": lambda x_0, eps, alpha, sigma: eps - x_0,
}


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _per_sample(coefficient: Tensor) -> Tensor:
    return coefficient[:, None, None, None]


@pytest.mark.parametrize("prediction", TARGETS)
@pytest.mark.parametrize("name", PROCESSES)
@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=4), st.integers(0, 2**16))
def test_the_true_target_gives_the_clean_image(name: str, prediction: str, places: list[float], seed: int) -> None:
    process = PROCESSES[name]
    t = torch.tensor(places, dtype=torch.float64) * min(process.t_limit, 20.0)
    alpha, sigma = _per_sample(process.alpha(t)), _per_sample(process.sigma(t))
    x_0, eps = _normal(len(t), 2, 3, 3, seed=seed), _normal(len(t), 2, 3, 3, seed=seed + 1)
    target = TARGETS[prediction](x_0, eps, alpha, sigma)
    denoise = NetworkDenoiser(lambda x, t, cond: target, process, prediction)
    # float64 rounding of x is amplified by 1 / alpha
    torch.testing.assert_close(denoise(alpha * x_0 + sigma * eps, t), x_0, rtol=0, atol=1e-10)


class _OfTwo(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * t[:, None].to(x)


class _OfThree(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor, cond: str = "not handed on") -> Tensor:
        assert cond is None
        return x * t[:, None].to(x)


@pytest.mark.parametrize("wrap", [NetworkDenoiser, EDMDenoiser])
def test_a_network_of_two_arguments_where_there_is_no_condition(wrap: Any) -> None:
    x, t = _normal(3, 2), torch.tensor([0.5, 1.0, 2.0]).double()
    expected = wrap(_OfThree(), EDM())(x, t)
    networks = [_OfTwo(), _OfTwo().forward, torch.compile(_OfTwo(), backend="eager"), lambda x, t: x * t[:, None].to(x)]
    for network in networks:
        assert torch.equal(wrap(network, EDM())(x, t), expected)
        with pytest.raises(TypeError, match="positional arguments"):
            wrap(network, EDM())(x, t, torch.zeros(3))
    assert torch.equal(wrap(lambda *inputs: _OfThree()(*inputs), EDM())(x, t), expected)


@pytest.mark.parametrize("prediction", ["x0", "v", "velocity"])
def test_the_noisy_end_of_a_flow_is_exact(prediction: str) -> None:
    x_0, eps, t = _normal(3, 2), _normal(3, 2, seed=1), torch.tensor([0.5, 1.0, 1.0]).double()
    alpha, sigma = 1 - t[:, None], t[:, None]
    target = TARGETS[prediction](x_0, eps, alpha, sigma)
    denoise = NetworkDenoiser(lambda x, t, cond: target, Flow(), prediction)
    torch.testing.assert_close(denoise(alpha * x_0 + sigma * eps, t), x_0, rtol=0, atol=1e-14)


def test_eps_prediction_is_refused_where_there_is_no_signal() -> None:
    denoise = NetworkDenoiser(lambda x, t, cond: x, Flow(), "eps")
    with pytest.raises(ValueError, match="eps-prediction says nothing about x_0 at t = 1"):
        denoise(torch.zeros(2, 3), torch.tensor([0.5, 1.0]).double())


def test_unknown_prediction() -> None:
    with pytest.raises(ValueError, match="unknown prediction 'epsilon'; known: x0, eps, v, velocity"):
        NetworkDenoiser(lambda x, t, cond: x, EDM(), "epsilon")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("wrapper", ["network", "edm"])
def test_times_reach_a_network_in_float32_or_better(wrapper: str, dtype: torch.dtype) -> None:
    seen: dict[str, Tensor] = {}

    def network(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        seen.update(x=x, t=t)
        return torch.zeros_like(x)

    x, t = torch.ones(2, 3, dtype=dtype), torch.tensor([999.0, 123.25]).double()
    if wrapper == "network":
        out, expected = NetworkDenoiser(network, VP.linear(), "v")(x, t), t
    else:
        out, expected = EDMDenoiser(network, EDM())(x, t), t.log() / 4
    assert (out.dtype, seen["x"].dtype) == (dtype, dtype)
    assert seen["t"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(seen["t"], expected.to(seen["t"].dtype))


def _toy_network(x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
    shift = 0 if cond is None else cond[:, None]
    return torch.tanh(x.cumsum(1) + c_noise[:, None]) + shift


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_preconditioning_is_table_1(sigma_data: float) -> None:
    x, cond = _normal(5, 4), _normal(5)
    sigmas = [0.002, 0.1, 0.5, 3.0, 80.0]
    expected = []
    for row, sigma, c in zip(x, sigmas, cond, strict=True):
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / math.sqrt(sigma**2 + sigma_data**2)
        c_in = 1 / math.sqrt(sigma**2 + sigma_data**2)
        c_noise = math.log(sigma) / 4
        network = np.tanh(np.cumsum(c_in * row.numpy()) + c_noise) + c.item()
        expected.append(c_skip * row.numpy() + c_out * network)
    out = EDMDenoiser(_toy_network, EDM(), sigma_data)(x, torch.tensor(sigmas, dtype=torch.float64), cond)
    np.testing.assert_allclose(out, np.stack(expected), rtol=1e-10)


@pytest.mark.parametrize("name", ["vp", "flow"])
def test_an_edm_network_depends_on_the_noise_level_alone(name: str) -> None:
    process = PROCESSES[name]
    levels, y = torch.tensor([0.05, 0.7, 12.0]).double(), _normal(3, 4)
    t = process.time_of_noise_level(levels)
    out = EDMDenoiser(_toy_network, process)(process.alpha(t)[:, None] * y, t)
    torch.testing.assert_close(out, EDMDenoiser(_toy_network, EDM())(y, levels), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_extrapolates_with_nested_cond(scale: float) -> None:
    calls = []

    def denoise(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        calls.append(len(x))
        return x * cond["text"] + t[:, None] * cond["more"][0]

    null = {"text": torch.full((1, 2), -1.0).double(), "more": (torch.full((1, 2), 0.5).double(), None)}
    cond = {"text": _normal(3, 2), "more": (_normal(3, 2, seed=1), None)}
    x, t = _normal(3, 2, seed=2), torch.tensor([1.0, 2.0, 3.0]).double()
    counted = CountedDenoiser(GuidedDenoiser(denoise, scale, null))
    conditional = x * cond["text"] + t[:, None] * cond["more"][0]  # type: ignore[operator]
    unconditional = -x + 0.5 * t[:, None]
    expected = scale * conditional + (1 - scale) * unconditional
    torch.testing.assert_close(counted(x, t, cond), expected, rtol=1e-12, atol=1e-12)
    assert (counted.nfe, counted.evaluations, calls) == (2, 6, [6])


def test_guidance_without_a_cond_is_refused() -> None:
    guided = GuidedDenoiser(lambda x, t, cond=None: x, 2.0, torch.zeros(1))
    with pytest.raises(ValueError, match="got None"):
        guided(torch.zeros(2, 3), torch.ones(2))


@pytest.mark.parametrize(
    ("null", "got"),
    [
        (torch.zeros(4), "[4]"),
        (torch.zeros(2, 4), "[2, 4]"),
        (torch.zeros(1, 5), "[1, 5]"),
        (None, "None"),
        (10, "int"),
        ({"text": torch.zeros(1, 4)}, "{'text': [1, 4]}"),
    ],
)
def test_a_null_cond_of_another_form_is_refused(null: object, got: str) -> None:
    for cond, expected in ((torch.zeros(3, 4), "[1, 4]"), ({"a": (torch.zeros(3, 4), None)}, "{'a': ([1, 4], None)}")):
        with pytest.raises(ValueError) as refusal:  # noqa: PT011
            GuidedDenoiser(lambda x, t, cond=None: x, 2.0, null)(torch.zeros(3, 2), torch.ones(3), cond)
        assert f"of the form {expected} with the batch dimension first" in str(refusal.value)
        assert str(refusal.value).endswith(f"got {got}")


TABLE = torch.arange(1000.0)


@pytest.mark.parametrize(
    "network",
    [
        lambda x, t: x * torch.nn.functional.embedding(t, TABLE[:, None]),
        lambda x, t: x * TABLE[t][:, None],
        lambda x, t: x * torch.nn.functional.one_hot(t, 1000)[:, :4],
        lambda x, t: x.gather(1, t[:, None]),
        lambda x, t: x @ torch.ones(4, 4, dtype=torch.float16),
        lambda x, t: torch.nn.functional.conv1d(x[:, None], torch.ones(1, 1, 1).half(), torch.ones(1).half())[:, 0],
    ],
)
def test_a_network_that_needs_another_dtype_is_told_how(network: Callable[..., Tensor]) -> None:
    x, t = torch.ones(2, 4), torch.tensor([3.0, 4.0]).double()
    with pytest.raises(ModelError, match=r"such as lambda x, t: network\(x, t\.round\(\)\.long\(\)\)"):
        evaluate(NetworkDenoiser(network, PROCESSES["vp"], "x0"), x, t)


def test_other_errors_have_no_such_hint() -> None:
    with pytest.raises(ModelError) as refusal:
        evaluate(NetworkDenoiser(lambda x, t: x.expand(3, 5), PROCESSES["vp"]), torch.ones(2, 4), torch.ones(2))
    assert "lambda" not in str(refusal.value)


def test_counting() -> None:
    counted = CountedDenoiser(lambda x, t, cond=None: x)
    for batch in [1, 5, 0, 2]:
        counted(torch.zeros(batch, 3), torch.ones(batch))
    assert (counted.nfe, counted.evaluations) == (1, 8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_names_its_time(bad: float) -> None:
    counted = CountedDenoiser(lambda x, t, cond=None: torch.where(t[:, None] == 2.5, bad, x))
    assert torch.equal(counted(torch.ones(1, 3), torch.ones(1)), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"NaN or inf at time 2\.5 \(sample 1 of the batch\)"):
        counted(torch.ones(3, 3), torch.tensor([1.0, 2.5, 2.5]))


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (2, 3, 1), (2,)])
def test_another_shape_names_its_time(shape: tuple[int, ...]) -> None:
    counted = CountedDenoiser(lambda x, t, cond=None: torch.zeros(shape))
    message = f"returned shape {tuple(shape)} for an input of shape (2, 3) at time 7.25"
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        counted(torch.zeros(2, 3), torch.full((2,), 7.25))
    assert message in str(refusal.value)


class Cramped:
    """A denoiser that runs out of memory above so many samples."""

    def __init__(self, most: int, error: Exception) -> None:
        self.most, self.error, self.tried = most, error, []

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        assert len(x) == len(t) == len(cond["label"])
        self.tried.append(len(x))
        if len(x) > self.most:
            raise self.error
        return x


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate"),
    ],
)
def test_the_batch_that_fits(error: Exception) -> None:
    x, t, cond = torch.zeros(100, 2), torch.ones(100), {"label": torch.zeros(100)}
    denoiser = Cramped(13, error)
    assert fitting_batch(denoiser, x, t, cond) == 13
    assert denoiser.tried == [100, 50, 25, 13]
    assert fitting_batch(Cramped(100, error), x, t, cond) == 100
    with pytest.raises(ModelError, match="the model ran out of memory, called with 1 samples"):
        fitting_batch(Cramped(0, error), x, t, cond)


def test_another_error_is_no_lack_of_memory() -> None:
    with pytest.raises(ModelError, match="shapes"):
        fitting_batch(
            Cramped(1, RuntimeError("shapes differ")), torch.zeros(4, 2), torch.ones(4), {"label": torch.ones(4)}
        )


def test_elsewhere() -> None:
    """On the meta device, which computes nothing: everything is brought there."""
    seen = []

    def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        seen.append((x.device.type, t.device.type, cond["label"].device.type, t.dtype))
        return torch.ones(x.shape)

    denoiser.nfe = 2
    elsewhere = DeviceDenoiser(denoiser, torch.device("meta"))
    out = elsewhere(torch.zeros(3, 2), torch.ones(3, dtype=torch.float64), {"label": torch.zeros(3)})
    assert seen == [("meta", "meta", "meta", torch.float64)]
    assert out.device.type == "cpu"
    assert elsewhere.nfe == 2
