"""Rate-distortion-optimised rounding: the last decision of a fit, taken by trial.

To round each value to the nearest integer is not best: what a value costs depends on its neighbours, and
theirs on it. So values of the finer levels that are far from their integer are tried at the second nearest, and
whatever lowers the true J of the fit is kept; then all are tried once more, beside what has been kept. A cell's change
is felt in a window of 3x4 cells (the causal contexts below and beside it, the kernel and the filter around it; what
lies further out is small), so one evaluation of the model tries every twelfth cell at once, and twelve of them a
level, one channel in each cell.

The idea is the RDOQ of video encoders (Karczewicz et al., VCEG-AH21, 2008), with exact costs in place of estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from inrcodec.graphs import Recorded
from inrcodec.objective import Coded, FieldModel, costs

__all__ = ["by_trial", "optimised_rounding"]

LEVELS = (2, 1, 0)  # in this order: what pays
PASSES = 2
DOUBT = 0.1  # least distance from the nearest integer of a value that is tried
ROWS, COLUMNS = 3, 4  # of the window, in cells
LEFT = 1  # columns of them before the cell itself, which is in the first row


Costs = Callable[[list[Tensor], int], tuple[Tensor, list[Tensor]]]  # `objective.costs`, of fields and levels


def optimised_rounding(
    model: FieldModel,
    fields: Sequence[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    weight: Tensor | None = None,
    coded: Sequence[Coded] | None = None,
) -> list[Tensor]:
    """Whole numbers, shaped like the fields (B, C, h, w), for pictures (B, 3, H, W); q (1, 1) of them all.

    weight (1, 1, H, W), of them all, is of each pixel's squared error. Cells that are not coded must be zero.
    """

    def of_levels(levels: int) -> Recorded[tuple[Tensor, list[Tensor]]]:
        return Recorded(lambda tried: costs(model, tried, target, q, lam, levels, weight, coded))

    by_levels = [of_levels(levels) for levels in range(max(LEVELS) + 2)]
    return by_trial(fields, lambda tried, levels: by_levels[levels](tried))


@torch.no_grad()
def by_trial(fields: Sequence[Tensor], costs: Costs) -> list[Tensor]:
    """Whole numbers, shaped like the fields (B, C, h, w), that cost little."""
    rounded = [values.round() for values in fields]

    def cost(level: int) -> Tensor:
        """J at each cell of a level, (B, h, w), but for what coarser levels take."""
        error, bits = costs(rounded, level + 1)
        return sum((_gathered(plane, level - i) for i, plane in enumerate(bits)), _gathered(error, level))

    for level in LEVELS * PASSES:
        if level < len(fields):
            values, wanted = rounded[level], fields[level]
            doubt, channel = (wanted - values).abs().max(1, keepdim=True)
            chosen = torch.zeros_like(values, dtype=torch.bool).scatter_(1, channel, doubt > DOUBT)
            other = torch.where(chosen, values + torch.where(wanted >= values, 1.0, -1.0), values)
            current = cost(level)
            for dy, dx in product(range(ROWS), range(COLUMNS)):
                tried = values[:, :, dy::ROWS, dx::COLUMNS]  # a view: what is written to it is tried
                if tried.numel():
                    before = tried.clone()
                    tried.copy_(other[:, :, dy::ROWS, dx::COLUMNS])
                    new = cost(level)
                    kept = _windows(new - current, dy, dx) < 0
                    tried.copy_(torch.where(kept[:, None], tried, before))
                    current = torch.where(_everywhere(kept, current, dy, dx), new, current)
    return rounded


def _windows(change: Tensor, dy: int, dx: int) -> Tensor:
    """Sums of planes (B, h, w) over the windows of the cells from (dy, dx) on, one in each: (B, rows, columns)."""
    height, width = change.shape[1:]
    down, right = -(height - dy) % ROWS, -(width - dx) % COLUMNS - LEFT
    padded = functional.pad(change[:, None], (LEFT - dx, right, -dy, down))
    return functional.avg_pool2d(padded, (ROWS, COLUMNS))[:, 0] * (ROWS * COLUMNS)


def _everywhere(kept: Tensor, plane: Tensor, dy: int, dx: int) -> Tensor:
    """The windows of `_windows` (B, rows, columns) as cells of planes (B, h, w)."""
    height, width = plane.shape[1:]
    cells = kept.repeat_interleave(ROWS, 1).repeat_interleave(COLUMNS, 2)
    left = dx - LEFT
    return functional.pad(cells, (left, width - left - cells.shape[2], dy, height - dy - cells.shape[1]))


def _gathered(costs: Tensor, levels: int) -> Tensor:
    """Sums of costs (B, h, w) over the cells `levels` levels above."""
    size = 1 << levels
    padded = functional.pad(costs, (0, -costs.shape[2] % size, 0, -costs.shape[1] % size))
    return functional.avg_pool2d(padded, size) * size**2
