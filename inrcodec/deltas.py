"""Deltas: what one picture changes in its prior.

A prior with fields ends in a filter (see `render`) and has a rate model (see `entropy`) that are right for pictures at
large; for one picture a few of their weights are better a little different. The changes are whole multiples of a
unit, most of them zero. They belong to the weights of each part in turn, row-major; of a bias that is a polynomial
in q, only the constant changes.

Filter: `FILTER`, in order; the unit is 2**-exponent.
Rate model: level 0 first, `RATE` of each, in order. The unit of a layer's last part is 2**10 (of the bias 2**18) in the
rows that say the scale and 2**7 (2**15) in those that say the mean; of the middle layer it is 2**7 (2**15), and of
the first bias 2**27. These are of the prior's integers.
A prior may say in `deltas.filter_unit` and `deltas.rate_unit`, (weights,), that a unit is 2**k times as large; none of
a weight of the rate model is above 2**10.

A prior may say what it expects of each change, as (3, weights) of 2**-16 in `deltas.filter` and `deltas.rate`: how
often it is not zero, how often positive then, and how often it goes on to grow (see `entropy`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inrcodec.entropy import Expected, decode_deltas, encode_deltas
from inrcodec.errors import PriorError, SinrError

__all__ = [
    "Deltas",
    "FilterDeltas",
    "changed_filter",
    "changed_rate",
    "delta_counts",
    "expected",
    "filter_units",
    "pack_deltas",
    "part_sizes",
    "rate_units",
    "unpack_deltas",
]

FILTER = ("filter.in", "filter.in_bias", "filter.out", "filter.out_bias")
MAX_EXPONENT = 16
BITS = 4.0  # of a change by one unit, in a descent
RATE = ("bias", "mid", "mid_bias", "head", "head_bias")
MAX_RATE, MAX_WEIGHT_UNIT = 127, 10  # of the rate model, largest |change| in units, and log2 of one: sums stay exact
MAX_OWN = 3  # octaves by which a weight's unit differs from what is usual, at most

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
    sizes = part_sizes(tensors)
    return sum(sizes["filter"]), sum(sizes["rate"])


def filter_units(tensors: Tensors, exponent: int) -> NDArray[np.float32]:
    """The unit of each change of the filter, (weights,). PriorError where the prior says nonsense."""
    return np.ldexp(np.float32(1), _own_exponents(tensors, "filter") - exponent)


def _own_exponents(tensors: Tensors, kind: str) -> NDArray[np.int32]:
    """By which powers of 2 the units of changes (weights,) are larger than is usual."""
    name, count = f"deltas.{kind}_unit", sum(part_sizes(tensors)[kind])
    stored = tensors.get(name, np.zeros(count, np.int8))
    if stored.dtype != np.int8 or stored.shape != (count,) or np.abs(stored.astype(int)).max() > MAX_OWN:
        raise PriorError(f"{name} should be int8 ({count},) within +-{MAX_OWN}, found {stored.dtype} {stored.shape}")
    return stored.astype(np.int32)


def part_sizes(tensors: Tensors) -> dict[str, list[int]]:
    """How many changes of the filter, and of the rate model, belong to each part."""
    of_filter = [int(np.prod(shape)) for _, shape in _parts(tensors, FILTER)]
    of_rate = [int(np.prod(shape)) for parts in _rate_parts(tensors) for _, shape in parts]
    return {"filter": of_filter, "rate": of_rate}


def changed_filter(tensors: Tensors, deltas: FilterDeltas | None) -> dict[str, NDArray[np.float32]]:
    """The filter's tensors, changed."""
    units = filter_units(tensors, 0 if deltas is None else deltas.exponent)
    return _changed(tensors, FILTER, np.zeros_like(units) if deltas is None else deltas.values * units)


def rate_units(tensors: Tensors) -> list[dict[str, NDArray[np.int64]]]:
    """Of each level, the unit of each change, shaped like what can change, in the prior's integers."""
    units = list[dict[str, NDArray[np.int64]]]()
    own, at = _own_exponents(tensors, "rate"), 0
    for parts in _rate_parts(tensors):
        units.append({})
        for name, shape in parts:
            exponents = np.full(shape, {"bias": 27, "mid": 7, "head": 7}.get(name.rsplit(".", 1)[1], 15))
            if ".head" in name:
                exponents[len(exponents) // 2 :] += 3
            exponents += own[at : at + exponents.size].reshape(shape)
            at += exponents.size
            if "bias" not in name:
                exponents = exponents.clip(max=MAX_WEIGHT_UNIT)
            units[-1][name] = np.left_shift(1, exponents, dtype=np.int64)
    return units


def _rate_parts(tensors: Tensors) -> list[list[tuple[str, tuple[int, ...]]]]:
    """What of each level can change."""
    levels = range(len(tensors["field.kernel"]))
    return [list(_parts(tensors, [f"rate.{level}.{part}" for part in RATE])) for level in levels]


def changed_rate(tensors: Tensors, values: NDArray[np.int32] | None) -> dict[str, NDArray[Any]]:
    """The rate model's tensors, changed; values (weights,) in units."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("rate.")}
    if values is None:
        return own
    units = {name: unit for level in rate_units(tensors) for name, unit in level.items()}
    return own | _changed(tensors, list(units), values * np.concatenate([unit.ravel() for unit in units.values()]))


def expected(tensors: Tensors) -> tuple[Expected | None, Expected | None]:
    """What a prior expects of the changes of its filter and of its rate model, if anything. PriorError for nonsense."""
    of_filter, of_rate = delta_counts(tensors)
    return _expected(tensors, "deltas.filter", of_filter), _expected(tensors, "deltas.rate", of_rate)


def _expected(tensors: Tensors, name: str, count: int) -> Expected | None:
    stored = tensors.get(name)
    if stored is None:
        return None
    if stored.dtype != np.uint16 or stored.shape != (3, count) or not stored.all():
        raise PriorError(f"{name} should be uint16 (3, {count}), none of them 0, found {stored.dtype} {stored.shape}")
    return Expected(*stored)


def pack_deltas(deltas: Deltas, tensors: Tensors) -> tuple[bytes, bytes]:
    """Two parameter groups: the exponent and the entropy-coded values of the filter, those of the rate model."""
    changes, rate = deltas.filter, deltas.rate
    of_filter, of_rate = expected(tensors)
    return (
        b"" if changes is None else bytes([changes.exponent]) + encode_deltas(changes.values, of_filter),
        b"" if rate is None else encode_deltas(rate, of_rate),
    )


def unpack_deltas(groups: Sequence[bytes], tensors: Tensors) -> Deltas:
    """The mirror image of `pack_deltas`. SinrError if the bytes hold no such thing."""
    changes, rate = None, None
    of_filter, of_rate = delta_counts(tensors)
    filter_expected, rate_expected = expected(tensors)
    if groups[0]:
        if groups[0][0] > MAX_EXPONENT:
            raise SinrError(f"deltas of the filter: expected an exponent of 0..{MAX_EXPONENT}, found {groups[0][0]}")
        changes = FilterDeltas(groups[0][0], decode_deltas(groups[0][1:], of_filter, filter_expected))
    if groups[1]:
        rate = decode_deltas(groups[1], of_rate, rate_expected)
        if np.abs(rate).max(initial=0) > MAX_RATE:
            raise SinrError(f"deltas of the rate model: expected changes within +-{MAX_RATE}")
    return Deltas(changes, rate)
