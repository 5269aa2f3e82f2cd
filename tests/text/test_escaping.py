"""Text in other languages: read back by a reader of that language it is what it was, and nothing else."""

from __future__ import annotations

import csv
import html as standard
import io
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text  # type: ignore[attr-defined]
from matplotlib.figure import Figure

from optsteps.text.escaping import csv_cell, html, latex, markdown, matplotlib_text, plotly_text, printable, script_data

HOSTILE = [
    '"><script>alert(1)</script>',
    '<a href="javascript:alert(1)">oss</a>',
    "<!--<script>",
    r"\input{/etc/passwd}",
    "=cmd|'/C calc'!A0",
    "[click](javascript:alert(1))",
    "a|b\n# heading\n",
    "\x1b]0;title\x07\u202eevil\ud800\x00",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_one_line_of_printable_characters_in_every_language(text: str) -> None:
    for escaped in (printable, html, plotly_text, latex, markdown, csv_cell, matplotlib_text):
        written = escaped(text)
        assert written.isprintable()
        assert written.encode()


def test_printable() -> None:
    assert printable("a\tb\r\nc \u00e9 \u4e2d") == "a b  c \u00e9 \u4e2d"
    assert printable("\x1b[2J\u202e\ud800") == r"\x1b[2J\u202e\ud800"


@given(st.text())
def test_html_reads_back(text: str) -> None:
    for written in (html(text), plotly_text(text)):
        assert not set("<>") & set(written)
        assert standard.unescape(written) == standard.unescape(standard.escape(printable(text)))
    assert '"' not in html(text)


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_data_in_a_script_reads_back(data: object) -> None:
    written = script_data(json.dumps(data))
    assert json.loads(written) == data
    assert not set("<>&") & set(written)


def test_latex() -> None:
    assert latex("a_b & 5 % of {#1} $x^2$ ~ \\") == (
        r"a\_b \& 5 \% of \{\#1\} \$x\textasciicircum{}2\$ \textasciitilde{} \textbackslash{}"
    )
    assert latex(r"\input{x}") == r"\textbackslash{}input\{x\}"
    # an empty line would end the caption that it stands in
    assert latex("a\n\n^^5cinput") == r"a  \textasciicircum{}\textasciicircum{}5cinput"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("oss_pooled [1.20, 1.42], 5 % & more", "oss_pooled [1.20, 1.42], 5 % & more"),
        (r"C:\Users\me", r"C:\Users\me"),
        ("a|b", r"a\|b"),
        ("**bold** `code`", r"\*\*bold\*\* \`code\`"),
        ("[x](javascript:y)", r"[x]\(javascript:y)"),
        ("<img src=x> </b> <!-- < 5", r"\<img src=x> \</b> \<!-- < 5"),
        ("&lt;b> &#60;", r"\&lt;b> \&#60;"),
        (r"\*not escaped\*", r"\\\*not escaped\\\*"),
        ("a\nb", "a b"),
    ],
)
def test_markdown(text: str, written: str) -> None:
    assert markdown(text) == written


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(1)", "  =1", "\t=1", "\uff1d1", "-1;=cmd"])
def test_no_formula_in_csv(text: str) -> None:
    if text == "+1":  # a number is one
        assert csv_cell(text) == text
        return
    file = io.StringIO()
    csv.writer(file).writerow([csv_cell(text), csv_cell(-1.5), csv_cell(None)])
    assert next(csv.reader(io.StringIO(file.getvalue()))) == [f"'{printable(text)}", "-1.5", ""]


@given(st.text(alphabet=string.printable + "$_\\{}^", max_size=80))
def test_labels_of_matplotlib_are_drawn_as_they_are(text: str) -> None:
    label = matplotlib_text(text)
    assert not label.startswith("_")
    assert len(label) <= 62 + text.count("$")
    assert not is_math_text(label)


def test_a_label_that_is_no_mathematics_is_drawn() -> None:
    figure = Figure()
    figure.subplots().plot([1, 2], label=matplotlib_text(r"$\frac{$ $x^{$"))
    figure.legend()
    figure.savefig(io.BytesIO())
