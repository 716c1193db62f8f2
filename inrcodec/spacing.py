"""How far apart the cells of a picture's finest field are: 2 pixels where nearer ones are not worth their bits.

Where a picture is soft, or much of it is given up at a low quality, a fourth of the cells says nearly as much: the
network and the filter for detail fill in what is between them. The fit is then of means of 2x2 pixels, with lambda over
4, as an error of theirs is one of 4 pixels. Which spacing is better is told by J of first guesses of the picture, or of
parts of a large one. A fit gains more at spacing 1, the more so the more is lost where cells are enlarged, against what
a quality loses anyway; `benchmarks/spacing.py` says how much. Pictures that lose far more than that are not tried.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inrcodec.allocation import expected_error
from inrcodec.deltas import changed_rate
from inrcodec.entropy import RateModel
from inrcodec.guess import first_guess
from inrcodec.lattice import halved
from inrcodec.options import MAX_QUALITY_INDEX, conditioning, lagrangian
from inrcodec.prior import Prior
from inrcodec.render import Parameters, View, render

__all__ = ["best_spacing", "cell_index", "cell_means", "error_enlarged", "guessed_cost"]

STEPS = 64  # of the quality index, for a fourth of lambda
BIN = 8  # steps of the quality index that are decided as one
PLACES = (0.2, 0.8)  # of parts along an axis, as fractions of the way that they can be moved
SIDE, QUICK_SIDE = 362, 128  # pixels of a part; of one, if no fit follows
GAIN, GAIN_BY_LOST = 0.027, 0.13  # log of how much more a fit gains at spacing 1: a constant, and by what is lost
NEARLY = 1.06  # over what pays, J up to which it is asked whether a higher quality would have spacing 2
LOST = 2.0  # error of enlarged cells, over the one to be expected of the quality, above which spacing 2 never pays

Pixels = NDArray[np.uint8] | NDArray[np.float32]


def cell_index(index: int, spacing: int) -> int:
    """The quality index of the picture of cells, for that of the picture of pixels."""
    return min(index + STEPS * (spacing - 1), MAX_QUALITY_INDEX)


def cell_means(pixels: Pixels, spacing: int) -> Pixels:
    """The picture of cells, (rows, columns, 3), of pixels (height, width, 3)."""
    return pixels if spacing == 1 else halved(pixels)


def best_spacing(prior: Prior, pixels: Pixels, index: int, fitted: bool) -> int:
    """1 or 2, for a picture (height, width, 3) in 0..255 at a quality index; `fitted` says whether a fit follows.

    Where it is close, the next higher qualities decide: a spacing that rose with the quality would make files smaller.
    """
    if not prior.architecture.channels:
        return 1
    parts = _parts(pixels, SIDE if fitted else QUICK_SIDE)
    lost, sizes = sum(map(error_enlarged, parts)), [part[..., 0].size for part in parts]
    for middle in range(index // BIN * BIN + BIN // 2, MAX_QUALITY_INDEX - STEPS, BIN):
        lam = lagrangian(middle)
        usual = sum(expected_error(part, lam) * size for part, size in zip(parts, sizes, strict=True))
        if lost > LOST * usual:
            return 1
        pays = math.exp(-GAIN - GAIN_BY_LOST * lost / usual) if fitted and usual else 1.0  # J at 2 over J at 1
        narrow, wide = (sum(guessed_cost(prior, part, middle, spacing) for part in parts) for spacing in (1, 2))
        if wide < pays * narrow:
            return 2
        if wide > NEARLY * pays * narrow:
            return 1
    return 1


def _parts(pixels: Pixels, side: int) -> list[Pixels]:
    """The picture, or four squares of it if they have fewer pixels."""
    if pixels[..., 0].size <= len(PLACES) ** 2 * side**2:
        return [pixels]
    height, width, _ = pixels.shape
    rows, columns = ([round(place * max(0, size - side)) for place in PLACES] for size in (height, width))
    return [pixels[top : top + side, left : left + side] for top, left in product(rows, columns)]


def error_enlarged(pixels: Pixels) -> float:
    """Squared error of what bicubic interpolation makes of the means of 2x2 pixels."""
    height, width, _ = pixels.shape
    cells = np.rint(halved(pixels)).astype(np.uint8)
    size = 2 * cells.shape[1], 2 * cells.shape[0]
    enlarged = np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC), np.float32)
    return float(np.square(enlarged[:height, :width] - pixels).sum(dtype=np.float64))


def guessed_cost(prior: Prior, pixels: Pixels, index: int, spacing: int) -> float:
    """J of a first guess, in bits."""
    (height, width, _), cells, own = pixels.shape, cell_means(pixels, spacing), cell_index(index, spacing)
    fields = first_guess(prior, cells, own)
    streams = RateModel(changed_rate(prior.tensors, None), prior.architecture.channels).encode(fields, own)
    rows, columns, _ = cells.shape
    parameters = Parameters(rows, columns, conditioning(own), prior.tensors, fields, spacing=spacing)
    decoded = render(prior, parameters, View(height, width, 0.0, 0.0, float(height), float(width)))
    error = float(np.square(decoded - pixels.astype(np.float32)).sum(dtype=np.float64))
    return error / lagrangian(index) + 8 * sum(map(len, streams))
