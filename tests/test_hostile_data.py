"""Stores, run folders, schedules and models that somebody made to do harm: nothing runs, nothing is written elsewhere,
and nothing of the reader's environment or files comes out.

`pytest -v tests/test_hostile_data.py` lists every variant.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from optsteps import Schedule
from optsteps.cli import export as export_command
from optsteps.cli import report as report_command
from optsteps.export import read_schedule, run_snippets
from optsteps.processes import EDM, VP
from optsteps.storage.store import DamagedShardWarning, ShardStore
from optsteps.storage.unpickling import tensors_alone

SECRET = "canary-of-the-environment"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Trap:
    """Where hostile data lie, and what they must not touch.

    Attributes:
        folder: the data.
        marker: a file that the commands in the data make.
        private: a file of the reader's, outside of the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "data"
        self.folder.mkdir()
        self.marker, self.private = root / "marker", root / "private"
        self.private.write_text(f"key: {SECRET}\n")
        (root / "elsewhere").mkdir()
        self.command = f"touch {self.marker}"
        self.said = ""

    def outside(self) -> dict[str, bytes]:
        """All files beside the data."""
        paths = (path for path in self.root.rglob("*") if not path.is_relative_to(self.folder) and path.is_file())
        return {str(path): path.read_bytes() for path in paths}

    def written(self, folder: Path) -> bytes:
        """All that was written into a folder, and what was printed."""
        return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()) + self.said.encode()


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Trap]:
    """A trap, found untouched in the end."""
    monkeypatch.setenv("CANARY", SECRET)
    made = Trap(tmp_path)
    monkeypatch.chdir(made.root / "elsewhere")
    before = made.outside()
    yield made
    assert made.outside() == before
    assert SECRET not in "".join(capfd.readouterr())


# stores

PAYLOAD = {"_target_": "os.system"}


def named(of: str, /, **values: Any) -> dict[str, Any]:
    return {"dataclass": [of, [[key, {"value": value}] for key, value in values.items()]]}


def as_before(module: str, of: str, /, **values: Any) -> dict[str, Any]:
    """In the form of the first version, which named a module to import."""
    return {"dataclass": [module, of, [[key, as_tree(value)] for key, value in values.items()]]}


def as_tree(value: Any) -> dict[str, Any]:
    return {"dict": [[k, as_tree(v)] for k, v in value.items()]} if isinstance(value, dict) else {"value": value}


SHARDS: dict[str, Callable[[Trap], Any]] = {
    "instantiate": lambda t: as_before(
        "optsteps.running.compose", "instantiate", config={**PAYLOAD, "command": t.command}
    ),
    "instantiate a function that writes": lambda t: as_before(
        "optsteps.running.compose", "instantiate", config={"_target_": "torch.save", "obj": 1, "f": str(t.marker)}
    ),
    "instantiate by one name": lambda t: named("optsteps.running.compose.instantiate", config=t.command),
    "a function of the system": lambda t: named("os.system", command=t.command),
    "a built-in": lambda t: named("builtins.eval", source=f"__import__('os').system({t.command!r})"),
    "subprocess of the package": lambda t: as_before(
        "optsteps.running.version", "subprocess.run", args=t.command, shell=True
    ),
    "unpickling by torch-fidelity": lambda t: as_before(
        "optsteps.metrics.extractors",
        "create_feature_extractor",
        name="inception-v3-compat",
        feature_extractor_weights_path=str(pickled(t)),
    ),
    "writing by the package": lambda t: as_before(
        "optsteps.storage.files", "write_atomically", path=str(t.root / "elsewhere" / "x"), content="x"
    ),
    "an attribute of a registered class": lambda t: named(
        "optsteps.methods.ays.klub_table.CoupledTable.measure", data=1
    ),
    "nested 100,000 deep": lambda _: None,
}


class _Command:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def pickled(trap: Trap) -> Path:
    """Weights that run a command when they are unpickled."""
    path = trap.folder / "weights.pth"
    path.write_bytes(b"")
    torch.save({"fc.weight": _Command(trap.command)}, path)
    return path


@pytest.mark.parametrize("variant", SHARDS)
def test_a_store(trap: Trap, variant: str) -> None:
    store = trap.folder / "store"
    tree = json.dumps(SHARDS[variant](trap)) if "deep" not in variant else '{"list":[' * 100_000 + "]}" * 100_000
    path = store / "ke" / "content"
    path.parent.mkdir(parents=True)
    path.write_bytes(save({"0": torch.ones(1)}, {"tree": tree}))
    path.rename(path.with_name(f"key.{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors"))
    with pytest.warns(DamagedShardWarning, match=r"key\.\w+\.safetensors: this is no shard"):
        assert ShardStore(store).compute(["key"], lambda _: "computed") == ["computed"]


