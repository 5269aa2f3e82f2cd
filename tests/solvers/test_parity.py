"""Parity with implementations nobody here wrote: k-diffusion's samplers and diffusers' schedulers.

Both sides walk the same times from the same noise with the exact denoiser of a mixture, and every state of the walk is
compared, in units of its size. Neither package is a dependency: without one, the tests that need it are skipped.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor

from optsteps import Schedule, build_schedule
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.sampling import sample
from optsteps.solvers import Denoise, Solver, build_solver
from optsteps.solvers.brownian import BrownianPaths

MIXTURE = GaussianMixture([[0.0, 1.0, 0.5], [2.0, -1.0, 0.0], [-1.0, -0.5, 1.0]], [0.3, 0.6, 0.1], [1.0, 2.0, 1.5])
RANGES: dict[str, tuple[Process, float, float]] = {
    "edm": (EDM(), 80.0, 0.002),
    "vp": (VP.linear(), 999.0, 0.0),
    "flow": (Flow(), 0.99, 0.01),
}
STEPS = [5, 12]
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-5}
# From noise level s to s', Heun adds (s - s') / 2 s' times a difference of two outputs and DPM-2 (s - s') / sqrt(s s')
# times one: up to 42 and 9 in the longest of 5 steps here. What float32 rounds off the outputs is multiplied as well,
# and so it is by IPNDM's coefficients, whose sizes add up to 6.7 in every step. k-diffusion forms the weight
# 1 - (1 - e^-z) / z of its SDE's "heun" in float32, where the small steps' cancels.
FLOAT32_TOLERANCES = {"unipc_1_bh2": 2e-5, "heun": 1e-4, "dpm2": 3e-5, "ipndm": 3e-5, "2m heun": 3e-5}

dtypes = pytest.mark.parametrize("dtype", TOLERANCES, ids=["float64", "float32"])
kinds = pytest.mark.parametrize("kind", ["karras", "random"])
finals = pytest.mark.parametrize("final", ["t_min", "zero"])


def _tolerance(name: str, dtype: torch.dtype) -> float:
    return FLOAT32_TOLERANCES.get(name, TOLERANCES[dtype]) if dtype == torch.float32 else TOLERANCES[dtype]


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _schedule(where: str, kind: str, final: str, steps: int, seed: int | None = None) -> Schedule:
    """EDM's levels, or random ones whose gaps in log noise level differ by up to a factor of 11."""
    process, t_max, t_min = RANGES[where]
    if kind == "karras":
        return build_schedule("edm", process, steps, t_max=t_max, t_min=t_min, final=final)
    count = steps - (final == "zero")
    generator = torch.Generator().manual_seed(steps if seed is None else seed)
    gaps = 0.1 + torch.rand(count, generator=generator, dtype=torch.float64)
    first, last = process.log_snr([t_max, t_min])
    inner = process.time_of_log_snr(torch.lerp(first, last, (gaps.cumsum(0) / gaps.sum())[:-1]))
    clean = [process.t_clean] if final == "zero" else []
    return Schedule([t_max, *inner.tolist(), t_min, *clean], process)


def _our_walk(solver: Solver, schedule: Schedule, noise: Tensor) -> Tensor:
    return sample(MIXTURE.denoiser(schedule.process), schedule, solver, noise, return_trajectory=True)


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    """The largest of walks [n+1, B, d]: of a state's entries, in units of the state's largest entry."""
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert bool(torch.isfinite(theirs).all())
    return float(((ours - theirs).abs().amax((1, 2)) / theirs.abs().amax((1, 2))).max())


def _midpoints(schedule: Schedule) -> Tensor:
    """Geometric means of neighbouring noise levels, as times [n]."""
    levels = schedule.noise_levels
    return schedule.process.time_of_noise_level((levels[:-1] * levels[1:]).sqrt())


