"""Pictures of a run, each as PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from optsteps.comparison import TEACHER, Row
from optsteps.reporting.panels import COLUMNS, draw_path, legend, mark_ends, panels, to_png
from optsteps.reporting.plot_style import INK, LevelScale, looks
from optsteps.text.escaping import matplotlib_text

# the panels hold the teacher's points up to this quantile, and a margin
_SHOWN = 0.998
_MOST_POINTS = 3000


def steps_of(rows: Sequence[Row]) -> list[int]:
    """The step counts of the rows, without the teacher's."""
    return sorted({row.steps for row in rows if row.method != TEACHER})


def schedules_png(rows: Sequence[Row]) -> bytes:
    """Noise level (log axis) against step, a panel for each step count, all methods but the teacher."""
    drawn = [row for row in rows if row.schedule is not None and row.method != TEACHER]
    steps, style = steps_of(drawn), looks([row.method for row in drawn])
    levels = {id(row): row.schedule.noise_levels.detach().cpu() for row in drawn if row.schedule is not None}
    scale = LevelScale(torch.cat(list(levels.values())))
    figure, axes = panels([f"{n} steps" for n in steps], (4.4, 3.6))
    for axis, n in zip(axes, steps, strict=True):
        for row in drawn:
            if row.steps == n:
                level, look = levels[id(row)], style[row.method]
                draw_path(axis, torch.arange(n + 1), scale.place(level), scale.hollow(level), row.method, look)
        mark_ends(axis, "y", scale)
        axis.set(yscale="log", xlabel="step", ylim=scale.limits)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for axis in axes[::COLUMNS]:
        axis.set_ylabel("noise level")
    legend(figure, axes)
    return to_png(figure)


def path_error_png(rows: Sequence[Row]) -> bytes:
    """Mean squared error to the teacher, in units of x_0, along the trajectory: noise falls from left to right.

    Errors that are zero (the common start), not finite or mere rounding are left out.
    """
    drawn = [row for row in rows if row.schedule is not None and row.path_error is not None and row.method != TEACHER]
    steps, style = steps_of(drawn), looks([row.method for row in drawn])
    paths = []
    for row in drawn:
        assert row.schedule is not None
        assert row.path_error is not None
        level, error = row.schedule.noise_levels.detach().cpu(), row.path_error.detach().cpu().double()
        largest = error[error.isfinite()].max().item() if bool(error.isfinite().any()) else 0.0
        kept = error.isfinite() & (error > 1e-12 * largest)
        paths.append((row, level[kept], error[kept]))
    scale = LevelScale(torch.cat([level for _, level, _ in paths]))
    figure, axes = panels([f"{n} steps" for n in steps], (4.4, 3.6))
    for axis, n in zip(axes, steps, strict=True):
        for row, level, error in paths:
            if row.steps == n:
                draw_path(axis, scale.place(level), error, scale.hollow(level), row.method, style[row.method])
        mark_ends(axis, "x", scale)
        axis.set(xscale="log", yscale="log", xlabel="noise level", xlim=scale.limits[::-1])
    for axis in axes[::COLUMNS]:
        axis.set_ylabel("MSE to the teacher's trajectory")
    legend(figure, axes)
    return to_png(figure)


def samples_figure(rows: Sequence[Row], teacher: Row, count: int = 12) -> bytes | None:
    """A picture of the final samples of one step count beside the teacher's, from the same noise.

    Args:
        rows: of one step count, the main method first. It is shown right after the teacher, and oracles are shown last.
        teacher: its row.
        count: most images to show of each row.

    Returns:
        PNG bytes: a grid of images [B, 1 or 3, H, W] in [-1, 1]; scatter plots of points [B, 2], or their density where
        they are many. None for samples of any other shape.
    """
    students = sorted((row for row in rows if row.method != TEACHER), key=lambda row: row.oracle)
    shown = {f"teacher ({teacher.nfe:g} NFE)": teacher.samples}
    shown |= {row.method + " (oracle)" * row.oracle: row.samples for row in students}
    nfe = " / ".join(f"{n:g}" for n in sorted({row.nfe for row in rows}))
    title = f"{nfe} NFE, the same noise"
    shape = teacher.samples.shape
    if len(shape) == 4 and shape[1] in (1, 3):
        return samples_png({label: x[:count] for label, x in shown.items()}, title)
    if len(shape) == 2 and shape[1] == 2 and shape[0] > _MOST_POINTS:
        return density_png(shown, title)
    if len(shape) == 2 and shape[1] == 2:
        return scatter_png(shown, title)
    return None


