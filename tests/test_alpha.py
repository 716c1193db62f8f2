"""Opacity: kept to the bit, sampled anywhere, and colours that nobody sees."""

import numpy as np
import pytest
from numpy.typing import NDArray

from inrcodec.alpha import alpha_at, pack_alpha, sample_alpha, spread_colours, unpack_alpha
from inrcodec.errors import SinrError
from inrcodec.render import View

ALPHA = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)


@pytest.mark.parametrize("alpha", [ALPHA, ALPHA[:1, :1], ALPHA.astype(np.uint16) * 257 + 3], ids=["8", "1x1", "16"])
def test_unpacking_inverts_packing(alpha: NDArray[np.uint8]) -> None:
    height, width = alpha.shape
    found = unpack_alpha(pack_alpha(alpha), height, width, 8 * alpha.dtype.itemsize)
    assert found.dtype == alpha.dtype and np.array_equal(found, alpha)


def test_what_is_packed_are_values_or_differences_whichever_is_shorter() -> None:
    ramp = np.arange(40, dtype=np.uint8) * 3
    across, down = np.tile(ramp, (30, 1)), np.tile(ramp[:, None], (1, 30))
    spots = np.where(ALPHA > 200, 255, 0).astype(np.uint8)
    assert [pack_alpha(alpha)[0] for alpha in (spots, across, down)] == [0, 1, 2]
    assert pack_alpha(across)[1:41] == bytes([0, *[3] * 39]) and pack_alpha(down)[1:61] == bytes([*[0] * 30, *[3] * 30])
    assert pack_alpha(np.array([[258]], np.uint16)) == b"\0\x02\x01"  # little-endian
    for alpha in (spots, across, down, across - down[:30, :1]):
        assert np.array_equal(unpack_alpha(pack_alpha(alpha), alpha.shape[0], alpha.shape[1], 8), alpha)
    with pytest.raises(SinrError, match="expected 7 bytes, found 6"):
        unpack_alpha(bytes(6), 2, 3, 8)
    with pytest.raises(SinrError, match="difference of 0..2, found 3"):
        unpack_alpha(b"\3" + bytes(6), 2, 3, 8)


def test_samples_at_pixels_are_the_pixels_and_coarser_ones_their_means() -> None:
    assert np.array_equal(sample_alpha(ALPHA, View(6, 8, 0, 0, 6, 8)), ALPHA)
    assert np.array_equal(sample_alpha(ALPHA, View(2, 3, 3, 4, 2, 3)), ALPHA[3:5, 4:7])
    coarse = sample_alpha(ALPHA, View(3, 4, 0, 0, 6, 8))
    assert np.abs(coarse - ALPHA.reshape(3, 2, 4, 2).mean((1, 3))).max() <= 0.5


def test_finer_samples_and_single_positions_agree() -> None:
    fine = sample_alpha(ALPHA, View(24, 32, 0, 0, 6, 8))
    x, y = np.meshgrid((np.arange(32) + 0.5) / 4, (np.arange(24) + 0.5) / 4)
    points = np.stack([x.ravel(), y.ravel()], 1)
    assert np.abs(alpha_at(ALPHA, points).reshape(24, 32) * 255 - fine).max() <= 0.51


def test_unseen_colours_go_on_smoothly_and_seen_ones_stay() -> None:
    y, x = np.mgrid[0:20, 0:33]
    ramp = np.stack([4 * x, 3 * y + 60, 200 - 2 * x], -1).astype(np.uint8)
    seen = (x - 16) ** 2 + (y - 9) ** 2 > 30
    noisy = np.where(seen[..., None], ramp, np.random.default_rng(1).integers(0, 256, ramp.shape)).astype(np.uint8)
    filled = spread_colours(noisy, seen)
    assert np.array_equal(filled[seen], ramp[seen])
    assert np.abs(filled.astype(int) - ramp).max() < 16
    assert np.array_equal(spread_colours(noisy, np.ones_like(seen)), noisy)
    assert np.ptp(spread_colours(noisy, np.zeros_like(seen))) == 0