def _evaluated_twice(schedule: Schedule, inner: Tensor) -> Tensor:
    """The times of a walk with an inner time [n] in every step but one to noise level 0."""
    times = schedule.times
    every = torch.stack([times[:-1], inner], 1).flatten()
    return torch.cat([every[: -1 if times[-1] == schedule.process.t_clean else None], times[-1:]])


# k-diffusion ---------------------------------------------------------------------------------------------------------

K_DIFFUSION: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("sample_euler", {}),
    "heun": ("sample_heun", {}),
    "dpm2": ("sample_dpm_2", {}),
    "dpmpp_2s": ("sample_dpmpp_2s_ancestral", {"eta": 0.0}),
    "dpmpp_2m": ("sample_dpmpp_2m", {}),
}
# it keeps the order up to a last step to noise level 0
KEPT: dict[str, dict[str, Any]] = {name: {"lower_order_final": False} for name in ("dpmpp_2m", "sde_dpmpp_2m")}


@pytest.fixture(scope="module")
def k_diffusion() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports packages that warn of their own deprecations
        return pytest.importorskip("k_diffusion.sampling")


def _k_diffusion_walk(sampler: Any, schedule: Schedule, noise: Tensor, **options: Any) -> Tensor:
    """The states of one of its samplers, computed in the dtype of the noise."""
    path: list[Tensor] = []
    times = schedule.times.to(noise)
    denoiser = MIXTURE.denoiser(EDM())
    last = sampler(
        denoiser, noise * times[0], times, callback=lambda info: path.append(info["x"]), disable=True, **options
    )
    return torch.stack([*path, last])


@dtypes
@finals
@kinds
@pytest.mark.parametrize("name", K_DIFFUSION)
def test_k_diffusion(k_diffusion: Any, name: str, kind: str, final: str, dtype: torch.dtype) -> None:
    function, parameters = K_DIFFUSION[name]
    for steps in STEPS:
        # times that float32 holds exactly: k-diffusion computes in the dtype of its sigmas
        schedule = Schedule(_schedule("edm", kind, final, steps).times.float(), EDM())
        noise = _normal(6, 3, seed=steps).to(dtype)
        theirs = _k_diffusion_walk(getattr(k_diffusion, function), schedule, noise, **parameters)
        ours = _our_walk(build_solver(name, **KEPT.get(name, {})), schedule, noise)
        assert _deviation(ours, theirs) < _tolerance(name, dtype)


@dtypes
@pytest.mark.parametrize("first", [1.0, 0.9375])
@pytest.mark.parametrize("final", [0.0, 0.03125])
@pytest.mark.parametrize("name", K_DIFFUSION)
def test_k_diffusion_on_a_flow(k_diffusion: Any, name: str, final: float, first: float, dtype: torch.dtype) -> None:
    """As ComfyUI calls these samplers: a flow's times are their sigmas."""
    function, parameters = K_DIFFUSION[name]
    denoiser = MIXTURE.denoiser(Flow())
    for steps in STEPS:
        # times that float32 holds exactly: k-diffusion computes in the dtype of its sigmas
        times = torch.linspace(first, 0.0625, steps, dtype=torch.float64).float().tolist()
        schedule = Schedule([*times, final], Flow())
        noise = _normal(6, 3, seed=steps).to(dtype)
        path: list[Tensor] = []
        last = getattr(k_diffusion, function)(
            lambda x, sigma: denoiser(x, sigma.double()),
            noise * first,
            schedule.times.to(dtype),
            callback=lambda info: path.append(info["x"]),  # noqa: B023
            disable=True,
            **parameters,
        )
        theirs = torch.stack([*path, last])
        ours = _our_walk(build_solver(name, flow_as="edm", **KEPT.get(name, {})), schedule, noise)
        assert _deviation(ours, theirs) < _tolerance(name, dtype)
        if name != "euler" and dtype == torch.float64:  # and the flow's own form is another
            assert _deviation(_our_walk(build_solver(name, **KEPT.get(name, {})), schedule, noise), theirs) > 1e-4


