"""Which lambda a picture gets: smooth ones a smaller, busy ones a larger than the quality says.

At one lambda for all, a smooth picture has errors that are small but plain to see, and a busy one many bits for what
hardly shows. So lambda is multiplied by the squared error that the picture can be expected to have at the quality's
own, over that of a typical photo; a decibel then costs more nearly the same number of bits in every picture, and a set
of pictures has fewer bits at equal mean PSNR. It is what video encoders do with the complexity of a frame.

The expected error is that of reverse water-filling (Cover & Thomas, Elements of Information Theory, 10.3.3): each
coefficient of an orthonormal transform has the error lambda, or all of its energy if that is less. Here it is the DCT
of 16x16 pixels of three orthonormal colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from inrcodec.options import MAX_QUALITY_INDEX, lagrangian

__all__ = ["allocated_index", "coefficient_energies", "expected_error", "typical_error"]

SIDE = 16  # pixels of a block
TYPICAL = (-0.01593, 0.80013, 0.36098)  # log of a photo's error by log lambda, see `benchmarks/allocation.py`
FARTHEST = 60  # steps of the index by which a picture may differ from a typical one
LEFT = 0.25  # of the distance to the end of the scale, at least, when a picture is moved towards it

Floats = NDArray[np.float64]


def allocated_index(pixels: NDArray[np.uint8] | NDArray[np.float32], index: int, seen: NDArray[np.bool_] | None) -> int:
    """The quality index that a picture (height, width, 3) in 0..255 gets, where a typical one gets `index`.

    It never falls as `index` rises, and the best is the best for all. Only blocks with a pixel that is `seen`,
    (height, width), count.
    """
    lam = lagrangian(index)
    error = expected_error(pixels, lam, seen)
    if error == 0:
        return index
    per_nat = MAX_QUALITY_INDEX / math.log(lagrangian(0) / lagrangian(MAX_QUALITY_INDEX))
    offset = min(max(per_nat * math.log(typical_error(lam) / error), -FARTHEST), FARTHEST)
    to_best = MAX_QUALITY_INDEX - index
    least = max(LEFT * index, MAX_QUALITY_INDEX - to_best / LEFT)
    most = MAX_QUALITY_INDEX - LEFT * to_best
    return round(min(max(index + offset, least), most))


def typical_error(lam: float) -> float:
    """Squared error per pixel of a typical photo, sum over RGB, in units of 1/255."""
    return math.exp(float(np.polyval(TYPICAL, math.log(lam))))


def expected_error(
    pixels: NDArray[np.uint8] | NDArray[np.float32], lam: float, seen: NDArray[np.bool_] | None = None
) -> float:
    """Squared error per pixel of a picture (height, width, 3) in 0..255, likewise; 0 if none is `seen`."""
    total, count = 0.0, 0
    for energies in coefficient_energies(pixels, seen):
        total += float(np.minimum(energies, lam, out=energies).sum())
        count += len(energies) * SIDE * SIDE
    return total / count if count else 0.0


def coefficient_energies(
    pixels: NDArray[np.uint8] | NDArray[np.float32], seen: NDArray[np.bool_] | None
) -> Iterator[Floats]:
    """Squares of the coefficients of each row of blocks that are seen, (blocks, 16, 16, 3).

    Those of the means are infinite: means are always coded.
    """
    for top in range(0, pixels.shape[0], SIDE):
        blocks = _blocks(pixels[top : top + SIDE])
        if seen is not None:
            blocks = blocks[_blocks(seen[top : top + SIDE, :, None]).any((1, 2, 3))]
        found: Floats = np.einsum("ky,nyxc,lx->nklc", DCT, blocks.astype(np.float64) @ COLOURS.T, DCT, optimize=True)
        energies = np.square(found, out=found)
        energies[:, 0, 0] = np.inf
        yield energies


def _blocks(rows: NDArray[np.generic]) -> NDArray[np.generic]:
    """Some rows (at most 16, width, channels), the last pixels repeated, as blocks (n, 16, 16, channels)."""
    height, width, channels = rows.shape
    padded = np.pad(rows, ((0, SIDE - height), (0, -width % SIDE), (0, 0)), mode="edge")
    return padded.reshape(SIDE, -1, SIDE, channels).swapaxes(0, 1)


def _dct() -> Floats:
    """The orthonormal DCT-II, (frequencies, pixels)."""
    k, x = np.arange(SIDE)[:, None], np.arange(SIDE)
    matrix: Floats = np.cos(np.pi * (x + 0.5) * k / SIDE) * math.sqrt(2 / SIDE)
    matrix[0] /= math.sqrt(2)
    return matrix


DCT = _dct()
COLOURS: Floats = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
