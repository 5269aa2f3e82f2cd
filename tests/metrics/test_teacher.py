import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optsteps.metrics import mse, psnr


@given(st.integers(1, 4), st.lists(st.integers(1, 3), max_size=3), st.integers(0, 2**16))
def test_mse_is_numpys_for_every_shape(batch: int, shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, batch, *shape))
    expected = [np.mean((x[k] - y[k]) ** 2) for k in range(batch)]
    np.testing.assert_allclose(mse(torch.from_numpy(x), torch.from_numpy(y)), expected, rtol=1e-12)


def test_bytes_do_not_wrap_around() -> None:
    x, y = torch.tensor([[0], [255]], dtype=torch.uint8), torch.tensor([[255], [0]], dtype=torch.uint8)
    assert mse(x, y).tolist() == [255.0**2, 255.0**2]


def test_psnr_of_known_errors() -> None:
    # an error of a tenth of the range is 20 dB, of the whole range 0 dB, of none infinitely many
    reference = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    x = reference + torch.tensor([0.2, 2.0, 0.0], dtype=torch.float64)[:, None, None, None]
    assert psnr(x, reference, data_range=2.0).tolist() == pytest.approx([20.0, 0.0, math.inf])


def test_psnr_does_not_depend_on_the_unit() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 5, 3, 4, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(psnr(x, y, 1.0), psnr(255 * x, 255 * y, 255.0))


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.inf, math.nan])
def test_psnr_refuses_a_range_that_is_not_positive(data_range: float) -> None:
    with pytest.raises(ValueError, match="data_range"):
        psnr(torch.zeros(1, 2), torch.ones(1, 2), data_range)


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(1, 3\)"):
        mse(torch.zeros(4, 3), torch.zeros(1, 3))
    for empty in (torch.zeros(()), torch.zeros(0, 3), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match="batch"):
            mse(empty, empty)
