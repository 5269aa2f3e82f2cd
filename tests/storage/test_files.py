"""Names of files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from optsteps.cli.common import CONFIG_DIR
from optsteps.storage.files import file_name, write_atomically


@pytest.mark.parametrize("name", ["oss_pooled", "edm", "pixel_geneval_color_attr", "AYS-2,order=2", "v1.5", "schnell"])
def test_plain_names_stay(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["../../../escape", "/abs/path", "..", ".", "", ".hidden", "a/b", "a\\b", "C:x", "nul", "COM1.txt", "a\0b", "a\nb",
     "x" * 5000, "end.", "-rf", "~", "$HOME", "-\ud800", "\u4e2d\u6587", "a@b"],
)  # fmt: skip
def test_any_name_is_a_file_of_its_folder(name: str, tmp_path: Path) -> None:
    write_atomically(tmp_path / f"{file_name(name)}.tex", b"x")
    (file,) = tmp_path.rglob("*")
    assert file.parent == tmp_path
    assert file.name.startswith(file_name(name))
    assert not file.name.startswith(".")
    assert "@" in file.name


@given(st.text(), st.text())
def test_different_names_are_different_files(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)
    assert len(file_name(one)) <= 100


@pytest.mark.parametrize("file", ["config", "train"])
def test_a_model_of_any_name_has_its_runs_where_all_have_them(file: str) -> None:
    config = OmegaConf.load(CONFIG_DIR / f"{file}.yaml")
    config.model = config.training = {"name": "../../x, y"}
    folder = re.sub(
        r"\$\{(hydra|now|paths)[:.][^}]*\}", "outputs", OmegaConf.to_container(config)["hydra"]["run"]["dir"]
    )
    config.folder = folder
    assert ".." not in config.folder
    assert "@" in config.folder
