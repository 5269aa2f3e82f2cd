"""What OSS's cost compares: OSS's Table 4 in form, on the shipped MNIST and CIFAR-10 models with Euler's method.

    python experiments/oss_solver_orders/costs.py --model mnist --steps 5 10
    python experiments/oss_solver_orders/costs.py --model cifar10 --steps 5 --test 64

The paper does not say how the cost of x_0 is computed. Here a step's end and the teacher's state at the same time are
shown to the network, and what it makes of them is compared: at every end of every candidate, which is an evaluation for
every pair of nodes, where the cost of x_t takes one for every node. Feature costs compare the features that the shipped
classifier finds in these images, or in the states scaled to the size of images.

One programme for all samples, on costs averaged over them. PSNR to the teacher on unseen samples, with 95 % bootstrap
intervals of the paired difference to the cost of x_t. The last line is the package's own search on the same nodes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from optsteps import Schedule, SearchProblem, build_schedule
from optsteps.denoisers import counting, in_batches
from optsteps.methods import OSS
from optsteps.metrics import bootstrap, paired_difference, psnr
from optsteps.models import FeatureClassifier, Model, load_network, pretrained
from optsteps.noise import FIRST_TEST_SAMPLE, unit_noise
from optsteps.processes import EDM
from optsteps.sampling import sample
from optsteps.solvers import build_solver
from optsteps.trajectories import Trajectories

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
# what is compared of states [B, ...] at one time
Seen = Callable[[Tensor, Tensor], Tensor]


def problem_of(model: Model, samples: range, teacher_steps: int) -> SearchProblem:
    """The problem of the samples with these numbers."""
    t_max, t_min = model.time_range
    return SearchProblem(
        denoiser=model.denoiser,
        process=model.process,
        solver=build_solver("euler"),
        noise=unit_noise(0, samples, model.shape),
        cond=model.cond(samples, torch.device("cpu")),
        teacher=build_schedule("edm", model.process, teacher_steps, t_max=t_max, t_min=t_min),
    )


def answers(problem: SearchProblem, x: Tensor, t: Tensor) -> Tensor:
    """D of states [B, ...], or of several sets of them [J, B, ...], at times t of no or of J entries."""
    sets = x.reshape(-1, *problem.noise.shape)
    rows = t.reshape(-1, 1).expand(len(sets), len(problem.noise)).flatten().to(x.dtype)
    assert isinstance(problem.cond, Tensor)
    return in_batches(problem.denoiser, sets.flatten(0, 1), rows, problem.cond.repeat(len(sets)), 64).reshape(x.shape)


def costs(classifier: FeatureClassifier) -> dict[str, Callable[[SearchProblem], Seen]]:
    """What is compared in a problem, by the name of the cost, of sets of states [J, B, ...] at times t [J]."""

    def features(images: Tensor) -> Tensor:
        flat = images.flatten(0, 1).clamp(-1, 1)
        return torch.cat([classifier.features(part) for part in flat.split(256)]).reshape(*images.shape[:2], -1)

    def in_flow_coordinates(x: Tensor, t: Tensor) -> Tensor:
        return x / (1 + t.reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype))

    return {
        "x_t": lambda _: lambda x, _: x,
        "x_0": lambda problem: partial(answers, problem),
        "features of x_0": lambda problem: lambda x, t: features(answers(problem, x, t)),
        "features of x_t": lambda _: lambda x, t: features(in_flow_coordinates(x, t)),
    }


def searched(problem: SearchProblem, nodes: Tensor, steps: Sequence[int], seen: Seen) -> dict[int, Schedule]:
    """OSS's Algorithm 1 with any cost: level k holds at every node the state, reached by k steps, of least cost."""
    times = problem.teacher.times[nodes]
    last = len(nodes) - 1
    truth = sample(
        problem.denoiser, problem.teacher, problem.solver, problem.noise, problem.cond, return_trajectory=True
    )[nodes]
    wanted = seen(truth, times)
    level, origins = {0: truth[0]}, list[dict[int, int]]()
    for k in range(1, max(steps) + 1):
        best: dict[int, tuple[float, int, Tensor]] = {}
        for i, x in level.items():
            if i == last:
                continue
            slope = (x - answers(problem, x, times[i])) / times[i].to(x.dtype)
            targets = torch.arange(max(i + 1, k), last + 1)
            ratio = (times[targets] - times[i]).to(x.dtype).reshape(-1, *[1] * x.dim())
            ends = x + ratio * slope
            errors = (seen(ends, times[targets]) - wanted[targets]).double().square().flatten(1).mean(1)
            for j, end, error in zip(targets.tolist(), ends, errors.tolist(), strict=True):
                if j not in best or error < best[j][0]:
                    best[j] = (error, i, end)
        level = {j: end for j, (_, _, end) in best.items()}
        origins.append({j: i for j, (_, i, _) in best.items()})
    found = {}
    for n in steps:
        path = [last]
        for origin in reversed(origins[:n]):
            path.append(origin[path[-1]])
        found[n] = Schedule(times[path[::-1]], problem.process)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default="mnist")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--nodes", type=int, default=20, help="steps of the search's grid")
    parser.add_argument("--teacher", type=int, default=100, help="steps of the teacher, a multiple of the nodes")
    parser.add_argument("--search", type=int, default=8, help="samples of the search")
    parser.add_argument("--test", type=int, default=128, help="samples that no search saw")
    arguments = parser.parse_args()
    name = arguments.model
    model = pretrained(name, f"shipped:{name}", EDM(), torch.device("cpu"), SHAPES[name], 80.0, 0.002)
    classifier, _ = load_network(f"shipped:{name}_classifier", FeatureClassifier)
    seen = problem_of(model, range(arguments.search), arguments.teacher)
    unseen = problem_of(model, range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + arguments.test), arguments.teacher)
    nodes = torch.arange(0, arguments.teacher + 1, arguments.teacher // arguments.nodes)
    judge = Trajectories(unseen.denoiser)
    teacher = judge.ends(unseen.teacher, unseen.solver, unseen.noise, unseen.cond)

    def quality(schedule: Schedule) -> Tensor:
        return psnr(judge.ends(schedule, unseen.solver, unseen.noise, unseen.cond), teacher, 2.0)

    print("| model | cost | steps | PSNR | minus that of x_t [95 %] | evaluations | noise levels |")
    print("| :-- | :-- | --: | --: | --: | --: | :-- |")
    baseline: dict[int, Tensor] = {}
    for cost, of in [*costs(classifier).items(), ("x_t, the package's search", None)]:
        with counting(seen.denoiser) as counter:
            counted = replace(seen, denoiser=counter)
            if of is None:
                found = OSS(average="pooled", grid_steps=arguments.nodes).search(counted, arguments.steps).schedules
            else:
                found = searched(counted, nodes, arguments.steps, of(counted))
        for n, schedule in found.items():
            values = quality(schedule)
            gap = paired_difference(values, baseline.setdefault(n, values))
            levels = " ".join(f"{level:.3g}" for level in schedule.times.tolist())
            print(
                f"| {name} | {cost} | {n} | {bootstrap(values).value:.2f} | {gap.value:+.2f} "
                f"[{gap.low:+.2f}, {gap.high:+.2f}] | {counter.evaluations:,} | {levels} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
