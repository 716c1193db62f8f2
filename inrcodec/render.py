"""Decode: the picture that parameters describe, sampled on any coordinate grid (NumPy only).

This is the reference decoder. The function that is sampled is, for a real position p,

    f(p) = SIREN([x, y], s_0(p), s_1(p), ..., q, q^2) + K [s_0(p), s_1(p), ...]

with the normalised coordinates only where the prior has them, and the interpolated
lattice fields s_l, scaled by the gains for quality q, only where it has fields. Its values are
sRGB / 255 - 0.5. An output sample is the value at its centre where samples are finer
than pixels, and the mean over its area where they are coarser, so shrinking does not alias.

Output is made in square tiles aligned to the whole output, whatever part is asked for:
memory does not grow with the picture, and a region is bit for bit a part of the whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from inrcodec.errors import OptionError
from inrcodec.grid import normalise, sample_axis
from inrcodec.lattice import interpolation_matrix
from inrcodec.prior import Prior

TILE = 256  # samples along the side of a tile
CHUNK = 8192  # samples that go through the network at once: they stay in the cache
MAX_SAMPLES = 1 << 28

Floats = NDArray[np.float32]
Network = Callable[[Floats], Floats]  # inputs (N, in) to values (N, 3)


@dataclass(frozen=True, eq=False)
class Parameters:
    """One picture: what the decoder knows once entropy decoding is done."""

    height: int  # pixels
    width: int
    conditioning: float  # q, normalised log lambda, about -1..1 (options.conditioning)
    network: Mapping[str, Floats]  # siren.I.weight and .bias, the prior's plus this picture's deltas
    fields: tuple[NDArray[np.int32], ...]  # (channels, rows, columns) per level, level 0 first, in steps


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


def field_gains(prior: Prior, conditioning: float) -> list[Floats]:
    """Size of one step of each field's values, per level (channels, 1, 1)."""
    channels = prior.architecture.channels
    if not channels:
        return []
    scale = np.exp(prior.tensors["field.gain"] + prior.tensors["field.slope"] * np.float32(conditioning))
    return [part[:, None, None] for part in np.split(scale.astype(np.float32), np.cumsum(channels)[:-1])]


def render(
    prior: Prior,
    parameters: Parameters,
    view: View,
    region: tuple[slice, slice] | None = None,
    network: Network | None = None,
    bit_depth: int = 8,
) -> NDArray[Any]:
    """sRGB samples of a view, uint8 or uint16, shape (rows, columns, 3); with `region`, only those of its samples.

    `network` evaluates the network elsewhere than in NumPy.
    """
    rows, columns = region or (slice(0, view.rows), slice(0, view.columns))
    top_sample = 2**bit_depth - 1
    out = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), f"u{bit_depth // 8}")
    scaled = _scaled(prior, parameters)
    sampler = _sampler(prior, parameters, scaled, network or numpy_network(prior, parameters))

    fine_y, fine_x = _oversampling(view.height, view.rows), _oversampling(view.width, view.columns)
    ys = sample_axis(parameters.height, view.top, view.top + view.height, view.rows * fine_y)
    xs = sample_axis(parameters.width, view.left, view.left + view.width, view.columns * fine_x)

    def tile(top: int, left: int) -> None:
        """Compute one whole tile and keep what was asked for."""
        bottom, right = min(top + TILE, view.rows), min(left + TILE, view.columns)
        samples = sampler(ys[top * fine_y : bottom * fine_y], xs[left * fine_x : right * fine_x])
        if fine_y * fine_x > 1:
            visible = np.clip(samples, -0.5, 0.5, out=samples)
            samples = visible.reshape(bottom - top, fine_y, right - left, fine_x, 3).mean(axis=(1, 3))
        pixels = np.clip(np.rint(samples * top_sample + top_sample / 2), 0, top_sample).astype(out.dtype)
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
    if len(tiles) == 1:
        tile(*tiles[0])
    else:
        # One thread per tile: the products are too small to share, and the sines are not shared by NumPy.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(min(len(tiles), os.cpu_count() or 1)) as pool:
            for done in [pool.submit(tile, *corner) for corner in tiles]:
                done.result()
    return out


