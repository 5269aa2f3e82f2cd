"""Escaping: text of others written in another language, so that it reads the same and none of it is executed.

Names of methods, figures and fields, paths and titles come from configs and folders that anybody may have written. Each
language has a function in this module, and everything that is put into that language passes through it.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any


def printable(text: str) -> str:
    """One line without control characters, for terminals and comments in code.

    Line breaks and tabs become spaces; anything that moves the cursor, turns the direction of writing or is no
    character is written as in a Python string.
    """
    return "".join(" " if c.isspace() else c if c.isprintable() else ascii(c)[1:-1] for c in text)


def html(text: str) -> str:
    """For HTML, between tags and in quoted attributes."""
    return escape(printable(text))


def plotly_text(text: str) -> str:
    """For names, labels and titles in plotly's figures, which read some tags of HTML, links among them."""
    return escape(printable(text), quote=False)


def script_data(json_text: str) -> str:
    """JSON inside a <script>, where "</script>" and "<!--" are seen in strings too."""
    return json_text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def latex(text: str) -> str:
    """For LaTeX, as a part of a paragraph."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))


def markdown(text: str) -> str:
    """For Markdown, also in cells of tables. Only what would be read as markup has a backslash before it, so that
    most text can be copied from the source as it stands."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(text))


def csv_cell(value: Any) -> Any:
    """For CSV: text that a spreadsheet would take for a formula has an apostrophe before it, numbers are left alone."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip()[:1] in _FORMULAS and not _is_number(text) else text


def matplotlib_text(text: str) -> str:
    """For labels of matplotlib, where dollars enclose mathematics and a first underscore hides the label."""
    text = printable(text).replace("$", r"\$")
    text = text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
    return f" {text}" if text.startswith("_") else text


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "▲": "$^{+}$",
    "▼": "$^{-}$",
    "≈": r"$^{\approx}$",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}
# a backslash before punctuation; code, emphasis, cells; tags and links; entities
_MARKDOWN = re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)|[`*|]|<(?=[A-Za-z/!?])|(?<=\])[(\[]|&(?=[#\w])")
# the last four are those of East Asian scripts
_FORMULAS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_LONGEST_LABEL = 60


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
