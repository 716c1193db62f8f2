"""The picture from its fields, differentiable: the torch twin of `render`.

Samples sit at the centres of the cells of a level: level 0 is the picture itself. All
tensors are planar, (B, channels, rows, columns); values are sRGB / 255 - 0.5. The weights
are a prior's, by the names of its tensors, so the same functions serve training (where they
are leaves) and fitting (where the fields are).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inrcodec.lattice import cells, kernel
from inrcodec.prior import FILTERS, FIRST_FILTER, Prior
from inrcodec.render import Network, Parameters, between, network_layers, reach
from inrcodec.siren import siren

Weights = Mapping[str, Tensor]

PACKED = torch.channels_last  # what a CPU's convolutions are fastest with
CHUNK = 1 << 17  # samples that go through the network at once


HALO = 2  # cells beyond a field's border that its kernel reaches


def haloed(values: Tensor) -> Tensor:
    """Fields (B, C, h, w) with their outermost cells repeated: (B, C, h + 4, w + 4)."""
    return functional.pad(values, (HALO, HALO, HALO, HALO), mode="replicate")


def upsample(values: Tensor, factor: int, cubic: Tensor) -> Tensor:
    """Haloed fields (B, C, h + 4, w + 4) at `factor` times as many centres per axis: (B, C, factor h, factor w).

    cubic is its (B, C), shape (2,).
    """
    batch, channels, height, width = values.shape
    if factor == 1:
        return values[:, :, HALO:-HALO, HALO:-HALO]
    constant, by_cubic = _cubic(factor, values.device)
    weights = constant + torch.tensordot(cubic, by_cubic, 1)  # (factor, 5)
    bank = torch.einsum("ay,bx->abyx", weights, weights).reshape(factor * factor, 1, 5, 5)
    planes = values.reshape(batch * channels, 1, height, width)
    fine = functional.pixel_shuffle(functional.conv2d(planes, bank), factor)
    return fine.reshape(batch, channels, fine.shape[2], fine.shape[3])


@lru_cache
def _cubic(factor: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The cubic at the finer centres, linear in its (B, C): at (0, 0), (factor, 5), and slopes (2, factor, 5)."""
    phase = (np.arange(factor) + 0.5) / factor - 0.5  # of the finer centres, in cells
    distances = np.arange(-HALO, HALO + 1) - phase[:, None]
    plain, b, c = (kernel(distances, *corner) for corner in ((0, 0), (1, 0), (0, 1)))
    found = np.stack([plain, b - plain, c - plain]).astype(np.float32)
    constant, *slopes = torch.from_numpy(found).to(device)
    return constant, torch.stack(slopes)


def gains(weights: Weights, conditioning: Tensor) -> Tensor:
    """Step of every channel of every level, (B, all channels), for q (B, 1)."""
    return torch.exp(weights["field.gain"] + weights["field.slope"] * conditioning)


def inputs(weights: Weights, fields: Sequence[Tensor], conditioning: Tensor, level: int = 0) -> Tensor:
    """What the network sees at the centres of a level: (B, all channels, rows, columns). Finer fields count as zero.

    Level -1 has two samples per pixel and axis.
    """
    height, width = fields[max(level, 0)].shape[2:]
    if level < 0:
        height, width = height << -level, width << -level
    return inputs_of_part(weights, [haloed(z) for z in fields], conditioning, level, height, width)


def inputs_of_part(
    weights: Weights, halos: Sequence[Tensor], conditioning: Tensor, level: int, height: int, width: int
) -> Tensor:
    """`inputs` of the first rows and columns under haloed fields, which may be parts of larger ones."""
    steps = gains(weights, conditioning)
    planes, at = [], 0
    for number, values in enumerate(halos):
        channels = values.shape[1]
        if number < level:
            planes.append(values.new_zeros(len(values), channels, height, width))
        else:
            scaled = values * steps[:, at : at + channels, None, None]
            fine = upsample(scaled, 1 << (number - level), weights["field.kernel"][number])
            planes.append(fine[:, :, :height, :width])
        at += channels
    return torch.cat(planes, 1)


