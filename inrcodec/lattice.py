"""Lattice fields: grids of per-image numbers, and their values between the grid points.

The field of level l has stride 2**l: cell (i, j) covers the pixels of a square of that
side, and its numbers sit at the square's centre, as a pixel's do. A field covers the
picture with ceil(size / 2**l) cells per axis, so any size is covered. Between centres
it is interpolated with a separable cubic kernel of the family of Mitchell and Netravali
(1988), whose (B, C) the prior has learned for each level; beyond the outermost centres
the outermost cells go on. Level 0 has B = 0: at pixel centres it is the numbers themselves.

Only cells with a visible pixel have numbers of their own. What is visible depends on cells around these, too, which is
as far as they go on: three times, each cell without a value that has neighbours with one takes the value of the first
of them, in the order left, right, above, below, then above left, above right, below left and below right. All others
are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TAPS = 4  # cells under the kernel, per axis
MARGIN = 3  # cells that what is visible depends on, beyond those that hold it: the filter's two pixels and the kernel
NEIGHBOURS = ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))  # (y, x), first come, first served


def cells(size: int, level: int) -> int:
    """Cells along an axis of `size` pixels."""
    return -(-size >> level)


def field_shapes(height: int, width: int, channels: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Shape (channels, rows, columns) of the field of each level, level 0 first."""
    return [(c, cells(height, level), cells(width, level)) for level, c in enumerate(channels)]


def quads(x: NDArray[Any]) -> NDArray[Any]:
    """(H, W, C) as squares of 2x2, (H / 2, 2, W / 2, 2, C); odd rows and columns are completed by the last ones."""
    even = np.pad(x, ((0, x.shape[0] % 2), (0, x.shape[1] % 2), (0, 0)), mode="edge")
    return even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, -1)


def halved(x: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, C) averaged over 2x2."""
    mean: NDArray[np.float32] = quads(x).mean((1, 3), dtype=np.float32)
    return mean


def visible_cells(visible: NDArray[np.bool_], levels: int, spacing: int = 1) -> list[NDArray[np.bool_]]:
    """The cells of each level that have a visible pixel, (height, width) -> (rows, columns).

    Those of level 0 are `spacing` pixels apart, 1 or 2.
    """
    found, count = [visible], levels + spacing - 1
    while len(found) < count:
        height, width = visible.shape
        even = np.pad(visible, ((0, height % 2), (0, width % 2)))
        visible = even[::2, ::2] | even[1::2, ::2] | even[::2, 1::2] | even[1::2, 1::2]
        found.append(visible)
    return found[spacing - 1 : count]


def continuation(coded: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Cells that go on from others that are coded, (rows, columns), and which: indices (N,) in row-major order."""
    height, width = coded.shape
    source = np.full((height + 2, width + 2), -1, np.int32)  # coded cell of each cell, with a border that has none
    source[1:-1, 1:-1][coded] = np.flatnonzero(coded)
    inside = source[1:-1, 1:-1]
    for _ in range(MARGIN):
        known = np.pad(inside >= 0, 1)
        down = known[:-2] | known[1:-1] | known[2:]
        y, x = np.nonzero((down[:, :-2] | down[:, 1:-1] | down[:, 2:]) & ~known[1:-1, 1:-1])
        near = np.full(len(y), -1, np.int32)
        for dy, dx in NEIGHBOURS:
            near = np.where(near < 0, source[y + 1 + dy, x + 1 + dx], near)
        inside[y, x] = near
    found = np.flatnonzero((inside >= 0) & ~coded)
    return found, inside.ravel()[found].astype(np.intp)


def continued(values: NDArray[Any], coded: NDArray[np.bool_]) -> NDArray[Any]:
    """A field (C, rows, columns) whose cells that are not coded, (rows, columns), go on from those that are."""
    found = values.copy()
    flat = found.reshape(len(values), -1)
    at, source = continuation(coded)
    flat[:, at] = flat[:, source]
    return found


def seen_cells(visible: NDArray[np.bool_], levels: int) -> list[NDArray[np.bool_]]:
    """The cells of each level of whose 5x5 cells around one has a visible pixel, (height, width) -> (rows, columns).

    The others have no say in what is seen.
    """
    found = []
    for own in visible_cells(visible, levels):
        height, width = own.shape
        padded = np.pad(own, 2)
        down = np.logical_or.reduce([padded[i : i + height] for i in range(5)])
        found.append(np.logical_or.reduce([down[:, i : i + width] for i in range(5)]))
    return found


def kernel(t: NDArray[np.float64], b: float, c: float) -> NDArray[np.float64]:
    """The cubic (B, C) kernel at distances t, in cells (Mitchell & Netravali 1988, eq. 8)."""
    t = np.abs(t)
    near = (12 - 9 * b - 6 * c) * t**3 + (-18 + 12 * b + 6 * c) * t**2 + (6 - 2 * b)
    far = (-b - 6 * c) * t**3 + (6 * b + 30 * c) * t**2 + (-12 * b - 48 * c) * t + (8 * b + 24 * c)
    return np.where(t < 1, near, np.where(t < 2, far, 0.0)) / 6


def taps(
    positions: NDArray[np.floating[Any]], level: int, count: int, b: float, c: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Cells and weights that give the field of a level at positions along an axis.

    positions (N,) in pixels (pixel i covers [i, i + 1)); count: cells on the axis.
    Returns indices (N, 4) in 0..count-1 and weights (N, 4), whose rows sum to 1.
    """
    at = positions / (1 << level) - 0.5  # in cells, 0 = centre of the first
    first = np.floor(at) - 1
    index = first[:, None] + np.arange(TAPS)  # (N, 4)
    weights = kernel(at[:, None] - index, b, c)
    return np.clip(index, 0, count - 1).astype(np.intp), weights


def near_cells(
    positions: NDArray[np.floating[Any]], level: int, count: int, b: float, c: float
) -> tuple[slice, tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """The cells that positions along an axis touch, and `taps` within these."""
    index, weights = taps(positions, level, count, b, c)
    start = int(index.min())
    return slice(start, int(index.max()) + 1), ((index - start).astype(np.int32), weights.astype(np.float32))


def interpolation_matrix(
    positions: NDArray[np.floating[Any]],
    level: int,
    count: int,
    b: float,
    c: float,
    dtype: type[np.floating[Any]] = np.float32,
) -> tuple[slice, NDArray[np.floating[Any]]]:
    """The cells that positions along an axis touch, and the matrix from them to the positions.

    Returns a slice of the axis' cells, K long, and a matrix (N, K) of a type.
    """
    index, weights = taps(positions, level, count, b, c)
    start, stop = int(index.min()), int(index.max()) + 1
    matrix = np.zeros((len(positions), stop - start))
    np.add.at(matrix, (np.arange(len(positions))[:, None], index - start), weights)
    return slice(start, stop), matrix.astype(dtype)


def interpolate_at(
    values: NDArray[Any], positions: NDArray[np.floating[Any]], level: int, b: float, c: float
) -> NDArray[np.float64]:
    """The field (C, rows, columns) of a level at single positions (N, 2), (x, y) in pixels: (C, N)."""
    columns, across = taps(positions[:, 0], level, values.shape[2], b, c)  # (N, 4) each
    rows, down = taps(positions[:, 1], level, values.shape[1], b, c)
    near = values[:, rows[:, :, None], columns[:, None]]  # (C, N, 4, 4)
    found: NDArray[np.float64] = np.einsum("cnyx,ny,nx->cn", near, down, across)
    return found
