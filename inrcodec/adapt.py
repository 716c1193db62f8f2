"""Adapting the filter to one picture, where that pays: descent on error / lambda + bits of the deltas.

Everything before the filter is fixed by then, so a step costs two small convolutions. The bits of a change in training
are a smooth bound; the unit of the deltas, and whether there are any, is decided by real bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inrcodec import synthesis
from inrcodec.deltas import PARTS, FilterDeltas, apply_deltas, pack_deltas
from inrcodec.objective import in_parallel
from inrcodec.render import FILTER_REACH

__all__ = ["adapt_filter"]

STEPS = 100  # of Adam
RATE = 1.2e-3  # first step; falls to zero
PIXELS = 1 << 17  # rows of about as many are looked at in a step
BLOCK = 1 << 14  # by one thread at once
EXPONENTS = (7, 8, 9)  # tried
BITS = 4.0  # of a change by one unit


def adapt_filter(
    weights: synthesis.Weights,
    fields: Sequence[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    omegas: Sequence[float],
    generator: torch.Generator,
    weight: Tensor | None = None,
) -> FilterDeltas | None:
    """Changes of the filter for rounded fields (1, C, h, w) of a picture (1, 3, H, W); None if they do not pay.

    weight (1, 1, H, W) is of each pixel's squared error.
    """
    with torch.no_grad():
        planes = synthesis.inputs(weights, fields, q)
        values = synthesis.network(weights, planes, q, omegas)
        seen = torch.cat([values, synthesis.finest(weights, planes)], 1)
        seen = functional.pad(seen, (FILTER_REACH,) * 4, mode="replicate").contiguous(memory_format=synthesis.PACKED)
        missing = target - values
    height, width = target.shape[2:]

    def error(changed: synthesis.Weights, top: int, bottom: int) -> Tensor:
        """Squared error of some rows, in units of 1/255."""
        added = synthesis.filtered(changed, "filter", seen[:, :, top : bottom + 2 * FILTER_REACH], q)
        squared = (added - missing[:, :, top:bottom]).square()
        return (squared if weight is None else squared * weight[:, :, top:bottom]).sum() * 255**2

    def slopes(changed: synthesis.Weights, top: int, bottom: int) -> list[Tensor]:
        """The gradient of `error` by each part."""
        with torch.enable_grad():
            parts = {name: changed[name].detach().requires_grad_() for name in PARTS}
            return list(torch.autograd.grad(error(parts, top, bottom), list(parts.values())))

    def blocks(top: int, bottom: int) -> list[tuple[int, int]]:
        size = max(1, BLOCK // width)
        return [(at, min(at + size, bottom)) for at in range(top, bottom, size)]

    def whole(changed: synthesis.Weights) -> float:
        """Squared error of all rows."""
        return float(sum(in_parallel(partial(error, changed, *block) for block in blocks(0, height))))

    rows = min(height, max(1, PIXELS // width))
    start = {name: weights[name] for name in PARTS}
    leaves = {name: start[name].clone().requires_grad_() for name in PARTS}
    adam = torch.optim.Adam(leaves.values(), RATE)
    unit = 2.0 ** -EXPONENTS[len(EXPONENTS) // 2]
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        top = int(torch.randint(height - rows + 1, (), generator=generator, device=generator.device))
        found = in_parallel(partial(slopes, leaves, *block) for block in blocks(top, top + rows))
        for (name, leaf), *gradients in zip(leaves.items(), *found, strict=True):
            far = leaf.detach() - start[name]
            rising = BITS / math.log(2) * far.sign() / (unit + far.abs())  # of the bits log2(1 + |far| / unit)
            leaf.grad = torch.stack(gradients).sum(0) * (height / rows / lam) + rising
        leaves["filter.in_bias"].grad[:, 1:] = 0  # type: ignore[index]
        adam.step()

    changes = [leaves[name].detach() - start[name] for name in PARTS]
    parts = [part[:, 0] if name == "filter.in_bias" else part for name, part in zip(PARTS, changes, strict=True)]
    flat = torch.cat([part.flatten() for part in parts]).cpu().numpy()
    tensors = {name: start[name].cpu().numpy() for name in PARTS}
    best, least = None, 0.0
    with torch.no_grad():
        plain = whole(start)
        for exponent in EXPONENTS:
            steps = flat * 2.0**exponent
            deltas = FilterDeltas(exponent, np.trunc(steps + np.copysign(0.35, steps)).astype(np.int32))
            changed = {k: torch.from_numpy(v).to(q.device) for k, v in apply_deltas(tensors, deltas).items()}
            gain = (whole(changed) - plain) / lam + 8 * len(pack_deltas(deltas))
            if gain < least:
                best, least = deltas, gain
    return best