def samples_png(samples: Mapping[str, Tensor], title: str) -> bytes:
    """A grid of images: a labelled row for each entry [B, 1 or 3, H, W] in [-1, 1], a column for each sample."""
    count = min(len(x) for x in samples.values())
    tiles = torch.stack([x[:count].detach().cpu().float() for x in samples.values()])  # [rows, count, C, H, W]
    tiles = ((tiles + 1) / 2).nan_to_num(0.5).clamp(0, 1)
    height, width = tiles.shape[-2:]
    gap = max(1, round(width / 14))
    tiles = torch.nn.functional.pad(tiles, (0, gap, 0, gap), value=1.0)
    canvas = tiles.permute(0, 3, 1, 4, 2).reshape(len(samples) * (height + gap), count * (width + gap), -1)
    canvas = canvas[:-gap, :-gap].expand(-1, -1, 3)
    # laid out by hand, in inches: a label is as long as its letters
    across = count * min(1.5, max(0.64, width / 80))
    down = across * canvas.shape[0] / canvas.shape[1]
    labels = [matplotlib_text(label) for label in samples]
    left = 0.07 * max(map(len, labels)) + 0.2
    wide, high = left + across + 0.1, down + 0.45
    figure = Figure(figsize=(wide, high))
    axis = figure.add_axes((left / wide, 0.1 / high, across / wide, down / high))
    axis.imshow(canvas, interpolation="nearest" if width <= 64 else "hanning", aspect="auto")
    centres = [i * (height + gap) + height / 2 - 0.5 for i in range(len(samples))]
    axis.set_yticks(centres, labels, fontsize=9, color=INK)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.text(0.5, 1 - 0.2 / high, title, fontsize=10, color=INK, ha="center", va="center")
    return to_png(figure)


def scatter_png(samples: Mapping[str, Tensor], title: str) -> bytes:
    """A panel of points for each entry [B, 2]; the first, the teacher, also lies in grey under all others.

    The second, the main method, has the main colour.
    """
    points = {label: x[:_MOST_POINTS].detach().cpu().double() for label, x in samples.items()}
    teacher, *others = points
    style = looks(others)
    centre, reach = _window(points[teacher])
    figure, axes = panels(list(points), (2.9, 3.0), columns=4)
    for axis, (label, x) in zip(axes, points.items(), strict=True):
        dot = 4 * min(4.0, math.sqrt(1000 / len(x)) + 0.2)
        if label == teacher:
            axis.scatter(x[:, 0], x[:, 1], s=dot, color=INK, alpha=0.5, linewidths=0)
        else:
            axis.scatter(points[teacher][:, 0], points[teacher][:, 1], s=4, color="#c4c4c4", linewidths=0)
            axis.scatter(x[:, 0], x[:, 1], s=dot, color=style[label].colour, alpha=0.7, linewidths=0)
        axis.set_xlim(centre[0].item() - reach, centre[0].item() + reach)
        axis.set_ylim(centre[1].item() - reach, centre[1].item() + reach)
        axis.set_aspect("equal")
    figure.suptitle(title, fontsize=11, color=INK)
    return to_png(figure)


def density_png(samples: Mapping[str, Tensor], title: str, bins: int = 128) -> bytes:
    """A panel of densities for each entry [B, 2], on one logarithmic scale.

    The colour says how many points fall into a bin of a window, which lies about the points of the first entry, the
    teacher's.
    """
    points = {label: x.detach().cpu().double() for label, x in samples.items()}
    centre, reach = _window(next(iter(points.values())))
    edges = [torch.linspace(c - reach, c + reach, bins + 1).double() for c in centre.tolist()]
    counts = {label: torch.histogramdd(x, edges).hist for label, x in points.items()}
    most = max(count.max().item() for count in counts.values())
    figure, axes = panels(list(points), (2.9, 3.0), columns=4)
    window = (edges[0][0].item(), edges[0][-1].item(), edges[1][0].item(), edges[1][-1].item())
    for axis, count in zip(axes, counts.values(), strict=True):
        axis.imshow(count.log1p().T, origin="lower", extent=window, cmap="magma", vmin=0, vmax=math.log1p(most))
        axis.grid(visible=False)
        axis.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=11, color=INK)
    return to_png(figure)


def _window(points: Tensor) -> tuple[Tensor, float]:
    """Centre [2] and half width of a square that holds nearly all points and a margin."""
    low, high = (torch.quantile(points, q, dim=0) for q in (1 - _SHOWN, _SHOWN))
    return (low + high) / 2, 0.6 * (high - low).max().item() or 1.0
