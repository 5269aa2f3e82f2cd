import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from optsteps.noise import sample_generator, unit_noise

indices = st.lists(st.integers(0, 2**31), min_size=1, max_size=6)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), indices, indices)
def test_a_sample_depends_on_seed_and_number_alone(seed: int, before: list[int], after: list[int]) -> None:
    number = 17
    alone = unit_noise(seed, [number], (2, 3))[0]
    torch.manual_seed(len(before))  # the global generator plays no part
    batch = unit_noise(seed, torch.tensor([*before, number, *after]), (2, 3))
    assert torch.equal(batch[len(before)], alone)
    assert torch.equal(torch.randn(2, 3, generator=sample_generator(seed, number)), alone)


def test_samples_and_seeds_are_distinct() -> None:
    # (seed, number) and (number, seed) too
    samples = torch.cat([unit_noise(seed, range(64), (4,)) for seed in range(64)])
    assert len(samples.unique(dim=0)) == 64 * 64


def test_shape_and_type() -> None:
    noise = unit_noise(3, range(5), (1, 4, 4))
    assert (noise.shape, noise.dtype) == ((5, 1, 4, 4), torch.float32)


@pytest.mark.parametrize("axis", ["within a sample", "across samples", "across seeds"])
def test_noise_is_standard_normal(axis: str) -> None:
    if axis == "within a sample":
        noise = unit_noise(0, [0], (4000,)).flatten()
    elif axis == "across samples":
        noise = unit_noise(0, range(4000), (1,)).flatten()
    else:
        noise = torch.cat([unit_noise(seed, [0], (1,)) for seed in range(4000)]).flatten()
    assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01
    assert abs(torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1].item()) < 4 / 4000**0.5