def test_a_store_whose_shard_is_a_pipe_or_a_folder(trap: Trap) -> None:
    (trap.folder / "ke" / f"key.{'a' * 64}.safetensors").mkdir(parents=True)
    os.mkfifo(trap.folder / "ke" / f"key.{'b' * 64}.safetensors")
    assert ShardStore(trap.folder).compute(["key"], lambda _: 1) == [1]


# run folders: what is done to a good one, and what the report says of it; "" where it is reported


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Trap], None]:
    """A change of metrics.json."""

    def edit(run: Path, _: Trap) -> None:
        metrics = json.loads((run / "metrics.json").read_text())
        change(metrics)
        (run / "metrics.json").write_text(json.dumps(metrics))

    return edit


def renamed(name: str) -> Callable[[Path, Trap], None]:
    """A method, a rival and a figure of that name."""

    def rename(metrics: dict[str, Any]) -> None:
        metrics["method"] = name
        for row in metrics["rows"]:
            row["method"] = name if row["method"] == "oss" else row["method"]
            row["figures"] = {**row["figures"], name: {"value": 1.0, "low": 0.5, "high": 1.5}}
        for verdict in metrics["verdicts"]:
            verdict["method"] = name

    return edited(rename)


def config(text: str, name: str = "config.yaml") -> Callable[[Path, Trap], None]:
    return lambda run, _: (run / name).write_text(text) and None


def linked(name: str, to: str) -> Callable[[Path, Trap], None]:
    def link(run: Path, trap: Trap) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(trap.root / to)

    return link


def sparse(name: str) -> Callable[[Path, Trap], None]:
    """A file of 100 MB."""

    def write(run: Path, _: Trap) -> None:
        with open(run / name, "r+b" if (run / name).exists() else "wb") as file:
            file.truncate(100 * 2**20)

    return write


def piped(run: Path, _: Trap) -> None:
    (run / "metrics.json").unlink()
    os.mkfifo(run / "metrics.json")


def row(**values: Any) -> Callable[[Path, Trap], None]:
    return edited(lambda metrics: metrics["rows"][2].update(values))


def moved_report(run: Path, trap: Trap) -> None:
    (run.parent / "report").symlink_to(trap.root / "elsewhere")


