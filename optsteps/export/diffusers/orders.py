"""Orders of the steps: those that a scheduler gives its steps, and those that a schedule can have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optsteps.export.diffusers.schedulers import SchedulerKind, class_name
from optsteps.export.diffusers.tables import starts_at_pure_noise
from optsteps.schedules import Schedule


def scheduler_orders(scheduler: Any, kind: SchedulerKind, steps: int, clean: bool) -> list[int] | None:
    """The orders that a multistep scheduler gives its steps; None where no setting steers them.

    Args:
        scheduler: with its settings.
        steps: of the run.
        clean: the last step ends at noise level 0.
    """
    if kind.orders is None:
        return None
    config, steps_left = scheduler.config, range(steps, 0, -1)
    lowered = config.lower_order_final and (kind.orders == "always" or steps < 15)
    orders = [min(i + 1, config.solver_order, left if lowered else steps) for i, left in enumerate(steps_left)]
    if clean or getattr(config, "euler_at_final", False):
        orders[-1] = 1
    return orders


def effective_orders(schedule: Schedule, orders: Sequence[int]) -> list[int]:
    """The orders that the steps of a schedule really have where `orders` are requested.

    A step has no higher order than there are remembered outputs, of which one at an infinite noise level is none, and a
    step to noise level 0 has order 1.
    """
    forgotten = starts_at_pure_noise(schedule)
    effective = [min(max(i + 1 - forgotten, 1), order) for i, order in enumerate(orders)]
    if schedule.ends_clean:
        effective[-1] = 1
    return effective


def check_orders(schedule: Schedule, scheduler: Any, kind: SchedulerKind) -> None:
    """Raises ValueError unless the scheduler gives its steps the schedule's orders."""
    expected, name = effective_orders(schedule, schedule.orders or ()), class_name(scheduler)
    actual = scheduler_orders(scheduler, kind, schedule.steps, schedule.ends_clean)
    if actual is None and max(expected) > 1:
        raise ValueError(f"the orders {expected} of the schedule's steps mean nothing to {name}")
    if actual is not None and actual != expected:
        raise ValueError(f"the schedule's steps have the orders {expected}, and {name} gives them {actual}")
