"""Decode: the picture that parameters describe, sampled on any coordinate grid (NumPy, or `native` where it is there).

This is the reference decoder. The function that is sampled is, for a real position p,

    f(p) = SIREN([x, y], s_0(p), s_1(p), ..., q, q^2) + K [s_0(p), s_1(p), ...] + r(p)

with the normalised coordinates only where the prior has them, and the interpolated
lattice fields s_l, scaled by the gains for quality q, only where it has fields. Positions are in cells of the finest
field, which are pixels or, in wide files, squares of 2x2; what is said of pixels below is of these. Its values are
sRGB / 255 - 0.5. The restoration r of priors with fields comes from filters of 3x3 layers at pixel centres: the
first, of two, sees f without r; the filter for detail and, where a file asks for it, the post-filter see f with the
first one's R, and have layers in between that add to what they see. In between r is

    r(p) = R(p) + X(p) sin(2 pi x') + Y(p) sin(2 pi y') + D(p) sin(2 pi x') sin(2 pi y')
                + M(p) (1 - n**2) + P(p) n        with n = max(0, cos(2 pi x')) max(0, cos(2 pi y'))

with R, the X, Y, D and M of the filter for detail and the P of the post-filter interpolated like a field of level 0,
and (x', y') the offset from a pixel's centre. There the filter for detail has no say; the post-filter has none where
samples are twice as fine. What M says ends near centres alone, or finer samples would show a lattice of them.

An output sample is the value at its centre where samples are finer than pixels, and the mean over its area where
they are coarser, so shrinking does not alias.

Output is made in square tiles aligned to the whole output, whatever part is asked for:
memory does not grow with the picture, and a region is bit for bit a part of the whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from inrcodec import native
from inrcodec.errors import OptionError
from inrcodec.grid import normalise, sample_axis
from inrcodec.lattice import interpolate_at, interpolation_matrix, near_cells
from inrcodec.prior import FIRST_FILTER, Prior

TILE = 256  # samples along the side of a tile
CHUNK = 8192  # samples that go through the network at once: they stay in the cache
BLOCK = 64  # pixels along the side of a block whose single positions are taken together
MAX_SAMPLES = 1 << 28
FILTER_REACH = 2  # pixels that the first filter looks around

Floats = NDArray[np.floating[Any]]  # float32, or float64 in exact rendering
T = TypeVar("T")
Network = Callable[[Floats], Floats]  # inputs (in, N) to values (3, N)


@dataclass(frozen=True, eq=False)
class Parameters:
    """One picture: what the decoder knows once entropy decoding is done."""

    height: int  # cells of the finest field: pixels, unless they are further apart
    width: int
    conditioning: float  # q, normalised log lambda, about -1..1 (options.conditioning)
    network: Mapping[str, Floats]  # siren.I.* and, with fields, filter.*: the prior's plus this picture's deltas
    fields: tuple[NDArray[np.int32], ...]  # (channels, rows, columns) per level, level 0 first, in steps
    alpha: NDArray[Any] | None = None  # opacity of each pixel, (rows, columns), uint8 or uint16
    spacing: int = 1  # pixels from one cell to the next
    post: bool = False  # whether the post-filter has a say


@dataclass(frozen=True)
class View:
    """Which part of the picture, at how many samples. Positions in pixels, (0, 0) is the top left corner."""

    rows: int  # output samples
    columns: int
    top: float  # of the part, in pixels
    left: float
    height: float
    width: float

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1 or self.rows * self.columns > MAX_SAMPLES:
            raise OptionError(f"an output has 1..{MAX_SAMPLES} samples, not {self.columns} x {self.rows}")


def behind(parameters: Parameters) -> tuple[str, ...]:
    """The filters of a picture that come after the first one."""
    return ("detail", "post") if parameters.post else ("detail",)


def between(weights: Mapping[str, Any], name: str) -> list[tuple[Any, Any]]:
    """The layers in between of a prior's filter: kernels (features, features, 3, 3) and biases (features,)."""
    if name == FIRST_FILTER:
        return []
    kernels, biases = weights[f"{name}.mid"], weights[f"{name}.mid_bias"]
    features = kernels.shape[1]
    return [(kernels[at : at + features], biases[at : at + features]) for at in range(0, len(kernels), features)]


def reach(weights: Mapping[str, Any], name: str) -> int:
    """Pixels that a filter looks around: one for each of its layers of 3x3."""
    return 2 + len(between(weights, name))


