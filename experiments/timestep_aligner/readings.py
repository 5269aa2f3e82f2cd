"""Why told times of Timestep Aligner's loss may lose: its loss and the reading of its told times, one at a time.

    python experiments/timestep_aligner/readings.py digits
    python experiments/timestep_aligner/readings.py mnist --samples 8 --unseen 32 --teacher 30

EDM's schedule of 5 Euler steps is told other times. What the step takes for D, having asked the network at a told time:

    D        D(x, told), as `Schedule.told_times` has it
    eps      the eps of the told time, (x - D(x, told)) / told, with the step's own noise level
    network  the network's output, with the preconditioning of the step's own time: only the time it is told differs

For each reading the told times come from Timestep Aligner's loss, every ratio at its exact minimum (Brent's method on
all samples, so that neither iterations nor rate matter), and from Gauss-Newton on the nearness to the teacher.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from optsteps.denoisers import CountedDenoiser
from optsteps.methods import Auto, HandMade, SearchProblem
from optsteps.metrics.statistics import bootstrap, paired_difference
from optsteps.models import Model, pretrained
from optsteps.noise import FIRST_TEST_SAMPLE, unit_noise
from optsteps.processes import EDM
from optsteps.reporting.markdown import markdown_lines
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import Euler

CPU, STEPS = torch.device("cpu"), 5
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28)}
# what a step takes for D(x [B, ...], t, told, cond)
Reading = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def readings(model: Model) -> dict[str, Reading]:
    """By name."""
    variance = model.denoiser.sigma_data**2  # type: ignore[attr-defined]

    def asked(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return model.denoiser(x, t.expand(len(x)), cond)

    def of_eps(x: Tensor, t: Tensor, told: Tensor, cond: Tensor) -> Tensor:
        return x - (t / told).to(x) * (x - asked(x, told, cond))

    def of_network(x: Tensor, t: Tensor, told: Tensor, cond: Tensor) -> Tensor:
        totals = [s**2 + variance for s in (t, told)]
        skips, outs = [variance / total for total in totals], [t * totals[0].rsqrt(), told * totals[1].rsqrt()]
        y = x * (totals[1] / totals[0]).sqrt().to(x)  # whose c_in is that of the told time
        output = (asked(y, told, cond) - skips[1].to(x) * y) / outs[1].to(x)
        return skips[0].to(x) * x + outs[0].to(x) * output

    return {"D": lambda x, t, told, cond: asked(x, told, cond), "eps": of_eps, "network": of_network}


def walk(read: Reading, x: Tensor, times: Tensor, told: Tensor, cond: Tensor) -> Iterator[Tensor]:
    """The states of Euler's steps after the first."""
    for (t, t_next), tau in zip(pairwise(times), told, strict=True):
        x = (t_next / t).to(x) * x + (1 - t_next / t).to(x) * read(x, t, tau, cond)
        yield x


def last(read: Reading, x: Tensor, times: Tensor, told: Tensor, cond: Tensor) -> Tensor:
    return [*walk(read, x, times, told, cond)][-1]


def aligned(read: Reading, x: Tensor, times: Tensor, cond: Tensor, given: list[Tensor] | None = None) -> Tensor:
    """Told times [n] of Timestep Aligner: sequential, or parallel on the given states."""
    told = times[:-1].clone()
    for i in range(len(told) - 1):
        x = x if given is None else given[i]
        pair = times[i : i + 2]
        before = (x - read(x, pair[0], pair[0], cond)) / pair[0].to(x)

        def loss(logarithm: float, x: Tensor = x, pair: Tensor = pair, before: Tensor = before) -> float:
            after = last(read, x, pair, pair[:1] * torch.tensor(logarithm, dtype=torch.float64).exp(), cond)
            eps = (after - read(after, pair[1], pair[1], cond)) / pair[1].to(x)
            return float((before - eps).square().flatten(1).sum(1).mean())

        found = minimize_scalar(loss, bracket=(-0.1, 0.1), method="brent", options={"xtol": 1e-2, "maxiter": 20}).x
        told[i] *= torch.tensor(found, dtype=torch.float64).clamp(-3, 3).exp()
        x = last(read, x, pair, told[i : i + 1], cond)
    return told


