"""Metrics: how far a picture is from another, and how far a codec is from another.

Pictures are 8-bit arrays of shape (height, width, 3). A codec is measured by its rate-distortion curve:
points (bits per pixel, PSNR in dB), one per quality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inrcodec.errors import ImageError, OptionError

__all__ = ["Point", "bd_rate", "bits_per_pixel", "difference", "ms_ssim", "psnr", "ssim"]

PEAK = 255  # the largest sample
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
WINDOW = 11  # pixels of SSIM's window, a side
WINDOW_SIGMA = 1.5  # pixels
SCALE_WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])  # of MS-SSIM's scales, fine to coarse
DIFFERENCE_GAIN = 8  # so that an error of 1 is seen
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2  # keep SSIM's two ratios finite where a window is flat

Point = tuple[float, float]  # bits per pixel, dB


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio over all samples of all channels, in dB; infinite if the pictures are equal.

    ImageError if they differ in size.
    """
    _check_sizes(a, b)
    error = float(np.mean(np.square(a.astype(np.float64) - b)))
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean structural similarity of the lumas, in [-1, 1]; 1 if they are equal.

    As in Wang et al. 2004: Gaussian window of 11 x 11 pixels and standard deviation 1.5, only where all of it
    lies on the picture. On a side of fewer than 11 pixels the window has the largest odd size that fits.
    ImageError if the pictures differ in size.
    """
    _check_sizes(a, b)
    luminance, contrast = _similarity(a @ LUMA, b @ LUMA)
    return float(np.mean(luminance * contrast))


def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Multi-scale structural similarity of the lumas, in [0, 1]; 1 if they are equal.

    As in Wang, Simoncelli and Bovik 2003, with 5 scales. A picture with a side of fewer than 176 pixels, whose
    coarsest scales are smaller than SSIM's window, has fewer, and their weights are scaled to sum 1.
    ImageError if the pictures differ in size.
    """
    _check_sizes(a, b)
    x, y = a @ LUMA, b @ LUMA  # (H, W) each
    scales = max(1, min(len(SCALE_WEIGHTS), (min(x.shape) // WINDOW).bit_length()))
    weights = SCALE_WEIGHTS[:scales] / SCALE_WEIGHTS[:scales].sum()
    product = 1.0
    for scale, weight in enumerate(weights):
        luminance, contrast = _similarity(x, y)
        # Equation 7: the luminance counts at the coarsest scale only.
        similarity = np.mean(luminance * contrast) if scale == scales - 1 else np.mean(contrast)
        product *= max(0.0, float(similarity)) ** float(weight)
        x, y = _halve(x), _halve(y)
    return product


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture of where two pictures differ: the absolute difference, 8 times as bright. ImageError as of `psnr`."""
    _check_sizes(a, b)
    error: NDArray[np.int16] = np.abs(a.astype(np.int16) - b)
    return np.minimum(DIFFERENCE_GAIN * error, PEAK).astype(np.uint8)


def _similarity(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """SSIM's two factors in every window of two lumas: luminance, and contrast with structure."""
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    # Wang et al. 2004, equation 13.
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    contrast = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return luminance, contrast


def _halve(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 2x2 pixels; an odd last row or column is left out."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    blocks: NDArray[np.float64] = image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    return blocks


def bits_per_pixel(size: int, height: int, width: int) -> float:
    """Bits per pixel of a file of `size` bytes."""
    return size * 8 / (height * width)


def bd_rate(anchor: Sequence[Point], test: Sequence[Point]) -> float:
    """Mean difference in rate at equal PSNR, in percent; negative if `test` needs fewer bits than `anchor`.

    Bjontegaard 2001 (VCEG-M33), with log rate interpolated by monotone piecewise cubics (Fritsch and Butland
    1984, known as PCHIP) instead of one polynomial, as has been usual since JCT-VC. The mean is over the
    PSNRs that both curves reach. Points may come in any order.

    OptionError unless each curve has at least 2 points, positive rates and distinct PSNRs, and the curves
    overlap in PSNR.
    """
    x0, y0 = _log_rates(anchor)
    x1, y1 = _log_rates(test)
    low, high = max(x0[0], x1[0]), min(x0[-1], x1[-1])
    if low >= high:
        found = f"{x0[0]:.2f}..{x0[-1]:.2f} and {x1[0]:.2f}..{x1[-1]:.2f} dB"
        raise OptionError(f"expected curves that overlap in PSNR, found {found}")
    difference = (_integral(x1, y1, low, high) - _integral(x0, y0, low, high)) / (high - low)
    return math.expm1(difference) * 100


def _check_sizes(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    if a.shape != b.shape:
        found = " and ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (a, b))
        raise ImageError(f"expected two pictures of one size, found {found}")


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian means of all windows that lie on the picture, separably; no padding."""
    for axis in (0, 1):
        size = min(WINDOW, (image.shape[axis] + 1) // 2 * 2 - 1)  # the largest odd number that fits
        offsets = np.arange(size) - size // 2
        weights = np.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
        windows = np.lib.stride_tricks.sliding_window_view(image, size, axis)  # (H', W', size)
        image = windows @ (weights / weights.sum())
    return image


def _log_rates(curve: Sequence[Point]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PSNRs in ascending order, and the natural logarithms of the rates."""
    points = np.array(sorted(curve, key=lambda point: point[1]), dtype=np.float64).reshape(-1, 2)
    rates, psnrs = points.T
    if len(points) < 2 or not np.isfinite(points).all() or rates.min() <= 0 or np.diff(psnrs).min() <= 0:
        raise OptionError(f"expected 2 or more points of positive rate and distinct, finite PSNR, found {curve}")
    return psnrs, np.log(rates)


def _integral(x: NDArray[np.float64], y: NDArray[np.float64], low: float, high: float) -> float:
    """Integral from low to high of the monotone cubic through the points, exactly."""
    knots = np.unique(np.concatenate([[low, high], x[(x > low) & (x < high)]]))
    a, b = knots[:-1], knots[1:]
    ends_and_middle = _interpolate(x, y, a) + 4 * _interpolate(x, y, (a + b) / 2) + _interpolate(x, y, b)
    return float(np.sum((b - a) / 6 * ends_and_middle))  # Simpson's rule, which is exact for cubics


def _interpolate(x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The monotone cubic through the points (x, y), evaluated within their range."""
    slopes = _slopes(x, y)
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)  # the interval of each position
    width = x[i + 1] - x[i]
    t = (at - x[i]) / width  # in [0, 1]
    # Cubic Hermite interpolation.
    from_left = (1 + 2 * t) * (1 - t) ** 2 * y[i] + t * (1 - t) ** 2 * width * slopes[i]
    from_right = t**2 * (3 - 2 * t) * y[i + 1] - t**2 * (1 - t) * width * slopes[i + 1]
    return from_left + from_right


def _slopes(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slopes at the points that keep the cubic monotone between them (Fritsch and Butland 1984)."""
    h = np.diff(x)
    d = np.diff(y) / h  # of the secants
    if len(d) == 1:
        return np.array([d[0], d[0]])
    left, right = d[:-1], d[1:]
    w_left, w_right = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    same = left * right > 0  # elsewhere the point is an extremum and the slope 0
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(same, (w_left + w_right) / (w_left / left + w_right / right), 0.0)
    return np.concatenate([[_end_slope(h[0], h[1], d[0], d[1])], inner, [_end_slope(h[-1], h[-2], d[-1], d[-2])]])


def _end_slope(h0: float, h1: float, d0: float, d1: float) -> float:
    """Slope at an end point: the parabola's through three points, cut so that the cubic stays monotone."""
    slope = ((2 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
    if slope * d0 <= 0:
        return 0.0
    if d0 * d1 <= 0 and abs(slope) > 3 * abs(d0):
        return 3 * d0
    return float(slope)