def field_gains(prior: Prior, conditioning: float, dtype: type[np.floating[Any]] = np.float32) -> list[Floats]:
    """Size of one step of each field's values, per level (channels, 1, 1)."""
    channels = prior.architecture.channels
    if not channels:
        return []
    gain, slope = (prior.tensors[name].astype(dtype) for name in ("field.gain", "field.slope"))
    scale: Floats = np.exp(gain + slope * dtype(conditioning))
    return [part[:, None, None] for part in np.split(scale, np.cumsum(channels)[:-1])]


def render(
    prior: Prior,
    parameters: Parameters,
    view: View,
    region: tuple[slice, slice] | None = None,
    network: Network | None = None,
    bit_depth: int = 8,
    exact: bool = False,
) -> NDArray[Any]:
    """sRGB samples of a view, uint8 or uint16, shape (rows, columns, 3); with `region`, only those of its samples.

    `network` evaluates the network elsewhere than in NumPy. `exact` computes in float64: all machines round to the
    same samples, for the last bits of a sum no longer matter.
    """
    rows, columns = region or (slice(0, view.rows), slice(0, view.columns))
    out = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), f"u{bit_depth // 8}")
    function = _Function(prior, parameters, network, np.float64 if exact else np.float32)

    fine_y, fine_x = _oversampling(view.height, view.rows), _oversampling(view.width, view.columns)
    spacing = parameters.spacing
    ys = sample_axis(spacing * parameters.height, view.top, view.top + view.height, view.rows * fine_y) / spacing
    xs = sample_axis(spacing * parameters.width, view.left, view.left + view.width, view.columns * fine_x) / spacing

    def tile(top: int, left: int) -> None:
        """Compute one whole tile and keep what was asked for."""
        bottom, right = min(top + TILE, view.rows), min(left + TILE, view.columns)
        samples = function.on_grid(ys[top * fine_y : bottom * fine_y], xs[left * fine_x : right * fine_x])
        if fine_y * fine_x > 1:
            visible = np.clip(samples, -0.5, 0.5, out=samples)
            samples = visible.reshape(3, bottom - top, fine_y, right - left, fine_x).mean(axis=(2, 4))
        pixels = _quantized(samples, bit_depth)
        y0, y1 = max(top, rows.start), min(bottom, rows.stop)
        x0, x1 = max(left, columns.start), min(right, columns.stop)
        out[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start] = pixels[
            y0 - top : y1 - top, x0 - left : x1 - left
        ]

    tiles = [
        (top, left)
        for top in range(rows.start // TILE * TILE, rows.stop, TILE)
        for left in range(columns.start // TILE * TILE, columns.stop, TILE)
    ]
    for _ in _one_thread_each([partial(tile, *corner) for corner in tiles]):
        pass
    return out


def without_and_with_post(
    prior: Prior, parameters: Parameters, tiles: Sequence[tuple[slice, slice]]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Of tiles of pixels (rows, columns), the picture without the post-filter and with it, uint8 (rows, columns, 3)."""
    function = _Function(prior, replace(parameters, post=True))

    def both(rows: slice, columns: slice) -> tuple[NDArray[Any], NDArray[Any]]:
        picture, _, (says,) = function.filtered_twice(rows, columns, function.behind[1:])
        return _quantized(picture, 8), _quantized(picture + says, 8)

    return _one_thread_each([partial(both, *tile) for tile in tiles])


def _one_thread_each(tasks: Sequence[Callable[[], T]]) -> Iterator[T]:
    """What each task gives: the products are too small to share, and the sines are not shared by NumPy."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(min(len(tasks), os.cpu_count() or 1)) as pool:
        for done in [pool.submit(task) for task in tasks]:
            yield done.result()


def _quantized(values: Floats, bit_depth: int) -> NDArray[Any]:
    """Samples (H, W, 3) of sRGB / 255 - 0.5, (3, H, W)."""
    top = 2**bit_depth - 1
    found: NDArray[Any] = np.clip(np.rint(values * top + top / 2), 0, top).astype(f"u{bit_depth // 8}")
    return found.transpose(1, 2, 0)


def render_at(prior: Prior, parameters: Parameters, positions: NDArray[np.float64]) -> Floats:
    """The picture at single positions (x, y) in pixels: (N, 2) -> sRGB in [0, 1], (N, 3)."""
    function = _Function(prior, parameters)
    positions = positions / parameters.spacing
    out: Floats = np.empty((len(positions), 3), np.float32)
    column, row = (positions // BLOCK).astype(np.int64).T
    block = row * (parameters.width // BLOCK + 1) + column
    order = np.argsort(block, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        for start in range(0, len(members), CHUNK):
            part = members[start : start + CHUNK]
            out[part] = function.at(positions[part]).T
    return np.clip(out + np.float32(0.5), 0, 1, out=out)


def _oversampling(extent: float, samples: int) -> int:
    """Samples per output sample and axis: at least one per pixel, so that nothing is skipped."""
    return max(1, math.ceil(extent / samples - 1e-9))


def network_layers(
    prior: Prior, parameters: Parameters, dtype: type[np.floating[Any]] = np.float32
) -> tuple[list[tuple[Floats, Floats]], Floats | None]:
    """Weight and bias of each layer, (out, in) and (out,), and the skip (3, in) of priors with fields.

    The conditioning is the same everywhere, so it is part of the first bias.
    """
    names = [f"siren.{i}." for i in range(prior.layers)]
    layers: list[tuple[Floats, Floats]] = [
        (parameters.network[name + "weight"].astype(dtype), parameters.network[name + "bias"].astype(dtype))
        for name in names
    ]
    if not prior.architecture.channels:
        return layers, None
    weight, bias = layers[0]
    q = dtype(parameters.conditioning)
    layers[0] = np.ascontiguousarray(weight[:, :-2]), bias + q * weight[:, -2] + q * q * weight[:, -1]
    return layers, prior.tensors["skip.weight"].astype(dtype)


def numpy_network(prior: Prior, parameters: Parameters, dtype: type[np.floating[Any]] = np.float32) -> Network:
    """The network of a picture: inputs (in, N) to sRGB / 255 - 0.5, (3, N)."""
    layers, skip = network_layers(prior, parameters, dtype)
    omegas, (last, bias) = prior.architecture.omegas, layers[-1]
    if skip is not None and dtype == np.float32 and native.available():
        sines = [part * np.float32(omega) for layer, omega in zip(layers, omegas, strict=False) for part in layer]
        return partial(native.sines, layers=[*sines, np.concatenate([last, skip], 1), bias])

    def evaluate(inputs: Floats) -> Floats:
        result: Floats = np.empty((3, inputs.shape[1]), dtype)
        for start in range(0, inputs.shape[1], CHUNK):
            h = x = inputs[:, start : start + CHUNK]
            for (weight, shift), omega in zip(layers[:-1], omegas, strict=True):
                h = weight @ h
                h += shift[:, None]
                h *= dtype(omega)
                np.sin(h, out=h)
            y = last @ h + bias[:, None]
            result[:, start : start + CHUNK] = y if skip is None else y + skip @ x
        return result

    return evaluate


def fill_planes(
    planes: Floats,
    fields: Sequence[NDArray[Any]],
    gains: Sequence[Floats],
    kernels: Sequence[tuple[float, float]],
    ys: NDArray[np.float64],
    xs: NDArray[np.float64],
    first: int = 0,
) -> None:
    """Write fields from level `first` on, at rows (H,) and columns (W,), to the last planes of (features, H, W)."""
    at = len(planes) - sum(map(len, fields[first:]))
    for level in range(first, len(fields)):
        values, gain, kernel = fields[level], gains[level], kernels[level]
        own = planes[at : at + len(values)]
        at += len(values)
        if planes.dtype == np.float32 and native.available():
            rows, near_rows = near_cells(ys, level, values.shape[1], *kernel)
            columns, near_columns = near_cells(xs, level, values.shape[2], *kernel)
            native.interpolate(values[:, rows, columns].astype(np.float32), gain.ravel(), near_rows, near_columns, own)
            continue
        rows, down = interpolation_matrix(ys, level, values.shape[1], *kernel, planes.dtype.type)
        columns, across = interpolation_matrix(xs, level, values.shape[2], *kernel, planes.dtype.type)
        for channel, plane in zip(values[:, rows, columns].astype(planes.dtype) * gain, own, strict=True):
            np.matmul(down @ channel, across.T, out=plane)


class _Function:
    """The picture as a function of positions."""

    def __init__(
        self,
        prior: Prior,
        parameters: Parameters,
        network: Network | None = None,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        self.architecture, self.dtype = prior.architecture, dtype
        changed = {**prior.tensors, **parameters.network}
        self.behind = behind(parameters)
        names = tuple(f"{name}." for name in (FIRST_FILTER, *self.behind))
        self.filters = {k: v.astype(dtype) for k, v in changed.items() if k.startswith(names)}
        self.height, self.width = parameters.height, parameters.width
        self.kernels = [(float(b), float(c)) for b, c in prior.tensors.get("field.kernel", ())]
        self.fields, self.gains = parameters.fields, field_gains(prior, parameters.conditioning, dtype)
        self.features = 2 * self.architecture.coordinates + sum(self.architecture.channels)
        self.powers = np.array([1, parameters.conditioning, parameters.conditioning**2], dtype)
        self.network = network or numpy_network(prior, parameters, dtype)

    def on_grid(self, ys: NDArray[np.float64], xs: NDArray[np.float64]) -> Floats:
        """Values at rows and columns: (H,), (W,) -> (3, H, W)."""
        if not self.kernels:
            return self._evaluated(self._inputs(ys, xs))
        if _are_centres(ys) and _are_centres(xs):
            picture, _, says = self.filtered_twice(_pixels(ys), _pixels(xs), self.behind[1:])
            return sum(says, picture)
        rows, down = interpolation_matrix(ys, 0, self.height, *self.kernels[0], self.dtype)
        columns, across = interpolation_matrix(xs, 0, self.width, *self.kernels[0], self.dtype)
        parts = (down @ self._parts(rows, columns) @ across.T).reshape(-1, 3, len(ys), len(xs))
        samples = self._evaluated(self._inputs(ys, xs))
        samples += _between(parts, ys[:, None], xs)
        return samples

    def at(self, positions: NDArray[np.float64]) -> Floats:
        """Values at single positions (x, y), at least one and near each other: (N, 2) -> (3, N)."""
        planes: Floats = np.empty((self.features, len(positions)), self.dtype)
        at = 0
        if self.architecture.coordinates:
            planes[0] = normalise(positions[:, 0], self.width)
            planes[1] = normalise(positions[:, 1], self.height)
            at = 2
        for level, (values, gain, kernel) in enumerate(zip(self.fields, self.gains, self.kernels, strict=True)):
            planes[at : at + len(values)] = interpolate_at(values, positions, level, *kernel) * gain[..., 0]
            at += len(values)
        samples = self._evaluated(planes)
        if self.kernels:
            first = np.maximum(0, np.floor(positions.min(0) - 1.5)).astype(int)  # pixel under the kernel, (x, y)
            last = np.minimum(np.floor(positions.max(0) + 1.5), [self.width - 1, self.height - 1]).astype(int)
            columns, rows = (slice(start, stop + 1) for start, stop in zip(first, last, strict=True))
            parts = interpolate_at(self._parts(rows, columns), positions - first, 0, *self.kernels[0])
            samples += _between(parts.reshape(-1, 3, len(positions)), positions[:, 1], positions[:, 0])
        return samples

    def _inputs(self, ys: NDArray[np.float64], xs: NDArray[np.float64]) -> Floats:
        """What the network sees, (features, H, W)."""
        planes: Floats = np.empty((self.features, len(ys), len(xs)), self.dtype)
        if self.architecture.coordinates:
            planes[0] = normalise(xs, self.width)
            planes[1] = normalise(ys, self.height)[:, None]
        fill_planes(planes, self.fields, self.gains, self.kernels, ys, xs)
        return planes

    def _evaluated(self, planes: Floats) -> Floats:
        values: Floats = self.network(planes.reshape(self.features, -1)).reshape(3, *planes.shape[1:])
        return values

    def _filtered(self, name: str, seen: Floats) -> Floats:
        """All layers of a filter, (in, H + 2 reach, W + 2 reach) -> (out, H, W)."""
        filters = self.filters
        hidden = convolve(seen, filters[f"{name}.in"], filters[f"{name}.in_bias"] @ self.powers, rectified=True)
        for kernel, bias in between(filters, name):
            hidden = convolve(hidden, kernel, bias, rectified=True, residual=True)
        return convolve(hidden, filters[f"{name}.out"], filters[f"{name}.out_bias"])

    def _restored(self, rows: slice, columns: slice) -> tuple[Floats, Floats]:
        """At the centres of some pixels: picture and finest planes, (3 + planes, H, W), and R in it, (3, H, W)."""
        down, vertical = _grown(rows, self.height, FILTER_REACH)
        across, horizontal = _grown(columns, self.width, FILTER_REACH)
        planes = self._inputs(np.arange(down.start, down.stop) + 0.5, np.arange(across.start, across.stop) + 0.5)
        extra = self.filters["filter.in"].shape[1] - 3
        seen = np.concatenate([self._evaluated(planes), planes[:extra]])
        added = self._filtered(FIRST_FILTER, np.pad(seen, ((0, 0), vertical, horizontal), mode="edge"))
        picture = seen[:, _inside(rows, down), _inside(columns, across)]
        picture[:3] += added
        return picture, added

    def filtered_twice(self, rows: slice, columns: slice, names: Sequence[str]) -> tuple[Floats, Floats, list[Floats]]:
        """At the centres of some pixels: picture with R and R in it, (3, H, W), and what filters behind say of it."""
        around = max((reach(self.filters, name) for name in names), default=0)
        down, vertical = _grown(rows, self.height, around)
        across, horizontal = _grown(columns, self.width, around)
        picture, added = self._restored(down, across)
        padded = np.pad(picture, ((0, 0), vertical, horizontal), mode="edge")
        says = []
        for name in names:
            spare = around - reach(self.filters, name)
            within = slice(spare, -spare or None)
            says.append(self._filtered(name, padded[:, within, within]))
        inside = _inside(rows, down), _inside(columns, across)
        return picture[:3, *inside], added[:, *inside], says

    def _parts(self, rows: slice, columns: slice) -> Floats:
        """R, X, Y, D, M and, if there is a post-filter, P at the centres of some pixels, (15 or 18, H, W)."""
        _, added, says = self.filtered_twice(rows, columns, self.behind)
        return np.concatenate([added, *says])


def _between(parts: NDArray[np.floating[Any]], ys: NDArray[np.float64], xs: NDArray[np.float64]) -> NDArray[Any]:
    """r from R, X, Y, D, M and, if there is a post-filter, P at positions, (5 or 6, ...) -> (...)."""
    angles = [2 * np.pi * (axis - 0.5) for axis in (xs, ys)]
    x, y = (np.sin(angle).astype(parts.dtype) for angle in angles)
    near_x, near_y = (np.cos(angle).astype(parts.dtype) for angle in angles)
    near = np.maximum(near_x, 0) * np.maximum(near_y, 0)
    found: NDArray[Any] = parts[0] + parts[1] * x + (parts[2] + parts[3] * x) * y + parts[4] * (1 - near**2)
    for post in parts[5:]:
        found += post * near
    return found


def _are_centres(positions: NDArray[np.float64]) -> bool:
    """Whether positions are the centres of successive pixels."""
    return bool(np.array_equal(positions, np.floor(positions[0]) + 0.5 + np.arange(len(positions))))


def _pixels(centres: NDArray[np.float64]) -> slice:
    return slice(int(centres[0]), int(centres[-1]) + 1)


def _grown(part: slice, size: int, reach: int) -> tuple[slice, tuple[int, int]]:
    """What a filter looks at of an axis, and how often to repeat the picture's first and last pixel for the rest."""
    start, stop = part.start - reach, part.stop + reach
    grown = slice(max(0, start), min(size, stop))
    return grown, (grown.start - start, stop - grown.stop)


def _inside(part: slice, grown: slice) -> slice:
    """Where in a grown part of an axis the part itself is."""
    return slice(part.start - grown.start, part.stop - grown.start)


def convolve(x: Floats, kernel: Floats, bias: Floats, rectified: bool = False, residual: bool = False) -> Floats:
    """Correlation of (in, H + 2, W + 2) with a kernel (out, in, 3, 3), and a bias (out,): (out, H, W).

    If rectified, what would be negative is 0; if residual, x is added to that.
    """
    if x.dtype == np.float32 and native.available():
        return native.convolved(x, kernel, bias, rectified, residual)
    seen, height, width, out = len(x), x.shape[1] - 2, x.shape[2] - 2, len(kernel)
    by_tap = [(dy, dx, kernel[:, :, dy, dx]) for dy in range(3) for dx in range(3)]
    total: Floats
    if out <= seen:  # sum shifted products
        products = np.concatenate([part for _, _, part in by_tap]) @ x.reshape(seen, -1)
        taps = products.reshape(9, out, height + 2, width + 2)
        total = np.sum(
            [tap[:, dy : dy + height, dx : dx + width] for (dy, dx, _), tap in zip(by_tap, taps, strict=True)], axis=0
        )
    else:
        windows = np.concatenate([x[:, dy : dy + height, dx : dx + width] for dy, dx, _ in by_tap])
        total = (np.concatenate([part for _, _, part in by_tap], 1) @ windows.reshape(9 * seen, -1)).reshape(
            out, height, width
        )
    total += bias[:, None, None]
    if rectified:
        np.maximum(total, 0, out=total)
    if residual:
        total += x[:, 1:-1, 1:-1]
    return total