def network(weights: Weights, planes: Tensor, conditioning: Tensor, omegas: Sequence[float]) -> Tensor:
    """The SIREN with its linear skip, at planar inputs: (B, all channels, H, W) -> (B, 3, H, W)."""
    batch, _, height, width = planes.shape
    condition = torch.cat([conditioning, conditioning**2], 1)  # (B, 2)
    first, last = weights["siren.0.weight"], len(omegas)
    bias = weights["siren.0.bias"] + condition @ first[:, -2:].T  # (B, out)
    parts = []
    for x in torch.split(planes.flatten(2), CHUNK, 2):  # (B, C, at most CHUNK)
        h = torch.sin(omegas[0] * (first[:, :-2] @ x + bias[:, :, None]))
        for i, omega in enumerate(omegas[1:], start=1):
            h = torch.sin(omega * (weights[f"siren.{i}.weight"] @ h + weights[f"siren.{i}.bias"][:, None]))
        y = weights[f"siren.{last}.weight"] @ h + weights[f"siren.{last}.bias"][:, None]
        parts.append(y + weights["skip.weight"] @ x)
    return torch.cat(parts, 2).reshape(batch, 3, height, width)


def finest(weights: Weights, planes: Tensor) -> Tensor:
    """Those of the network's inputs that the filters see, beside the picture."""
    return planes[:, : weights["filter.in"].shape[1] - 3]


def filtered(weights: Weights, name: str, seen: Tensor, conditioning: Tensor) -> Tensor:
    """All layers of a filter: (B, C, H + 2 reach, W + 2 reach) -> (B, out, H, W)."""
    powers = torch.cat([torch.ones_like(conditioning), conditioning, conditioning**2], 1)  # (B, 3)
    bias = (powers @ weights[f"{name}.in_bias"].T)[:, :, None, None]
    hidden = torch.relu(functional.conv2d(seen.contiguous(memory_format=PACKED), weights[f"{name}.in"]) + bias)
    for layer in between(weights, name):
        hidden = torch.relu(functional.conv2d(hidden, *layer)) + hidden[..., 1:-1, 1:-1]
    return functional.conv2d(hidden, weights[f"{name}.out"], weights[f"{name}.out_bias"])


def _whole(weights: Weights, name: str, seen: Tensor, conditioning: Tensor) -> Tensor:
    """What a filter says of a picture, (B, C, H, W) -> (B, out, H, W); beyond it its outermost pixels go on."""
    padded = functional.pad(seen, (reach(weights, name),) * 4, mode="replicate")
    return filtered(weights, name, padded, conditioning)


def _restoration(weights: Weights, picture: Tensor, planes: Tensor, conditioning: Tensor) -> Tensor:
    """What the first filter says at pixel centres."""
    return _whole(weights, FIRST_FILTER, torch.cat([picture, finest(weights, planes)], 1), conditioning)


def synthesize(weights: Weights, fields: Sequence[Tensor], conditioning: Tensor, omegas: Sequence[float]) -> Tensor:
    """The picture (B, 3, H, W) at pixel centres, from fields in steps, level 0 first."""
    planes = inputs(weights, fields, conditioning)
    values = network(weights, planes, conditioning, omegas)
    return values + _restoration(weights, values, planes, conditioning)


def synthesize_finer(
    weights: Weights, fields: Sequence[Tensor], conditioning: Tensor, omegas: Sequence[float]
) -> Tensor:
    """The picture at twice as many centres per axis, (B, 3, 2 H, 2 W)."""
    without, seen = before_detail(weights, fields, conditioning, omegas)
    return without + detail(weights, seen, conditioning)


