"""Sums over images: the order in which they come cannot matter."""

from __future__ import annotations

import math

import pytest

from tcc_fast.datasets.encode import Stored
from tcc_fast.datasets.totals import Totals

BLACK = Stored(b"ab", "png", 2, 1, (0, 0, 0), (0, 0, 0), encoded=False, source_bytes=9)
WHITE = Stored(b"abc", "jpg", 2, 1, (510, 510, 510), (130_050,) * 3, encoded=True, squared_error=24, source_bytes=1)
RED = Stored(b"abcd", "jpg", 1, 4, (1020, 0, 0), (260_100, 0, 0), encoded=True, squared_error=12)


def total(*images: Stored) -> Totals:
    totals = Totals()
    for image in images:
        totals.add(image)
    return totals


def test_sums() -> None:
    totals = total(BLACK, WHITE, RED)
    assert (totals.source_bytes, totals.stored_bytes, totals.num_encoded) == (10, 9, 2)
    assert totals.mean == (6 / 8, 2 / 8, 2 / 8)
    assert totals.std == pytest.approx((math.sqrt(3 / 16),) * 3, rel=1e-15)
    assert totals.psnr == pytest.approx(10 * math.log10(255**2 / (36 / 18)), rel=1e-15)
    assert totals.uniform_size is None
    assert vars(total(RED, BLACK, WHITE)) == vars(totals)


def test_copies_are_counted_from_the_second_on() -> None:
    assert total(BLACK, RED, BLACK, BLACK, WHITE, RED).num_copies == 3
    assert total(BLACK, RED, WHITE).num_copies == 0


def test_of_one_kind() -> None:
    totals = total(BLACK, BLACK)
    assert (totals.uniform_size, totals.psnr) == ((1, 2), None)
