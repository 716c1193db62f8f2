"""Deltas of the filter: what one picture changes in the weights of its prior.

A prior with fields ends in a filter (see `render`) that is right for pictures at large; for one picture a few of
its weights are better a little different. The changes are whole multiples of 2**-exponent, most of them zero.
They belong to the weights in the order of `PARTS`, each row-major; of a bias, which is a polynomial in q, only the
constant changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inrcodec.entropy import decode_deltas, encode_deltas
from inrcodec.errors import SinrError

__all__ = ["FilterDeltas", "apply_deltas", "pack_deltas", "unpack_deltas"]

PARTS = ("filter.in", "filter.in_bias", "filter.out", "filter.out_bias")
MAX_EXPONENT = 16


@dataclass(frozen=True, eq=False)
class FilterDeltas:
    """Changes of a filter's weights."""

    exponent: int  # 0..16; the unit is 2**-exponent
    values: NDArray[np.int32]  # (weights,), in units


def _shapes(tensors: Mapping[str, NDArray[Any]]) -> list[tuple[int, ...]]:
    """What of each part can change: (24, 7, 3, 3), (24,), (3, 24, 3, 3), (3,)."""
    shapes = [tensors[name].shape for name in PARTS]
    return [shape[:1] if name == "filter.in_bias" else shape for name, shape in zip(PARTS, shapes, strict=True)]


def apply_deltas(tensors: Mapping[str, NDArray[Any]], deltas: FilterDeltas | None) -> dict[str, NDArray[np.float32]]:
    """The filter's tensors, changed."""
    changed = {name: np.array(tensors[name], np.float32) for name in PARTS}
    if deltas is not None:
        at = 0
        for name, shape in zip(PARTS, _shapes(tensors), strict=True):
            size = int(np.prod(shape))
            part = deltas.values[at : at + size].reshape(shape).astype(np.float32) * np.float32(2.0**-deltas.exponent)
            target = changed[name][:, 0] if name == "filter.in_bias" else changed[name]
            target += part
            at += size
    return changed


def pack_deltas(deltas: FilterDeltas | None) -> bytes:
    """A parameter group: the exponent and the entropy-coded values; nothing for none."""
    return b"" if deltas is None else bytes([deltas.exponent]) + encode_deltas(deltas.values)


def unpack_deltas(data: bytes, tensors: Mapping[str, NDArray[Any]]) -> FilterDeltas | None:
    """The mirror image of `pack_deltas`. SinrError if the bytes hold no such thing."""
    if not data:
        return None
    if data[0] > MAX_EXPONENT:
        raise SinrError(f"deltas of the filter: expected an exponent of 0..{MAX_EXPONENT}, found {data[0]}")
    count = sum(int(np.prod(shape)) for shape in _shapes(tensors))
    return FilterDeltas(data[0], decode_deltas(data[1:], count))
