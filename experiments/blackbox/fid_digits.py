"""AutoDiffusion's finding in kind on small digits, and how much of a search's own best figure is luck.

    python experiments/blackbox/fid_digits.py --steps 4 --seeds 0 1 2

The figure is the Frechet distance in pixels to scikit-learn's digits, on samples of the shipped model under a VP
process by DDIM. For every seed, evolution starts from uniform times alone and searches on half of the samples. Three
tables are printed: what it found, on samples that no search saw, by the figure that was searched and by the same
distance of a network's features, which no search asked for; how the promise of the best fell on fresh noise; and by how
much common noise lowers the variance of a difference of two schedules.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import stdev

import torch
from sklearn.neural_network import MLPClassifier
from torch import Generator, Tensor

from optsteps.datasets import to_unit_range
from optsteps.datasets.images import digits
from optsteps.denoisers import CountedDenoiser
from optsteps.methods import Bayesian, Evolution, HandMade, SearchProblem
from optsteps.methods.blackbox.search import BlackBox
from optsteps.methods.blackbox.target import Target
from optsteps.metrics.base import Judge, Measurement
from optsteps.metrics.judges import CoordinateJudge
from optsteps.metrics.statistics import Interval
from optsteps.models import Model, pretrained
from optsteps.noise import FIRST_TEST_SAMPLE, unit_noise
from optsteps.processes import VP
from optsteps.reporting.markdown import markdown_lines
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver
from optsteps.storage.workers import ALONE

Features = Callable[[Tensor], Tensor]


def pixels(x: Tensor) -> Tensor:
    return x.flatten(1).double()


def hidden_units() -> Features:
    """The hidden layer of a classifier of the training images: 64 units."""
    shown = digits()
    network = MLPClassifier((64,), random_state=0, max_iter=400)
    network.fit(pixels(to_unit_range(shown.images)).numpy(), shown.labels.numpy())
    weight, bias = torch.from_numpy(network.coefs_[0]), torch.from_numpy(network.intercepts_[0])
    return lambda x: (pixels(x) @ weight + bias).relu()


class Digits:
    """The features of the training images, as points."""

    def __init__(self, features: Features) -> None:
        self.points = features(to_unit_range(digits().images))

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """The first n."""
        return self.points[:n]

    def log_prob(self, x: Tensor) -> Tensor:
        """No such thing."""
        raise NotImplementedError("images have no density")


class FeatureJudge(Judge):
    """The Frechet distance of the samples' features to those of the training images."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.judge_of_points = CoordinateJudge(Digits(features), 1500, ["fid"], sets=2)

    @property
    def figures(self) -> dict[str, bool | None]:
        return self.judge_of_points.figures

    def judge(self, x: Tensor, teacher: Tensor, cond: object) -> dict[str, Measurement]:
        return self.judge_of_points.judge(self.features(x), teacher, None)


def problem_of(model: Model, seed: int, numbers: range, judge: Judge) -> SearchProblem:
    """The problem of the samples with these numbers, whose figure the judge measures."""
    t_max, t_min = model.time_range
    teacher = build_schedule("time_uniform", model.process, 24, t_max, t_min)
    return SearchProblem(
        CountedDenoiser(model.denoiser),
        model.process,
        build_solver("euler"),
        unit_noise(seed, numbers, model.shape),
        teacher,
        model.cond(numbers, torch.device("cpu")),
        judges=lambda _: [judge],
    )


def measured(problem: SearchProblem, schedules: Sequence[Schedule]) -> list[Measurement]:
    return Target(problem, "fid", ALONE).measured(schedules)


def shown(measurement: Measurement) -> str:
    return f"{measurement.interval.value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--samples", type=int, default=512, help="of a search: half of them are searched on")
    parser.add_argument("--test", type=int, default=1024, help="samples that no search saw")
    parser.add_argument("--rounds", type=int, default=6, help="generations of 25")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    model = pretrained("digits", "shipped:digits", VP.linear(), torch.device("cpu"), (1, 8, 8), 80.0, 0.002)
    judge, second = FeatureJudge(pixels), FeatureJudge(hidden_units())
    pool = {"uniform": HandMade("time_uniform")}
    searches: dict[str, BlackBox] = {
        "evolution": Evolution("fid", pool, True, arguments.rounds, 25, 6, 13, 8),
        "Bayesian": Bayesian("fid", pool, True, arguments.rounds * 4, 4),
    }
    found_rows, curse_rows = list[list[str]](), list[list[str]]()
    for seed in arguments.seeds:
        test = problem_of(model, seed, range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + arguments.test), judge)
        for name, search in searches.items():
            problem = problem_of(model, seed, range(arguments.samples), judge)
            result = replace_seed(search, seed).search(problem, [arguments.steps])
            sought = result.evidence["sought"][arguments.steps]
            uniform = sought.incumbent.schedule
            cells, gaps = [str(seed), name, str(len(sought.trials)), f"{result.evaluations:,}"], list[Interval]()
            pair = [result.schedules[arguments.steps], uniform]
            ends = [sample(test.denoiser, one, test.solver, test.noise, test.cond) for one in pair]
            for each in (judge, second):
                ours, theirs = (each.judge(x, x, None)["fid"] for x in ends)
                gap = ours.difference(theirs)
                assert gap is not None
                gaps.append(gap)
                cells += [shown(theirs), shown(ours), f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"]
            found_rows.append(cells)
            kept = "-" if sought.kept is None else f"{sought.kept.value:+.3f}"
            lowest = float(sought.trials.values.min() - sought.trials.values[0])
            curse_rows.append(
                [str(seed), name, f"{lowest:+.3f}", f"{sought.promised:+.3f}", kept, f"{gaps[0].value:+.3f}"]
            )
            print(found_rows[-1], curse_rows[-1], flush=True)
    figures = ["uniform", "found", "difference"]
    heads = ["seed", "search", "schedules", "evaluations", *figures, *(f"{head}, features" for head in figures)]
    print(markdown_lines(heads, found_rows, 2), "\n")
    heads = ["seed", "search", "lowest of the search", "promise of the winner", "re-test", "unseen samples"]
    print(markdown_lines(heads, curse_rows, 2), "\n")
    heads = ["schedules", "same noise", "other noise", "ratio of variances"]
    print(markdown_lines(heads, common_noise(model, judge, arguments.steps)))


def replace_seed(search: BlackBox, seed: int) -> BlackBox:
    """The search with random numbers of that seed."""
    other = search.by("fid", search.pool)
    other.seed = seed
    return other


def common_noise(model: Model, judge: Judge, steps: int, repeats: int = 12, samples: int = 256) -> list[list[str]]:
    """The standard deviation over repeats of a difference of two schedules, on the same noise and on others."""
    rows = list[list[str]]()
    problems = [problem_of(model, 50, range(k * samples, (k + 1) * samples), judge) for k in range(2 * repeats)]
    t_max, t_min = model.time_range
    for near, rhos in (("rho 7 and 6", (7.0, 6.0)), ("rho 7 and 3", (7.0, 3.0))):
        pair = [build_schedule("edm", model.process, steps, t_max, t_min, rho=rho) for rho in rhos]
        values = [[one.interval.value for one in measured(problem, pair)] for problem in problems]
        same = stdev(a - b for a, b in values[:repeats])
        other = stdev(a - b for (a, _), (_, b) in zip(values[:repeats], values[repeats:], strict=True))
        rows.append([near, f"{same:.4f}", f"{other:.4f}", f"{(other / same) ** 2:.1f}"])
    return rows


if __name__ == "__main__":
    main()
