"""Opacity: how it is stored, sampled, and what becomes of colours that nobody sees.

Opacity is kept to the bit, and straight: colours are not multiplied by it. Between pixel centres it is linear;
where samples are coarser than pixels it is the mean over their area, and so is the colour (see `render`). Colours of
fully transparent pixels are not kept. Before a fit they are replaced by a smooth continuation of those around; what
is stored goes on beyond what is visible (see `lattice`), so no dark or bright rim is where a picture is decoded larger
or smaller.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inrcodec.errors import SinrError
from inrcodec.render import View

__all__ = ["alpha_at", "pack_alpha", "sample_alpha", "spread_colours", "unpack_alpha"]

SWEEPS = 4  # of smoothing per scale of the continuation


def pack_alpha(alpha: NDArray[Any]) -> bytes:
    """Opacity (height, width), uint8 or uint16, as the content of a file's opacity (see `bitstream`)."""
    kind, none = alpha.dtype.newbyteorder("<"), alpha.dtype.type(0)
    planes = [alpha, *(np.diff(alpha, axis=axis, prepend=none) for axis in (1, 0))]
    packed = [bytes([number]) + plane.astype(kind).tobytes() for number, plane in enumerate(planes)]
    return min(packed, key=lambda content: len(zlib.compress(content, 1)))  # which is quick, and tells the order


def unpack_alpha(data: bytes, height: int, width: int, bit_depth: int) -> NDArray[Any]:
    """The inverse of `pack_alpha`. SinrError for another number of bytes or a difference that is not known."""
    expected = 1 + height * width * bit_depth // 8
    if len(data) != expected:
        raise SinrError(f"opacity: expected {expected} bytes, found {len(data)}")
    if data[0] > 2:
        raise SinrError(f"opacity: expected a difference of 0..2, found {data[0]}")
    kind = np.uint8 if bit_depth == 8 else np.uint16
    plane = np.frombuffer(data, f"<u{bit_depth // 8}", offset=1).reshape(height, width).astype(kind)
    return np.cumsum(plane, axis=2 - data[0], dtype=kind) if data[0] else plane


def sample_alpha(alpha: NDArray[Any], view: View) -> NDArray[Any]:
    """Opacity at the samples of a view, shape (rows, columns), of the same type."""
    coarser = view.height > view.rows or view.width > view.columns
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    kind = Image.Resampling.BOX if coarser else Image.Resampling.BILINEAR
    sampled = Image.fromarray(alpha.astype(np.float32)).resize((view.columns, view.rows), kind, box)
    rounded: NDArray[np.float32] = np.rint(np.asarray(sampled))
    return rounded.astype(alpha.dtype)


def alpha_at(alpha: NDArray[Any], positions: NDArray[np.float64]) -> NDArray[np.float32]:
    """Opacity in [0, 1] at single positions (x, y) in pixels: (N, 2) -> (N,)."""
    height, width = alpha.shape
    cells = np.clip(positions - 0.5, 0, [width - 1, height - 1])  # (N, 2), 0 = centre of the first pixel
    left, top = cells.astype(np.intp).T
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    x, y = (cells - np.floor(cells)).T
    above = (1 - x) * alpha[top, left] + x * alpha[top, right]
    below = (1 - x) * alpha[bottom, left] + x * alpha[bottom, right]
    opacity: NDArray[np.float64] = ((1 - y) * above + y * below) / np.iinfo(alpha.dtype).max
    return opacity.astype(np.float32)


def spread_colours(pixels: NDArray[Any], seen: NDArray[np.bool_]) -> NDArray[Any]:
    """Pixels (height, width, 3) with a smooth continuation where they are not seen, (height, width)."""
    if seen.all():
        return pixels
    colours = _spread(np.where(seen[..., None], pixels, 0).astype(np.float32), seen)
    return np.where(seen[..., None], pixels, np.rint(colours).astype(pixels.dtype))


def _spread(colours: NDArray[np.float32], seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fill the unseen from a picture of half the size, then smooth it (push-pull, Gortler et al. 1996)."""
    height, width = seen.shape
    if seen.all() or max(height, width) == 1:
        return colours
    even = ((0, height % 2), (0, width % 2))
    counts = np.pad(seen, even).reshape(-(-height // 2), 2, -(-width // 2), 2).sum((1, 3))  # (H/2, W/2)
    sums = np.pad(colours * seen[..., None], (*even, (0, 0))).reshape(*counts.shape[:1], 2, counts.shape[1], 2, 3)
    coarse = _spread(sums.sum((1, 3)) / np.maximum(counts, 1)[..., None].astype(np.float32), counts > 0)
    filled = np.where(seen[..., None], colours, coarse.repeat(2, 0).repeat(2, 1)[:height, :width])
    for _ in range(SWEEPS):
        padded = np.pad(filled, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        filled = np.where(seen[..., None], colours, mean)
    return filled
