"""Tables as LaTeX, with booktabs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from optsteps.metrics.statistics import Verdict
from optsteps.reporting.sweep.aggregate import SweepCell
from optsteps.reporting.sweep.tables import SEARCH_COST, SweepTable, notes, value_and_detail
from optsteps.text.escaping import latex

_MARKS: Mapping[Verdict, str] = {"better": "^{+}", "worse": "^{-}", "no better": r"^{\approx}"}


def latex_table(table: SweepTable) -> str:
    """A `table` environment to \\input: the tabular, its notes below it; it needs \\usepackage{booktabs}."""
    labels, places = len(table.rows), len(table.columns)
    costs = [SEARCH_COST] if table.costs else []
    head = [
        f"{' & ' * labels}\\multicolumn{{{places}}}{{c}}{{{latex(table.column)}}}{' &' * len(costs)} \\\\",
        f"\\cmidrule(lr){{{labels + 1}-{labels + places}}}",
        f"{' & '.join(latex(name) for name in (*table.rows, *table.columns, *costs))} \\\\",
    ]
    body, group = [], None
    for line in table.lines:
        if group not in (None, line.group):
            body.append("\\addlinespace")
        group = line.group
        last = [latex(line.search_cost)] if costs else []
        body.append(f"{' & '.join([*map(latex, line.labels), *map(_cell, line.cells), *last])} \\\\")
    label = re.sub(r"[^a-z0-9]+", "-", f"{table.figure}-{table.column}".lower())
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{latex(table.title)}}}",
            f"\\label{{tab:{label}}}",
            f"\\begin{{tabular}}{{{'l' * labels}{'r' * (places + len(costs))}}}",
            "\\toprule",
            *head,
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "",
            f"\\smallskip{{\\footnotesize {latex(' '.join(notes(table)))}\\par}}",
            "\\end{table}",
            "",
        ]
    )


def _cell(cell: SweepCell | None) -> str:
    if cell is None:
        return "--"
    value, detail = value_and_detail(cell)
    number = f"\\mathbf{{{_math(value)}}}" if cell.best else _math(value)
    mark = _MARKS[cell.verdict] if cell.verdict else ""
    return f"${f'{number} {_math(detail)}'.strip()}{mark}$"


def _math(number: str) -> str:
    """A number or an interval inside $ $, with powers of ten written out."""
    number = re.sub(r"e([+-]\d+)", lambda match: f" \\times 10^{{{int(match[1])}}}", number)
    return number.replace("±", "\\pm").replace("inf", "\\infty").replace("nan", "\\mathrm{nan}")
