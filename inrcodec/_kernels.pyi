"""What `csrc` makes; `native` says what the arrays are. ValueError for arrays of another type or shape."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Exact = NDArray[np.float64]
Ints = NDArray[np.int64]
Axis = tuple[NDArray[np.int32], Floats]

def siren(x: Floats, layers: tuple[Floats, ...], values: Floats, /) -> None: ...
def convolve(
    planes: Floats, kernel: Floats, bias: Floats | None, rectified: bool, residual: bool, out: Floats, /
) -> None: ...
def interpolate(values: Floats, gains: Floats, rows: Axis, columns: Axis, out: Floats, /) -> None: ...
def interpolate_back(by_values: Floats, gains: Floats, rows: Axis, columns: Axis, by_out: Floats, /) -> None: ...
def tile(
    x: Floats,
    place: tuple[int, int, int, int],
    forwards: tuple[Floats, ...],
    backwards: tuple[Floats, ...],
    kernels: tuple[Floats, ...],
    target: Floats | None,
    weight: Floats | None,
    scale: float,
    by_x_or_picture: Floats,
    /,
) -> float: ...
def filter_slopes(
    padded: Floats,
    missing: Floats,
    weight: Floats | None,
    kernels: tuple[Floats, ...],
    scale: float,
    slopes: tuple[Floats, ...],
    /,
) -> float: ...
def trunk(padded: Floats, coarser: Floats | None, parts: tuple[Floats, ...], out: Floats, /) -> None: ...
def trunk_back(
    features: Floats,
    by_features: Floats,
    parts: tuple[Floats, ...],
    by_values: Floats,
    by_coarser: Floats | None,
    /,
) -> None: ...
def round_softly(values: Floats, noise: Floats, temperature: float, rounded: Floats, slopes: Floats, /) -> None: ...
def symbols(
    padded: Exact,
    places: Ints,
    offsets: Ints,
    above: Floats,
    cells: Ints,
    parts: tuple[Exact, ...],
    mean: Ints,
    row: Ints,
    /,
) -> None: ...
def decode(
    state: Ints,
    words: Ints,
    padded: Exact,
    ends: Ints,
    places: Ints,
    offsets: Ints,
    above: Floats,
    cells: Ints,
    parts: tuple[Exact, ...],
    bounds: NDArray[np.int32],
    shifts: Ints,
    bounds_of_bits: NDArray[np.int32],
    /,
) -> bool: ...
def rate_ends(first: Floats, values: Floats, parts: tuple[Floats, ...], gradients: tuple[Floats, ...], /) -> float: ...
def adam(state: Floats, gradient: Floats, bits: float, rate: float, count: int, /) -> None: ...
def rate(
    values: Floats,
    trunk: Floats | None,
    parts: tuple[Floats, ...],
    mask: Floats | None,
    gradients: bool,
    by_values_or_mean_or_bits: Floats,
    by_trunk_or_log_scale: Floats | None,
    /,
) -> float: ...
