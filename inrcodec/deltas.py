"""Deltas: what one picture changes in its prior.

A prior with fields ends in a filter (see `render`) and has a rate model (see `entropy`) that are right for pictures at
large; for one picture a few of their weights are better a little different. The changes are whole multiples of a
unit, most of them zero. They belong to the weights of each part in turn, row-major; of a bias that is a polynomial
in q, only the constant changes.

Filter: `FILTER`, in order; the unit is 2**-exponent.
Rate model: level 0 first, `RATE` of each, in order. The unit of a layer's last part is 2**10 (of the bias 2**18) in the
rows that say the scale and 2**7 (2**15) in those that say the mean; of the middle layer it is 2**7 (2**15), and of
the first bias 2**27. These are of the prior's integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inrcodec.entropy import decode_deltas, encode_deltas
from inrcodec.errors import SinrError

__all__ = [
    "Deltas",
    "FilterDeltas",
    "changed_filter",
    "changed_rate",
    "delta_counts",
    "pack_deltas",
    "rate_units",
    "unpack_deltas",
]

FILTER = ("filter.in", "filter.in_bias", "filter.out", "filter.out_bias")
MAX_EXPONENT = 16
RATE = ("bias", "mid", "mid_bias", "head", "head_bias")
MAX_RATE = 127  # largest |change| of the rate model, in units: the sums stay exact

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class FilterDeltas:
    """Changes of a filter's weights."""

    exponent: int  # 0..16; the unit is 2**-exponent
    values: NDArray[np.int32]  # (weights,), in units


@dataclass(frozen=True, eq=False)
class Deltas:
    """Changes of a prior with fields; None where nothing changes."""

    filter: FilterDeltas | None = None
    rate: NDArray[np.int32] | None = None  # (weights,), in units


def _parts(tensors: Tensors, names: Sequence[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What of each tensor can change, for example of a filter (24, 7, 3, 3), (24,), (3, 24, 3, 3), (3,)."""
    for name in names:
        shape = tensors[name].shape
        yield name, shape[:1] if name.endswith(("in_bias", ".bias")) else shape


def _changed(tensors: Tensors, names: Sequence[str], changes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The tensors, with changes (weights,) of their own kind added."""
    changed, at = dict[str, NDArray[Any]](), 0
    for name, shape in _parts(tensors, names):
        changed[name], size = np.array(tensors[name]), int(np.prod(shape))
        target = changed[name][:, 0] if shape != changed[name].shape else changed[name]
        target += changes[at : at + size].reshape(shape).astype(target.dtype)
        at += size
    return changed


def delta_counts(tensors: Tensors) -> tuple[int, int]:
    """How many weights of the filter and of the rate model can change."""
    return _filter_count(tensors), sum(unit.size for unit in _all_units(tensors).values())


def _filter_count(tensors: Tensors) -> int:
    return sum(int(np.prod(shape)) for _, shape in _parts(tensors, FILTER))


def changed_filter(tensors: Tensors, deltas: FilterDeltas | None) -> dict[str, NDArray[np.float32]]:
    """The filter's tensors, changed."""
    values = np.zeros(_filter_count(tensors)) if deltas is None else deltas.values * 2.0**-deltas.exponent
    return _changed(tensors, FILTER, values.astype(np.float32))


def rate_units(tensors: Tensors, level: int) -> dict[str, NDArray[np.int64]]:
    """The unit of each change of a level, shaped like what can change, in the prior's integers."""
    units = {}
    for name, shape in _parts(tensors, [f"rate.{level}.{part}" for part in RATE]):
        exponents = np.full(shape, {"bias": 27, "mid": 7, "head": 7}.get(name.rsplit(".", 1)[1], 15))
        if ".head" in name:
            exponents[len(exponents) // 2 :] += 3
        units[name] = np.left_shift(1, exponents, dtype=np.int64)
    return units


def changed_rate(tensors: Tensors, values: NDArray[np.int32] | None) -> dict[str, NDArray[Any]]:
    """The rate model's tensors, changed; values (weights,) in units."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("rate.")}
    if values is None:
        return own
    units = _all_units(tensors)
    return own | _changed(tensors, list(units), values * np.concatenate([unit.ravel() for unit in units.values()]))


def _all_units(tensors: Tensors) -> dict[str, NDArray[np.int64]]:
    levels = range(len(tensors["field.kernel"]))
    return {name: unit for level in levels for name, unit in rate_units(tensors, level).items()}


def pack_deltas(deltas: Deltas) -> tuple[bytes, bytes]:
    """Two parameter groups: the exponent and the entropy-coded values of the filter, those of the rate model."""
    changes, rate = deltas.filter, deltas.rate
    return (
        b"" if changes is None else bytes([changes.exponent]) + encode_deltas(changes.values),
        b"" if rate is None else encode_deltas(rate),
    )


def unpack_deltas(groups: Sequence[bytes], tensors: Tensors) -> Deltas:
    """The mirror image of `pack_deltas`. SinrError if the bytes hold no such thing."""
    changes, rate = None, None
    of_filter, of_rate = delta_counts(tensors)
    if groups[0]:
        if groups[0][0] > MAX_EXPONENT:
            raise SinrError(f"deltas of the filter: expected an exponent of 0..{MAX_EXPONENT}, found {groups[0][0]}")
        changes = FilterDeltas(groups[0][0], decode_deltas(groups[0][1:], of_filter))
    if groups[1]:
        rate = decode_deltas(groups[1], of_rate)
        if np.abs(rate).max(initial=0) > MAX_RATE:
            raise SinrError(f"deltas of the rate model: expected changes within +-{MAX_RATE}")
    return Deltas(changes, rate)
