"""Rate-distortion-optimised rounding: the last decision of a fit, taken by trial.

To round each value to the nearest integer is not best: what a value costs depends on its neighbours, and theirs on
it. So values are tried one higher or lower, as long as they stay within 1 of what the fit wanted, and whatever
lowers the true J is kept. Few of them can pay. What a change promises is the difference of the value's own bits, as
they would be, and for all else the gradient of J at the rounded fields, which says too much over a whole step. Each
evaluation of the model tries the most promising changes that are far enough apart, and each channel of a cell has
its turn. A cell's change is felt in a window of 4x4 cells around it (the causal contexts, the kernel and the
filter; what lies further out is small).

The idea is the RDOQ of video encoders (Karczewicz et al., VCEG-AH21, 2008), with exact costs in place of estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce

import torch
from torch import Tensor
from torch.nn import functional

from inrcodec.graphs import Recorded
from inrcodec.objective import Coded, costs, distributions, objective
from inrcodec.parallel import in_parallel
from inrcodec.rate import laplace_bits
from inrcodec.stripe import laplace
from inrcodec.tile import FieldModel

__all__ = ["by_trial", "optimised_rounding"]

TRIES = ((3, 1), (2, 2), (1, 2), (0, 4))  # levels in this order, and evaluations of each
CURVATURE = 2.0  # bits that a change costs beyond what the gradient says
TRUST = 0.65  # what is left of a gradient over a whole step
BEFORE, BEHIND = (1, 1), (2, 2)  # rows and columns of a window before the cell's own, and behind
APART = (2, 3)  # rows and columns before and behind what is tried where nothing else is tried
SWEEPS = 3  # in search of the most promising: each fills in what the one before has left

Combine = Callable[[Tensor, Tensor], Tensor]
Sides = tuple[int, int]
Costs = Callable[[list[Tensor], int], tuple[Tensor, list[Tensor]]]  # `objective.costs`, of fields and levels
Slopes = Callable[[list[Tensor]], list[Tensor]]  # the gradient of J by fields
Rates = Callable[[list[Tensor]], list[tuple[Tensor, Tensor]]]  # `rate.distributions` of fields


def optimised_rounding(
    model: FieldModel,
    fields: Sequence[Tensor],
    start: Sequence[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    weight: Tensor | None = None,
    coded: Sequence[Coded] | None = None,
    passes: int = 1,
) -> list[Tensor]:
    """Whole numbers, shaped like the fields (B, C, h, w), for pictures (B, 3, H, W); q (1, 1) of them all.

    `start` has whole numbers, too, those to go on from: the nearest, or what this has found before.
    weight (1, 1, H, W), of them all, is of each pixel's squared error. Cells that are not coded must be zero. Each
    pass goes on from what the one before has found.
    """

    def of_levels(levels: int) -> Recorded[tuple[Tensor, list[Tensor]]]:
        return Recorded(lambda tried: costs(model, tried, target, q, lam, levels, weight, coded))

    most = 1 + max(level for level, _ in TRIES)
    by_levels = [of_levels(levels) for levels in range(most + 1)]
    slopes = Recorded(lambda tried: objective(model, tried, target, q, lam, weight, coded)[1])
    rates = Recorded(lambda tried: distributions(model, tried, q, most))
    found = list(start)
    for _ in range(passes):
        found = by_trial(fields, found, lambda tried, levels: by_levels[levels](tried), slopes, rates)
    return found


@torch.no_grad()
def by_trial(
    fields: Sequence[Tensor], start: Sequence[Tensor], costs: Costs, slopes: Slopes, rates: Rates
) -> list[Tensor]:
    """Whole numbers, shaped like the fields (B, C, h, w), that cost little."""
    rounded = [values.clone() for values in start]
    tries = [(level, count) for level, count in TRIES if level < len(fields)]

    def planes(levels: int) -> list[Tensor]:
        """Terms of J: the error at each pixel, and the bits of each cell of the finest levels."""
        error, bits = costs(rounded, levels)
        return [error, *bits]

    current = [plane.clone() for plane in planes(tries[0][0] + 1)]  # where what is recorded writes over its results
    gradients, found = slopes(rounded), rates(rounded)
    prospects = in_parallel([partial(_prospects, rounded[i], fields[i], gradients[i], *found[i]) for i, _ in tries])
    for (level, count), (change, promise) in zip(tries, list(prospects), strict=True):
        values, above = rounded[level], [level, *range(level, -1, -1)]  # levels between a plane's cells and these
        for _ in range(count):
            most, channel = promise.max(1, keepdim=True)
            chosen = torch.zeros_like(promise).scatter_(1, channel, _apart(most[:, 0])[:, None].float())
            values += change * chosen
            new = planes(level + 1)
            pairs = list(zip(new, current, above, strict=False))
            difference = reduce(torch.add, [_gathered(b - a, levels) for b, a, levels in pairs])
            kept = chosen.sum(1) * (_around(difference, torch.add, BEFORE, BEHIND) < 0)  # (B, h, w)
            values -= change * chosen * (1 - kept[:, None])
            felt = _around(kept, torch.maximum, BEHIND, BEFORE) > 0
            current[: len(new)] = [torch.where(_finer(felt, levels, b), b, a) for b, a, levels in pairs]
            promise *= 1 - chosen
    return rounded


def _prospects(
    values: Tensor, wanted: Tensor, gradient: Tensor, mean: Tensor, log_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether each value should rise or fall, 1 or -1, and by how much J may become less, 0 if neither helps."""
    offset = values - mean
    bits, slope, _ = laplace(offset, log_scale)
    others = TRUST * (gradient - slope)
    rise = laplace_bits(offset + 1, log_scale) - bits + others
    fall = laplace_bits(offset - 1, log_scale) - bits - others
    barred = torch.inf  # what is zero because it must be stays there, too
    rise = torch.where(values + 1 - wanted < 1, rise, barred)
    fall = torch.where(wanted - values + 1 < 1, fall, barred)
    return torch.where(rise < fall, 1.0, -1.0), (-CURVATURE - torch.minimum(rise, fall)).clamp_min(0)


