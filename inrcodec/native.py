"""The arithmetic of fits and pictures on a CPU, compiled: `_kernels` with checked shapes.

It is there if there was a C compiler when the package was installed. Otherwise NumPy and PyTorch compute the same, in
about twice the time; tests compare them. Arrays are float32, but for those of the entropy coder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

try:
    from inrcodec import _kernels
except ImportError:
    _kernels = None  # type: ignore[assignment]

__all__ = [
    "Decoder",
    "Descent",
    "Rate",
    "Restored",
    "available",
    "convolved",
    "descended",
    "filter_slopes",
    "interpolate",
    "interpolate_back",
    "rate_slopes",
    "rounded",
    "sines",
    "symbols",
]

Floats = NDArray[np.float32]
Axis = tuple[NDArray[np.int32], Floats]  # per sample four cells, in a row but for the ends, and weights: (N, 4) each


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


def convolved(
    planes: Floats, kernel: Floats, bias: Floats | None = None, rectified: bool = False, residual: bool = False
) -> Floats:
    """What a 3x3 kernel (N, C, 3, 3) makes of planes (C, h + 2, w + 2): (N, h, w), 0 in place of less if rectified.

    If residual, the planes are added to that.
    """
    height, width = planes.shape[1:]
    out = np.empty((len(kernel), height - 2, width - 2), np.float32)
    _kernels.convolve(planes, kernel, bias, rectified, residual, out)
    return out


def interpolate(values: Floats, gains: Floats, rows: Axis, columns: Axis, out: Floats) -> None:
    """Write to out (C, rows, columns) what is there between the cells of values (C, h, w), times gains (C,)."""
    _kernels.interpolate(values, gains, rows, columns, out)


def interpolate_back(by_out: Floats, gains: Floats, rows: Axis, columns: Axis, by_values: Floats) -> None:
    """Add to the gradient by `interpolate`'s values, given that by its out."""
    _kernels.interpolate_back(by_values, gains, rows, columns, by_out)


def rounded(values: Floats, noise: Floats, temperature: float) -> tuple[Floats, Floats]:
    """`fit.noisy_round` of values (n,) and of noise (n,), and its slopes."""
    found, slopes = np.empty_like(values), np.empty_like(values)
    _kernels.round_softly(values, noise, temperature, found, slopes)
    return found, slopes