def test_the_form_of_a_flow_is_checked() -> None:
    with pytest.raises(ValueError, match="flow_as must be 'flow' or 'edm', got 'vp'"):
        build_solver("heun", flow_as="vp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'er_sde_2' is stochastic"):
        build_solver("er_sde_2", flow_as="edm")
    assert build_solver("heun").facts == {"name": "heun"}  # the keys of results that were kept before
    assert build_solver("heun", flow_as="edm").facts == {"name": "heun", "flow_as": "edm"}


def _noise(process: Process, table: Tensor, i: int, two: bool, paths: BrownianPaths) -> Tensor:
    """The unit Gaussian of the i-th of another implementation's draws, read off our paths: from table[i] to
    table[i + 1], where a second evaluation's goes from the step's start to its end."""
    levels = process.noise_level(table[[i - i % 2 if two else i, i + 1]])
    return paths.increments(*levels**-2)


SDE: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "2s": ("sample_dpmpp_sde", {}, "sde_dpmpp_2s", {}),
    "2m": ("sample_dpmpp_2m_sde", {}, "sde_dpmpp_2m", {}),
    "2m heun": ("sample_dpmpp_2m_sde", {"solver_type": "heun"}, "sde_dpmpp_2m", {"kind": "heun"}),
    "3m": ("sample_dpmpp_3m_sde", {}, "sde_dpmpp_3m", {}),
}


@dtypes
@finals
@kinds
@pytest.mark.parametrize("case", SDE)
def test_k_diffusion_on_the_same_noise(k_diffusion: Any, case: str, kind: str, final: str, dtype: torch.dtype) -> None:
    function, given, name, parameters = SDE[case]
    options = dict(given)
    parameters = {**parameters, **KEPT.get(name, {})}
    for steps in STEPS:
        schedule = Schedule(_schedule("edm", kind, final, steps).times.float(), EDM())
        noise, paths = _normal(6, 3, seed=steps).to(dtype), BrownianPaths(5, range(6), (3,))
        two = name == "sde_dpmpp_2s"
        table = _evaluated_twice(schedule, _midpoints(schedule)) if two else schedule.times
        draws = iter([_noise(EDM(), table, i, two, paths).to(dtype) for i in range(len(table) - 1)])
        options["noise_sampler"] = lambda *_, draws=draws: next(draws)
        theirs = _k_diffusion_walk(getattr(k_diffusion, function), schedule, noise, **options)
        ours = sample(
            MIXTURE.denoiser(EDM()), schedule, build_solver(name, **parameters), noise, seed=5, return_trajectory=True
        )
        assert _deviation(ours, theirs) < _tolerance(case, dtype)


# diffusers -----------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A scheduler of diffusers with its options, and our solver with its own."""

    scheduler: str
    options: dict[str, Any]
    solver: str
    parameters: dict[str, Any]
    processes: tuple[str, ...] = ("vp", "flow")

    @property
    def without_alpha(self) -> bool:
        """Does the scheduler know noise levels alone, its sample being x / alpha? Then every process is EDM to it."""
        return "edm" in self.processes