def render_at(prior: Prior, parameters: Parameters, positions: NDArray[np.float64]) -> Floats:
    """The picture at single positions (x, y) in pixels: (N, 2) -> sRGB in [0, 1], (N, 3)."""
    sampler = _sampler(prior, parameters, _scaled(prior, parameters), numpy_network(prior, parameters))
    out = np.empty((len(positions), 3), np.float32)
    rows, row = np.unique(positions[:, 1], return_inverse=True)
    order = np.argsort(row, kind="stable")
    for y, members in zip(rows, np.split(order, np.cumsum(np.bincount(row))[:-1]), strict=True):  # one row at a time
        out[members] = sampler(np.array([y]), positions[members, 0])[0]
    return np.clip(out + np.float32(0.5), 0, 1, out=out)


def _scaled(prior: Prior, parameters: Parameters) -> list[Floats]:
    """The fields of a picture in units of the network's inputs."""
    gains = field_gains(prior, parameters.conditioning)
    return [values * gain for values, gain in zip(parameters.fields, gains, strict=True)]


def _oversampling(extent: float, samples: int) -> int:
    """Samples per output sample and axis: at least one per pixel, so that nothing is skipped."""
    return max(1, math.ceil(extent / samples - 1e-9))


def network_layers(prior: Prior, parameters: Parameters) -> tuple[list[tuple[Floats, Floats]], Floats | None]:
    """Weight and bias of each layer, (out, in) and (out,), and the skip (3, in) of priors with fields.

    The conditioning is the same everywhere, so it is part of the first bias.
    """
    names = [f"siren.{i}." for i in range(prior.layers)]
    layers = [(parameters.network[name + "weight"], parameters.network[name + "bias"]) for name in names]
    if not prior.architecture.channels:
        return layers, None
    weight, bias = layers[0]
    q = np.float32(parameters.conditioning)
    layers[0] = np.ascontiguousarray(weight[:, :-2]), bias + q * weight[:, -2] + q * q * weight[:, -1]
    return layers, prior.tensors["skip.weight"]


def numpy_network(prior: Prior, parameters: Parameters) -> Network:
    """The network of a picture: inputs (N, in) to sRGB / 255 - 0.5, (N, 3)."""
    layers, skip = network_layers(prior, parameters)

    def evaluate(inputs: Floats) -> Floats:
        result = np.empty((len(inputs), 3), np.float32)
        for start in range(0, len(inputs), CHUNK):
            h = x = inputs[start : start + CHUNK]
            for (weight, bias), omega in zip(layers[:-1], prior.architecture.omegas, strict=True):
                h = h @ weight.T
                h += bias
                h *= np.float32(omega)
                np.sin(h, out=h)
            y = h @ layers[-1][0].T + layers[-1][1]
            result[start : start + CHUNK] = y if skip is None else y + x @ skip.T
        return result

    return evaluate


def _sampler(
    prior: Prior, parameters: Parameters, scaled: list[Floats], network: Network
) -> Callable[[NDArray[np.float64], NDArray[np.float64]], Floats]:
    """The picture as a function of row and column positions: (H,), (W,) -> (H, W, 3)."""
    architecture = prior.architecture
    kernels = prior.tensors.get("field.kernel")
    features = 2 * architecture.coordinates + sum(architecture.channels)

    def sample(ys: NDArray[np.float64], xs: NDArray[np.float64]) -> Floats:
        inputs = np.empty((len(ys), len(xs), features), np.float32)
        at = 0
        if architecture.coordinates:
            inputs[..., 0] = normalise(xs, parameters.width)
            inputs[..., 1] = normalise(ys, parameters.height)[:, None]
            at = 2
        for level, values in enumerate(scaled):
            assert kernels is not None
            b, c = (float(k) for k in kernels[level])
            rows, down = interpolation_matrix(ys, level, values.shape[1], b, c)
            columns, across = interpolation_matrix(xs, level, values.shape[2], b, c)
            for channel in values[:, rows, columns]:
                inputs[..., at] = down @ channel @ across.T
                at += 1
        return network(inputs.reshape(-1, features)).reshape(len(ys), len(xs), 3)

    return sample
