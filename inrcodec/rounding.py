"""Rate-distortion-optimised rounding: the last decision of a fit, taken by trial.

To round each value to the nearest integer is not best: what a value costs depends on its neighbours, and
theirs on it. So values of the finer levels that are far from their integer are tried at the second nearest, and
whatever lowers the true J of the fit is kept. A cell's change is felt in a window of 3x4 cells (the causal contexts
below and beside it, the kernel and the filter around it; what lies further out is small), so one evaluation of
the model tries every twelfth cell at once, and twelve of them a level, one channel in each cell.

The idea is the RDOQ of video encoders (Karczewicz et al., VCEG-AH21, 2008), with exact costs in place of estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from inrcodec import rate, synthesis

__all__ = ["optimised_rounding"]

LEVELS = (1, 0)  # in this order: what pays
DOUBT = 0.1  # least distance from the nearest integer of a value that is tried
ROWS, COLUMNS = 3, 4  # of the window, in cells
ABOVE, LEFT = 0, 1  # of them before the cell itself
BAND = 1 << 19  # pixels that are evaluated at once
STEP = 128  # rows: two stripes of level 0, one of level 1; a band begins so many above the rows that it is for
BELOW = 16  # rows below them that it goes on


@torch.no_grad()
def optimised_rounding(
    weights: rate.Weights,
    fields: Sequence[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    omegas: Sequence[float],
    weight: Tensor | None = None,
) -> list[Tensor]:
    """Whole numbers, shaped like the fields (B, C, h, w), for pictures (B, 3, H, W) of quality q (B, 1).

    weight (B, 1, H, W) is of each pixel's squared error.
    """
    rounded = [values.round() for values in fields]
    height, width = target.shape[2:]
    rows = max(STEP, BAND // width // STEP * STEP)
    for level in LEVELS:
        if level >= len(fields):
            continue
        for top in range(0, height, rows):
            start, stop = max(0, top - STEP), min(height, top + rows + BELOW)
            part = [z[:, :, start >> i : -(-stop >> i)] for i, z in enumerate(rounded)]
            wanted = fields[level][:, :, start >> level : -(-stop >> level)]
            core = slice((top - start) >> level, -(-(min(top + rows, height) - start) >> level))
            seen = None if weight is None else weight[:, :, start:stop]
            found = _improved(weights, part, wanted, core, target[:, :, start:stop], q, lam, omegas, level, seen)
            rounded[level][:, :, top >> level : (top >> level) + found.shape[2]] = found
    return rounded


def _improved(
    weights: rate.Weights,
    fields: Sequence[Tensor],
    wanted: Tensor,
    core: slice,
    target: Tensor,
    q: Tensor,
    lam: float,
    omegas: Sequence[float],
    level: int,
    weight: Tensor | None,
) -> Tensor:
    """The core rows of a level's whole numbers, some of them moved to the other side of what was wanted."""
    values = fields[level].clone()
    doubt = (wanted - values).abs()
    doubt[:, :, : core.start] = doubt[:, :, core.stop :] = 0
    most, channel = doubt.max(1, keepdim=True)  # one channel in each cell
    other = values + torch.where(wanted >= values, 1.0, -1.0)

    def cost(trial: Tensor) -> Tensor:
        """J at each cell of the level, (B, 1, h, w)."""
        whole = [trial if i == level else z for i, z in enumerate(fields)]
        error = (synthesis.synthesize(weights, whole, q, omegas) - target).square().sum(1, keepdim=True)
        if weight is not None:
            error *= weight
        found = _gathered(error * (255**2 / lam), level)
        for i, (mean, log_scale) in enumerate(rate.distributions(weights, whole, q, level + 1)):
            z = whole[i]
            found += _gathered(rate.laplace_bits(z - mean, log_scale).sum(1, keepdim=True), level - i)
        return found

    before, after = (LEFT, COLUMNS - 1 - LEFT), (ABOVE, ROWS - 1 - ABOVE)
    current = cost(values)
    for dy, dx in product(range(ROWS), range(COLUMNS)):
        tried = torch.zeros_like(most, dtype=torch.bool)
        tried[:, :, dy::ROWS, dx::COLUMNS] = True
        tried &= most > DOUBT
        trial = torch.where(torch.zeros_like(doubt, dtype=torch.bool).scatter(1, channel, tried), other, values)
        new = cost(trial)
        change = functional.avg_pool2d(functional.pad(new - current, before + after), (ROWS, COLUMNS), stride=1)
        kept = tried & (change < 0)
        values = torch.where(torch.zeros_like(doubt, dtype=torch.bool).scatter(1, channel, kept), other, values)
        window = functional.pad(kept.float(), before[::-1] + after[::-1])
        current = torch.where(functional.max_pool2d(window, (ROWS, COLUMNS), stride=1) > 0, new, current)
    return values[:, :, core]


def _gathered(costs: Tensor, levels: int) -> Tensor:
    """Sums of costs (B, 1, h, w) over the cells `levels` levels above."""
    size = 1 << levels
    padded = functional.pad(costs, (0, -costs.shape[3] % size, 0, -costs.shape[2] % size))
    return functional.avg_pool2d(padded, size) * size**2