_SDE = {"algorithm_type": "sde-dpmsolver++"}
PAIRS = {
    "euler": Pair("EulerDiscreteScheduler", {}, "euler", {}, ("edm", "vp", "flow")),
    "heun": Pair("HeunDiscreteScheduler", {}, "heun", {}, ("edm", "vp", "flow")),
    "flow_euler": Pair("FlowMatchEulerDiscreteScheduler", {}, "euler", {}, ("flow",)),
    "dpmpp_2s": Pair("DPMSolverSinglestepScheduler", {"solver_order": 2}, "dpmpp_2s", {}),
    "dpmpp_2m": Pair("DPMSolverMultistepScheduler", {"solver_order": 2}, "dpmpp_2m", {}),
    "dpmpp_3m": Pair("DPMSolverMultistepScheduler", {"solver_order": 3}, "dpmpp_3m", {}),
    "dpmpp_2m_heun": Pair(
        "DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun"}, "dpmpp_2m", {"kind": "heun"}
    ),
    "sde_dpmpp_1": Pair("DPMSolverMultistepScheduler", {**_SDE, "solver_order": 1}, "sde_dpmpp_2m", {"order": 1}),
    "sde_dpmpp_2s": Pair("DPMSolverSinglestepScheduler", {**_SDE, "solver_order": 2}, "sde_dpmpp_2s", {}),
    "sde_dpmpp_2m": Pair("DPMSolverMultistepScheduler", {**_SDE, "solver_order": 2}, "sde_dpmpp_2m", {}),
    "sde_dpmpp_2m_heun": Pair(
        "DPMSolverMultistepScheduler",
        {**_SDE, "solver_order": 2, "solver_type": "heun"},
        "sde_dpmpp_2m",
        {"kind": "heun"},
    ),
    "sde_dpmpp_3m": Pair(
        "DPMSolverMultistepScheduler", {**_SDE, "solver_order": 3}, "sde_dpmpp_3m", {"kind": "midpoint"}
    ),
    "ipndm": Pair("IPNDMScheduler", {}, "ipndm", {"order": 4}, ("vp",)),
    **{
        f"deis_{k}": Pair("DEISMultistepScheduler", {"solver_order": k}, "deis", {"order": k, "kind": "logrho"})
        for k in (1, 2, 3)
    },
    **{
        f"unipc_{k}_{b}": Pair(
            "UniPCMultistepScheduler", {"solver_order": k, "solver_type": b}, "unipc", {"order": k, "kind": b}
        )
        for k in (1, 2, 3)
        for b in ("bh1", "bh2")
    },
}


def _with_its_sign(scheduler_class: type) -> type:
    """diffusers' third-order SDE step adds alpha' ((1 - e^-z - z) / z^2 - 1/2) D2, z = 2 h, where its own deterministic
    step and k-diffusion's have + 1/2: as it stands, the weight of D2 does not vanish with the step. We compare with the
    step after alpha' D2 is added to it; when the sign is mended there, this goes."""

    class Mended(scheduler_class):  # type: ignore[misc, valid-type]
        def multistep_dpm_solver_third_order_update(self, outputs: list[Tensor], **given: Any) -> Tensor:
            alpha, sigma = self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index - 2 : self.step_index + 2])
            h_1, h_0, h = torch.log(alpha / sigma).diff()
            divided = (outputs[-1] - outputs[-2]) / h_0 - (outputs[-2] - outputs[-3]) / h_1
            step = super().multistep_dpm_solver_third_order_update(outputs, **given)
            return step + alpha[-1] * h**2 * divided / (h_0 + h_1)

    return Mended


class _Kept(Tensor):
    """A tensor that keeps its dtype. Some schedulers' steps cast the sample to float32 in passing, which would leave
    nothing to compare at 1e-8; what they compute is the same in float64."""

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return self