def nearest(read: Reading, x: Tensor, times: Tensor, cond: Tensor, wanted: Tensor) -> Tensor:
    """Told times [n] by Gauss-Newton on the logarithms of their ratios, damped by Levenberg and Marquardt's rule."""
    numbers, damping, steps = torch.zeros_like(times[:-1]), 0.03, torch.eye(len(times) - 1, dtype=torch.float64)

    def missed(numbers: Tensor) -> Tensor:
        return (last(read, x, times, times[:-1] * numbers.exp(), cond) - wanted).double().flatten()

    here = missed(numbers)
    for _ in range(8):
        jacobian = torch.stack([(missed(numbers + 1e-2 * step) - here) / 1e-2 for step in steps], 1)
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ here
        for _ in range(6):
            change = -torch.linalg.solve(normal + damping * normal.diagonal().diag() + 1e-9 * steps, gradient)
            there = missed(numbers + change.clamp(-0.5, 0.5))
            if there.square().sum() < here.square().sum():
                numbers, here, damping = numbers + change.clamp(-0.5, 0.5), there, damping / 4
                break
            damping *= 8
        else:
            break
    return times[:-1] * numbers.exp()


def refined(model: Model, x: Tensor, schedule: Schedule, cond: Tensor, teacher: Schedule, told: bool) -> Schedule:
    """The schedule by auto, whose pool is EDM's schedule alone."""
    problem = SearchProblem(CountedDenoiser(model.denoiser), EDM(), Euler(), x / schedule.scale.to(x), teacher, cond)
    return Auto({"edm": HandMade("edm")}, told_times=told).search(problem, [STEPS]).schedules[STEPS]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(SHAPES))
    parser.add_argument("--samples", type=int, default=16, help="of the search")
    parser.add_argument("--unseen", type=int, default=64, help="samples to judge on")
    parser.add_argument("--teacher", type=int, default=100, help="Euler steps of the teacher")
    parser.add_argument("--readings", nargs="*", default=["D", "eps", "network"])
    arguments = parser.parse_args()
    model = pretrained(arguments.model, f"shipped:{arguments.model}", EDM(), CPU, SHAPES[arguments.model], 80.0, 0.002)
    teacher = build_schedule("edm", EDM(), arguments.teacher, *model.time_range)
    schedule = build_schedule("edm", EDM(), STEPS, *model.time_range)
    times, plain = schedule.times, readings(model)["D"]
    unseen = range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + arguments.unseen)
    (x, cond), (test, test_cond) = (
        (80 * unit_noise(0, numbers, model.shape), model.cond(numbers, CPU))
        for numbers in (range(arguments.samples), unseen)
    )
    wanted, right = (last(plain, a, teacher.times, teacher.times[:-1], b) for a, b in ((x, cond), (test, test_cond)))

    def decibels(end: Tensor) -> Tensor:
        return -10 * ((end - right).double().square().flatten(1).mean(1) / 4).log10()

    merged = torch.cat([teacher.times, times]).unique().flip(0)
    states = dict(zip(merged.tolist(), [x, *walk(plain, x, merged, merged[:-1], cond)], strict=True))
    given = [states[t] for t in times.tolist()]
    none = decibels(last(plain, test, times, times[:-1], test_cond))
    own = bootstrap(none)
    lines = [["none", "", f"{own.value:.2f} [{own.low:.2f}, {own.high:.2f}]", "", ""]]

    def tell(name: str, reading: str, psnr: Tensor, ratios: Tensor | None) -> None:
        own, gain = bootstrap(psnr), paired_difference(psnr, none)
        cells = [f"{i.value:{sign}.2f} [{i.low:{sign}.2f}, {i.high:{sign}.2f}]" for i, sign in ((own, ""), (gain, "+"))]
        lines.append([name, reading, *cells, "" if ratios is None else ", ".join(f"{r:.2f}" for r in ratios.tolist())])
        print(f"{name} {reading}: {cells[1]}", file=sys.stderr)

    for told in (False, True):
        found = refined(model, x, schedule, cond, teacher, told)
        psnr = decibels(sample(model.denoiser, found, Euler(), test / 80, test_cond))
        ratios = None if found.told_times is None else found.told_times / found.times[:-1]
        tell("auto, times and told times" if told else "auto, times alone", "D" if told else "", psnr, ratios)
    for name in arguments.readings:
        read = readings(model)[name]
        for kind in ("sequential", "parallel", "nearest to the teacher"):
            if kind.startswith("nearest"):
                told_times = nearest(read, x, times, cond, wanted)
            else:
                told_times = aligned(read, x, times, cond, None if kind == "sequential" else given)
            psnr = decibels(last(read, test, times, told_times, test_cond))
            tell(kind, name, psnr, told_times / times[:-1])
    print(markdown_lines(["told times", "reading", "PSNR dB", "gain over none", "told / own time"], lines, left=2))


if __name__ == "__main__":
    main()
