"""The files of a report on many runs: Markdown, LaTeX, CSV and the page, which a browser opens."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from optsteps.reporting.sweep.aggregate import aggregate
from optsteps.reporting.sweep.latex import latex_table
from optsteps.reporting.sweep.report import write_sweep_report
from optsteps.reporting.sweep.run_rows import read_run_rows
from optsteps.reporting.sweep.table_layout import choose_layout
from optsteps.reporting.sweep.tables import markdown_table, sweep_table, tidy_csv

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on the made-up sweep."""
    folder = tmp_path_factory.mktemp("report")
    run_rows = read_run_rows(sweep)
    paths = write_sweep_report(folder, run_rows, choose_layout(run_rows))
    assert sorted(paths) == sorted(folder.iterdir())
    return folder


def test_every_file_is_there(report: Path) -> None:
    assert {path.name for path in report.iterdir()} == {"report.md", "report.csv", "psnr.tex", "fid.tex", "report.html"}


def test_markdown_letter_by_letter(sweep: Path) -> None:
    run_rows = read_run_rows(sweep)
    layout = choose_layout(run_rows)
    table = sweep_table(aggregate(run_rows, layout, "fid"), layout)
    assert table.title == "FID by NFE budget"
    lines = markdown_table(table).splitlines()
    assert lines[:4] == [
        "| solver | method | 5 | 10 | search total |",
        "| :-- | :-- | --: | --: | --: |",
        "| euler | oss | **0.26** ± 0.01 ▲ | **0.19** ± 0.01 ▲ | 158,400 (6 min) |",
        "| euler | edm | 0.27 ± 0.01 | 0.21 ± 0.01 | 0 |",
    ]
    assert lines[6] == "| euler | oss_per_sample (oracle) | 0.20 ± 0.00 | 0.14 ± 0.00 | - |"
    assert lines[7] == "| dpmpp_2m | oss | **0.26** [0.25, 0.27] | **0.20** [0.19, 0.21] | 158,400 (6 min) |"
    notes = " ".join(lines[11:])
    for said in (
        "over 3 runs that differ in seed alone",
        "lower is better",
        "Against edm: ▲ better, ▼ worse, ≈ no better",
        "a bound and no rival",
        "Search total: the network evaluations of all samples of a search",
        "The teacher, a reference: euler: 0.10 ± 0.00 at 100 NFE; dpmpp_2m: 0.10 [0.09, 0.11] at 100 NFE.",
    ):
        assert said in notes


def test_searches_that_cost_different_numbers_share_a_line(sweep: Path) -> None:
    run_rows = [
        replace(r, search_evaluations=2 * r.search_evaluations, network_seconds=720.0)
        if r.fields["nfe"] == 10 and r.search_evaluations
        else r
        for r in read_run_rows(sweep / "0")
    ]
    layout = choose_layout(run_rows)
    table = sweep_table(aggregate(run_rows, layout, "psnr"), layout)
    assert table.lines[0].search_cost == "158,400 to 316,800 (6 min to 12 min)"
    handmade = [r for r in run_rows if r.fields["method"] in ("edm", "logsnr")]
    free = sweep_table(aggregate(handmade, layout, "psnr"), layout)
    assert not free.costs
    assert "search total" not in f"{markdown_table(free)} {latex_table(free)}".lower()


def test_rows_that_no_search_made_are_explained_there(write_run: Callable[..., Path], tmp_path: Path) -> None:
    """And nowhere else."""
    run = write_run(tmp_path / "run")
    for renamed, explained in (("edm", set()), ("own", {"own"}), ("published", {"published"})):
        run_rows = [
            replace(r, fields={**r.fields, "method": renamed if r.fields["method"] == "edm" else r.fields["method"]})
            for r in read_run_rows(run)
        ]
        write_sweep_report(tmp_path / renamed, run_rows, choose_layout(run_rows), ["md", "html"])
        for name in ("report.md", "report.html"):
            text = (tmp_path / renamed / name).read_text()
            assert {word for word in ("own", "published") if f"{word}: the " in text} == explained