def filter_slopes(
    padded: Floats,
    missing: Floats,
    weight: Floats | None,
    parts: Sequence[Floats],
    scale: float,
    slopes: Sequence[Floats] = (),
) -> float:
    """The squared error of what a filter that sees padded (C, h + 4, w + 4) adds, against what is missing, (3, h, w).

    It counts times a weight (h, w) and a scale. To slopes are added the gradients by the parts: kernels and biases.
    """
    back = np.ascontiguousarray(parts[2].transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    return _kernels.filter_slopes(padded, missing, weight, (*parts, back), scale, tuple(by.ravel() for by in slopes))


def rate_slopes(first: Floats, values: Floats, parts: Sequence[Floats], slopes: Sequence[Floats] = ()) -> float:
    """The bits of values (C, n). The gradients by the last parts of a level's rate model are added to slopes.

    first, (hidden, n), is what the first layer sums up to; the parts are what is added to it, (hidden,), and matrix and
    bias of the middle layer and of the last.
    """
    backwards = (np.ascontiguousarray(parts[i].T) for i in (1, 3))
    return _kernels.rate_ends(first, values, (*parts, *backwards), tuple(slopes))


@dataclass(eq=False)
class Descent:
    """Adam (see `adam`) on changes (n,), each of which costs so many bits times log2(1 + |change|)."""

    state: Floats  # (3, n): the changes, and means of the gradient and of its square
    bits: float
    count: int = 0

    @classmethod
    def of(cls, changes: Floats, bits: float) -> Descent:
        """From these on."""
        return cls(np.stack([changes, np.zeros_like(changes), np.zeros_like(changes)]), bits)

    @property
    def changes(self) -> Floats:
        """So far, (n,)."""
        changes: Floats = self.state[0]
        return changes

    def step(self, gradient: Floats, rate: float) -> None:
        """One further step, of a size, down a gradient (n,) besides that of the bits."""
        self.count += 1
        _kernels.adam(self.state, gradient, self.bits, rate, self.count)


def _laid_out(flat: Floats, like: Sequence[Floats]) -> list[Floats]:
    """Parts of a flat array, one after the other, shaped like others."""
    ends = np.cumsum([part.size for part in like])
    return [part.reshape(own.shape) for part, own in zip(np.split(flat, ends[:-1]), like, strict=True)]


def descended(
    changes: Floats,
    start: Sequence[Floats],
    units: Floats,
    bits: float,
    paces: Sequence[float],
    add_slopes: Callable[[int, Sequence[Floats], Sequence[Floats]], float],
) -> Floats:
    """Changes (n,) of parts, in units (n,), after steps of a `Descent` of these paces.

    `add_slopes` is given the number of a step, the changed parts and where their slopes go, times what it returns.
    """
    descent, base = Descent.of(changes, bits), np.concatenate([part.ravel() for part in start])
    moved, gradient = np.empty_like(base), np.empty_like(base)
    parts, slopes = _laid_out(moved, start), _laid_out(gradient, start)
    for turn, pace in enumerate(paces):
        np.multiply(descent.changes, units, out=moved)
        moved += base
        gradient.fill(0)
        scale = add_slopes(turn, parts, slopes)
        gradient *= units
        gradient *= np.float32(scale)
        descent.step(gradient, pace)
    return descent.changes


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


@dataclass(eq=False)
class Decoder:
    """`entropy`'s range decoder."""

    words: NDArray[np.int64]  # of 32 bits
    state: NDArray[np.int64]  # how many of them are read, range and offset: 64 bits each

    @classmethod
    def of(cls, words: NDArray[np.uint32]) -> Decoder:
        """At the first of the words."""
        first, second = (int(word) for word in np.append(words, np.zeros(2, np.uint32))[:2])
        state = np.array([min(len(words), 2), 2**64 - 1, first << 32 | second], np.uint64)
        return cls(words.astype(np.int64), state.view(np.int64))

    def values(
        self,
        padded: NDArray[np.float64],
        ends: NDArray[np.int64],
        places: NDArray[np.int64],
        offsets: NDArray[np.int64],
        above: Floats,
        cells: NDArray[np.int64],
        parts: tuple[NDArray[np.float64], ...],
        tables: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]],
    ) -> None:
        """Write values to padded (channels, size): those of the cells of a block. ValueError if there are none.

        All is as in `symbols`, for cells of wavefronts that begin and end at `ends`. tables: bounds of the symbols
        (rows, symbols + 1), low bits of each row, bounds of how many bits an escape has.
        """
        if not _kernels.decode(self.state, self.words, padded, ends, places, offsets, above, cells, parts, *tables):
            raise ValueError("words that nothing is coded as")

    def maybe_exhausted(self) -> bool:
        """Whether nothing but the end may follow: constriction's."""
        at, extent, offset = self.state.view(np.uint64).tolist()
        return bool(at == len(self.words) and (extent == 2**64 - 1 or offset < 2**33 - 1))


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
    trunk: tuple[Floats, ...]  # of its features: kernel and bias, those of what is above, and both matrices back

    @classmethod
    def of(cls, weights: Mapping[str, Floats], level: int, bias: Floats) -> Rate:
        """From the weights of a model, by `rate`'s names; bias (hidden,) at the quality."""
        name = f"rate.{level}."
        none: Floats = np.empty(0, np.float32)

        def phases(part: str, rows: int) -> tuple[Floats, Floats]:
            """A matrix by phase, (row and column of 2x2, rows, features), and back (row, features, column and rows)."""
            if name + part not in weights:
                return none, none
            split = weights[name + part].reshape(rows, 2, 2, -1)
            back = split.transpose(1, 3, 2, 0)
            return split.transpose(1, 2, 0, 3), back.reshape(2, back.shape[1], -1)

        def by_phase(part: str) -> Floats:
            return weights[name + part].reshape(-1, 4).T.reshape(2, 2, -1)

        causal, mid, head = (weights[name + part] for part in ("causal", "mid", "head"))
        above, back = phases("above", len(bias))
        parts = [causal, by_phase("above_bias") + bias if above.size else bias]
        parts += [weights[name + part] for part in ("mid", "mid_bias", "head", "head_bias")]
        parts += [head.T, mid.T, causal.T, above, back]
        trunk: list[Floats] = []
        if name + "trunk" in weights:
            kernel, own = weights[name + "trunk"], weights[name + "trunk_bias"]
            above, back = phases("trunk_above", len(own))
            turned = kernel.reshape(len(own), -1, 3, 3).transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
            trunk = [kernel, own, above, by_phase("trunk_above_bias") if above.size else none, turned, back]
        return cls(*(tuple(np.ascontiguousarray(part) for part in each) for each in (parts, trunk)))

    def features(self, values: Floats, coarser: Floats | None, out: Floats) -> None:
        """The features of a level's values (C, h, w) and of a coarser level's features, if there is one, (F, h, w)."""
        _kernels.trunk(np.pad(values, ((0, 0), (1, 1), (1, 1))), coarser, self.trunk, out)

    def features_backward(
        self, features: Floats, by_features: Floats, by_values: Floats, by_coarser: Floats | None
    ) -> None:
        """The gradient by the features, and so by values and coarser features: to these is added."""
        _kernels.trunk_back(features, by_features, self.trunk, by_values, by_coarser)

    def gradients(
        self, values: Floats, trunk: Floats | None, mask: Floats | None, by_values: Floats, by_trunk: Floats | None
    ) -> float:
        """Bits of a stripe of values (C, h, w), times a mask (h, w); to their gradients by values and trunk is added.

        trunk (features, ceil(h / 2), ceil(w / 2)), None at the coarsest level.
        """
        return _kernels.rate(values, trunk, self.parts, mask, True, by_values, by_trunk)

    def bits(self, values: Floats, trunk: Floats | None, mask: Floats | None) -> Floats:
        """Bits of the cells of a stripe, (h, w), times a mask (h, w)."""
        bits = np.empty(values.shape[1:], np.float32)
        _kernels.rate(values, trunk, self.parts, mask, False, bits, None)
        return bits

    def distributions(self, values: Floats, trunk: Floats | None) -> tuple[Floats, Floats]:
        """Mean and log scale of a stripe of values (C, h, w), each of that shape."""
        mean, log_scale = np.empty(values.shape, np.float32), np.empty(values.shape, np.float32)
        _kernels.rate(values, trunk, self.parts, None, False, mean, log_scale)
        return mean, log_scale
