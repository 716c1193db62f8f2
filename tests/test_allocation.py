"""Which lambda a picture gets."""

import numpy as np
import pytest
from numpy.typing import NDArray

from inrcodec.allocation import allocated_index, expected_error, typical_error
from inrcodec.options import MAX_QUALITY_INDEX, lagrangian

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (53, 37, 3), np.uint8)
RAMP = np.add.outer(np.arange(53.0), np.arange(37.0))[..., None].repeat(3, 2).astype(np.float32)


def waves(amplitude: float) -> NDArray[np.float32]:
    """One coefficient of every 16x16 block of green minus the others, of a given size, and a mean."""
    x = np.cos(np.pi * (np.arange(48) % 16 + 0.5) * 5 / 16) * np.sqrt(2 / 16)
    coloured: NDArray[np.float64] = np.outer(np.ones(32), x)[..., None] * np.array([-1, 2, -1]) / np.sqrt(6)
    return (100 + amplitude / 4 * coloured).astype(np.float32)


def test_the_expected_error_is_that_of_reverse_water_filling() -> None:
    for amplitude in (3.0, 30.0):
        total = 100.0 + min(amplitude**2, 100.0)  # of a block: its mean and one more
        total += 2 * 100.0  # the means of the other colours
        assert expected_error(waves(amplitude), 100.0) == pytest.approx(total / 256, rel=1e-5)
    assert expected_error(NOISE[:48, :32], 1.0) == pytest.approx(3.0, rel=0.02)  # nearly every coefficient is above
    variance = NOISE.astype(float).var((0, 1)).sum()
    assert expected_error(NOISE[:48, :32], 1e9) > variance  # no more than all there is, but for the means
    assert expected_error((NOISE[:48, :32] / 256).astype(np.float32), 1e3) < 12.0 + 1.1 * variance / 256**2


def test_noise_is_coded_coarser_than_a_ramp_and_the_best_is_the_best_for_all() -> None:
    for index in (20, 130, 200):
        assert allocated_index(NOISE, index, None) < index < allocated_index(RAMP, index, None)
    for picture in (NOISE, RAMP, NOISE[:1, :1]):
        assert allocated_index(picture, MAX_QUALITY_INDEX, None) == MAX_QUALITY_INDEX
    assert allocated_index(NOISE, 0, None) == 0


@pytest.mark.parametrize("scale", [0.0, 0.01, 0.1, 1.0])
def test_a_higher_quality_is_never_coded_coarser(scale: float) -> None:
    mixed = np.concatenate([RAMP, 128 + scale * (NOISE - 128.0)], axis=1).astype(np.float32)
    found = [allocated_index(mixed, index, None) for index in range(MAX_QUALITY_INDEX + 1)]
    assert all(0 <= a <= b <= MAX_QUALITY_INDEX for a, b in zip(found, found[1:], strict=False))


def test_a_picture_as_typical_as_can_be_is_left_alone() -> None:
    index = 140
    scales = np.geomspace(1e-3, 1, 60)
    errors = [expected_error((128 + scale * (NOISE - 128.0)).astype(np.float32), lagrangian(index)) for scale in scales]
    scale = np.interp(typical_error(lagrangian(index)), errors, scales)
    assert abs(allocated_index((128 + scale * (NOISE - 128.0)).astype(np.float32), index, None) - index) <= 1


def test_what_is_not_seen_does_not_count() -> None:
    both = np.concatenate([NOISE[:48], np.full((48, 37, 3), 7, np.uint8)])
    seen = np.zeros(both.shape[:2], bool)
    assert allocated_index(both, 100, seen) == 100
    seen[50, 3] = True
    assert expected_error(both, 50.0, seen) == expected_error(both[48:64, :16], 50.0)
    assert allocated_index(both[:, :16], 100, ~seen[:, :16]) == allocated_index(both[:, :16], 100, None)