def test_the_page_explains_an_oracle_only_where_there_is_one(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for method, there in (("oss", True), ("ays", False)):
        run_rows = read_run_rows(write_run(tmp_path / method, method))
        write_sweep_report(tmp_path / f"of_{method}", run_rows, choose_layout(run_rows), ["html"])
        text = (tmp_path / f"of_{method}" / "report.html").read_text().lower()
        assert ("an oracle" in text) == ("oracle: searched" in text) == there


def test_an_answer_for_many_places_is_folded(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for count, folded in ((3, False), (4, True)):
        for k in range(count):
            write_run(tmp_path / str(count) / str(k), solver=f"solver{k}")
        run_rows = read_run_rows(tmp_path / str(count))
        write_sweep_report(tmp_path / f"of_{count}", run_rows, choose_layout(run_rows, figures=["psnr"]), ["html"])
        page = (tmp_path / f"of_{count}" / "report.html").read_text()
        assert page.count("<li>") == 2 * count
        assert ("<details>" in page) == folded


def test_two_seeds_have_no_interval(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed)
    run_rows = read_run_rows(tmp_path)
    write_sweep_report(tmp_path / "report", run_rows, choose_layout(run_rows), ["md", "csv", "html"])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| oss | **24.25** ▲ |" in text
    assert "the mean of 2 runs that differ in seed alone, too few for an interval over them, which takes 3." in text
    lines = list(csv.DictReader((tmp_path / "report" / "report.csv").open()))
    assert {(line["low"], line["high"]) for line in lines} == {("", "")}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "NaN" not in page[page.index("const plots") :][:100_000].split("const config")[0]


def test_latex_is_balanced_and_escaped(report: Path) -> None:
    for path in report.glob("*.tex"):
        text = path.read_text()
        assert text.count("{") == text.count("}")
        assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
        begun = re.findall(r"\\begin\{(\w+)\}", text)
        assert begun == re.findall(r"\\end\{(\w+)\}", text)[::-1] == ["table", "tabular"]
        rules = [text.index(rf"\{name}") for name in ("toprule", "midrule", "bottomrule")]
        assert rules == sorted(rules)
        body = text[rules[1] : rules[2]].splitlines()[1:]
        assert all(line.count("&") == 4 and line.endswith(r"\\") for line in body if line != r"\addlinespace")
        assert body.count(r"\addlinespace") == 1
        assert not re.search(r"(?<!\\)[_%#]", text.split("\n", 1)[1])
    psnr = (report / "psnr.tex").read_text()
    assert r"euler & oss & $\mathbf{24.50} \pm 1.24^{+}$" in psnr
    assert r"oss\_per\_sample (oracle)" in psnr
    assert r"$^{\approx}$ no better (the 95 \% interval" in psnr


def test_powers_of_ten_in_latex(sweep: Path) -> None:
    run_rows = read_run_rows(sweep / "6")
    for run_row in run_rows:
        run_row.intervals["odd"] = run_row.intervals.get("fid", next(iter(run_row.intervals.values())))
    small = [r for r in run_rows if r.fields["method"] == "oss"]
    for run_row in small:
        run_row.intervals["odd"] = type(run_row.intervals["odd"])(3.2e-6, 1e-6, float("inf"))
    layout = choose_layout(run_rows, figures=["odd"])
    assert r"3.20 \times 10^{-6}" in latex_table(sweep_table(aggregate(run_rows, layout, "odd"), layout))


def test_csv_reads_back_exactly(sweep: Path) -> None:
    run_rows = read_run_rows(sweep)
    layout = choose_layout(run_rows)
    cells = [cell for figure in layout.figures for cell in aggregate(run_rows, layout, figure)]
    lines = list(csv.DictReader(io.StringIO(tidy_csv(cells, layout))))
    assert len(lines) == len(cells)
    for line, cell in zip(lines, cells, strict=True):
        assert (line["solver.name"], line["method"]) == (cell.fields["solver.name"], cell.fields["method"])
        assert [float(line[name]) for name in ("value", "low", "high")] == [
            cell.interval.value,
            cell.interval.low,
            cell.interval.high,
        ]
        assert (int(line["runs"]), line["role"], line["figure"]) == (cell.runs, cell.role, cell.figure)
        assert line["verdict"] == (cell.verdict or "")
        assert line["baseline"] == "edm"
        cost = [line[name] for name in ("search_nfe", "search_evaluations", "network_seconds")]
        expected = (cell.search_nfe, cell.search_evaluations, cell.network_seconds)
        assert cost == ([str(number) for number in expected] if cell.role == "rival" else [""] * 3)


class _Page(HTMLParser):
    """Everything that a browser would fetch, and the headings."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.style = ""
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        found = dict(attrs)
        self.fetched += [value for name, value in attrs if name in ("src", "srcset", "data", "poster") and value]
        if tag in ("link", "base", "iframe", "object", "embed"):
            self.fetched.append(str(found))
        if tag == "section":
            self.ids.append(str(found["id"]))

    def handle_data(self, data: str) -> None:
        if self._tag == "style":
            self.style += data


def test_the_page_fetches_nothing(report: Path) -> None:
    page = _Page()
    page.feed((report / "report.html").read_text())
    assert page.ids == ["schedules", "quality", "cost", "samples", "tables"]
    assert "<th>search total</th>" in (report / "report.html").read_text()
    assert "<td>158,400 (6 min)</td>" in (report / "report.html").read_text()
    assert len(page.fetched) == 7 * 2, "two pictures of each run"
    assert all(source.startswith("data:image/png;base64,") for source in page.fetched)
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_the_page_without_plotly(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "optsteps.reporting.sweep.page", raising=False)
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    run_rows = read_run_rows(sweep / "0")
    layout = choose_layout(run_rows)
    with pytest.raises(ImportError, match=r"pip install 'optsteps\[report\]'"):
        write_sweep_report(tmp_path, run_rows, layout)
    assert not list(tmp_path.iterdir())
    assert len(write_sweep_report(tmp_path, run_rows, layout, ["md", "csv"])) == 2


def _browse(page: Path, *options: str) -> str:
    assert BROWSER is not None
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--window-size=1400,3000"]
    own = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [BROWSER, *common, own, *options, page.as_uri()], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")
def test_a_browser_draws_the_page(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_bytes((report / "report.html").read_bytes())
    dom = _browse(page, "--dump-dom")
    seen = dom[: dom.index("<script>")]
    for plot, traces in (("schedules", 4), ("quality", 5), ("cost", 4)):
        part = seen[seen.index(f'id="{plot}"') :].split("</section>")[0]
        assert "main-svg" in part
        # a line or a cloud of markers for each method
        assert len(re.findall(r'<g class="trace scatter', part)) == traces
        assert "oss" in part
    assert 'href="#tables"' in seen
    assert seen.count('<p class="empty" hidden="">') == 4
    shown = re.findall(r'<div class="cards" data-key="[^"]*"( hidden="")?>', seen)
    assert shown.count("") == 1, "the pictures of one choice"
    _browse(page, f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        assert image.width == 1400
    # the first two of the methods' colours: something was painted
    assert {(0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)} <= colours


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")
def test_the_choosers_change_what_is_seen(report: Path, tmp_path: Path) -> None:
    """The last of every choice: FID at 10 NFE, ten steps, the last seed, a solver of which there is one run."""
    last = """<script>
    for (const select of document.querySelectorAll("select")) {
      select.selectedIndex = select.options.length - 1;
      select.dispatchEvent(new Event("change"));
    }
    </script>"""
    page = tmp_path / "report.html"
    page.write_text((report / "report.html").read_text().replace("</body>", last + "</body>"))
    dom = _browse(page, "--dump-dom")
    seen = {name: dom[dom.index(f'id="{name}"') :].split("</section>")[0] for name in ("schedules", "quality", "cost")}
    assert "FID (lower is better)" in seen["quality"]
    assert "FID (lower is better)" in seen["cost"]
    assert "teacher (100 NFE)" in seen["quality"]
    # the other solver ran with oss alone
    assert "ays" not in seen["schedules"].split('class="plot')[1]
    pictures = dom[dom.index('id="samples"') :].split("</section>")[0]
    shown = pictures[pictures.index('data-key="10\n2">') :].split("</div>")[0]
    assert re.findall("<figcaption>(.*?)</figcaption>", shown) == ["euler, oss, run 2", "euler, ays, run 5"]
