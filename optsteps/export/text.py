"""Schedules as plain text: the sigmas that ComfyUI and k-diffusion take, and CSV."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from typing import Literal

from torch import Tensor

from optsteps.export.carried import check_nothing_carried, check_plain_start
from optsteps.export.diffusers.orders import effective_orders
from optsteps.export.variants import warn_of_variant
from optsteps.schedules import Schedule
from optsteps.schedules.reading import CSV_COLUMNS
from optsteps.solvers import SOLVERS, build_solver


def sampler_sigmas(schedule: Schedule) -> Tensor:
    """The sigmas [n+1] of ComfyUI and k-diffusion: noise levels sigma / alpha, or for a flow its times, from 1 to 0.

    A flow's shift is not applied to sigmas that are given, so they are the times that the model is called with.
    """
    times = schedule.times.detach()
    return times if schedule.process.name == "flow" else schedule.process.noise_level(times)


def to_comfyui(schedule: Schedule, form: Literal["text", "json"] = "text") -> str:
    """The sigmas for ComfyUI's manual-sigmas node, "a, b, c", or as a JSON list for nodes that read one.

    Numbers are written out to the last digit of float64, and without exponents, because the node reads none. ComfyUI
    calls the networks of Stable Diffusion's kind at the nearest integer timestep: search on those with `snap`.

    Raises:
        ValueError: unknown form; orders of the steps other than those that the samplers give them by themselves; an
            amplitude, weights, told times or a scale of the noise, which a list of sigmas cannot express.

    Warns:
        UserWarning: a flow's schedule whose solver ComfyUI runs by another formula, see `warn_of_variant`.
    """
    if form not in ("text", "json"):
        raise ValueError(f"form must be 'text' or 'json', got {form!r}")
    _check_plain(schedule, "a list of sigmas")
    _check_orders(schedule, "ComfyUI")
    warn_of_variant(schedule, "ComfyUI")
    numbers = ", ".join(_decimal(x) for x in sampler_sigmas(schedule).tolist())
    return numbers if form == "text" else f"[{numbers}]"


def to_kdiffusion(schedule: Schedule) -> str:
    """The sigmas for k-diffusion's samplers and the tools built on them, as a Python list.

    Raises:
        ValueError: as `to_comfyui`.

    Warns:
        UserWarning: as `to_comfyui`.
    """
    _check_plain(schedule, "a list of sigmas")
    _check_orders(schedule, "k-diffusion")
    warn_of_variant(schedule, "k-diffusion")
    return json.dumps(sampler_sigmas(schedule).tolist())


def to_csv(schedule: Schedule) -> str:
    """A table with a line for every time: step, time, noise level and log-SNR, to the last digit.

    Where the schedule has orders, a further column holds the order of the step that leaves the time.

    Raises:
        ValueError: an amplitude, weights, told times or a scale of the noise, which a table of times cannot express.
    """
    _check_plain(schedule, "a table of times")
    times = schedule.times.detach()
    columns = [part.tolist() for part in (times, schedule.process.noise_level(times), schedule.process.log_snr(times))]
    names: tuple[str, ...] = CSV_COLUMNS
    if schedule.orders is not None:
        names, columns = (*CSV_COLUMNS, "order"), [*columns, [*schedule.orders, ""]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for step, row in enumerate(zip(*columns, strict=True)):
        writer.writerow([step, *row])
    return text.getvalue()


def _decimal(number: float) -> str:
    """The shortest decimal that reads back as the same float64, without an exponent."""
    return f"{Decimal(repr(number)):f}"


def _check_orders(schedule: Schedule, tool: str) -> None:
    """Raises ValueError unless the tool's sampler, which is told no orders, gives the steps those of the schedule."""
    if schedule.orders is None or max(orders := effective_orders(schedule, schedule.orders)) == 1:
        return
    solver = schedule.metadata.get("solver")
    full = build_solver(solver).order if solver in SOLVERS else max(schedule.orders)
    sampler_orders = effective_orders(schedule, [full] * schedule.steps)
    if orders != sampler_orders:
        raise ValueError(
            f"the schedule gives its steps the orders {orders}, which a list of sigmas cannot say, and the samplers of "
            f"{tool} would run {sampler_orders}: search with method.orders=fixed for them, or sample with optsteps"
        )


def _check_plain(schedule: Schedule, form: str) -> None:
    check_nothing_carried(schedule, f"which {form} cannot say")
    check_plain_start(schedule, form)
