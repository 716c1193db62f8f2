"""Whether a picture gets the post-filter: where it brings nearer what is decoded.

In the mean of many pictures it does. What it does to one is told by the picture with and without it, or by a few tiles
of a large one.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from inrcodec.prior import Prior
from inrcodec.render import TILE, Parameters, View, render

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
    view = View(height, width, 0.0, 0.0, float(height), float(width))

    def error(post: bool, part: tuple[slice, slice]) -> float:
        decoded = render(prior, replace(parameters, post=post), view, part)
        squared = np.square(decoded - pixels[part].astype(np.float32)).sum(2)
        return float(squared.sum(dtype=np.float64, where=True if seen is None else seen[part]))

    return sum(error(True, part) - error(False, part) for part in _parts(height, width)) < 0


def _parts(height: int, width: int) -> list[tuple[slice, slice]]:
    """The picture, or some of its tiles, evenly chosen."""
    tiles = list(product(range(0, height, TILE), range(0, width, TILE)))
    if len(tiles) <= TILES:
        return [(slice(0, height), slice(0, width))]
    chosen = np.linspace(0, len(tiles) - 1, TILES).round().astype(int)
    return [
        (slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width)))
        for top, left in (tiles[number] for number in chosen)
    ]
