"""What a user's function is given, by what it says that it takes."""

from __future__ import annotations

import functools

import pytest

from optsteps.signatures import accepted

ARGUMENTS = {"name": "mine", "process": None, "size": 3}


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda size: None, ["size"]),
        (lambda size, name: None, ["name", "size"]),
        (lambda **more: None, ["name", "process", "size"]),
        # what is not optional is handed over, and so refused
        (lambda process: None, ["process", "size"]),
        # it does not say
        (type("Silent", (), {"__signature__": "none", "__call__": lambda self: None})(), ["name", "process", "size"]),
    ],
)
def test_optional_arguments_are_left_out_where_a_function_does_not_take_them(function, names: list[str]) -> None:
    assert list(accepted(function, ARGUMENTS, ("name", "process"))) == names


def test_a_decorated_function_takes_what_its_wrapper_takes_or_hands_on() -> None:
    def build(process: int) -> int:
        return process

    @functools.wraps(build)
    def strict(process: int, device: str) -> int:
        return build(process)

    @functools.wraps(build)
    def handing_on(*arguments: int, **keywords: int) -> int:
        return build(*arguments, **keywords)

    arguments, optional = {"name": "n", "process": 1, "device": "cpu"}, ("name", "process", "device")
    assert accepted(strict, arguments, optional) == {"process": 1, "device": "cpu"}
    for function in (handing_on, functools.partial(handing_on)):
        assert accepted(function, arguments, optional) == {"process": 1}
    assert accepted(functools.partial(handing_on, 3), arguments, optional) == {}
