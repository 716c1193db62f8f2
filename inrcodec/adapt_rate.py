"""Adapting the rate model to one picture, where that pays: descent on the bits of its fields + those of the deltas.

Only the last layers change, and what they see is fixed by the fields: a step costs three small products. Levels
do not depend on each other, and of each the changes are kept if they save more bits than they take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inrcodec import native, rate
from inrcodec.adam import State, adam_step, bits_slope
from inrcodec.deltas import BITS, MAX_RATE, changed_rate, expected, rate_units
from inrcodec.entropy import Expected, encode_deltas
from inrcodec.graphs import Recorded
from inrcodec.objective import Coded, within_memory
from inrcodec.parallel import in_parallel
from inrcodec.stripe import laplace, level_cells
from inrcodec.tile import FieldModel, compiled_for

__all__ = ["adapt_rate", "rate_energies"]

STEPS = 180  # of Adam: few of the changes are worth their bits, and it takes long to tell which
PACE = 0.2  # of its first step, in units; falls to zero
CELLS = 1 << 12  # of a level in a step, at most; steps take turns with them
MOST = 1 << 17  # cells of a level that are looked at: those of larger pictures are drawn

Ints = NDArray[np.int32]


@within_memory
def adapt_rate(
    model: FieldModel,
    tensors: Mapping[str, NDArray[Any]],
    fields: Sequence[Tensor],
    q: Tensor,
    seed: int,
    before: Tensor | None = None,
    coded: Sequence[Coded] | None = None,
) -> tuple[Ints | None, Tensor]:
    """Changes of the rate model for rounded fields (1, C, h, w); None if they do not pay. The tensors are the prior's.

    Beside them stands what the descent has found, unrounded, in units, (weights,): another may begin with what was
    `before`. Cells that are not coded do not count.
    """
    sizes, sample = _sampler(model, tensors, fields, q, seed, coded)
    ends, likely = np.cumsum(sizes), expected(tensors)[1]
    starts = torch.zeros(sum(sizes), device=q.device) if before is None else before

    def of_level(level: int, start: Tensor) -> tuple[Ints, Tensor]:
        return _adapted(sample(level), start, likely and likely[ends[level] - len(start) : ends[level]])

    found = in_parallel(partial(of_level, *item) for item in enumerate(torch.split(starts, sizes)))
    whole, unrounded = zip(*found, strict=True)
    changes = np.concatenate(whole)
    return changes if changes.any() else None, torch.cat(unrounded)


@torch.no_grad()
def rate_energies(
    model: FieldModel, tensors: Mapping[str, NDArray[Any]], fields: Sequence[Tensor], q: Tensor
) -> Tensor:
    """Of each change by a unit, how much it matters for the rate of rounded fields (1, C, h, w), (weights,).

    That is the sum over all values of the square of the gradient of their bits, per cell of level 0.
    """
    sizes, sample = _sampler(model, tensors, fields, q, seed=0)
    parts = [sample(level).energies() for level in range(len(sizes))]
    return torch.cat(parts) / fields[0][0, 0].numel()


def _sampler(
    model: FieldModel,
    tensors: Mapping[str, NDArray[Any]],
    fields: Sequence[Tensor],
    q: Tensor,
    seed: int,
    coded: Sequence[Coded] | None = None,
) -> tuple[list[int], Callable[[int], _Sample]]:
    """How many changes each level can have, and what gives a sample of its cells."""
    trunks, shapes = rate.trunks(model.weights, fields), rate_units(tensors)
    sizes = [sum(unit.size for unit in level.values()) for level in shapes]
    beside = rate.to_floats(changed_rate(tensors, np.ones(sum(sizes), np.int32)))

    def sample(level: int) -> _Sample:
        values, trunk, generator = fields[level][0], trunks[level], torch.Generator().manual_seed(seed + level)
        mask = torch.ones_like(values[0]) if coded is None else coded[level].mask
        first, own = _drawn(model, level, q, values, None if trunk is None else trunk[0], mask, generator)
        parts = [model.weights[name] for name in shapes[level]]
        units = [beside[name].to(first.device) - part for name, part in zip(shapes[level], parts, strict=True)]
        parts[0], units[0] = parts[0][:, 0], units[0][:, 0]  # of the first bias, the constant
        return _Sample(first, own, int(mask.sum()), parts, units)

    return sizes, sample


def _drawn(
    model: FieldModel,
    level: int,
    q: Tensor,
    values: Tensor,
    trunk: Tensor | None,
    mask: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """What the first layer sums up to at cells of a level, (hidden, n), and their values (C, n), in random order.

    They are drawn if there are many.
    """
    wanted = min(1.0, MOST / max(1.0, float(mask.sum())))
    first, own = list[Tensor](), list[Tensor]()
    for cells, counted in level_cells(model, level, q, values, trunk, mask):
        if wanted < 1:
            drawn = torch.randperm(len(counted), generator=generator)[: math.ceil(wanted * len(counted))]
            counted = counted[drawn.to(counted.device)]
        first.append(cells.first[:, counted])
        own.append(cells.values[:, counted])
    found = torch.cat(first, 1), torch.cat(own, 1)
    order = torch.randperm(found[0].shape[1], generator=generator).to(values.device)
    return found[0][:, order], found[1][:, order]


@dataclass(frozen=True, eq=False)
class _Sample:
    """Cells of a level, and the layers behind what their first layer sums up to."""

    first: Tensor  # (hidden, n)
    values: Tensor  # (C, n)
    cells: int  # of the level
    parts: Sequence[Tensor]  # first bias, which is in `first`, middle layer and last
    units: Sequence[Tensor]  # of their changes

    def bits(self, changes: Tensor) -> float:
        """Of all the level's cells, as far as the sample tells, after changes (weights,) in units."""
        if compiled_for(self.first.device):
            parts = [part.contiguous().numpy() for part in self._moved(changes)]
            bits = native.rate_slopes(self.first.numpy(), self.values.numpy(), parts)
        else:
            bits = float(self._bits(changes, self.first, self.values)[0].sum())
        return bits * (self.cells / self.values.shape[1])

    def slopes(self, changes: Tensor, first: Tensor, values: Tensor) -> Tensor:
        """The gradient of `bits` by changes, as far as cells (hidden, n), (C, n) of the sample tell."""
        by_parts = self._by_parts(self._backwards(changes, first, values))
        found = [(by * unit).flatten() for by, unit in zip(by_parts, self.units, strict=True)]
        return torch.cat(found) * (self.cells / values.shape[1])

    def energies(self) -> Tensor:
        """The sum over all the level's values of the square of the slope of their bits by each change, (weights,)."""
        unchanged = torch.zeros(sum(unit.numel() for unit in self.units), device=self.first.device)
        squares = [part.square() for part in self._backwards(unchanged, self.first, self.values)]
        found = [(by * unit.square()).flatten() for by, unit in zip(self._by_parts(squares), self.units, strict=True)]
        return torch.cat(found) * (self.cells / self.values.shape[1])

    def _backwards(self, changes: Tensor, first: Tensor, values: Tensor) -> list[Tensor]:
        """Of each cell, slopes by what the layers sum up to, and what the last two see."""
        _, by_offset, by_log_scale, hidden, middle, mid, head = self._bits(changes, first, values)
        by_out = torch.cat([-by_offset, by_log_scale])
        by_middle = torch.ops.aten.threshold_backward(head.T @ by_out, middle, 0)
        by_hidden = torch.ops.aten.threshold_backward(mid.T @ by_middle, hidden, 0)
        return [by_hidden, by_middle, by_out, hidden, middle]

    @staticmethod
    def _by_parts(slopes: Sequence[Tensor]) -> list[Tensor]:
        """The sum over the cells of slopes by each part."""
        by_hidden, by_middle, by_out, hidden, middle = slopes
        return [by_hidden.sum(1), by_middle @ hidden.T, by_middle.sum(1), by_out @ middle.T, by_out.sum(1)]

    def _moved(self, changes: Tensor) -> list[Tensor]:
        """What is added to `first`, (hidden,), and the other parts, after changes."""
        split = torch.split(changes, [part.numel() for part in self.parts])
        moved = [change.view(unit.shape) * unit for change, unit in zip(split, self.units, strict=True)]
        return [moved[0], *(part + by for part, by in zip(self.parts[1:], moved[1:], strict=True))]

    def _bits(self, changes: Tensor, first: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """What `laplace` says of cells, and what it comes from: both hidden layers and the matrices behind them."""
        shift, mid, mid_bias, head, head_bias = self._moved(changes)
        hidden = torch.relu(first + shift[:, None])
        middle = torch.addmm(mid_bias[:, None], mid, hidden).relu_()
        mean, log_scale = torch.addmm(head_bias[:, None], head, middle).chunk(2)
        return *laplace(values - mean, log_scale), hidden, middle, mid, head


def _adapted(sample: _Sample, start: Tensor, likely: Expected | None) -> tuple[Ints, Tensor]:
    """Changes of a level in units, all zero if they do not pay, and what the descent has found."""
    count = sample.first.shape[1]
    if sample.cells < len(start):  # too few for changes of so many weights to pay
        return np.zeros(len(start), np.int32), start
    portions = -(-count // CELLS)
    size = count // portions

    turns = [slice(turn % portions * size, (turn % portions + 1) * size) for turn in range(STEPS)]
    descended = _compiled if compiled_for(sample.first.device) else _recorded
    changes = descended(sample, start, turns)
    whole = (changes + 0.35 * changes.sign()).trunc().clamp(-MAX_RATE, MAX_RATE)
    found: Ints = whole.to(torch.int32).cpu().numpy()
    saved = sample.bits(torch.zeros_like(whole)) - sample.bits(whole)
    return found if saved > 8 * len(encode_deltas(found, likely)) else np.zeros_like(found), changes


def _pace(turn: int) -> float:
    """The size of a step of the descent, in units."""
    return PACE * (1 - turn / STEPS)


def _recorded(sample: _Sample, changes: Tensor, turns: Sequence[slice]) -> Tensor:
    """Changes (weights,) in units after a step at each part of the cells."""

    def step(state: State, first: Tensor, values: Tensor, pace: Tensor, number: Tensor) -> State:
        changes = state[0]
        gradient = sample.slopes(changes, first, values) + bits_slope(changes, BITS)
        return adam_step(state, gradient, pace, number)

    recorded = Recorded(step)
    state, numbers = (changes, torch.zeros_like(changes), torch.zeros_like(changes)), changes.new_ones(STEPS).cumsum(0)
    paces = changes.new_tensor([_pace(turn) for turn in range(STEPS)])
    for turn, part in enumerate(turns):
        state = recorded(state, sample.first[:, part], sample.values[:, part], paces[turn], numbers[turn])
    return state[0]


def _compiled(sample: _Sample, changes: Tensor, turns: Sequence[slice]) -> Tensor:
    """What `_recorded` says, by `native`."""
    start = [np.zeros_like(sample.parts[0].numpy()), *(part.numpy() for part in sample.parts[1:])]
    units = torch.cat([part.flatten() for part in sample.units]).numpy()
    first, values = sample.first.numpy(), sample.values.numpy()

    def add_slopes(turn: int, parts: Sequence[native.Floats], slopes: Sequence[native.Floats]) -> float:
        cells = turns[turn]
        native.rate_slopes(first[:, cells], values[:, cells], parts, slopes)
        return float(sample.cells / (cells.stop - cells.start))

    paces = [_pace(turn) for turn in range(len(turns))]
    return torch.from_numpy(native.descended(changes.numpy(), start, units, BITS, paces, add_slopes))
