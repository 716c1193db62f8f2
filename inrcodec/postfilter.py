"""Whether a picture gets the post-filter: where it brings nearer what is decoded.

In the mean of many pictures it does. What it does to one is told by the picture with and without it, or by a few tiles
of a large one.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from inrcodec.prior import Prior
from inrcodec.render import TILE, Parameters, without_and_with_post

__all__ = ["post_filter_pays"]

TILES = 6  # that are looked at, at most

Pixels = NDArray[np.uint8] | NDArray[np.float32]


def post_filter_pays(
    prior: Prior, parameters: Parameters, pixels: Pixels, seen: NDArray[np.bool_] | None = None
) -> bool:
    """For a picture (height, width, 3) in 0..255, of which the pixels that are `seen`, (height, width), count."""
    if not prior.post_filtered or parameters.spacing > 1:  # between cells it has no say
        return False
    height, width, _ = pixels.shape
    tiles, gain = _tiles(height, width), 0.0
    for tile, both in zip(tiles, without_and_with_post(prior, parameters, tiles), strict=True):
        errors = [np.square(decoded - pixels[tile].astype(np.float32)).sum(2) for decoded in both]
        gain += float((errors[0] - errors[1]).sum(dtype=np.float64, where=True if seen is None else seen[tile]))
    return gain > 0


def _tiles(height: int, width: int) -> list[tuple[slice, slice]]:
    """Those of the picture, or some of them, evenly chosen."""
    tiles = [
        (slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width)))
        for top, left in product(range(0, height, TILE), range(0, width, TILE))
    ]
    chosen = np.linspace(0, len(tiles) - 1, min(TILES, len(tiles))).round().astype(int)
    return [tiles[number] for number in chosen]
