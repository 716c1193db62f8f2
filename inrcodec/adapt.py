"""Adapting the filter to one picture, where that pays: descent on error / lambda + bits of the deltas.

Everything before the filter is fixed by then, so a step costs two small convolutions. The bits of a change in training
are a smooth bound; the unit of the deltas, and whether there are any, is decided by real bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inrcodec import synthesis
from inrcodec.deltas import PARTS, FilterDeltas, apply_deltas, pack_deltas
from inrcodec.render import FILTER_REACH

__all__ = ["adapt_filter"]

STEPS = 100  # of Adam
RATE = 1.2e-3  # first step; falls to zero
PIXELS = 1 << 17  # rows of about as many are looked at in a step
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
) -> FilterDeltas | None:
    """Changes of the filter for rounded fields (1, C, h, w) of a picture (1, 3, H, W); None if they do not pay."""
    with torch.no_grad():
        planes = synthesis.inputs(weights, fields, q)
        values = synthesis.network(weights, planes, q, omegas)
        seen = torch.cat([values, synthesis.finest(weights, planes)], 1)
        seen = functional.pad(seen, (FILTER_REACH,) * 4, mode="replicate")
        missing = target - values

    def error(changed: synthesis.Weights, top: int, bottom: int) -> Tensor:
        """Squared error of some rows, in units of 1/255."""
        added = synthesis.filtered(changed, "filter", seen[:, :, top : bottom + 2 * FILTER_REACH], q)
        return (added - missing[:, :, top:bottom]).nan_to_num().square().sum() * 255**2

    height, width = target.shape[2:]
    rows = min(height, max(1, PIXELS // width))
    start = {name: weights[name] for name in PARTS}
    leaves = {name: start[name].clone().requires_grad_() for name in PARTS}
    adam = torch.optim.Adam(leaves.values(), RATE)
    unit = 2.0 ** -EXPONENTS[len(EXPONENTS) // 2]
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        top = int(torch.randint(height - rows + 1, (), generator=generator, device=generator.device))
        bits = sum(torch.log2(1 + (leaves[name] - start[name]).abs() / unit).sum() for name in PARTS)
        loss = error(leaves, top, top + rows) * (height / rows) / lam + BITS * bits
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        bias = leaves["filter.in_bias"].grad
        assert bias is not None
        bias[:, 1:] = 0
        adam.step()

    found = [leaves[name].detach() - start[name] for name in PARTS]
    parts = [part[:, 0] if name == "filter.in_bias" else part for name, part in zip(PARTS, found, strict=True)]
    flat = torch.cat([part.flatten() for part in parts]).cpu().numpy()
    tensors = {name: start[name].cpu().numpy() for name in PARTS}
    best, least = None, 0.0
    with torch.no_grad():
        plain = float(error(start, 0, height))
        for exponent in EXPONENTS:
            steps = flat * 2.0**exponent
            deltas = FilterDeltas(exponent, np.trunc(steps + np.copysign(0.35, steps)).astype(np.int32))
            changed = {k: torch.from_numpy(v).to(q.device) for k, v in apply_deltas(tensors, deltas).items()}
            gain = (float(error(changed, 0, height)) - plain) / lam + 8 * len(pack_deltas(deltas))
            if gain < least:
                best, least = deltas, gain
    return best
