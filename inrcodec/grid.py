"""Coordinates: where on the picture plane a sample is taken.

A pixel is a small square: pixel i of an axis covers [i, i + 1) and its sample
sits at the centre, i + 0.5. These are pixel units. Networks see normalised
coordinates instead, 2 p / n - 1 on an axis of n pixels: both axes run over
(-1, 1) whatever the aspect ratio, x to the right, y down, pairs are (x, y).
Hence a grid of any size covers the same picture, and the mean of a 4x4 block
of the x4 grid is the sample of the x1 grid.

A grid is row-major: y changes slowest, as in an image array.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from inrcodec.errors import OptionError

__all__ = ["normalise", "pixel_grid", "sample_axis"]


def sample_axis(size: int, start: float, stop: float, samples: int) -> NDArray[np.float64]:
    """Centres of `samples` equal cells over [start, stop), in pixel units, shape (samples,).

    On an axis of n pixels `sample_axis(n, 0, n, n)` is the pixel centres, `sample_axis(n, 0, n, 4 * n)` the
    x4 grid, and another start and stop a region. OptionError unless 0 <= start < stop <= size and there is
    at least one sample.
    """
    if samples < 1:
        raise OptionError(f"an axis needs at least 1 sample, not {samples}")
    if not (math.isfinite(start) and math.isfinite(stop) and 0 <= start < stop <= size):
        raise OptionError(f"expected 0 <= start < stop <= {size} pixels, found start {start} and stop {stop}")
    cells = np.arange(samples, dtype=np.float64)
    return start + (cells + 0.5) * ((stop - start) / samples)


def normalise(positions: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Coordinates in (-1, 1) of positions in pixel units on an axis of `size` pixels."""
    return positions * (2 / size) - 1


def pixel_grid(height: int, width: int) -> NDArray[np.float32]:
    """Normalised pixel centres (x, y) in row-major order, shape (height * width, 2)."""
    y = normalise(sample_axis(height, 0, height, height), height)  # (H,)
    x = normalise(sample_axis(width, 0, width, width), width)  # (W,)
    yy, xx = np.meshgrid(y, x, indexing="ij")  # (H, W) each
    return np.stack([xx, yy], axis=-1).reshape(-1, 2).astype(np.float32)  # (H*W, 2)
