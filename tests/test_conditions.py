from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from optsteps.conditions import batch_size, concatenate, take

shapes = st.sampled_from([(), (2,), (1, 3)])
structures = st.recursive(
    st.none() | shapes,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.tuples(st.just(()), inner)
    ),
    max_leaves=5,
)


def _is_shape(node: Any) -> bool:
    return node in [(), (2,), (1, 3)] and isinstance(node, tuple)


def _cond(structure: Any, batch: int) -> Any:
    """A tensor [batch, *shape] in place of every shape."""
    return pytree.tree_map(
        lambda shape: None if shape is None else torch.randn(batch, *shape), structure, is_leaf=_is_shape
    )


def _tensors(cond: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(cond) if leaf is not None]


def _same(a: Any, b: Any) -> bool:
    (leaves_a, tree_a), (leaves_b, tree_b) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    equal = (x is y if x is None or y is None else torch.equal(x, y) for x, y in zip(leaves_a, leaves_b, strict=True))
    return tree_a == tree_b and all(equal)


@settings(deadline=None, max_examples=100)
@given(structures, st.integers(1, 4), st.integers(1, 4))
def test_taking_undoes_concatenating(structure: Any, m: int, n: int) -> None:
    first, second = _cond(structure, m), _cond(structure, n)
    both = concatenate([first, second])
    assert _same(take(both, slice(0, m)), first)
    assert _same(take(both, torch.arange(m, m + n)), second)
    assert _same(take(both, slice(m, 99)), second)


@settings(deadline=None, max_examples=100)
@given(structures, st.integers(1, 4))
def test_batch_size(structure: Any, n: int) -> None:
    cond = _cond(structure, n)
    assert batch_size(cond) == (n if _tensors(cond) else None)
    index = torch.tensor([n - 1, 0, 0, n - 1, n - 1])
    chosen = take(cond, index)
    for tensor, part in zip(_tensors(cond), _tensors(chosen), strict=True):
        assert torch.equal(part, torch.stack([tensor[i] for i in index]))


def test_batch_sizes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"different batch sizes: \[2, 3\]"):
        batch_size({"a": torch.zeros(3), "b": [torch.zeros(2, 5), None]})


@pytest.mark.parametrize("cond", ["a prompt", 3, {"text": "a prompt"}])
def test_unsupported_conditions_are_named(cond: Any) -> None:
    for function in (batch_size, lambda c: take(c, slice(1)), lambda c: concatenate([c, c])):
        with pytest.raises(TypeError, match=r"cond must be None, a tensor.*got (str|int)"):
            function(cond)
