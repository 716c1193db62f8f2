"""The rate model, differentiable: the torch twin of `entropy`, which says what the layers mean.

Weights are floats by the names of a prior's integer tensors; `to_integers` rounds them
for the prior and `to_floats` brings them back, so a fit minimises the very rate that
the range coder will pay, but for rounding (2**-8 of an activation, 1/16 of a mean).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inrcodec.entropy import CAUSAL, ESCAPE, FRACTIONS, REACH, SCALES, STRIPE, TABLE_SUM
from inrcodec.options import MAX_QUALITY_INDEX, conditioning

Weights = Mapping[str, Tensor]

LOG_SCALES = (-4.0, 5.0)  # natural log of the Laplace scale: first and last row of the table
LEAST_SCALE = 0.02  # added to the scale: no value is ever certain
PER_NAT = (SCALES - 1) / (LOG_SCALES[1] - LOG_SCALES[0])  # table rows per unit of log scale


def _stripes(values: Tensor) -> tuple[Tensor, int]:
    """Fields (B, C, h, w) as (B * stripes, C, 64, w), which do not see each other."""
    batch, channels, height, width = values.shape
    count = -(-height // STRIPE)
    padded = functional.pad(values, (0, 0, 0, count * STRIPE - height))
    split = padded.reshape(batch, channels, count, STRIPE, width).transpose(1, 2)
    return split.reshape(batch * count, channels, STRIPE, width), count


def _causal(weights: Weights, level: int, values: Tensor) -> Tensor:
    """The causal part of the first layer, (B, hidden, h, w)."""
    batch, channels, height, width = values.shape
    stripes, count = _stripes(values)
    flat = weights[f"rate.{level}.causal"]  # (hidden, 11 * channels)
    hidden = len(flat)
    taps = flat.reshape(hidden, channels, len(CAUSAL))
    above, own = taps[..., :9], taps[..., 9:]
    blank = taps.new_zeros(hidden, channels, 1)  # right of the row above
    row = torch.cat([own, taps.new_zeros(hidden, channels, 3)], 2)
    kernel = torch.cat([above, blank, row], 2).reshape(hidden, channels, 3, 5)
    out = functional.conv2d(functional.pad(stripes, (2, 2, 2, 0)), kernel)
    joined = out.reshape(batch, count, hidden, STRIPE, width).transpose(1, 2)
    return joined.reshape(batch, hidden, count * STRIPE, width)[:, :, :height]


def trunks(weights: Weights, fields: Sequence[Tensor]) -> list[Tensor | None]:
    """What each level sees of all coarser ones, (B, features, ceil(h / 2), ceil(w / 2)); None for the coarsest."""
    out: list[Tensor | None] = [None]
    for level in range(len(fields) - 1, 0, -1):
        name, kernel, coarser = f"rate.{level}.", weights[f"rate.{level}.trunk"], out[-1]
        height, width = fields[level].shape[-2:]
        kernel = kernel.reshape(len(kernel), -1, 3, 3)
        around = functional.conv2d(fields[level], kernel, weights[name + "trunk_bias"], padding=1)
        if coarser is not None:
            above = weights[name + "trunk_above"], weights[name + "trunk_above_bias"]
            around = around + _phases(coarser, *above, height, width)
        out.append(torch.relu(around))
    return out[::-1]


def distributions(
    weights: Weights, fields: Sequence[Tensor], conditioning: Tensor, levels: int | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Mean and log scale of every value, each shaped like its field; fields (B, C, h, w) level 0 first, q (B, 1).

    With `levels`, only of that many of the finest.
    """
    powers = torch.cat([torch.ones_like(conditioning), conditioning, conditioning**2], 1)  # (B, 3)
    out = []
    for level, (values, trunk) in enumerate(zip(fields[:levels], trunks(weights, fields)[:levels], strict=True)):
        name = f"rate.{level}."
        a = _causal(weights, level, values) + (powers @ weights[name + "bias"].T)[:, :, None, None]
        if trunk is not None:
            a = a + _phases(trunk, weights[name + "above"], weights[name + "above_bias"], *values.shape[-2:])
        h = _pointwise(torch.relu(a), weights[name + "mid"], weights[name + "mid_bias"])
        mean, log_scale = _pointwise(torch.relu(h), weights[name + "head"], weights[name + "head_bias"]).chunk(2, 1)
        out.append((mean, log_scale))
    return out


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.conv2d(x, weight[:, :, None, None], bias)


