"""The arithmetic of fits and pictures on a CPU, compiled: `_kernels` with checked shapes.

It is there if there was a C compiler when the package was installed. Otherwise NumPy and PyTorch compute the same, in
about twice the time; tests compare them. Arrays are float32, but for those of the entropy coder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

try:
    from inrcodec import _kernels
except ImportError:
    _kernels = None  # type: ignore[assignment]

__all__ = ["Rate", "Restored", "available", "convolved", "rate_slopes", "rounded", "sines", "symbols"]

Floats = NDArray[np.float32]


def available() -> bool:
    """Whether there is anything compiled."""
    return _kernels is not None


def sines(x: Floats, layers: Sequence[Floats]) -> Floats:
    """What a SIREN says at n places of planes (C, n), (N, n).

    layers: matrix and bias of each, omega included; the last matrix is of the last sines and of x.
    """
    values = np.empty((len(layers[-1]), x.shape[1]), np.float32)
    _kernels.siren(x, tuple(layers), values)
    return values


def convolved(planes: Floats, kernel: Floats, bias: Floats | None = None, rectified: bool = False) -> Floats:
    """What a 3x3 kernel (N, C, 3, 3) makes of planes (C, h + 2, w + 2): (N, h, w), 0 in place of less if rectified."""
    height, width = planes.shape[1:]
    out = np.empty((len(kernel), height - 2, width - 2), np.float32)
    _kernels.convolve(planes, kernel, bias, rectified, out)
    return out


def rounded(values: Floats, noise: Floats, temperature: float) -> tuple[Floats, Floats]:
    """`fit.noisy_round` of values (n,) and of noise (n,), and its slopes."""
    found, slopes = np.empty_like(values), np.empty_like(values)
    _kernels.round_softly(values, noise, temperature, found, slopes)
    return found, slopes


def rate_slopes(first: Floats, values: Floats, parts: Sequence[Floats]) -> list[Floats]:
    """The gradients of the bits of values (C, n) by the last parts of a level's rate model.

    first, (hidden, n), is what the first layer sums up to; the parts are what is added to it, (hidden,), and matrix and
    bias of the middle layer and of the last.
    """
    found = [np.zeros(part.shape, np.float32) for part in parts]
    backwards = (np.ascontiguousarray(parts[i].T) for i in (1, 3))
    _kernels.rate_ends(first, values, (*parts, *backwards), tuple(found))
    return found


def symbols(
    padded: NDArray[np.float64],
    places: NDArray[np.int64],
    offsets: NDArray[np.int64],
    above: Floats,
    cells: NDArray[np.int64],
    parts: tuple[NDArray[np.float64], ...],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rounded means and table rows, (N * channels,), of cells at places (N,) of padded values (channels, size).

    offsets: of the taps. above: what the first layer has beside these, (all cells, hidden), and `cells` (N,) which of
    them. parts: `entropy`'s tensors of a level, from `causal` on.
    """
    mean, row = (np.empty(len(places) * len(padded), np.int64) for _ in range(2))
    _kernels.symbols(padded, places, offsets, above, cells, parts, mean, row)
    return mean, row


@dataclass(frozen=True, eq=False)
class Restored:
    """A SIREN and the filter behind it, at tiles of a picture.

    x (C, rows, columns) are the planes that the SIREN sees in a tile and in what is around it, two pixels at most. A
    place is how many pixels less than two that is above the tile and on its left, and the tile's height and width.
    """

    forwards: tuple[Floats, ...]  # `sines`' layers
    backwards: tuple[
        Floats, ...
    ]  # the transposed matrices, the last layer's first; the first layer's is of values, too
    kernels: tuple[
        Floats, ...
    ]  # kernel and bias of the filter's layers, and kernels of the gradients, last layer first

    def picture(self, x: Floats, place: tuple[int, int, int, int]) -> Floats:
        """The tile, (3, height, width)."""
        out = np.empty((3, *place[2:]), np.float32)
        _kernels.tile(x, place, self.forwards, self.backwards, self.kernels, None, None, 1.0, out)
        return out

    def error_and_slopes(
        self, x: Floats, place: tuple[int, int, int, int], target: Floats, weight: Floats | None, scale: float
    ) -> tuple[float, Floats]:
        """The squared error of the tile times a weight (height, width) and a scale, and its gradient by x."""
        by_x = np.empty_like(x)
        error = _kernels.tile(x, place, self.forwards, self.backwards, self.kernels, target, weight, scale, by_x)
        return error, by_x


@dataclass(frozen=True, eq=False)
class Rate:
    """The rate model of a level at one quality, in the forms that a stripe wants."""

    parts: tuple[Floats, ...]

    @classmethod
    def of(cls, weights: Mapping[str, Floats], level: int, bias: Floats) -> Rate:
        """From the weights of a model, by `rate`'s names; bias (hidden,) at the quality."""
        name = f"rate.{level}."
        causal, mid, head = (weights[name + part] for part in ("causal", "mid", "head"))
        forwards = [weights[name + part] for part in ("mid", "mid_bias", "head", "head_bias")]
        above: Floats = np.empty(0, np.float32)
        back: Floats = above
        if f"{name}above" in weights:
            phases = weights[name + "above"].reshape(len(bias), 2, 2, -1)  # hidden, row and column of 2x2, features
            above = phases.transpose(1, 2, 0, 3)
            back = phases.transpose(1, 3, 2, 0).reshape(2, phases.shape[3], -1)  # row, features, column and hidden
            bias = (bias[:, None] + weights[name + "above_bias"].reshape(-1, 4)).T.reshape(2, 2, -1)
        parts = (causal, bias, *forwards, head.T, mid.T, causal.T, above, back)
        return cls(tuple(np.ascontiguousarray(part) for part in parts))

    def gradients(
        self, values: Floats, trunk: Floats | None, mask: Floats | None, by_values: Floats, by_trunk: Floats | None
    ) -> float:
        """Bits of a stripe of values (C, h, w), times a mask (h, w); to their gradients by values and trunk is added.

        trunk (features, ceil(h / 2), ceil(w / 2)), None at the coarsest level.
        """
        return _kernels.rate(values, trunk, self.parts, mask, True, by_values, by_trunk)

    def distributions(self, values: Floats, trunk: Floats | None) -> tuple[Floats, Floats]:
        """Mean and log scale of a stripe of values (C, h, w), each of that shape."""
        mean, log_scale = np.empty(values.shape, np.float32), np.empty(values.shape, np.float32)
        _kernels.rate(values, trunk, self.parts, None, False, mean, log_scale)
        return mean, log_scale
