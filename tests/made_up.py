"""Made-up rows: what a run of two step counts hands to the reports, without a run."""

from functools import cache

import torch
from torch import Tensor

from optsteps import Schedule, build_schedule
from optsteps.comparison import Row, VerdictRow, verdicts
from optsteps.metrics.judges import Measurement, sample_wise
from optsteps.metrics.statistics import Interval
from optsteps.processes import EDM, Process

QUALITY = {"oss": 24.0, "edm": 22.7, "logsnr": 23.98, "time_uniform": 18.0}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def figures(psnr: float, batch: int, seed: int) -> dict[str, Measurement]:
    """Per-sample figures that share most of their scatter, as paired samples do, and one of the set."""
    decibels = psnr + 2 * noise(batch) + 0.3 * noise(batch, seed=seed)
    kid = (50 - psnr) / 1000
    return {
        "psnr": sample_wise(decibels, True),
        "mse": sample_wise(4 * 10 ** (-decibels / 10), False),
        "accuracy": sample_wise((noise(batch, seed=seed + 1) > psnr / 10 - 4.2).double(), True),
        "kid": Measurement(Interval(kid, 0.8 * kid, 1.2 * kid), False),
    }


def made_up(teacher: Tensor, process: Process | None = None, t_max: float = 80.0, final: str = "t_min") -> list[Row]:
    """Rows whose samples are the teacher's [B, ...] with an error that PSNR and path error tell of."""
    process = process or EDM()
    batch, hand_made = len(teacher), {"t_max": t_max, "t_min": 0.002, "final": final}
    reference = build_schedule("time_uniform", process, 100, **hand_made)
    kept = {k: v for k, v in figures(40.0, batch, 9).items() if k not in ("psnr", "mse")}
    rows = [Row("teacher", 100, 100, reference, teacher, kept)]
    at_infinity = {"oss": "flow_shift", "edm": "time_uniform", "logsnr": "beta", "time_uniform": "time_quadratic"}
    families = at_infinity if t_max == 1 else {"oss": "cosine"}
    for n in (5, 10):
        for seed, (name, psnr) in enumerate(QUALITY.items(), 1):
            psnr += n - 5
            size = 2 * 10 ** (-psnr / 20)
            found = build_schedule(families.get(name, name), process, n, **hand_made)
            error = torch.linspace(0, 1, n + 1, dtype=torch.float64) ** 2 * size**2
            if t_max == 1:
                error[0] = torch.nan
            x = teacher + size * noise(*teacher.shape, seed=seed)
            cost = 4950.0 if name == "oss" else 0.0
            figures_of_row, total = figures(psnr, batch, seed), 64 * int(cost)
            rows.append(Row(name, n, n, found, x, figures_of_row, False, cost, cost / 100, error, None, total))
    for n in (5, 10):
        few = figures(30.0, batch // 4, 8)
        del few["kid"]
        rows.append(Row("oss_per_sample", n, n, None, teacher[: batch // 4] * 0.98, few, oracle=True))
    return rows


@cache
def image_rows(batch: int = 64, channels: int = 1) -> list[Row]:
    """Rows of blurred blobs, 12 x 12."""
    place = torch.linspace(-1, 1, 12, dtype=torch.float64)
    centre = 0.5 * noise(batch, channels, 2, 1)
    ridge = torch.exp(-8 * (place - centre) ** 2)  # [B, C, 2, 12]
    return made_up(2 * ridge[:, :, 0, :, None] * ridge[:, :, 1, None, :] - 1)


@cache
def point_rows(batch: int = 90) -> list[Row]:
    """Rows of points about three centres in the plane."""
    centres = torch.tensor([[-2.0, 0], [2, 0], [0, 3]], dtype=torch.float64)
    return made_up(centres[torch.arange(batch) % 3] + 0.3 * noise(batch, 2))


def all_verdicts(rows: list[Row], figure: str = "psnr") -> list[VerdictRow]:
    return verdicts(rows, "oss", figure)


def some_schedule() -> Schedule:
    return Schedule([80.0, 1.0, 0.01], EDM())
