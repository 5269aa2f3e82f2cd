"""Independent programmes that the product's searches are compared with, and the comparison.

The released loops themselves live with the benchmark that times them; here are the correct programme written as
naively (exactly k steps a level, the path read back is the path that was costed), and the rule for ties.
Nodes are numbered as in the paper: 0 is the clean end.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from optsteps.conditions import take
from optsteps.methods import SearchProblem

BENCHMARKS = Path(__file__).parents[3] / "experiments" / "benchmarks"


def script(name: str) -> ModuleType:
    """The module experiments/benchmarks/`name`.py, which is on no import path."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


loops = script("published_loops")


def flow_view(problem: SearchProblem) -> Any:
    return loops.FlowView(problem.denoiser, problem.process, problem.teacher.times.flip(0).tolist())


def initial(problem: SearchProblem, view: Any) -> Tensor:
    """The teacher's initial states [B, ...] in flow coordinates."""
    return problem.noise * (problem.teacher.scale.item() / view.size[-1])


def published(problem: SearchProblem, sample: int, steps: int, start: str = "free") -> tuple[Any, int]:
    """The released search of one sample, and its evaluations."""
    view = flow_view(problem)
    z, cond = initial(problem, view)[sample : sample + 1], take(problem.cond, torch.tensor([sample]))
    return loops.published_search(view, z, cond, steps, start=start), view.evaluations


def exact(problem: SearchProblem, samples: list[int], steps: int, start: str) -> Any:
    """The correct programme on the costs of `samples` averaged: pooled, or of one sample."""
    view = flow_view(problem)
    last = view.last
    z, cond = initial(problem, view)[samples], take(problem.cond, torch.tensor(samples))
    teacher = view.teacher(z, cond)
    current: dict[int, Tensor] = {i: z for i in range(1, last + 1)} if start == "free" else {last: z}
    traced = loops.Traced([], [], [], [])
    for _ in range(steps):
        least, origin = [float("inf")] * (last + 1), [last] * (last + 1)
        edges: dict[tuple[int, int], float] = {}
        following: dict[int, Tensor] = {}
        for i in sorted(current, reverse=True):
            if i == 0:
                continue  # no step leaves the clean end
            v = view.velocity(current[i], [i] * len(z), cond)
            for j in range(i - 1, -1, -1):
                candidate = current[i] + (view.u[j] - view.u[i]) * v
                edges[i, j] = float(((candidate - teacher[j]) ** 2).mean())
                if edges[i, j] < least[j]:
                    least[j], origin[j], following[j] = edges[i, j], i, candidate
        current = following
        traced.least.append(least)
        traced.origin.append(origin)
        traced.edges.append(edges)
    traced.path = loops.read_back(traced.origin)
    return traced


def in_paper_order(path: Tensor, last: int) -> list[int]:
    """The product's path (0 = noisy end, noisy end first) as the paper writes it."""
    return [last - int(node) for node in reversed(path.tolist())]


def disagreement(path: list[int], traced: Any, tolerance: float = 1e-6) -> str | None:
    """None if `path` is the traced one, up to steps that the reference's own table calls ties; otherwise where not.

    Every step of the path must be the one the reference chose at that node and level, or cost the same within
    `tolerance`, relative. A tie that changes later levels' states is not followed: it counts as a disagreement.
    """
    if path[0] != 0 or len(path) != len(traced.path):
        return f"{path} does not have the form of {traced.path}"
    for level in range(len(traced.origin), 0, -1):
        j, i = path[len(traced.origin) - level], path[len(traced.origin) - level + 1]
        chosen, least = traced.origin[level - 1][j], traced.least[level - 1][j]
        if i != chosen and not traced.edges[level - 1].get((i, j), float("inf")) <= least * (1 + tolerance):
            cost = traced.edges[level - 1].get((i, j))
            return f"{path} against {traced.path}: level {level} reaches {j} from {i} ({cost}), not {chosen} ({least})"
    return None
