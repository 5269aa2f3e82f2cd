"""The node pack for ComfyUI, loaded from the folder that was written, as ComfyUI loads it.

No package on the index carries ComfyUI's sampling code for every Python of this project, so `Sampling` below stands for
it. It is written to the documented signatures of comfy.samplers.KSAMPLER and comfy.model_sampling: what they add to the
noise, how EPS and CONST models are called at a sigma, and what a sampler function is given.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import optsteps.sampling
from optsteps import Schedule, build_schedule, sample
from optsteps.denoisers import NetworkDenoiser
from optsteps.export import write_comfyui_nodes
from optsteps.export.combinations import combined
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.solvers import SOLVERS, build_solver

SD = VP.scaled_linear()
NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
DETERMINISTIC = [name for name in SOLVERS if not build_solver(name).stochastic]
STOCHASTIC = [name for name in SOLVERS if build_solver(name).stochastic]
SCHEDULES = {
    "sd": Schedule([999, 850, 640, 430, 250, 90, -1], SD),
    "flow": Schedule([1.0, 0.9, 0.75, 0.5, 0.25, 0.08, 0.0], Flow()),
}


def network(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    """Anything smooth."""
    t = t.to(x.dtype).reshape(-1, 1, 1, 1) / 1000
    return torch.tanh(x + t) * (0.5 + t) - 0.1 * x.flip(1)


DENOISERS = {
    # ComfyUI calls these networks at the nearest timestep
    "sd": NetworkDenoiser(lambda x, t: network(x, t.round()), SD, "eps"),
    "flow": NetworkDenoiser(network, Flow(), "velocity", time_scale=1000),
}


class Sampling:
    """ComfyUI's KSAMPLER with a model of the kind EPS, of discrete timesteps, or CONST, a flow."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def model(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        assert set(extra_args) == {"seed", "model_options", "denoise_mask"}
        wide = sigma.reshape(-1, 1, 1, 1)
        if self.kind == "flow":
            return x - wide * network(x, 1000 * sigma)
        levels = SD.noise_level(torch.arange(1000.0)).log()
        timestep = (sigma.double().log()[:, None] - levels).abs().argmin(1)
        return x - wide * network(x / (wide**2 + 1).sqrt(), timestep)

    def sample(self, sampler: Callable[..., Tensor], sigmas: Tensor, noise: Tensor, seed: int = 0) -> Tensor:
        scale = sigmas[0] if self.kind == "flow" else (1 + sigmas[0] ** 2).sqrt()
        arguments = {"seed": seed, "model_options": {}, "denoise_mask": None}
        shown: list[int] = []
        callback: Callable[[dict[str, Any]], None] = lambda seen: shown.append(seen["i"])  # noqa: E731
        ended = sampler(self.model, scale * noise, sigmas, extra_args=arguments, callback=callback, disable=True)
        assert shown == list(range(len(sigmas) - 1))
        return ended