def png(width: int, height: int, run: Path) -> None:
    picture = bytearray((run / "samples_5.png").read_bytes())
    picture[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    (run / "samples_5.png").write_bytes(picture)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
NAMES = {
    "an absolute path": f"/tmp/canary-{os.getpid()}",
    "a way out": "../../../elsewhere/x",
    "a script": '"><script>document.title = "owned"</script>',
    "a link": '<a href="javascript:document.title=1">oss</a>',
    "a picture": "<img src=x onerror=\"document.title='owned'\">",
    "the end of a script": "</script><!--<script>",
    "LaTeX": r"}\input{/etc/passwd}",
    "LaTeX behind a line": "x\n\n^^5cinput{/etc/passwd} % $",
    "a formula": "=cmd|'/C touch marker'!A0",
    "a formula behind a space": "\t=1+1",
    "Markdown": "a | b\n\n# [x](javascript:y) **z** ![i](http://e/i.png)",
    "a terminal's codes": "\x1b]0;owned\x07\u202e",
    "mathematics": r"$\frac{$",
}
RUNS: dict[str, tuple[Callable[[Path, Trap], None], str]] = {
    **{f"a name is {what}": (renamed(name), "") for what, name in NAMES.items()},
    "a name is half a character": (renamed("\ud800"), "metrics.json is not JSON"),
    "the environment, in the config": (config("seed: 0\nsolver: {name: '${oc.env:CANARY}'}\n"), ""),
    "the environment, in Hydra's": (config("solver: {name: '${oc.env:CANARY}'}\n", ".hydra/config.yaml"), ""),
    "decoded text": (config("solver: {name: '${oc.decode:\"{a: ${oc.env:CANARY}}\"}'}\n"), ""),
    "references that multiply": (
        config("".join(f"{k}: '${{{k + 1}}}${{{k + 1}}}'\n" for k in range(60)) + "60: x\n"),
        "",
    ),
    "a bomb of aliases": (config(BOMB), "config.yaml, line 2: aliases"),
    "an object of Python": (config("!!python/object/apply:os.system ['touch marker']"), "config.yaml.* not YAML"),
    "YAML of 100 MB": (sparse("config.yaml"), "config.yaml has more than 1 MiB"),
    "a deep config": (config("[" * 100_000), "config.yaml.*(deep|not YAML)"),
    "a config that is a list": (config("[1, 2]"), "config.yaml is no config"),
    "a config that is a link": (linked("config.yaml", "private"), "config.yaml is a link to something outside"),
    "figures that are a link": (linked("metrics.json", "private"), "metrics.json is a link to something outside"),
    "figures that are a pipe": (piped, "metrics.json is a pipe"),
    "figures of 100 MB": (sparse("metrics.json"), "metrics.json has more than 16 MiB"),
    "deep figures": (config('{"rows":' * 100_000, "metrics.json"), "metrics.json is not JSON"),
    "no JSON": (config("{", "metrics.json"), "metrics.json is not JSON"),
    "NaN for a value": (
        edited(lambda m: m["rows"][2]["figures"]["psnr"].update(value=float("nan"))),
        r"metrics.json holds a wrong rows\[2\].figures.psnr.value",
    ),
    "infinity for a value": (
        edited(lambda m: m["rows"][2]["figures"]["psnr"].update(value=1e308)),
        r"wrong rows\[2\].figures.psnr.value: .*less than or equal",
    ),
    "text for a number": (row(nfe="ten"), r"wrong rows\[2\].nfe.*got 'ten'"),
    "yes for a number": (row(steps=True), r"wrong rows\[2\].steps"),
    "no steps": (row(steps=0), r"wrong rows\[2\].steps.*got 0"),
    "less than no search": (row(search_evaluations=-1), r"wrong rows\[2\].search_evaluations.*got -1"),
    "no evaluations in a second": (
        edited(lambda m: m.update(evaluations_per_second=0)),
        "wrong evaluations_per_second.*got 0",
    ),
    "a number for text": (row(method=5), r"wrong rows\[2\].method.*got 5"),
    "a long name": (row(method="x" * 1000), r"wrong rows\[2\].method"),
    "levels below nothing": (row(noise_levels=[1.0, -1.0]), r"wrong rows\[2\].noise_levels\[1\]"),
    "levels that overflow": (row(noise_levels=[1e300, 5e-324]), r"wrong rows\[2\].noise_levels\[0\]"),
    "a missing field": (edited(lambda m: m["rows"][2].pop("nfe")), r"wrong rows\[2\].nfe: field required"),
    "no rows": (edited(lambda m: m.pop("rows")), "metrics.json has no rows"),
    "rows that are none": (edited(lambda m: m.update(rows=[1])), r"wrong rows\[0\]"),
    "a verdict of its own": (edited(lambda m: m["verdicts"][0].update(verdict="<b>")), r"wrong verdicts\[0\].verdict"),
    "a picture that is a link": (linked("samples_5.png", "private"), "samples_5.png is a link to something outside"),
    "a picture that is none": (config("<svg onload=x>", "samples_5.png"), "samples_5.png is no PNG"),
    "a picture of 100 MB": (sparse("samples_5.png"), "samples_5.png has more than 16 MiB"),
    "a picture of many pixels": (lambda run, _: png(10**6, 10**6, run), "samples_5.png is no PNG, or one of more than"),
    "a picture of no steps": (lambda run, _: shutil.copy(run / "samples_5.png", run / "samples_best.png") and None, ""),
}


def reported(trap: Trap, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """`optsteps-report` on the data: its exit status; `trap.said` is what it printed."""
    monkeypatch.setattr(sys, "argv", ["optsteps-report", str(trap.folder), *options])
    printed, status = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            report_command.main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    trap.said = printed.getvalue()
    return status


class _Page(HTMLParser):
    """The tags of a page with their attributes, without those of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def check_page(text: str) -> None:
    """Its tags are those of the template: no script, link or handler more, and no picture that is not embedded."""
    page = _Page()
    page.feed(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 2
    assert not {"a", "iframe", "object", "embed", "base", "form", "svg"} & set(tags)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag != "img" or str(attributes["src"]).startswith("data:image/png;base64,iVBORw0KGgo")
    plots = text[text.index("const plots = ") + 14 : text.index(";\nconst config")]
    assert not set("<>") & set(plots)
    shown = json.loads(plots)["quality"].values()
    assert not any("<" in trace["name"] for plot in shown for trace in plot["data"])


def check_tables(folder: Path) -> None:
    for path in folder.glob("*.tex"):
        text = path.read_text()
        assert not re.search(r"(?<!\\)\\(input|write|include|def|catcode)|\^\^5c", text)
        assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    cells = [cell for line in csv.reader((folder / "report.csv").open()) for cell in line]
    for cell in cells:
        if cell[:1] in ("=", "+", "-", "@"):
            float(cell)
    tables = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tables}) == 1
    assert "](" not in (folder / "report.md").read_text()


@pytest.mark.parametrize("variant", RUNS)
@pytest.mark.mostly_slow(3)
def test_a_run_folder(trap: Trap, variant: str, write_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harm, expected = RUNS[variant]
    write_run(trap.folder / "good", seed=1)
    harm(write_run(trap.folder / "bad", seed=2), trap)
    status = reported(trap, monkeypatch)
    report = trap.folder / "report"
    assert status == (3 if expected else 0), trap.said
    assert re.search(f"bad.*{expected}" if expected else "report.csv", trap.said)
    assert "Traceback" not in trap.said
    assert {"report.md", "report.csv", "report.html", "psnr.tex", "fid.tex"} <= {p.name for p in report.iterdir()}
    assert all(path.parent == report for path in report.rglob("*"))
    lines = list(csv.DictReader((report / "report.csv").open()))
    assert {"edm", "logsnr"} <= {line["method"] for line in lines}, "the other run is reported"
    assert SECRET.encode() not in trap.written(report)
    assert not Path(f"/tmp/canary-{os.getpid()}.tex").exists()
    check_page((report / "report.html").read_text())
    check_tables(report)


def test_a_report_that_leads_elsewhere(trap: Trap, write_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moved_report(write_run(trap.folder / "run"), trap)
    assert reported(trap, monkeypatch) == 1
    assert "report is a link to something outside" in trap.said
    assert not list((trap.root / "elsewhere").iterdir())
    assert reported(trap, monkeypatch, "--output", str(trap.folder / "there")) == 0


def test_runs_of_which_none_can_be_read(trap: Trap, write_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        config("{", "metrics.json")(write_run(trap.folder / name), trap)
    assert reported(trap, monkeypatch) == 1
    assert re.search(r"one.metrics\.json is not JSON .*and 1 more run", trap.said)
    assert trap.said.count("\n") == 1
    assert not (trap.folder / "report").exists()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")
def test_a_browser_runs_nothing_of_the_names(trap: Trap, write_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(NAMES.values()):
        renamed(name)(write_run(trap.folder / str(number), seed=number % 3), trap)
        (trap.folder / str(number) / "config.yaml").write_text(
            f"seed: {number}\nsolver: {{name: {json.dumps(name)}}}\n"
        )
    assert reported(trap, monkeypatch) == 0
    assert BROWSER is not None
    page = trap.folder / "report" / "report.html"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    command = [BROWSER, *options, f"--user-data-dir={trap.folder / 'profile'}", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout
    assert re.search("<title>(.*?)</title>", dom)[1] == f"Report on {len(NAMES)} runs"  # type: ignore[index]
    seen = re.sub("<script>.*?</script>", "", dom, flags=re.DOTALL)
    assert "main-svg" in seen, "plots are drawn"
    parsed = _Page()
    parsed.feed(seen)
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith(("on", "xlink"))], (tag, attributes)
        assert str(attributes.get("href", "#")).startswith("#"), (tag, attributes)


# schedules and the code made of them

GOOD = json.loads(json.dumps({"format": "optsteps.schedule", "version": 1, "steps": 2, "times": [80.0, 1.0, 0.01]}))
GOOD |= {"process": {"name": "edm"}, "orders": None, "initial_scale": None, "amplitude": None, "metadata": {}}
SCHEDULES: dict[str, str] = {
    "nested 100,000 deep": "[" * 100_000 + "]" * 100_000,
    "a deep field": json.dumps(GOOD).replace("{}", "[" * 100_000 + "]" * 100_000),
    "100 MB": " " * (100 * 2**20),
    "a large integer": json.dumps({**GOOD, "times": [10**400, 1, 0]}),
    "no numbers": json.dumps({**GOOD, "times": ["80", "1", "x"]}),
    "dicts for numbers": json.dumps({**GOOD, "times": [{"a": 1}, {}]}),
    "NaN": json.dumps({**GOOD, "times": [80.0, float("nan"), 0.0]}),
    "a process that is a list": json.dumps({**GOOD, "process": ["edm"]}),
    "levels that are text": json.dumps({**GOOD, "process": {"name": "vp", "log_noise_levels": "x"}}),
    "a process of code": json.dumps({**GOOD, "process": {"name": "os.system"}}),
    "orders that are text": json.dumps({**GOOD, "orders": ["a", 2]}),
    "an amplitude that is ragged": json.dumps({**GOOD, "amplitude": [[[1, 2]], [[1]]]}),
    "metadata that are none": json.dumps({**GOOD, "metadata": 5}),
    "a list": "[1, 2]",
    "a pickle": pickle.dumps(_Command("touch marker")).decode("latin1"),
}


@pytest.mark.parametrize("variant", SCHEDULES)
def test_a_schedule(trap: Trap, variant: str) -> None:
    path = trap.folder / "schedule_2.json"
    path.write_text(SCHEDULES[variant])
    with pytest.raises(ValueError, match=r"schedule_2\.json is not a schedule of this version"):
        Schedule.load(path)
    assert not (trap.root / "elsewhere" / "marker").exists()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[1" + "0" * 5000 + ", 1]", "[80, {}]", "__import__('os').system('x')"]
)
def test_a_published_schedule(trap: Trap, text: str) -> None:
    with pytest.raises(ValueError, match=r"list|outside|not a number"):
        read_schedule(text, EDM())


PATHS = [
    'a"); import os; os.system("touch marker"); ("',
    "a'); import os; os.system('touch marker'); ('",
    "a\nimport os; os.system('touch marker')\n#",
    "a\rimport os; os.system('touch marker')\r#",
    "a{__import__('os').system('touch marker')}",
    r"C:\Users\new\x41",
    "a\\",
    '"""',
    "\u2028import os",
    "\udc80",
]


def checked_code(text: str, path: Path) -> None:
    """It compiles, calls nothing but what its form says, and names the path as it is."""
    tree = ast.parse(text.encode())
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert set(imported) <= {"optsteps", "numpy", "torch"}
    assert not [
        node for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute)) and "os" in ast.dump(node)[:30]
    ]
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert str(path) in strings


