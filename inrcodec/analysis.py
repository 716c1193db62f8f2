"""The first guess: fields from a picture by a small network, coarse to fine.

At each level it sees, on 2x2 blocks of the level's cells, the picture averaged over each cell and
what is still missing of it once the coarser fields are rendered at the cells' centres, in units of
the step of the level's first channel. It says the level's values in units of that step, too, so that any channel's
step can be learned without the network having to follow. A fit goes on from there.

The idea is the amortised inference of learned image coding (Balle et al., ICLR 2018) with the residual
pyramid of Burt & Adelson (1983); the network is trained together with the SIREN and the rate model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from inrcodec.synthesis import gains, inputs, network, zero_fields

Weights = Mapping[str, Tensor]
_SEEN = 24  # 2x2 cells of 3 missing and 3 picture values


def analyse(
    weights: Weights, picture: Tensor, conditioning: Tensor, channels: Sequence[int], omegas: Sequence[float]
) -> list[Tensor]:
    """Unrounded fields (B, channels, rows, columns) in steps, level 0 first, of pictures (B, 3, H, W); q (B, 1)."""
    batch, _, height, width = picture.shape
    powers = torch.cat([torch.ones_like(conditioning), conditioning, conditioning**2], 1)  # (B, 3)
    pyramid = [picture]
    for _ in channels[1:]:
        pyramid.append(functional.avg_pool2d(_even(pyramid[-1]), 2))
    fields = zero_fields(batch, height, width, channels, picture.device)
    steps = torch.split(gains(weights, conditioning), list(channels), 1)
    for level in range(len(channels) - 1, -1, -1):
        part = {
            key: weights[f"analysis.{level}.{key}"] for key in ("in", "in_bias", "mid", "mid_bias", "out", "out_bias")
        }
        own = pyramid[level]
        missing = own - network(weights, inputs(weights, fields, conditioning, level), conditioning, omegas)
        unit = (0.7 * steps[level][:, :1, None, None]).clamp_min(0.02)
        seen = functional.pixel_unshuffle(_even(torch.cat([missing / unit, 2 * own], 1)), 2)  # (B, 24, h/2, w/2)
        x = torch.relu(functional.conv2d(seen, part["in"], padding=1) + (powers @ part["in_bias"].T)[:, :, None, None])
        x = torch.relu(functional.conv2d(x, part["mid"], part["mid_bias"], padding=1)) + x
        values = functional.pixel_shuffle(functional.conv2d(x, part["out"], part["out_bias"], padding=1), 2)
        ratio = steps[level][:, :1] / steps[level]
        fields[level] = values[:, :, : own.shape[2], : own.shape[3]] * ratio[:, :, None, None]
    return fields


def _even(x: Tensor) -> Tensor:
    """With an even number of rows and columns, the last ones repeated."""
    bottom, right = x.shape[-2] % 2, x.shape[-1] % 2
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def init_analysis(channels: Sequence[int], width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random float weights of the network, `width` features per level."""

    def uniform(out: int, inner: int, gain: float = 1.0) -> Tensor:
        return (2 * torch.rand(out, inner, 3, 3, generator=generator) - 1) * gain / math.sqrt(9 * inner)

    weights: dict[str, Tensor] = {}
    for level, c in enumerate(channels):
        name = f"analysis.{level}."
        weights |= {
            name + "in": uniform(width, _SEEN),
            name + "in_bias": torch.zeros(width, 3),
            name + "mid": uniform(width, width),
            name + "mid_bias": torch.zeros(width),
            name + "out": uniform(4 * c, width, 0.3),
            name + "out_bias": torch.zeros(4 * c),
        }
    return weights