class KSAMPLER:
    """What ComfyUI makes of a sampler function."""

    def __init__(self, sampler_function: Any, extra_options: Any = None, inpaint_options: Any = None) -> None:
        self.sampler_function = sampler_function


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Tensor, Any]]:
    """Writes a schedule into a pack and loads it with both nodes: its sigmas, and the sampler function."""
    comfy = types.ModuleType("comfy")
    comfy.samplers = types.ModuleType("comfy.samplers")  # type: ignore[attr-defined]
    comfy.samplers.KSAMPLER = KSAMPLER  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.samplers", comfy.samplers)  # type: ignore[attr-defined]
    folder = tmp_path / "custom_nodes" / "optsteps"
    name = str(folder).replace(".", "_")  # as ComfyUI names the modules of a pack

    def load(schedule: Schedule, solver: Any = None, **choices: Any) -> tuple[Tensor, Any]:
        write_comfyui_nodes(schedule, folder, "found", solver)
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        nodes = module.NODE_CLASS_MAPPINGS
        assert set(nodes) == set(module.NODE_DISPLAY_NAME_MAPPINGS)
        listed = nodes["LoadOptstepsSchedule"].INPUT_TYPES()["required"]["schedule"][0]
        assert listed == ["found"]
        sigmas, loaded = nodes["LoadOptstepsSchedule"]().load("found", **choices)
        return sigmas, nodes["OptstepsSampler"]().sampler(loaded)[0].sampler_function

    return load


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_sampler_is_sample(kind: str, name: str, pack: Any) -> None:
    schedule, solver = SCHEDULES[kind], build_solver(name)
    sigmas, sampler = pack(schedule, solver)
    expected = schedule.times if kind == "flow" else schedule.noise_levels
    torch.testing.assert_close(sigmas.double(), expected, rtol=1e-7, atol=0)
    ended = Sampling(kind).sample(sampler, sigmas, NOISE)
    torch.testing.assert_close(ended, sample(DENOISERS[kind], schedule, solver, NOISE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_orders_weights_and_told_times_are_run(kind: str, pack: Any) -> None:
    plain = SCHEDULES[kind]
    weights = torch.linspace(-0.3, 0.4, 12, dtype=torch.float64).reshape(6, 2).tril(-1)
    weights[1:3] *= kind != "flow"  # pure noise is not remembered
    told = (plain.times[:-1] * torch.tensor([1, 0.9, 1.1, 1, 0.95, 0.8])).clone()
    rounded = told.round() if kind == "sd" else told
    slope = {"told_times": rounded, "told_as": "slope"}
    for more in ({"orders": [1, 2, 1, 3, 2, 1]}, {"weights": weights}, {"told_times": rounded}, slope):
        schedule = Schedule(plain.times, plain.process, metadata={"solver": "dpmpp_3m"}, **more)
        sigmas, sampler = pack(schedule)
        ended = Sampling(kind).sample(sampler, sigmas, NOISE)
        expected = sample(DENOISERS[kind], schedule, build_solver("dpmpp_3m"), NOISE)
        torch.testing.assert_close(ended, expected, rtol=1e-5, atol=1e-5)
        assert (ended - sample(DENOISERS[kind], plain, build_solver("dpmpp_3m"), NOISE)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(
    ("choices", "first", "last"),
    [
        ({"begin_step": 2}, 2, 6),
        ({"end_step": 4}, 0, 4),
        ({"begin_step": 1, "end_step": 5}, 1, 5),
        ({"denoise": 0.5}, 3, 6),
        ({"begin_step": 2, "denoise": 0.5}, 4, 6),
        ({"denoise": 0.01}, 5, 6),
    ],
)
def test_parts_and_denoise(kind: str, choices: dict[str, Any], first: int, last: int, pack: Any) -> None:
    schedule, solver = SCHEDULES[kind], build_solver("dpmpp_2m")
    sigmas, sampler = pack(schedule, solver, **choices)
    whole = schedule.times if kind == "flow" else schedule.noise_levels
    torch.testing.assert_close(sigmas.double(), whole[first : last + 1], rtol=1e-7, atol=0)
    ended = Sampling(kind).sample(sampler, sigmas, NOISE)
    path = sample(DENOISERS[kind], schedule.part(first=first), solver, NOISE, return_trajectory=True)
    scale = 1.0 if kind == "flow" else float(SD.alpha(schedule.times[last]))
    torch.testing.assert_close(scale * ended, path[last - first], rtol=1e-5, atol=1e-5)


def test_what_is_no_part(pack: Any) -> None:
    _, sampler = pack(SCHEDULES["flow"])
    with pytest.raises(ValueError, match=r"sigmas 1, 0\.5, 0 are no part of the schedule found"):
        sampler(None, NOISE, torch.tensor([1.0, 0.5, 0.0]))
    with pytest.raises(ValueError, match="no step is left: found has 6 steps, and begin_step is 4, end_step 4"):
        pack(SCHEDULES["flow"], begin_step=4, end_step=4)
    assert len(pack(SCHEDULES["flow"], denoise=0.0)[0]) == 0  # as ComfyUI's own nodes return


@pytest.mark.parametrize("name", ["ddim_stochastic", "sde_dpmpp_2m", "sde_dpmpp_3m", "er_sde_3"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_stochastic_solvers_with_the_same_noise(
    kind: str, name: str, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawn:
        """Noise of the seed 7, in the order of the steps."""

        def __init__(self, *arguments: Any) -> None:
            self.generator = torch.Generator().manual_seed(8)

        def increments(self, clock: Tensor, clock_next: Tensor) -> Tensor:
            drawn = torch.randn(NOISE.shape, generator=self.generator)
            return drawn * bool(torch.isfinite(clock_next))

    monkeypatch.setattr(optsteps.sampling, "BrownianPaths", Drawn)
    sigmas, sampler = pack(SCHEDULES[kind], build_solver(name))
    ended = Sampling(kind).sample(sampler, sigmas, NOISE, seed=7)
    expected = sample(DENOISERS[kind], SCHEDULES[kind], build_solver(name), NOISE)
    torch.testing.assert_close(ended, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("process", [EDM(), SD, Flow()], ids=lambda process: process.name)
def test_combinations_keep_signal_and_variance(process: Process, name: str) -> None:
    """Where D is the same everywhere, x_i = alpha_i D + noise of the variance sigma_i^2, whatever the solver."""
    schedule = build_schedule("edm", process, 6, *process.time_of_noise_level([12.0, 0.05]).tolist(), final="zero")
    walk, solver = combined(schedule, build_solver(name)), build_solver(name)
    assert len(walk.told) == solver.nfe(schedule)
    alpha, sigma = process.alpha(schedule.times), process.sigma(schedule.times)
    for i, arrival in enumerate(walk.arrivals, start=1):
        assert arrival.start * alpha[0] + sum(arrival.outputs) == pytest.approx(alpha[i].item(), abs=1e-9)
        if name != "sde_dpmpp_2s":  # its inner state has noise of its own, which the second output answers to
            variance = (arrival.start * sigma[0]) ** 2 + sum(n**2 for n in arrival.noises)
            assert variance.item() == pytest.approx(sigma[i].item() ** 2, abs=1e-9)


def test_the_pack_needs_torch_alone(tmp_path: Path) -> None:
    write_comfyui_nodes(SCHEDULES["flow"], tmp_path, "one")
    write_comfyui_nodes(SCHEDULES["sd"], tmp_path, "two")
    assert {path.stem for path in (tmp_path / "schedules").iterdir()} == {"one", "two"}
    imported = set()
    for path in tmp_path.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"torch", "comfy"}  # comfy is ComfyUI itself


def test_what_the_nodes_cannot_say(tmp_path: Path) -> None:
    for schedule, message in (
        (Schedule([1.0, 0.5, 0.0], Flow(), amplitude=torch.ones(2, 3, 2)), "an amplitude after every step, which the"),
        (Schedule([1.0, 0.5, 0.0], Flow(), initial_scale=0.8), r"starts from noise times 0\.8"),
        (Schedule([1.0, 0.5, 0.0], Flow(), weights=[[0.0], [0.3]], metadata={"solver": "heun"}), "heun does not take"),
    ):
        with pytest.raises(ValueError, match=message):
            write_comfyui_nodes(schedule, tmp_path / "pack", "x")
    assert not (tmp_path / "pack").exists()