def _output(prediction: str, process: Process, x: Tensor, t: Tensor) -> Tensor:
    """What a network of diffusers' prediction_type `prediction` returns for the exact denoiser."""
    denoised = MIXTURE.denoiser(process)(x, t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    if prediction == "flow_prediction":
        return (x - denoised) / sigma
    eps = (x - alpha * denoised) / sigma
    return {"sample": denoised, "epsilon": eps, "v_prediction": alpha * eps - sigma * denoised}[prediction]


def _their_walk(
    pair: Pair, prediction: str, options: dict[str, Any], schedule: Schedule, noise: Tensor, steps: int
) -> Tensor:
    """The states of a scheduler over the first `steps` steps of `schedule`, driven as a pipeline does but for tables.

    Schedulers take integer times, interpolate tables of float32 or take no times at all, so what set_timesteps makes is
    replaced by the schedule's own levels in float64. Steps count from begin_index: no timestep is ever looked up.
    """
    process, times = schedule.process, schedule.times
    scheduler_class = getattr(pytest.importorskip("diffusers"), pair.scheduler)
    known = inspect.signature(scheduler_class.__init__).parameters
    options = {"prediction_type": prediction, "use_flow_sigmas": process.name == "flow", **options, **pair.options}
    module = sys.modules[scheduler_class.__module__]
    if pair.solver == "sde_dpmpp_3m":
        scheduler_class = _with_its_sign(scheduler_class)
    scheduler = scheduler_class(**{key: value for key, value in options.items() if key in known})

    # the second evaluation of a step is a call of the scheduler's own
    two = pair.solver in ("heun", "dpmpp_2s", "sde_dpmpp_2s")
    inner = times[1:] if pair.solver == "heun" else _midpoints(schedule)
    table = _evaluated_twice(schedule, inner) if two else times
    evaluated = table[:-1]
    scheduler.set_timesteps(len(evaluated))
    if pair.solver == "ipndm":
        scheduler.betas, scheduler.alphas = process.sigma(table), process.alpha(table)
    elif process.name == "flow" and not pair.without_alpha:
        scheduler.sigmas = process.sigma(table)
    else:
        scheduler.sigmas = process.noise_level(table)
    scheduler.timesteps = torch.arange(len(evaluated), dtype=torch.float32)
    scheduler.set_begin_index(0)
    scheduler.is_scale_input_called = True  # or it warns that the network's input is to be scaled, which ours is not

    x = noise * schedule.scale
    path = [x]
    factor = process.alpha(table) if pair.without_alpha else torch.ones_like(table)
    paths = BrownianPaths(0, range(len(noise)), noise.shape[1:])
    for i in range(len(evaluated) if steps == schedule.steps else steps):
        output, given = _output(prediction, process, x, table[i]), (x / factor[i]).as_subclass(_Kept)
        drawn = _noise(process, table, i, two, paths).to(noise) if "sde" in pair.solver else None
        with mock.patch.object(module, "randn_tensor", return_value=drawn, create=True):
            x = scheduler.step(output, scheduler.timesteps[i], given).prev_sample.as_subclass(Tensor) * factor[i + 1]
        path.append(x)
    return torch.stack([*path[:-1:2], path[-1]] if two else path)


def _compare(
    name: str,
    schedule: Schedule,
    lowered: str = "never",
    dtype: torch.dtype = torch.float64,
    prediction: str | None = None,
) -> float:
    """The deviation of our walk from that of the pair `name`.

    Args:
        lowered: what becomes of a multistep solver's order over the last steps: "never" anything; with
            "lower_order_final" it falls to 1, by diffusers' rule; with "euler_at_final" it is 1 in the last;
            "default" leaves it to both sides.
        prediction: diffusers' prediction_type, if the scheduler has one.
    """
    pair, process, steps = PAIRS[name], schedule.process, schedule.steps
    to_zero = bool(schedule.times[-1] == process.t_clean)
    # the singlestep scheduler means another thing by lower_order_final: may a last evaluation be a step of its own?
    single = pair.solver in ("dpmpp_2s", "sde_dpmpp_2s")
    options: dict[str, Any] = {"final_sigmas_type": "zero" if to_zero else "sigma_min"}
    if lowered != "default":
        options["lower_order_final"] = to_zero if single else lowered == "lower_order_final"
        options["euler_at_final"] = lowered == "euler_at_final"
    if pair.solver == "ipndm":
        prediction = "v_prediction"  # it forms sigma x + alpha output, which is eps of that
    elif prediction is None:
        prediction = "flow_prediction" if process.name == "flow" and not pair.without_alpha else "epsilon"
        if process.name == "vp" and dtype == torch.float32:
            prediction = "v_prediction"  # D = (x - sigma eps) / alpha has 5 digits left where sigma / alpha is 157

    parameters, orders = dict(pair.parameters), None
    if lowered != "default" and hasattr(build_solver(pair.solver), "lower_order_final") and pair.solver != "euler":
        parameters.setdefault("lower_order_final", lowered == "lower_order_final")
    solver = build_solver(pair.solver, **parameters)
    if lowered == "euler_at_final":
        orders = [solver.order] * (steps - 1) + [1]
    noise = _normal(6, 3, seed=steps).to(dtype)
    ours = _our_walk(solver, Schedule(schedule.times, process, orders), noise)

    # Our step to noise level 0 returns D. DEIS multiplies 0 by inf there, UniPC too with bh1, and with bh2 unless it
    # lowers its order; IPNDM extrapolates eps over that step. With these, walks are compared up to the last step.
    if pair.solver == "unipc":
        comparable = parameters["kind"] == "bh2" and (lowered in ("lower_order_final", "default") or solver.order == 1)
    else:
        comparable = pair.solver not in ("deis", "ipndm")
    if to_zero and not comparable:
        assert torch.equal(ours[-1], MIXTURE.denoiser(process)(ours[-2], schedule.times[-2]))
        steps, ours = steps - 1, ours[:-1]
    return _deviation(ours, _their_walk(pair, prediction, options, schedule, noise, steps))


WALKS = [(name, where) for name, pair in PAIRS.items() for where in pair.processes]
LOWERED = [
    (*walk, "lower_order_final") for walk in WALKS if walk[0].startswith(("dpmpp_2m", "dpmpp_3m", "deis", "unipc"))
]
LOWERED += [(*walk, "euler_at_final") for walk in WALKS if walk[0] in ("dpmpp_2m", "dpmpp_3m")]


@dtypes
@finals
@kinds
@pytest.mark.parametrize(("name", "where"), WALKS)
@pytest.mark.mostly_slow(4)
def test_diffusers(name: str, where: str, kind: str, final: str, dtype: torch.dtype) -> None:
    for steps in STEPS:
        schedule = _schedule(where, kind, final, steps)
        assert _compare(name, schedule, dtype=dtype) < _tolerance(name, dtype)


@finals
@pytest.mark.parametrize(("name", "where", "lowered"), LOWERED)
@pytest.mark.mostly_slow(3)
def test_diffusers_with_a_lower_order_at_the_end(name: str, where: str, lowered: str, final: str) -> None:
    for steps in STEPS:
        assert _compare(name, _schedule(where, "random", final, steps), lowered) < 1e-8


@finals
@pytest.mark.parametrize(
    ("name", "where"),
    [walk for walk in WALKS if walk[0].startswith(("dpmpp_2m", "dpmpp_3m", "sde_dpmpp_2m", "deis", "unipc", "ipndm"))],
)
@pytest.mark.parametrize("steps", [5, 14, 15])
@pytest.mark.mostly_slow(4)
def test_orders_at_the_end_are_diffusers_own_by_default(name: str, where: str, steps: int, final: str) -> None:
    assert _compare(name, _schedule(where, "random", final, steps), "default") < 1e-8


@pytest.mark.parametrize("name", ["ipndm", "er_sde_2", "er_sde_3", "sde_dpmpp_3m", "deis"])
def test_solvers_whose_authors_keep_the_order_keep_it(name: str) -> None:
    solver = build_solver(name)
    assert solver.orders(5) == [solver.order] * 5


# DPM-Solver++'s second order weighs the output at t = 1 with 0, as a limit, which is not to remember it. Its third
# order then takes a second-order step of another form than its own second order; UniPC, whose own table is kept below
# 1, corrects the state that arrives from there, and we do not.
@dtypes
@finals
@kinds
@pytest.mark.parametrize("name", ["flow_euler", "dpmpp_2m"])
def test_diffusers_from_the_infinite_noise_level(name: str, kind: str, final: str, dtype: torch.dtype) -> None:
    for steps in STEPS:
        below = _schedule("flow", kind, final, steps - 1)
        schedule = Schedule([1.0, *below.times.tolist()], below.process)
        assert _compare(name, schedule, dtype=dtype) < TOLERANCES[dtype]


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2s", "dpmpp_3m", "deis_3", "unipc_3_bh2"])
def test_diffusers_whatever_the_network_predicts(name: str, prediction: str) -> None:
    schedule = _schedule("vp", "random", "t_min", 10)
    assert _compare(name, schedule, prediction=prediction) < 1e-8


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("dpmpp_2m", {"lower_order_final": True}),
        ("dpmpp_2m", {"kind": "heun"}),
        ("sde_dpmpp_2m", {"kind": "heun"}),
        ("sde_dpmpp_2m", {"eta": 0.9}),
        ("sde_dpmpp_3m", {"corrected": True}),
        ("dpmpp_3m", {"corrected": True}),
        ("deis_2", {"kind": "tab"}),
        ("unipc_2_bh1", {"kind": "bh2"}),
        ("unipc_2_bh2", {"corrector": False}),
        ("ipndm", {"variable_step": True}),
    ],
)
def test_variants_are_told_apart(name: str, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = PAIRS[name]
    monkeypatch.setitem(PAIRS, name, pair._replace(parameters={**pair.parameters, **changed}))
    assert _compare(name, _schedule("vp", "random", "t_min", 10)) > 1e-4


# times per sample ----------------------------------------------------------------------------------------------------

MULTISTEP: list[tuple[str, dict[str, Any]]] = [
    ("dpmpp_2m", {}),
    ("dpmpp_3m", {}),
    ("dpmpp_3m", {"corrected": True}),
    ("deis", {"kind": "tab"}),
    ("deis", {"kind": "logrho"}),
    ("ipndm", {}),
    ("ipndm", {"variable_step": True}),
    ("unipc", {"order": 3, "corrector": False}),
    ("unipc", {"order": 3, "kind": "bh1"}),
    ("unipc", {"order": 2}),
]


@pytest.mark.parametrize("where", RANGES)
@pytest.mark.parametrize(("name", "parameters"), MULTISTEP)
def test_walks_of_different_times_go_together(name: str, parameters: dict[str, Any], where: str) -> None:
    """Samples of four walks, shuffled before every step with their states, as a search gathers them."""
    process, solver, steps = RANGES[where][0], build_solver(name, **parameters), 7
    schedules = [_schedule(where, "random", "zero" if seed % 2 else "t_min", steps, seed) for seed in range(4)]
    if where == "flow":  # two of the walks leave from t = 1, which is not remembered
        schedules[:2] = [Schedule([1.0, *schedule.times[1:].tolist()], process) for schedule in schedules[:2]]
    # a step takes the solver's full order unless it is told another
    schedules = [Schedule(schedule.times, process, [solver.order] * steps) for schedule in schedules]
    noise = _normal(4, 3, 3, seed=0)
    alone = torch.stack([_our_walk(solver, *walk) for walk in zip(schedules, noise, strict=True)])  # [walk, n+1, B, d]

    denoise, generator = Denoise(MIXTURE.denoiser(process), process), torch.Generator().manual_seed(0)
    walk, member = torch.arange(12) // 3, torch.arange(12) % 3
    times = torch.stack([schedule.times for schedule in schedules])
    x = alone[walk, 0, member]
    state = solver.init(x)
    for i in range(steps):
        rows = torch.randperm(12, generator=generator)
        walk, member, x, state = walk[rows], member[rows], x[rows], tuple(part[rows] for part in state)
        x, state = solver.step(state, x, times[walk, i], times[walk, i + 1], denoise)
        if i == 0:
            assert torch.equal(state[0].isnan()[:, 0], process.alpha(times[walk, 0]) == 0)
        torch.testing.assert_close(x, alone[walk, i + 1, member], rtol=1e-12, atol=1e-12)