def before_detail(
    weights: Weights, fields: Sequence[Tensor], conditioning: Tensor, omegas: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """What `synthesize_finer` says without the filter for detail, and what that filter sees, (B, C, H, W)."""
    seen, added = _before(weights, fields, conditioning, omegas)
    finer = network(weights, inputs(weights, fields, conditioning, level=-1), conditioning, omegas)
    return finer + upsample(haloed(added), 2, weights["field.kernel"][0]), seen


def before_post(
    weights: Weights, fields: Sequence[Tensor], conditioning: Tensor, omegas: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """What `synthesize` says, and what the post-filter sees, (B, C, H, W)."""
    seen, _ = _before(weights, fields, conditioning, omegas)
    return seen[:, :3], seen


def _before(
    weights: Weights, fields: Sequence[Tensor], conditioning: Tensor, omegas: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """What the filters behind the first one see at pixel centres, (B, C, H, W), and what that one has added to it."""
    planes = inputs(weights, fields, conditioning)
    values = network(weights, planes, conditioning, omegas)
    added = _restoration(weights, values, planes, conditioning)
    return torch.cat([values + added, finest(weights, planes)], 1), added


def post(weights: Weights, seen: Tensor, conditioning: Tensor) -> Tensor:
    """What the post-filter adds at pixel centres, (B, 3, H, W)."""
    return _whole(weights, "post", seen, conditioning)


def detail(weights: Weights, seen: Tensor, conditioning: Tensor) -> Tensor:
    """What the filter for detail adds at twice as many centres per axis, (B, 3, 2 H, 2 W)."""
    parts = _whole(weights, "detail", seen, conditioning)
    x, y, both, mean = upsample(haloed(parts), 2, weights["field.kernel"][0]).chunk(4, 1)
    sine = 2.0 * torch.arange(2, device=seen.device) - 1  # sin(2 pi x') at x' = -+1/4, where cos(2 pi x') = 0
    right, below = sine.repeat(seen.shape[3]), sine.repeat(seen.shape[2])[:, None]
    return mean + x * right + (y + both * right) * below


def init_filter(name: str, seen: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Float weights of the first and the last layer of a filter that adds nothing yet."""
    out = FILTERS[name]
    uniform = 2 * torch.rand(width, seen, 3, 3, generator=generator) - 1
    return {
        f"{name}.in": uniform / math.sqrt(9 * seen),
        f"{name}.in_bias": torch.zeros(width, 3),
        f"{name}.out": torch.zeros(out, width, 3, 3),
        f"{name}.out_bias": torch.zeros(out),
    }


def init_between(name: str, width: int, layers: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Float weights of layers in between that hardly change what they see."""
    uniform = 2 * torch.rand(layers * width, width, 3, 3, generator=generator) - 1
    return {f"{name}.mid": 0.1 * uniform / math.sqrt(9 * width), f"{name}.mid_bias": torch.zeros(layers * width)}


def zero_fields(batch: int, height: int, width: int, channels: Sequence[int], device: torch.device) -> list[Tensor]:
    """Fields of a picture that is the prior's mean."""
    return [
        torch.zeros(batch, c, cells(height, level), cells(width, level), device=device)
        for level, c in enumerate(channels)
    ]


def torch_network(prior: Prior, parameters: Parameters, device: torch.device) -> Network:
    """The network of a picture for `render`, on a device."""
    layers, skip = network_layers(prior, parameters)
    names = [f"siren.{i}." for i in range(len(layers))]
    weights = {
        name + "weight": torch.from_numpy(w.copy()).to(device) for name, (w, _) in zip(names, layers, strict=True)
    }
    weights |= {
        name + "bias": torch.from_numpy(b.copy()).to(device) for name, (_, b) in zip(names, layers, strict=True)
    }
    linear = None if skip is None else torch.from_numpy(skip.T.copy()).to(device)

    def evaluate(values: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            x = torch.from_numpy(values).to(device).T
            y = siren(weights, x, prior.architecture.omegas)
            found: NDArray[np.float32] = (y if linear is None else y + x @ linear).T.cpu().numpy()
        return found

    return evaluate
