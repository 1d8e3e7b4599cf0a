"""Random numbers as hashes of their coordinates: uniform, independent, and the same however they are asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from tcc_fast.draws import STREAM_AUGMENT, STREAM_GUMBEL, STREAM_ORDER, gumbel, keys, permutation, scalar_key, uniform

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


def test_known_answers_of_splitmix64():
    """The published output of SplitMix64 for the seeds 0 and 1234567."""
    assert scalar_key(0) == signed(0xE220A8397B1DCDAF)
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert keys(1234567, torch.arange(5)).tolist() == [signed(x) for x in expected]


def test_keys_agree_with_scalar_key():
    values = torch.tensor([0, 1, 2, 17, 2**31, 2**40 + 3, 2**62])
    for coordinates in [(), (0,), (3, 1), (3, 2**31 - 1, 10**6, 3)]:
        vector = keys(scalar_key(*coordinates), values).tolist()
        assert vector == [scalar_key(*coordinates, value) for value in values.tolist()]


def test_keys_keep_the_shape_and_do_not_depend_on_company():
    values = torch.arange(12)
    together = keys(scalar_key(5), values)
    assert torch.equal(keys(scalar_key(5), values.view(3, 4)), together.view(3, 4))
    assert torch.equal(keys(scalar_key(5), values.flip(0)), together.flip(0))
    assert torch.equal(uniform(together, 3)[7], uniform(together[7], 3))


def test_neighbouring_coordinates_have_distinct_keys():
    found = {scalar_key(a, b, c, d) for a in range(6) for b in range(6) for c in range(6) for d in range(6)}
    assert len(found) == 6**4
    assert len({scalar_key(1, 2), scalar_key(2, 1), scalar_key(1), scalar_key(1, 0), scalar_key()}) == 5


def hashed(shape: tuple[int, int, int, int]) -> np.ndarray:
    """Uniform numbers by (seed, step, image, slot)."""
    seeds, steps, images, slots = shape
    rows = [
        [uniform(keys(scalar_key(2, seed, step), torch.arange(images)), slots) for step in range(steps)]
        for seed in range(seeds)
    ]
    return torch.stack([torch.stack(row) for row in rows]).double().numpy()


def test_uniform_is_uniform():
    """Kolmogorov-Smirnov and a chi-square over 256 bins, on 160 000 numbers; a bias of 1 % in a half is 4 σ."""
    sample = hashed((4, 5, 1000, 8)).ravel()
    assert stats.kstest(sample, "uniform").pvalue > 1e-3
    counts = np.bincount((sample * 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert sample.mean() == pytest.approx(0.5, abs=4.5 / math.sqrt(12 * sample.size))


def test_low_bits_are_uniform_too():
    sample = hashed((2, 2, 5000, 4)).ravel() * 2**24
    np.testing.assert_array_equal(sample, np.round(sample))  # a grid of 2^-24
    counts = np.bincount(sample.astype(np.int64) % 64, minlength=64)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("axis", [0, 1, 2, 3], ids=["seed", "step", "image", "slot"])
def test_neighbours_along_every_coordinate_are_independent(axis):
    """Neighbours, and neighbours of neighbours: joint counts on an 8 x 8 grid, which sees more than correlation."""
    sample = hashed((6, 6, 400, 6))
    for lag in (1, 2):
        first = np.take(sample, range(sample.shape[axis] - lag), axis=axis).ravel()
        second = np.take(sample, range(lag, sample.shape[axis]), axis=axis).ravel()
        cells = (first * 8).astype(int) * 8 + (second * 8).astype(int)
        assert stats.chisquare(np.bincount(cells, minlength=64)).pvalue > 1e-4
        assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / math.sqrt(len(first))


def test_gumbel_moments_and_shape():
    """Mean is Euler's constant, variance π²/6; the whole distribution by Kolmogorov-Smirnov."""
    sample = gumbel(keys(scalar_key(3, 0), torch.arange(40_000)), 5).double().numpy().ravel()
    assert sample.mean() == pytest.approx(np.euler_gamma, abs=4.5 * math.pi / 6**0.5 / math.sqrt(sample.size))
    assert sample.std() == pytest.approx(math.pi / 6**0.5, rel=0.01)
    assert stats.kstest(sample, "gumbel_r").pvalue > 1e-3


def unmix(x: int) -> int:
    """The inverse of SplitMix64's finaliser, to build a key whose bits are known."""

    def unshift(y: int, bits: int) -> int:
        out = y
        for _ in range(64 // bits):
            out = y ^ (out >> bits)
        return out

    x = unshift(x, 31) * pow(MIX_2, -1, 1 << 64) & MASK
    x = unshift(x, 27) * pow(MIX_1, -1, 1 << 64) & MASK
    return unshift(x, 30)


@pytest.mark.parametrize(
    ("bits", "lowest", "highest"), [(0, 0.0, 0.0), (MASK, 1 - 2**-24, 1 - 2**-24)], ids=["all zero", "all one"]
)
def test_extreme_bits_stay_in_range(bits, lowest, highest):
    """The two hashes that could give log 0: uniform stays in [0, 1), Gumbel stays finite."""
    key = torch.tensor([signed((unmix(bits) - GOLDEN) & MASK)])
    assert lowest <= uniform(key, 1).item() <= highest
    noise = gumbel(key, 1)
    assert torch.isfinite(noise).all()
    assert 2.5 < noise.abs().item() < 17


def test_types():
    key = keys(scalar_key(1), torch.arange(4))
    assert key.dtype == torch.int64
    assert uniform(key, 3).shape == gumbel(key, 3).shape == (4, 3)
    assert uniform(key, 3).dtype == gumbel(key, 3).dtype == torch.float32


def test_uniform_and_gumbel_do_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    key = keys(scalar_key(1), torch.arange(4))
    uniform(key, 2), gumbel(key, 2), permutation(10, 1, 2)
    assert torch.equal(torch.rand(3), expected)


def test_permutation():
    assert permutation(100, 0, 3).sort().values.tolist() == list(range(100))
    assert torch.equal(permutation(100, 0, 3), permutation(100, 0, 3))
    for other in [(0, 4), (1, 3), (3, 0)]:
        assert not torch.equal(permutation(100, 0, 3), permutation(100, *other))
    # Over 2 000 epochs every image comes to every place about equally often.
    table = np.zeros((6, 6))
    for epoch in range(2000):
        table[np.arange(6), permutation(6, 0, epoch).numpy()] += 1
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


def test_every_seed_and_epoch_has_an_order_of_its_own():
    """All bits of the key count: of 16 bits, some sixty of these would have the order of another."""
    orders = {tuple(permutation(20, seed, epoch).tolist()) for seed in range(60) for epoch in range(50)}
    assert len(orders) == 3000


def test_what_is_drawn_for_one_purpose_is_not_drawn_for_another():
    assert len({STREAM_ORDER, STREAM_AUGMENT, STREAM_GUMBEL}) == 3
