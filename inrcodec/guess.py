"""The first guess in NumPy: the twin of `analysis`, for encoding on the CPU; without a fit, torch is not needed.

Each level is made in square tiles, from the coarser levels as they are before rounding: memory for the work does not
grow with the picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from inrcodec.entropy import MAX_VALUE
from inrcodec.lattice import continued, field_shapes, halved, quads
from inrcodec.options import conditioning
from inrcodec.prior import Prior
from inrcodec.render import Parameters, convolve, field_gains, fill_planes, numpy_network

TILE = 64  # blocks of 2x2 cells along the side of a tile
LAYERS = ("in", "mid", "out")  # of 3x3 blocks each: a block depends on as many around it

Floats = NDArray[np.floating[Any]]


def first_guess(
    prior: Prior, pixels: NDArray[Any], quality_index: int, coded: Sequence[NDArray[np.bool_]] | None = None
) -> tuple[NDArray[np.int32], ...]:
    """Quantized fields (channels, rows, columns), level 0 first, of pixels (height, width, 3) in 0..255.

    Cells that are not `coded`, (rows, columns) per level, are zero, and finer levels reckon with what they go on from.
    """
    fields = unrounded_guess(prior, pixels, quality_index, coded)
    return tuple(np.clip(np.rint(z), -MAX_VALUE, MAX_VALUE).astype(np.int32) for z in fields)


def unrounded_guess(
    prior: Prior, pixels: NDArray[Any], quality_index: int, coded: Sequence[NDArray[np.bool_]] | None = None
) -> list[NDArray[np.float32]]:
    """What `first_guess` rounds."""
    height, width, _ = pixels.shape
    q = conditioning(quality_index)
    fields = [np.zeros(shape, np.float32) for shape in field_shapes(height, width, prior.architecture.channels)]
    guess = _Guess(prior, Parameters(height, width, q, prior.tensors, ()), fields, coded)
    pyramid = [pixels]
    for _ in fields[1:]:
        pyramid.append(halved(pyramid[-1]))
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for level in reversed(range(len(fields))):
            rows, columns = (-(-size // 2) for size in fields[level].shape[1:])
            tiles = [
                (slice(top, min(top + TILE, rows)), slice(left, min(left + TILE, columns)))
                for top in range(0, rows, TILE)
                for left in range(0, columns, TILE)
                if coded is None or coded[level][2 * top : 2 * (top + TILE), 2 * left : 2 * (left + TILE)].any()
            ]
            for done in [pool.submit(guess.tile, level, pyramid[level], *tile) for tile in tiles]:
                done.result()
            if coded is not None:
                fields[level][:] = continued(fields[level] * coded[level], coded[level])
    return fields if coded is None else [z * mask for z, mask in zip(fields, coded, strict=True)]


class _Guess:
    """What the tiles of all levels share."""

    def __init__(
        self,
        prior: Prior,
        parameters: Parameters,
        fields: list[NDArray[np.float32]],
        coded: Sequence[NDArray[np.bool_]] | None,
    ) -> None:
        self.tensors, self.fields, self.coded = prior.tensors, fields, coded
        self.height, self.width = parameters.height, parameters.width
        self.kernels = [(float(b), float(c)) for b, c in prior.tensors["field.kernel"]]
        self.gains = field_gains(prior, parameters.conditioning)
        self.network = numpy_network(prior, parameters)
        self.powers = np.array([1, parameters.conditioning, parameters.conditioning**2], np.float32)

    def tile(self, level: int, picture: NDArray[Any], rows: slice, columns: slice) -> None:
        """Write the level's values in some of its blocks; its picture is (rows, columns, 3) in 0..255."""
        _, height, width = self.fields[level].shape
        down, vertical = _grown(rows, -(-height // 2))
        across, horizontal = _grown(columns, -(-width // 2))
        part = np.s_[2 * down.start : min(2 * down.stop, height), 2 * across.start : min(2 * across.stop, width)]
        own = picture[part].transpose(2, 0, 1).astype(np.float32) / np.float32(255) - np.float32(0.5)
        missing = own - self._rendered(level, *part)
        unit = np.maximum(np.float32(0.7) * self.gains[level][0, 0, 0], np.float32(0.02))
        x = _blocks(np.concatenate([missing / unit, 2 * own]))  # (24, H / 2, W / 2)
        inside = None if self.coded is None else _any_of_block(self.coded[level][part])
        for number, layer in enumerate(LAYERS):
            kernel, bias = (self.tensors[f"analysis.{level}.{layer}{name}"] for name in ("", "_bias"))
            if inside is not None:  # zeros around what is coded, as around the picture
                x, inside = x * inside, _inner(inside, vertical, horizontal)
            own_bias = bias @ self.powers if number == 0 else bias
            y = convolve(np.pad(x, ((0, 0), vertical, horizontal)), kernel, own_bias, rectified=layer != "out")
            x = y if layer != "mid" else y + _inner(x, vertical, horizontal)
        values = x.reshape(-1, 2, 2, *x.shape[1:]).transpose(0, 3, 1, 4, 2)  # channels, blocks, dy, blocks, dx
        values = values.reshape(len(values), 2 * x.shape[1], 2 * x.shape[2])
        out = self.fields[level][:, 2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop]
        out[:] = values[:, : out.shape[1], : out.shape[2]] * (self.gains[level][:1] / self.gains[level])

    def _rendered(self, level: int, rows: slice, columns: slice) -> Floats:
        """The picture of the coarser levels at the centres of some of a level's cells, (3, H, W)."""
        ys, xs = ((np.arange(part.start, part.stop) + 0.5) * (1 << level) for part in (rows, columns))
        planes = np.zeros((sum(map(len, self.fields)), len(ys), len(xs)), np.float32)
        fill_planes(planes, self.fields, self.gains, self.kernels, ys, xs, first=level + 1)
        return self.network(planes.reshape(len(planes), -1)).reshape(3, *planes.shape[1:])


def _grown(part: slice, count: int) -> tuple[slice, tuple[int, int]]:
    """The blocks of an axis that a part depends on, and how many zeros each layer sees at either end."""
    start, stop = max(0, part.start - len(LAYERS)), min(count, part.stop + len(LAYERS))
    return slice(start, stop), (int(start == 0), int(stop == count))


def _inner(x: NDArray[Any], vertical: tuple[int, int], horizontal: tuple[int, int]) -> NDArray[Any]:
    """What is left of (C, H, W) by a layer that sees so many zeros at either end."""
    (top, bottom), (left, right) = vertical, horizontal
    return x[:, 1 - top : x.shape[1] - 1 + bottom, 1 - left : x.shape[2] - 1 + right]


def _any_of_block(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Blocks (1, H / 2, W / 2) with a cell of a mask (H, W)."""
    found: NDArray[np.bool_] = np.logical_or.reduce(_blocks(mask[None]), axis=0, keepdims=True)
    return found


def _blocks(x: NDArray[Any]) -> NDArray[Any]:
    """(C, H, W) as blocks of 2x2: (4 C, H / 2, W / 2)."""
    found = quads(x.transpose(1, 2, 0))
    return found.transpose(4, 1, 3, 0, 2).reshape(-1, *found.shape[0:3:2])
