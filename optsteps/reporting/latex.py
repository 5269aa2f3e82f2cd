"""Tables as LaTeX, with booktabs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from optsteps.metrics.statistics import Verdict
from optsteps.reporting.aggregate import Cell
from optsteps.reporting.sheets import Sheet, notes, value_and_detail

MARKS: Mapping[Verdict, str] = {"better": "^{+}", "worse": "^{-}", "no better": r"^{\approx}"}
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}


def escaped(text: str) -> str:
    """`text` as LaTeX sets it: every special character stands for itself."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def latex_sheet(table: Sheet) -> str:
    """A `table` environment to \\input: the tabular, its notes below it; it needs \\usepackage{booktabs}."""
    labels, places = len(table.rows), len(table.columns)
    head = [
        f"{' & ' * labels}\\multicolumn{{{places}}}{{c}}{{{escaped(table.column)}}} \\\\",
        f"\\cmidrule(lr){{{labels + 1}-{labels + places}}}",
        f"{' & '.join(escaped(name) for name in (*table.rows, *table.columns))} \\\\",
    ]
    body, group = [], None
    for line in table.lines:
        if group not in (None, line.group):
            body.append("\\addlinespace")
        group = line.group
        body.append(f"{' & '.join([*map(escaped, line.labels), *map(_cell, line.cells)])} \\\\")
    # stand for the marks until what is around them is escaped
    named: dict[Verdict, str] = {"better": "\x01", "worse": "\x02", "no better": "\x03"}
    below = escaped(" ".join(notes(table, named)))
    for verdict, name in named.items():
        below = below.replace(name, f"${MARKS[verdict]}$")
    label = re.sub(r"[^a-z0-9]+", "-", f"{table.figure}-{table.column}".lower())
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{escaped(table.title)}}}",
            f"\\label{{tab:{label}}}",
            f"\\begin{{tabular}}{{{'l' * labels}{'r' * places}}}",
            "\\toprule",
            *head,
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "",
            f"\\smallskip{{\\footnotesize {below}\\par}}",
            "\\end{table}",
            "",
        ]
    )


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    value, detail = value_and_detail(cell)
    number = f"\\mathbf{{{_math(value)}}}" if cell.best else _math(value)
    mark = MARKS[cell.verdict] if cell.verdict else ""
    return f"${f'{number} {_math(detail)}'.strip()}{mark}$"


def _math(number: str) -> str:
    """A number or an interval inside $ $, with powers of ten written out."""
    number = re.sub(r"e([+-]\d+)", lambda found: f" \\times 10^{{{int(found[1])}}}", number)
    return number.replace("±", "\\pm").replace("inf", "\\infty").replace("nan", "\\mathrm{nan}")
