"""Philox in tensors has the words of NumPy's."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from optsteps.solvers.philox import philox

words = st.integers(0, 2**64 - 1)


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def by_numpy(counter: list[int], key: list[int]) -> list[int]:
    """NumPy's stream moves its counter on before it answers."""
    before = (sum(word << 64 * k for k, word in enumerate(counter)) - 1) % 2**256
    stream = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=before)
    return [signed(int(word)) for word in stream.random_raw(4)]


@given(st.lists(words, min_size=4, max_size=4), st.lists(words, min_size=2, max_size=2))
def test_any_counter_and_key(counter: list[int], key: list[int]) -> None:
    answer = philox([torch.tensor(signed(word)) for word in counter], key)
    assert [int(word) for word in answer] == by_numpy(counter, key)


def test_counters_broadcast() -> None:
    rows, columns, zero = torch.arange(3)[:, None], torch.arange(5), torch.tensor(0)
    together = philox((columns, rows, zero, zero), (7, 8))
    assert together[0].shape == (3, 5)
    assert [int(word[2, 4]) for word in together] == by_numpy([4, 2, 0, 0], [7, 8])
