"""Metrics against closed forms, plain loops and hand-worked numbers."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inrcodec.errors import ImageError, OptionError
from inrcodec.metrics import bd_rate, bits_per_pixel, difference, ms_ssim, psnr, ssim

RNG = np.random.default_rng(0)
A = RNG.integers(0, 256, (14, 18, 3), dtype=np.uint8)
B = np.clip(A + RNG.normal(0, 20, A.shape), 0, 255).astype(np.uint8)

Metric = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]

CURVE = [(0.1, 27.0), (0.2, 29.5), (0.4, 32.0), (0.9, 35.5)]
OTHER = [(0.09, 27.4), (0.19, 30.1), (0.35, 32.3), (0.8, 36.1), (1.5, 39.0)]


def test_psnr_of_a_known_error() -> None:
    assert psnr(A, A) == math.inf
    dark = np.zeros((6, 8, 3), np.uint8)
    assert psnr(dark, dark + 255) == pytest.approx(0)
    assert psnr(dark, dark + 1) == pytest.approx(48.1308, abs=1e-4)  # 20 log10(255)
    one_sample = dark.copy()
    one_sample[2, 3, 1] = 12  # mean squared error 144 / 144 = 1
    assert psnr(one_sample, dark) == psnr(dark, one_sample) == pytest.approx(48.1308, abs=1e-4)


def plain_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Equation 13 of Wang et al. 2004, window by window."""
    x, y = (image @ np.array([0.299, 0.587, 0.114]) for image in (a, b))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            u, v = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mu, mv = (window * u).sum(), (window * v).sum()
            uu, vv = (window * (u - mu) ** 2).sum(), (window * (v - mv) ** 2).sum()
            uv = (window * (u - mu) * (v - mv)).sum()
            values.append((2 * mu * mv + c1) * (2 * uv + c2) / ((mu**2 + mv**2 + c1) * (uu + vv + c2)))
    return float(np.mean(values))


def test_ssim_equals_its_definition() -> None:
    assert ssim(A, B) == pytest.approx(plain_ssim(A, B), rel=1e-12)
    assert ssim(A, B) == ssim(B, A)
    assert ssim(A, A) == pytest.approx(1)


def test_ssim_of_flat_pictures_is_that_of_their_means() -> None:
    low, high = np.full((12, 20, 3), 100, np.uint8), np.full((12, 20, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(low, high) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 30, 3), (6, 8, 3), (10, 11, 3)])
def test_ssim_shrinks_its_window_to_small_pictures(shape: tuple[int, int, int]) -> None:
    picture = RNG.integers(0, 256, shape, dtype=np.uint8)
    assert ssim(picture, picture) == pytest.approx(1)
    assert -1 <= ssim(picture, 255 - picture) < 1


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_pictures_of_different_sizes_are_not_compared(metric: Metric) -> None:
    with pytest.raises(ImageError, match="18x14 and 18x13"):
        metric(A, A[1:])


def test_bits_per_pixel_counts_the_bytes_of_the_file() -> None:
    assert bits_per_pixel(96, 8, 12) == 8


def scaled(curve: list[tuple[float, float]], rate: float) -> list[tuple[float, float]]:
    return [(bpp * rate, db) for bpp, db in curve]


@pytest.mark.parametrize(("rate", "percent"), [(0.5, -50), (1, 0), (1.25, 25), (2, 100)])
def test_scaled_rates_are_worth_their_scale(rate: float, percent: float) -> None:
    assert bd_rate(CURVE, scaled(CURVE, rate)) == pytest.approx(percent, abs=1e-9)


def test_curves_whose_log_rates_are_lines() -> None:
    # ln(rate) is PSNR / 10 for one and PSNR / 10 + (PSNR - 30) / 100 for the other. Both are there for
    # 30..40 dB, where the difference grows from 0 to 0.1: 0.05 in the mean.
    anchor = [(math.exp(db / 10), db) for db in (26.0, 30.0, 33.0, 40.0)]
    test = [(math.exp(db / 10 + (db - 30) / 100), db) for db in (30.0, 36.0, 44.0)]
    assert bd_rate(anchor, test) == pytest.approx(100 * (math.exp(0.05) - 1))


def test_a_hand_worked_cubic() -> None:
    # ln(rate) is 0, 1, 3 at 30, 31, 32 dB. Secants 1 and 2; the slope in the middle is their harmonic mean
    # 4/3, at the ends (3 - 2) / 2 = 1/2 and (3 * 2 - 1) / 2 = 5/2. A cubic's integral over a unit is the mean
    # of its ends plus a twelfth of the slope it starts with less the one it ends with:
    # (0 + 1) / 2 + (1/2 - 4/3) / 12 + (1 + 3) / 2 + (4/3 - 5/2) / 12 = 7/3; the mean over 2 dB is 7/6.
    anchor = [(1.0, 30.0), (1.0, 32.0)]
    test = [(1.0, 30.0), (math.e, 31.0), (math.e**3, 32.0)]
    assert bd_rate(anchor, test) == pytest.approx(100 * (math.exp(7 / 6) - 1))


