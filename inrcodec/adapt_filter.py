"""Adapting the filter to one picture, where that pays: descent on error / lambda + bits of the deltas.

Everything before the filter is fixed by then, so a step costs two small convolutions, and it looks at a small tile
only. The bits of a change in training are a smooth bound; the unit of the deltas, and whether there are any, is decided
by real bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inrcodec import native, synthesis
from inrcodec.adam import State, adam_step, bits_slope
from inrcodec.deltas import BITS, FILTER, FilterDeltas, changed_filter, delta_counts, expected, filter_units
from inrcodec.entropy import encode_deltas
from inrcodec.graphs import Recorded
from inrcodec.objective import SQUARED_UNIT, within_memory
from inrcodec.parallel import in_parallel
from inrcodec.tile import FieldModel, Network, by_tap, compiled_for, powers, tile_of, tiles

__all__ = ["adapt_filter"]

STEPS = 300  # of Adam: few of the changes are worth their bits, and it takes long to tell which
PACE = 0.35  # of its first step, in units; falls to zero
SIDE = {"cpu": 64, "cuda": 256}  # pixels along the sides of a tile: a step looks at one
MOST = 1 << 22  # pixels in all tiles that are looked at: those of larger pictures are drawn
EXPONENT, EXPONENTS = 8, (5, 6, 7, 8)  # of the unit in a descent, and those that are tried after it


@dataclass(frozen=True, eq=False)
class _Sample:
    """What the filter sees of a tile, (1, C, h + 4, w + 4), and what it should add, (1, 3, h, w)."""

    seen: Tensor
    missing: Tensor
    weight: Tensor | None = None  # of each pixel's squared error, (1, 1, h, w)

    @property
    def tensors(self) -> list[Tensor]:
        """What there is of them."""
        return [self.seen, self.missing, *([] if self.weight is None else [self.weight])]

    @property
    def arrays(self) -> tuple[native.Floats, native.Floats, native.Floats | None]:
        """What `native` wants of them."""
        weight = None if self.weight is None else self.weight[0, 0].numpy()
        return self.seen[0].numpy(), self.missing[0].numpy(), weight

    def error(self, weights: synthesis.Weights, q: Tensor) -> Tensor | float:
        """Squared error in units of 1/255."""
        if compiled_for(self.seen.device):
            return native.filter_slopes(*self.arrays, _parts_at(weights, q), SQUARED_UNIT)
        squared = self._forwards(weights, q)[1].square()
        return (squared if self.weight is None else squared * self.weight[0]).sum() * SQUARED_UNIT

    def slopes(self, weights: synthesis.Weights, q: Tensor) -> list[Tensor]:
        """The gradient of `error` by each part of the filter."""
        hidden, excess = self._forwards(weights, q)
        features, rows, columns = hidden.shape
        upstream = (excess if self.weight is None else excess * self.weight[0]) * (2 * SQUARED_UNIT)  # (3, h, w)
        by_taps = upstream.new_zeros(3, 3, 3, rows, columns)
        for y, x in product(range(3), range(3)):
            by_taps[y, x, :, y : y + rows - 2, x : x + columns - 2] = upstream
        flat, samples = by_taps.view(27, -1), hidden.flatten(1)  # (27, n), (features, n)
        by_out = (flat @ samples.T).view(3, 3, 3, -1).permute(2, 3, 0, 1)
        back = torch.ops.aten.threshold_backward(by_tap(weights["filter.out"]).T @ flat, samples, 0)
        windows = [self.seen[0, :, y : y + rows, x : x + columns] for y, x in product(range(3), range(3))]
        by_in = (back @ torch.cat(windows).flatten(1).T).view(features, 3, 3, -1).permute(0, 3, 1, 2)
        return [by_in, back.sum(1, keepdim=True) * powers(q), by_out, upstream.sum((1, 2))]

    def _forwards(self, weights: synthesis.Weights, q: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer (features, h + 2, w + 2), and by how much the filter adds too much (3, h, w)."""
        first, out, last = (weights[f"filter.{part}"] for part in ("in", "out", "out_bias"))
        hidden = functional.conv2d(self.seen, first, weights["filter.in_bias"] @ powers(q)).relu_()
        return hidden[0], (functional.conv2d(hidden, out, last) - self.missing)[0]


@dataclass(frozen=True, eq=False)
class _Aim:
    """What a descent begins with and counts."""

    start: Mapping[str, Tensor]  # the prior's filter
    q: Tensor
    changes: Tensor  # at first, in units, (weights,)
    units: Tensor  # of changes, (weights,)
    scale: float  # of a sample's error in J


def _parts_at(weights: synthesis.Weights, q: Tensor) -> list[native.Floats]:
    """Kernel and bias of both layers at a quality, as `native` wants them."""
    parts = dict(weights) | {"filter.in_bias": weights["filter.in_bias"] @ powers(q)}
    return [parts[name].contiguous().numpy() for name in FILTER]