def _apart(promise: Tensor) -> Tensor:
    """Which cells of planes (B, h, w) are tried at once: of any two that are not `APART` the more promising one."""
    chosen = torch.zeros_like(promise, dtype=torch.bool)
    for sweep in range(SWEEPS):
        if sweep:
            promise = promise * (_around(chosen.float(), torch.maximum, APART, APART) == 0)
        chosen |= (promise > 0) & (promise == _around(promise, torch.maximum, APART, APART))
    return chosen


def _around(planes: Tensor, combine: Combine, before: Sides, behind: Sides) -> Tensor:
    """The sum, or the largest if none is negative, of planes (B, h, w) over the window of each cell.

    The window has so many rows and columns before the cell's own, and behind.
    """
    for axis, (first, last) in enumerate(zip(before, behind, strict=True), start=1):
        beside = (0, 0) * (2 - axis)
        padded = functional.pad(planes, (*beside, first, last))
        size = planes.shape[axis]
        planes = reduce(combine, (padded.narrow(axis, start, size) for start in range(first + 1 + last)))
    return planes


def _finer(mask: Tensor, levels: int, like: Tensor) -> Tensor:
    """A mask (B, h, w) at the cells of a plane, `levels` levels below."""
    _, height, width = like.shape
    return mask.repeat_interleave(1 << levels, 1)[:, :height].repeat_interleave(1 << levels, 2)[:, :, :width]


def _gathered(costs: Tensor, levels: int) -> Tensor:
    """Sums of costs (B, h, w) over the cells `levels` levels above."""
    size = 1 << levels
    padded = functional.pad(costs, (0, -costs.shape[2] % size, 0, -costs.shape[1] % size))
    return functional.avg_pool2d(padded, size) * size**2
