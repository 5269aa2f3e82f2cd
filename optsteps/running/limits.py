"""What a run may take: evaluations or minutes of a stated budget, and the room on the disk of its store."""

from __future__ import annotations

from collections.abc import Sequence

from optsteps.running.plan import Stage, total
from optsteps.storage.store import ShardStore
from optsteps.text.duration import duration, seconds_of

# what makes a stage smaller, by the first word of its name
_LESS = {
    "teacher": "test.samples or test.teacher_steps",
    "search": "search.samples or teacher.steps, or leave methods out (rivals=none)",
    "compare": "test.samples, or leave rivals out (rivals=none)",
    "oracle": "test.oracle, which may be 0",
    "check": "it to none (check_model=false)",
}


def check_budget(stages: Sequence[Stage], budget: int | str | None, rate: float | None = None) -> None:
    """Refuse a plan that takes more than was allowed.

    Args:
        budget: evaluations, or a time; None for any number.
        rate: evaluations per second; None where it is not measured yet, and a time allows any number.

    Raises:
        ValueError: it takes more; the message has its sum and what to lower.
    """
    planned = total(stages)
    if isinstance(budget, str):
        seconds = seconds_of(budget)
        over = rate is not None and planned / rate > seconds
    else:
        over = budget is not None and planned > budget
    if not over:
        return
    largest = max(stages, key=lambda stage: stage.evaluations or 0)
    takes = f"{planned:,} evaluations" + (f", about {duration(planned / rate)}," if rate is not None else "")
    less = _LESS[largest.name.partition(" ")[0]]
    raise ValueError(
        f"the plan takes {takes} and budget={budget}: its largest part is {largest.name!r} with "
        f"{largest.evaluations or 0:,} evaluations; lower {less}, or raise the budget (plan=true shows every stage)"
    )


def check_disk(stages: Sequence[Stage], store: ShardStore) -> None:
    """Refuse a plan whose shards cannot fit on the disk of its store, whatever of them is there already.

    Raises:
        OSError: they cannot.
    """
    kept = sum(stage.kept for stage in stages)
    kept = kept if store.limit is None else min(kept, store.limit)
    free = store.free()
    if kept > free and kept > free + store.size():
        raise OSError(
            f"the store {store.folder} needs {kept / 1e9:.3g} GB for this plan and its disk has {free / 1e9:.3g} GB "
            "free: name a folder with room (store.folder=/large/disk), keep less (store.limit_gb, "
            "store.precision=bfloat16), or keep nothing (store.folder=null)"
        )
