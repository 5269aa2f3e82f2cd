"""Files that anybody may have written: limits of size and depth, and no way out of their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from optsteps.storage.documents import read_bytes, read_json, read_text, read_yaml


def write(folder: Path, text: str | bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ("{", "is not JSON"),
        ("", "is not JSON"),
        (b"\xff\xfe{}", "no text in UTF-8"),
        ("9" * 5000, "is not JSON"),
        (" " * (16 * 2**20 + 1), "more than 16 MiB"),
    ],
)
def test_json(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"file.*{said}"):
        read_json(write(tmp_path, text))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "line 2: aliases"),
        ("a: &a [*a]", "aliases"),
        ("[" * 100_000, "nested too deeply|not YAML"),
        ("\n".join("  " * k + f"k{k}:" for k in range(200)), "nested too deeply"),
        ("!!python/object/apply:os.system [ls]", "not YAML that can be read"),
        ("!!python/name:os.system", "not YAML that can be read"),
        ("!!binary aGk=", "not YAML that can be read"),
        ("!!set {a, b}", "not YAML that can be read"),
        ("hidden: 'of the file", "line 1 is not YAML"),
        ("x" * (2**20 + 1), "more than 1 MiB"),
    ],
)
def test_yaml(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said) as error:
        read_yaml(write(tmp_path, text))
    assert "file" in str(error.value)
    assert "hidden" not in str(error.value).replace(str(tmp_path), "")


def test_yaml_of_runs_reads_as_omegaconf_wrote_it(tmp_path: Path) -> None:
    config = {
        "a": [1, 2.5, None, True, "1e-3", "yes", "null", "2024-01-01", "${x}"],
        "b": {"c": 1e-05, "d": float("inf")},
    }
    path = write(tmp_path, OmegaConf.to_yaml(OmegaConf.create(config)))
    assert read_yaml(path) == config
    assert read_yaml(write(tmp_path, "day: 2024-01-01\n<<: 3\n")) == {"day": "2024-01-01", "<<": 3}
    assert yaml.safe_load("day: 2024-01-01")["day"] != "2024-01-01"  # the loaders of others are as they were


def test_a_folder_s_files_are_its_own(tmp_path: Path) -> None:
    secret, folder = write(tmp_path, "secret", "secret"), tmp_path / "run"
    folder.mkdir()
    inside = write(folder, "inside", "inside")
    (folder / "link").symlink_to(secret)
    (folder / "good").symlink_to(inside)
    (folder / "round").symlink_to(folder / "round")
    (folder / "null").symlink_to("/dev/null")
    os.mkfifo(folder / "pipe")
    assert read_text(folder / "good", folder) == "inside"
    assert read_bytes(folder / "link") == b"secret"  # a file that the user names may be a link
    for name, said in (("link", "a link to something outside"), ("null", "a link to"), ("pipe", "a pipe or a device")):
        with pytest.raises(ValueError, match=rf"{name}.*{said}"):
            read_bytes(folder / name, folder)
    for name in ("round", "missing", "."):
        with pytest.raises((ValueError, OSError), match=name if name != "." else "run"):
            read_bytes(folder / name, folder)
