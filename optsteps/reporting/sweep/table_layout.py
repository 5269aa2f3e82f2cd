"""Layout of the tables on many runs: the fields of their lines and columns, what is repeated and what is compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optsteps.comparison import TEACHER
from optsteps.reporting.number_format import NUMBER_FORMATS
from optsteps.reporting.sweep.run_rows import RunRow, as_label, check_fields, with_figure

METHOD = "method"
# fields that say how much a row may spend
BUDGETS = ("budget", "nfe", "steps")
# fields that a row has for itself; the others are of its run's config
ROW_FIELDS = (METHOD, *BUDGETS, "oracle", "main")
# sections that tell no runs apart: settings of methods go with the methods' names, the others change no result
_IGNORED = ("method.", "rivals.", "facts.", "paths.", "runner.", "hydra.")
_USUAL_BASELINE = "edm"


@dataclass(frozen=True)
class TableLayout:
    """The fields and numbers that the tables of a report show.

    Attributes:
        rows: fields whose combinations are the lines of the tables.
        column: the field whose values are their columns.
        figures: names of the numbers that are shown, a table for each.
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
    run_rows: Sequence[RunRow],
    rows: Sequence[str] | None = None,
    column: str = "budget",
    figures: Sequence[str] | None = None,
    over: Sequence[str] = ("seed",),
    baseline: str | None = None,
) -> TableLayout:
    """A layout for the rows of some runs.

    Args:
        rows: None for the fewest fields of the config that tell the runs apart, and the method.
        column, over: as in `TableLayout`.
        figures: None for all.
        baseline: None for EDM's schedule where the runs have it.

    Raises:
        ValueError: a field, figure or method that no run has, or a baseline that is no rival.
    """
    rows = telling_fields(run_rows, over) if rows is None else rows
    check_fields(run_rows, [*rows, column, *over])
    for figure in figures or []:
        with_figure(run_rows, figure)
    measured = {name for row in run_rows for name in row.intervals}
    available = [name for name in NUMBER_FORMATS if name in measured] + sorted(measured - set(NUMBER_FORMATS))
    return TableLayout(tuple(rows), column, tuple(figures or available), tuple(over), _baseline(run_rows, baseline))


def telling_fields(run_rows: Sequence[RunRow], over: Sequence[str] = ()) -> list[str]:
    """The fewest config fields that tell apart runs which differ in more than the fields `over`, and the method.

    A name is taken before the settings that go with it. Settings of the methods are left to the methods' names, see
    `name_variants`.
    """
    configs = [row.fields for row in run_rows]
    names = dict.fromkeys(name for config in configs for name in config)
    settings = [name for name in names if not name.startswith(_IGNORED) and name not in (*ROW_FIELDS, *over)]
    simple = [name for name in settings if not any(isinstance(config.get(name), list) for config in configs)]
    telling: list[str] = []
    kinds = 1
    for name in sorted(simple, key=lambda name: not name.endswith(".name")):
        finer = len({tuple(as_label(config.get(field)) for field in [*telling, name]) for config in configs})
        if finer > kinds:
            telling, kinds = [*telling, name], finer
    return [*telling, METHOD]


def field_label(name: str) -> str:
    """How a field is headed."""
    return {"budget": "NFE budget", "nfe": "NFE"}.get(name, name.removesuffix(".name"))


def listed(items: Iterable[object]) -> str:
    """The items in a sentence."""
    *first, last = [str(item) for item in items]
    return f"{', '.join(first)} and {last}" if first else last


def _baseline(run_rows: Sequence[RunRow], name: str | None) -> str | None:
    rivals = dict.fromkeys(r.fields[METHOD] for r in run_rows if not r.fields["oracle"] and r.fields[METHOD] != TEACHER)
    if name is None:
        return _USUAL_BASELINE if _USUAL_BASELINE in rivals else None
    if name not in rivals:
        raise ValueError(f"no run has the method {name!r} to be the baseline; its rivals are {', '.join(rivals)}")
    return name
