"""`--help` describes every choice of every group, the versions are told, and TAB completes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import optsteps
from optsteps.cli import export, report, run, train
from optsteps.cli.choices import choices, description
from optsteps.cli.common import CONFIG_DIR
from optsteps.deprecation import CHOICES

GROUPS = sorted(folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir() and folder.name != "hydra")
FILES = sorted(file for group in GROUPS for file in (CONFIG_DIR / group).glob("*.yaml"))


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: object, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["optsteps", *arguments])
    with suppress(SystemExit):
        command.main()  # type: ignore[attr-defined]
    return capsys.readouterr().out


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_choice_is_described_in_a_sentence(file: Path) -> None:
    sentence = description(file)
    assert 5 <= len(sentence) <= 100
    assert sentence[-1] in ".?"
    assert not re.search(r"[a-z][.?] [A-Z]", sentence)


def test_what_is_no_description(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text, expected in {
        "": "",
        "path: 3\n# of the file\n": "",
        "# @package _global_\npath: 3\n": "",
        "# @package _global_\n# My own.\n# more\n": "My own.",
        "#My own.\npath: 3\n": "My own.",
    }.items():
        file.write_text(text)
        assert description(file) == expected


def test_the_first_folder_counts(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder / "model").mkdir(parents=True)
        (tmp_path / folder / "model" / "both.yaml").write_text(f"# The {folder}.\n")
    (tmp_path / "second" / "model" / "other.yaml").write_text("a: 1\n")
    expected = {"both": "The first.", "other": ""}
    assert choices("model", [tmp_path / "first", tmp_path / "second"]) == expected


@pytest.mark.parametrize(
    ("command", "groups"), [(run, set(GROUPS) - {"training", "pool"}), (train, {"dataset", "training", "logger"})]
)
def test_help(
    command: object, groups: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(monkeypatch, capsys, command, "--help")
    for group in groups:
        (part,) = re.findall(rf"^  {group}\b.*\n((?:(?:    |  \* ).*\n)+)", text, re.MULTILINE)
        for name, sentence in choices(group, [CONFIG_DIR]).items():
            assert re.search(rf"^  [ *] {name} +{re.escape(sentence)}$", part, re.MULTILINE), name
        for old in CHOICES:
            assert old.partition("=")[2] not in part.split()
    examples = re.findall(r"^  (optsteps.*)$", text.partition("Examples\n")[2].partition("\nOptions")[0], re.MULTILINE)
    assert len(examples) == 5
    assert "-sc install=zsh" in text
    assert "powered by Hydra" not in text


def test_help_shows_own_choices_and_what_is_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "mine.yaml").write_text("# Costs $5.\n_target_: mine.Solver\n")
    text = said(monkeypatch, capsys, run, f"--config-dir={tmp_path}", "solver=mine", "--help")
    assert re.search(r"^  \* mine +Costs \$5\.$", text, re.MULTILINE)
    assert re.search(r"^    euler +Euler's", text, re.MULTILINE)


@pytest.mark.parametrize("command", [run, train, report, export])
def test_version(command: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = said(monkeypatch, capsys, command, "--version").split()
    assert words[:2] == ["optsteps", optsteps.__version__]
    assert words[2::2] == ["torch", "Python"]
    assert words[5] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("model=mi", {"model=mixture"}),
        ("solver=dpmpp_2", {"solver=dpmpp_2m", "solver=dpmpp_2s"}),
        ("teacher.st", {"teacher.steps="}),
    ],
)
def test_tab(line: str, expected: set[str]) -> None:
    typed = f"optsteps {line}"
    environment = {
        **os.environ,
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)),
        "PYTHONPATH": str(Path(optsteps.__file__).parents[1]),
    }
    query = [sys.executable, "-m", "optsteps.cli.run", "-sc", "query=bash"]
    done = subprocess.run(query, env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "optsteps" in said(monkeypatch, capsys, run, "-sc", f"install={shell}")