@within_memory
def adapt_filter(
    model: FieldModel,
    tensors: Mapping[str, NDArray[Any]],
    fields: Sequence[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    generator: torch.Generator,
    weight: Tensor | None = None,
    before: Tensor | None = None,
) -> tuple[FilterDeltas | None, Tensor]:
    """Changes of the filter for rounded fields (1, C, h, w) of a picture (1, 3, H, W); None if they do not pay.

    The tensors are the prior's. weight (1, 1, H, W) is of each pixel's squared error. `generator` is of the CPU. Beside
    the changes stands what the descent has found, unrounded, in units, (weights,): another may begin with what was
    `before`.
    """
    network = Network.of(model, q)

    def sample(rows: slice, columns: slice) -> _Sample:
        tile = tile_of(network, [z[0] for z in fields], target.shape[2:], rows, columns)
        missing = target[0, :, rows, columns] - tile.values[tile.inside]
        counts = None if weight is None else weight[:, :, rows, columns].contiguous()
        return _Sample(tile.padded().contiguous(), missing.contiguous()[None], counts)

    device = target.device
    side = SIDE.get(device.type, SIDE["cpu"])
    places = [
        (rows, columns) for rows, columns in tiles(target, side) if weight is None or weight[0, 0, rows, columns].any()
    ]
    count, pixels = len(places), sum(target[0, 0, rows, columns].numel() for rows, columns in places)
    first = torch.zeros(delta_counts(tensors)[0], device=device) if before is None else before
    if not count:
        return None, first
    drawn = torch.randperm(count, generator=generator)[: max(1, MOST * count // pixels)]
    samples = list(in_parallel(partial(sample, *places[i]) for i in drawn.tolist()))

    def error(deltas: FilterDeltas | None) -> float:
        """Squared error of the picture after changes, as far as the samples tell."""
        weights = {k: torch.from_numpy(v).to(device) for k, v in changed_filter(tensors, deltas).items()}
        return float(sum(in_parallel(partial(s.error, weights, q) for s in samples))) * count / len(samples)

    order: list[int] = []
    for _ in range(-(-STEPS // len(samples))):
        order += torch.randperm(len(samples), generator=generator).tolist()[::-1]
    looked_at = [samples[i] for i in order[:STEPS]]
    likely, units = expected(tensors)[0], filter_units(tensors, EXPONENT)
    start = {name: model.weights[name] for name in FILTER}
    aim = _Aim(start, q, first, torch.from_numpy(units).to(device), count / lam)
    found = (_compiled if compiled_for(device) else _recorded)(aim, looked_at)
    changes = found.cpu().numpy()
    best, least = None, 0.0
    with torch.no_grad():
        plain = error(None)
        for exponent in EXPONENTS:
            steps = changes * np.float32(2.0 ** (exponent - EXPONENT))
            deltas = FilterDeltas(exponent, np.trunc(steps + np.copysign(0.35, steps)).astype(np.int32))
            gain = (error(deltas) - plain) / lam + 8 * (1 + len(encode_deltas(deltas.values, likely)))
            if gain < least:
                best, least = deltas, gain
    return best, found


def _pace(turn: int) -> float:
    """The size of a step of the descent, in units."""
    return PACE * (1 - turn / STEPS)


def _recorded(aim: _Aim, samples: Sequence[_Sample]) -> Tensor:
    """Changes of the filter in units after a step at each sample."""
    sizes = [part[..., 0].numel() if name.endswith("in_bias") else part.numel() for name, part in aim.start.items()]

    def moved(changes: Tensor) -> dict[str, Tensor]:
        """The filter's tensors after changes; of a bias, of the constant."""
        parts = zip(aim.start.items(), torch.split(changes * aim.units, sizes), strict=True)
        return {
            name: torch.cat([(start[:, 0] + part)[:, None], start[:, 1:]], 1) if name.endswith("in_bias")
            else start + part.view_as(start) for (name, start), part in parts
        }  # fmt: skip

    def step(state: State, tile: Sequence[Tensor], pace: Tensor, number: Tensor) -> State:
        by_in, by_bias, *others = _Sample(*tile).slopes(moved(state[0]), aim.q)
        gradient = torch.cat([part.flatten() for part in (by_in, by_bias[:, 0], *others)])
        return adam_step(state, gradient * aim.scale * aim.units + bits_slope(state[0], BITS), pace, number)

    recorded = Recorded(step)
    zeros = torch.zeros_like(aim.changes)
    state, numbers = (aim.changes, zeros, zeros.clone()), zeros.new_ones(STEPS).cumsum(0)
    paces = zeros.new_tensor([_pace(turn) for turn in range(STEPS)])
    for turn, sample in enumerate(samples):
        state = recorded(state, sample.tensors, paces[turn], numbers[turn])
    return state[0]


def _compiled(aim: _Aim, samples: Sequence[_Sample]) -> Tensor:
    """What `_recorded` says, by `native`."""

    def add_slopes(turn: int, parts: Sequence[native.Floats], slopes: Sequence[native.Floats]) -> float:
        native.filter_slopes(*samples[turn].arrays, parts, SQUARED_UNIT * aim.scale, slopes)
        return 1.0

    paces = [_pace(turn) for turn in range(len(samples))]
    start = _parts_at(aim.start, aim.q)
    return torch.from_numpy(native.descended(aim.changes.numpy(), start, aim.units.numpy(), BITS, paces, add_slopes))