@pytest.mark.parametrize("name", PATHS)
def test_code_that_names_a_file(trap: Trap, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = pytest.importorskip("diffusers")
    metadata = {"solver": ["x"], "note": name}
    schedule = Schedule([999.0, 500.0, 200.0, 12.0, -1.0], VP.scaled_linear(), metadata=metadata)
    # one that takes no times: the code loads the file
    scheduler = diffusers.UniPCMultistepScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    folder = Path(name)
    checked_code(run_snippets({4: schedule}, scheduler, folder), folder / "schedule_4.json")
    path, output = trap.folder / name.replace("/", ""), trap.folder / "snippet.py"
    schedule.save(path)
    scheduler.save_pretrained(trap.folder / "model")
    options = ["--to", "diffusers", "--scheduler", str(trap.folder / "model"), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["optsteps-export", str(path), *options])
    export_command.main()
    checked_code(output.read_text(), path)


# models


def test_weights_with_a_command(trap: Trap) -> None:
    path = pickled(trap)
    with tensors_alone(), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    with tensors_alone():
        torch.save({"x": torch.ones(1)}, trap.folder / "good.pth")
        assert torch.load(trap.folder / "good.pth", weights_only=False)["x"] == 1


def test_weights_of_torch_fidelity(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, exchanged after a look at them, and such as lie where torch-fidelity would download them."""
    from optsteps.metrics.extractors import build_extractor

    path = pickled(trap)
    with pytest.raises(ValueError, match=r"weights file .*weights\.pth is damaged or holds more than tensors"):
        build_extractor("inception-v3-compat", path)
    hub = trap.folder / "hub" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    for url in ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"):
        shutil.copy(path, hub / url)
    monkeypatch.setenv("TORCH_HOME", str(trap.folder / "hub"))
    with pytest.raises(
        ValueError, match=r"the weights file of 'inception-v3-compat' in the torch hub folder is damaged"
    ):
        build_extractor("inception-v3-compat")
    monkeypatch.delenv("TORCH_HOME")


def test_a_pipeline_that_brings_code(trap: Trap) -> None:
    pytest.importorskip("diffusers")
    from optsteps.models.diffusers import load_pipeline

    for name, code in (("unet", "my_unet"), ("scheduler", "os")):
        folder = trap.folder / name
        (folder / name).mkdir(parents=True)
        (folder / name / f"{code}.py").write_text(f"import os; os.system({trap.command!r})")
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", name: [code, "X"]}))
        with pytest.raises(ValueError, match=rf"{code}\.py is code that comes with the weights, and is not run"):
            load_pipeline(str(folder), torch.device("cpu"))
    for index, said in (
        ('{"_class_name": ["pipeline", "X"]}', "not supported"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ("5", "not supported"),
    ):
        (trap.folder / "model_index.json").write_text(index)
        with pytest.raises(ValueError, match=said):
            load_pipeline(str(trap.folder), torch.device("cpu"))