def _phases(trunk: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """A coarser level's features at the four finer cells under each of its own."""
    batch, _, rows, columns = trunk.shape
    phases = (weight @ trunk.flatten(2) + bias[:, None]).view(batch, -1, 2, 2, rows, columns)
    return joined(phases)[:, :, :height, :width]


def joined(phases: Tensor) -> Tensor:
    """The planes (..., 2 h, 2 w) of 2x2 phases (..., 2, 2, h, w)."""
    return phases.movedim((-4, -3), (-3, -1)).flatten(-2).flatten(-3, -2)  # faster than pixel_shuffle


def split(planes: Tensor) -> Tensor:
    """The 2x2 phases (..., 2, 2, h, w) of planes (..., 2 h, 2 w): the inverse of `joined`."""
    height, width = planes.shape[-2:]
    return planes.view(*planes.shape[:-2], height // 2, 2, width // 2, 2).movedim((-3, -1), (-4, -3))


def laplace_bits(offset: Tensor, log_scale: Tensor) -> Tensor:
    """Bits of the unit interval around `offset` (value - mean) under a Laplace distribution, elementwise.

    Far from the mean an escape is cheaper; a loss that says so would no longer pull values back.
    """
    b = log_scale.clamp(*LOG_SCALES).exp() + LEAST_SCALE
    d = offset.abs()
    inside = 1 - 0.5 * torch.exp(-(0.5 + d) / b) - 0.5 * torch.exp(-(0.5 - d).clamp_min(0) / b)
    tail = (-(d - 0.5) / b + torch.log(-0.5 * torch.expm1(-1 / b))) / math.log(2)
    return -torch.where(d < 0.5, torch.log2(inside.clamp_min(1e-9)), tail)


def rate(weights: Weights, fields: Sequence[Tensor], conditioning: Tensor) -> Tensor:
    """Bits of each level, (B, levels), level 0 first."""
    levels = zip(fields, distributions(weights, fields, conditioning), strict=True)
    return torch.stack([laplace_bits(z - mean, log_scale).sum((1, 2, 3)) for z, (mean, log_scale) in levels], 1)


def coarse_rate(weights: Weights, fields: Sequence[Tensor], conditioning: Tensor, finest: int) -> Tensor:
    """Bits of the levels from `finest` on, (B, levels), from their fields alone: no level depends on finer ones."""
    own = {}
    for name, tensor in weights.items():
        if name.startswith("rate.") and (level := int(name.split(".")[1])) >= finest:
            own[f"rate.{level - finest}.{name.split('.', 2)[2]}"] = tensor
    return rate(own, fields, conditioning)


def init_rate(
    channels: Sequence[int], hidden: int, middle: int, features: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Random float weights of a rate model whose values start out near zero and sure of it."""

    def uniform(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return (2 * torch.rand(rows, columns, generator=generator) - 1) * gain / math.sqrt(columns)

    weights: dict[str, Tensor] = {}
    last = len(channels) - 1
    for level, c in enumerate(channels):
        part = {
            "causal": uniform(hidden, len(CAUSAL) * c),
            "bias": torch.cat([uniform(hidden, 1, 0.2), torch.zeros(hidden, 2)], 1),
            "mid": uniform(middle, hidden),
            "mid_bias": torch.zeros(middle),
            "head": uniform(2 * c, middle, 0.1),
            "head_bias": torch.cat([torch.zeros(c), torch.full((c,), -1.0)]),
        }
        if level < last:
            part |= {"above": uniform(4 * hidden, features), "above_bias": torch.zeros(4 * hidden)}
        if level:
            part |= {"trunk": uniform(features, 9 * c), "trunk_bias": torch.zeros(features)}
        if 0 < level < last:
            part |= {
                "trunk_above": uniform(4 * features, features),
                "trunk_above_bias": torch.zeros(4 * features),
            }
        weights |= {f"rate.{level}.{key}": value for key, value in part.items()}
    return weights


# The units of the prior's integers, by the last part of the name (see entropy).
_UNITS = {"bias": 2.0**32, "trunk_bias": 2.0**8, "above_bias": 2.0**20, "trunk_above_bias": 2.0**20}
_UNITS |= {"mid_bias": 2.0**20, "head_bias": 2.0**20}
_WEIGHT_UNIT = 2.0**12


_PER_INDEX = conditioning(0) / MAX_QUALITY_INDEX  # q per unit of n = 255 - 2 * quality index


def to_integers(weights: Weights) -> dict[str, NDArray[Any]]:
    """The prior's tensors `rate.*`, the tables included, from float weights."""
    out: dict[str, NDArray[Any]] = {"rate.table": laplace_table(), "rate.shift": shifts()}
    for name, tensor in weights.items():
        if not name.startswith("rate."):
            continue
        values, part = tensor.detach().cpu().double().numpy().copy(), name.rsplit(".", 1)[1]
        if part in ("head", "head_bias"):  # log scale to table row
            channels = len(values) // 2
            values[channels:] *= PER_NAT
            if part == "head_bias":
                values[channels:] -= LOG_SCALES[0] * PER_NAT
        if part == "bias":
            values *= _PER_INDEX ** np.arange(3)
        unit = _UNITS.get(part, _WEIGHT_UNIT)
        dtype = np.int64 if part in _UNITS else np.int32
        out[name] = np.rint(values * unit).astype(dtype)
    return out


def to_floats(tensors: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Float weights that `to_integers` rounded, from a prior's tensors."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith("rate.") or name in ("rate.table", "rate.shift"):
            continue
        part = name.rsplit(".", 1)[1]
        values = tensor.astype(np.float64) / _UNITS.get(part, _WEIGHT_UNIT)
        if part in ("head", "head_bias"):
            channels = len(values) // 2
            if part == "head_bias":
                values[channels:] += LOG_SCALES[0] * PER_NAT
            values[channels:] /= PER_NAT
        if part == "bias":
            values /= _PER_INDEX ** np.arange(3)
        out[name] = torch.from_numpy(values.astype(np.float32))
    return out


def _scales() -> NDArray[np.float64]:
    """Laplace scale of each row of the table, in steps: exp(-4 + s / 7) + 0.02."""
    scales: NDArray[np.float64] = np.exp(LOG_SCALES[0] + np.arange(SCALES) / PER_NAT) + LEAST_SCALE
    return scales


def shifts() -> NDArray[np.uint8]:
    """Low bits that are coded as they are, per scale: what is left has a scale below 4, so escapes are rare."""
    bits: NDArray[np.float64] = np.maximum(0, np.floor(np.log2(_scales())) - 1)
    return bits.astype(np.uint8)


def laplace_table() -> NDArray[np.int32]:
    """Integer probabilities (scales * fractions, symbols) that sum to 2**20: what the range coder uses.

    Row s * 16 + f is a Laplace distribution of the scale s around (f - 8) / 16, in bins of 2**shift values; columns
    are the bins -15..15 and the escape, which takes what is left.
    """
    b, size = _scales()[:, None, None], (1 << shifts().astype(np.int64))[:, None, None]
    mean = ((np.arange(FRACTIONS) - FRACTIONS // 2) / FRACTIONS)[None, :, None]
    edges = np.arange(-REACH, REACH + 2)[None, None, :] * size - 0.5 - mean
    cdf = 0.5 + 0.5 * np.sign(edges) * -np.expm1(-np.abs(edges) / b)
    mass = np.diff(cdf, axis=-1)  # (scales, fractions, 31)
    counts = np.maximum(1, np.floor(mass * (TABLE_SUM - 2 * ESCAPE))).astype(np.int64)
    escape = np.maximum(1, np.floor((1 - mass.sum(-1)) * (TABLE_SUM - 2 * ESCAPE))).astype(np.int64)
    full = np.concatenate([counts, escape[..., None]], -1).reshape(-1, ESCAPE + 1)
    full[np.arange(len(full)), full.argmax(1)] += TABLE_SUM - full.sum(1)
    return full.astype(np.int32)
