"""Names that would mix a rival up with something else, refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_run import TINY, TINY_PLANE, start

from optsteps.cli.rival_names import check_rival_names

# as Hydra has them for the defaults, with oss as the main method
CHOICES = {"method": "oss", "method@rivals.edm": "edm", "method@rivals.oss": "oss", "method@rivals.ays_last": "ays"}


PATHS = ["../../../escape", "/etc/x", "a/b", "a\\b", "..", ".hidden", ""]
MARKUP = ["a|b", "a\nb", "<b>", "[bold]", "=cmd", "a" * 101]


@pytest.mark.parametrize("name", [*PATHS, *MARKUP])
def test_names_that_could_be_paths_or_markup(name: str) -> None:
    with pytest.raises(ValueError, match="rival's name stands in tables and names files"):
        check_rival_names({name: {}}, "oss", CHOICES, [])


@pytest.mark.parametrize("name", ["teacher", "own", "oss_per_sample", "oss_without_orders"])
def test_names_of_rows_that_a_comparison_has_itself(name: str) -> None:
    with pytest.raises(ValueError, match=f"rivals.{name}: the comparison has a row '{name}' of its own"):
        check_rival_names({name: {}}, "oss", CHOICES, [])


@pytest.mark.parametrize(
    ("choices", "overrides"),
    [
        ({}, ["+rivals.oss={_target_:optsteps.methods.OSS}"]),
        ({"method@rivals.oss": "oss_published"}, ["+method@rivals.oss=oss_published"]),
        ({"method@rivals.oss": "oss"}, ["+method@rivals.oss=oss", "rivals.oss.average=median"]),
        ({"method@rivals.oss": "oss"}, ["++rivals.oss.average=median"]),
    ],
)
def test_another_method_under_the_main_one_s_name(choices: dict[str, str], overrides: list[str]) -> None:
    with pytest.raises(ValueError, match=r"would vanish behind it; give it another name, e.g. \+method@rivals.oss_2"):
        check_rival_names({"oss": {}}, "oss", choices, overrides)


def test_the_row_of_a_rival_without_its_orders() -> None:
    with pytest.raises(ValueError, match=r"rivals\.ays_without_orders: the comparison has a row"):
        check_rival_names({"ays": {}, "ays_without_orders": {}}, "oss", CHOICES, [])


def test_names_that_are_right() -> None:
    rivals = dict.fromkeys(["edm", "ays_last", "OSS 2", "karras-1.5", "größer", "2m+", "oss"])
    check_rival_names(rivals, "oss", CHOICES, ["method=oss", "rivals.ays_last.choose=last"])
    check_rival_names(rivals, "ays", CHOICES, ["rivals.oss.average=median"])


def test_a_method_that_is_called_like_the_reference() -> None:
    with pytest.raises(ValueError, match="method=teacher: the comparison has a row 'teacher' of its own"):
        check_rival_names({}, "teacher", {}, [])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+method@rivals.teacher=edm", "rivals.teacher: the comparison has a row"),
        ("method@rivals.oss=oss_median", "rivals.oss: this is the name of the main method"),
        ("+rivals={../../../escape:{_target_:optsteps.methods.HandMade,family:edm}}", "names files"),
    ],
)
def test_refused_at_the_door(
    override: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, tmp_path / "run", *TINY, *TINY_PLANE, "method=oss", override)
    assert stopped.value.code == 1
    assert said in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".log"]