def test_a_value_of_another_implementation() -> None:
    # scipy 1.x: PchipInterpolator(psnr, log(rate)).integrate over 27.4..35.5 dB
    assert bd_rate(CURVE, OTHER) == pytest.approx(-19.915152941874524, rel=1e-12)


def test_swapping_the_curves_inverts_the_ratio() -> None:
    there, back = bd_rate(CURVE, OTHER), bd_rate(OTHER, CURVE)
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


def test_the_order_of_points_does_not_matter() -> None:
    assert bd_rate(CURVE[::-1], OTHER[2:] + OTHER[:2]) == bd_rate(CURVE, OTHER)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 3), min_size=2, max_size=7), st.lists(st.floats(0.1, 5), min_size=7, max_size=7))
def test_a_curve_below_another_everywhere_costs_less(steps: list[float], gaps: list[float]) -> None:
    # Monotone interpolation cannot cross: more PSNR at each rate must be worth a negative percentage.
    rates = np.cumsum(steps)
    psnrs = 25 + np.cumsum(gaps[: len(steps)])
    curve = list(zip(rates.tolist(), psnrs.tolist(), strict=True))
    better = [(bpp, db + 0.05) for bpp, db in curve]
    assert bd_rate(curve, better) < 0


@pytest.mark.parametrize(
    "curve",
    [
        [],
        [(0.1, 30.0)],
        [(0.1, 30.0), (0.2, 30.0)],
        [(0.0, 30.0), (0.2, 31.0)],
        [(0.1, 30.0), (0.2, math.inf)],
        [(math.nan, 30.0), (0.2, 31.0)],
    ],
)
def test_curves_without_a_meaning_are_refused(curve: list[tuple[float, float]]) -> None:
    with pytest.raises(OptionError, match="2 or more points"):
        bd_rate(curve, CURVE)
    with pytest.raises(OptionError, match="2 or more points"):
        bd_rate(CURVE, curve)


def test_curves_that_do_not_overlap_are_refused() -> None:
    with pytest.raises(OptionError, match=r"overlap in PSNR, found 27\.00\.\.35\.50 and 40\.00\.\.45\.00 dB"):
        bd_rate(CURVE, [(0.1, 40.0), (0.2, 45.0)])


def test_ms_ssim_of_one_scale_is_ssim() -> None:
    a, b = (np.random.default_rng(i).integers(0, 256, (12, 21, 3), dtype=np.uint8) for i in (0, 1))
    assert ms_ssim(a, b) == pytest.approx(max(0.0, plain_ssim(a, b)), rel=1e-12)


def test_ms_ssim_equals_its_definition() -> None:
    """Two scales: contrast and structure of the finer, all of the coarser one."""
    rng = np.random.default_rng(2)
    a = rng.integers(0, 256, (23, 30, 3), dtype=np.uint8)
    b = np.clip(a + rng.integers(-40, 41, a.shape), 0, 255).astype(np.uint8)
    x, y = (image @ np.array([0.299, 0.587, 0.114]) for image in (a, b))
    coarse_x, coarse_y = (image[:22].reshape(11, 2, 15, 2).mean((1, 3)) for image in (x, y))
    grey_x, grey_y = (np.repeat(image[..., None], 3, 2) for image in (coarse_x, coarse_y))
    contrast = np.mean(
        [contrast_of(x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]) for i in range(13) for j in range(20)]
    )
    weights = np.array([0.0448, 0.2856]) / (0.0448 + 0.2856)
    expected = contrast ** weights[0] * plain_ssim(grey_x, grey_y) ** weights[1]
    assert ms_ssim(a, b) == pytest.approx(expected, rel=1e-9)
    assert ms_ssim(a, a) == 1 and 0 <= ms_ssim(a, 255 - a) < ms_ssim(a, b) < 1


def contrast_of(u: NDArray[np.float64], v: NDArray[np.float64]) -> float:
    """SSIM's contrast and structure of one window."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    du, dv = u - (window * u).sum(), v - (window * v).sum()
    c2 = (0.03 * 255) ** 2
    return float((2 * (window * du * dv).sum() + c2) / ((window * (du**2 + dv**2)).sum() + c2))


def test_a_difference_shows_where_pictures_differ() -> None:
    other = A.copy()
    other[2, 3, 1] ^= 1
    shown = difference(A, other)
    assert shown[2, 3, 1] == 8 and np.count_nonzero(shown) == 1
    assert difference(A, 255 - A).max() == 255
