"""How a report over many runs is laid out: which fields make its lines and columns, what is repeated, what compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optsteps.reporting.quantities import QUANTITIES
from optsteps.reporting.sweep.records import Record, as_label, check_fields, with_figure
from optsteps.reporting.tables import TEACHER

METHOD = "method"
# fields that say how much a row may spend
BUDGETS = ("budget", "nfe", "steps")
# what the method's own name stands for, and what changes no result
_UNTOLD = ("method.", "rivals.", "facts.", "paths.", "runner.", "hydra.")
_OF_A_ROW = (METHOD, *BUDGETS, "oracle", "main")
_USUAL_BASELINE = "edm"


@dataclass(frozen=True)
class Layout:
    """What a report shows of its records.

    Attributes:
        rows: fields whose combinations are the lines of the tables.
        column: the field whose values are their columns.
        figures: what is shown.
        over: runs that differ in these fields alone are repetitions of one another.
        baseline: the method that all others are compared with; None for no comparison.
    """

    rows: tuple[str, ...]
    column: str
    figures: tuple[str, ...]
    over: tuple[str, ...]
    baseline: str | None

    @property
    def group(self) -> tuple[str, ...]:
        """The fields that rivals have in common, apart from what they may spend."""
        return tuple(name for name in (*self.rows, self.column) if name not in (METHOD, *BUDGETS))


def choose_layout(
    records: Sequence[Record],
    rows: Sequence[str] | None = None,
    column: str = "budget",
    figures: Sequence[str] | None = None,
    over: Sequence[str] = ("seed",),
    baseline: str | None = None,
) -> Layout:
    """A layout of these records.

    Args:
        rows: None for the fewest fields of the config that tell the runs apart, and the method.
        column, over: as in `Layout`.
        figures: None for all.
        baseline: None for EDM's schedule where the runs have it.

    Raises:
        ValueError: a field, figure or method that no run has, or a baseline that is no rival.
    """
    rows = telling_fields(records, over) if rows is None else rows
    check_fields(records, [*rows, column, *over])
    for figure in figures or []:
        with_figure(records, figure)
    found = {name for record in records for name in record.figures}
    known = [*(name for name in QUANTITIES if name in found), *sorted(found - set(QUANTITIES))]
    return Layout(tuple(rows), column, tuple(figures or known), tuple(over), _baseline(records, baseline))


def telling_fields(records: Sequence[Record], over: Sequence[str] = ()) -> list[str]:
    """The fewest config fields that tell apart runs which differ in more than the fields `over`, and the method.

    A name is taken before the settings that go with it. Settings of the methods are left to the methods' names.
    """
    configs = [record.fields for record in records]
    known = dict.fromkeys(name for config in configs for name in config)
    settings = [name for name in known if not name.startswith(_UNTOLD) and name not in (*_OF_A_ROW, *over)]
    simple = [name for name in settings if not any(isinstance(config.get(name), list) for config in configs)]
    told: list[str] = []
    kinds = 1
    for name in sorted(simple, key=lambda name: not name.endswith(".name")):
        finer = len({tuple(as_label(config.get(field)) for field in [*told, name]) for config in configs})
        if finer > kinds:
            told, kinds = [*told, name], finer
    return [*told, METHOD]


def field_label(name: str) -> str:
    """How a field is headed."""
    return {"budget": "NFE budget", "nfe": "NFE"}.get(name, name.removesuffix(".name"))


def listed(items: Iterable[object]) -> str:
    """The items in a sentence."""
    *first, last = [str(item) for item in items]
    return f"{', '.join(first)} and {last}" if first else last


def _baseline(records: Sequence[Record], name: str | None) -> str | None:
    rivals = dict.fromkeys(r.fields[METHOD] for r in records if not r.fields["oracle"] and r.fields[METHOD] != TEACHER)
    if name is None:
        return _USUAL_BASELINE if _USUAL_BASELINE in rivals else None
    if name not in rivals:
        raise ValueError(f"no run has the method {name!r} to be the baseline; its rivals are {', '.join(rivals)}")
    return name
