"""Rate-distortion-optimised rounding: the last decision of a fit, taken by trial.

To round each value to the nearest integer is not best: what a value costs depends on its neighbours, and
theirs on it. So values of the finer levels are tried one higher or lower, as the gradient of J at the rounded fields
has it, as long as they stay within 1 of what the fit wanted, and whatever lowers the true J is kept. Few of them can
pay, those where the gradient is large; so each evaluation of the model tries the most promising ones that are far
enough apart, and each channel of a cell has its turn. A cell's change is felt in a window of 4x4 cells around it (the
causal contexts, the kernel and the filter; what lies further out is small).

The idea is the RDOQ of video encoders (Karczewicz et al., VCEG-AH21, 2008), with exact costs in place of estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from inrcodec.graphs import Recorded
from inrcodec.objective import Coded, FieldModel, costs, objective

__all__ = ["by_trial", "optimised_rounding"]

PASSES = 2
TRIES = ((2, 2), (1, 3), (0, 4))  # levels in this order, and evaluations of each in a pass
PROMISE = 6.0  # least gradient of what is tried, in bits a step
BEFORE, BEHIND = (1, 1), (2, 2)  # rows and columns of a window before the cell's own, and behind
APART = (2, 3)  # rows and columns before and behind what is tried where nothing else is tried
SWEEPS = 3  # in search of the most promising: each fills in what the one before has left

Combine = Callable[[Tensor, Tensor], Tensor]
Sides = tuple[int, int]
Costs = Callable[[list[Tensor], int], tuple[Tensor, list[Tensor]]]  # `objective.costs`, of fields and levels
Slopes = Callable[[list[Tensor]], list[Tensor]]  # the gradient of J by fields


def optimised_rounding(
    model: FieldModel,
    fields: Sequence[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    weight: Tensor | None = None,
    coded: Sequence[Coded] | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Whole numbers, shaped like the fields (B, C, h, w), for pictures (B, 3, H, W); q (1, 1) of them all.

    weight (1, 1, H, W), of them all, is of each pixel's squared error. Cells that are not coded must be zero. `dtype`
    is of what the network and the filter compute.
    """

    def of_levels(levels: int) -> Recorded[tuple[Tensor, list[Tensor]]]:
        return Recorded(lambda tried: costs(model, tried, target, q, lam, levels, weight, coded, dtype))

    by_levels = {level + 1: of_levels(level + 1) for level, _ in TRIES}
    slopes = Recorded(lambda tried: objective(model, tried, target, q, lam, weight, coded, dtype)[1])
    return by_trial(fields, lambda tried, levels: by_levels[levels](tried), slopes)


@torch.no_grad()
def by_trial(fields: Sequence[Tensor], costs: Costs, slopes: Slopes) -> list[Tensor]:
    """Whole numbers, shaped like the fields (B, C, h, w), that cost little."""
    rounded = [values.round() for values in fields]

    def cost(level: int) -> Tensor:
        """J at each cell of a level, (B, h, w), but for what coarser levels take."""
        error, bits = costs(rounded, level + 1)
        return sum((_gathered(plane, level - i) for i, plane in enumerate(bits)), _gathered(error, level))

    for _ in range(PASSES):
        gradients = slopes(rounded)
        for level, tries in TRIES:
            if level < len(fields):
                values, change = rounded[level], -gradients[level].sign()
                within = (values + change - fields[level]).abs() < 1  # never of what is zero because it must be
                promise = gradients[level].abs() * within
                promise *= promise > PROMISE
                current = cost(level)
                for _ in range(tries):
                    most, channel = promise.max(1, keepdim=True)
                    chosen = torch.zeros_like(promise).scatter_(1, channel, _apart(most[:, 0])[:, None].float())
                    values += change * chosen
                    new = cost(level)
                    kept = chosen.sum(1) * (_around(new - current, torch.add, BEFORE, BEHIND) < 0)  # (B, h, w)
                    values -= change * chosen * (1 - kept[:, None])
                    current = torch.where(_around(kept, torch.maximum, BEHIND, BEFORE) > 0, new, current)
                    promise *= 1 - chosen
    return rounded


def _apart(promise: Tensor) -> Tensor:
    """Which cells of planes (B, h, w) are tried at once: of any two that are not `APART` the more promising one."""
    chosen = torch.zeros_like(promise, dtype=torch.bool)
    for _ in range(SWEEPS):
        chosen |= (promise > 0) & (promise == _around(promise, torch.maximum, APART, APART))
        promise = promise * (_around(chosen.float(), torch.maximum, APART, APART) == 0)
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


def _gathered(costs: Tensor, levels: int) -> Tensor:
    """Sums of costs (B, h, w) over the cells `levels` levels above."""
    size = 1 << levels
    padded = functional.pad(costs, (0, -costs.shape[2] % size, 0, -costs.shape[1] % size))
    return functional.avg_pool2d(padded, size) * size**2
