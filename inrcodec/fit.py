"""Fit: N steps from the prior to one picture.

Priors with fields minimise, over the fields s in steps,

    J(s) = |f(s) - picture|^2 / lambda + bits(s)          squared error in units of 1/255, summed over RGB,
                                                           times the weight of each pixel: 0 where nothing is to be seen

The analysis network takes the first step. After two thirds of the others, and once more at the end, filter and rate
model are adapted to the picture (see `adapt_filter`, `adapt_rate`). Each step follows the gradient through a soft
rounding (Agustsson & Theis, NeurIPS 2020) whose temperature falls, normalised by the gradient's RMS per
level where that is large; step sizes and temperatures are the prior's. Momentum made it worse. The last rounding
is `rounding`'s.

Priors without fields minimise the squared error over the surviving weights of the network and its
biases with Adam, as the paper does, on at most 65,536 pixels drawn anew for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inrcodec.adapt_filter import adapt_filter
from inrcodec.adapt_rate import adapt_rate
from inrcodec.analysis import analyse
from inrcodec.deltas import Deltas, changed_filter, changed_rate
from inrcodec.entropy import MAX_VALUE
from inrcodec.errors import OptionError
from inrcodec.graphs import Recorded
from inrcodec.grid import pixel_grid
from inrcodec.guess import unrounded_guess
from inrcodec.lattice import seen_cells
from inrcodec.objective import Coded, FieldModel, objective, shown
from inrcodec.options import Device, conditioning, lagrangian
from inrcodec.parallel import in_parallel, one_thread_per_piece
from inrcodec.prior import Prior
from inrcodec.rate import to_floats
from inrcodec.rounding import optimised_rounding
from inrcodec.siren import siren

Progress = Callable[[int, int], None]  # steps done, steps in all

MEMORY = 0.9  # of the gradient's mean square
LEAST = 12.0  # RMS of a gradient, in bits a step at q = 0, below which steps are shorter
PIXELS = 1 << 16  # per step, of a fit of the network
WARM = 2.0  # pace of a fit that goes on from another: fewer steps, from where gradients are small, have further to go
QUIET = 3  # finest levels that are zero around what is not known; coarser ones fill it in
NETWORK_RATE = 1e-3  # of Adam, first step; falls to a tenth


def torch_device(device: Device) -> torch.device:
    """`auto` is cuda, else mps, else cpu. OptionError for a device that this machine lacks."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    available = [Device.CUDA] * cuda + [Device.MPS] * mps + [Device.CPU]
    if device not in (Device.AUTO, *available):
        raise OptionError(f"device {device} is not available here ({', '.join(available)})")
    return torch.device(available[0] if device is Device.AUTO else device)


def soft_round(x: Tensor, temperature: Tensor) -> Tensor:
    """Rounding that is the identity at high and hard at low temperature (Agustsson & Theis 2020, eq. 10)."""
    middle = x.floor() + 0.5
    return middle + torch.tanh((x - middle) / temperature) / (2 * torch.tanh(0.5 / temperature))


def noisy_round(x: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
    """Soft rounding of a soft-rounded value plus noise, uniform in [0, 1): values learn to stay clear of the halves."""
    width = (2.2 * temperature).clamp(max=1)
    return soft_round(soft_round(x, temperature) + (noise - 0.5) * width, temperature)


def fit_fields(
    prior: Prior,
    pixels: NDArray[np.uint8] | NDArray[np.float32],
    quality_index: int,
    steps: int,
    device: torch.device,
    seed: int = 0,
    progress: Progress | None = None,
    start: tuple[Sequence[NDArray[np.int32]], Deltas] | None = None,
    lam: float | None = None,
    seen: NDArray[np.bool_] | None = None,
    coded: Sequence[NDArray[np.bool_]] | None = None,
) -> tuple[tuple[NDArray[np.int32], ...], Deltas]:
    """Quantized fields (channels, rows, columns), level 0 first, and deltas; pixels (height, width, 3) in 0..255.

    The fit goes on from `start`, what an earlier one gave, and leaves its deltas; lambda may be another than the
    quality's. Pixels that are not `seen`, (height, width), do not count; the first guess looks at them, though.
    Cells that are not `coded`, (rows, columns) per level, stay zero, and are not where the picture goes on in them.
    """
    model = FieldModel.of(prior, device)
    target = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float() / 255 - 0.5
    q = torch.full((1, 1), conditioning(quality_index), device=device)
    generator = torch.Generator(device).manual_seed(seed)
    deltas = Deltas()
    if start:
        fields = [torch.from_numpy(z).to(device)[None].float() for z in start[0]]
        deltas = start[1]
    elif device.type == "cpu" or coded is not None:
        guess = unrounded_guess(prior, pixels, quality_index, coded)
        fields = [torch.from_numpy(z).to(device)[None] for z in guess]
    else:
        with torch.no_grad():
            fields = analyse(model.weights, target, q, model.channels, model.omegas)
    weight = None
    felt: list[Tensor | None] = [None] * len(fields)
    own = None if coded is None else [Coded.of(cells, device) for cells in coded]
    finest: list[NDArray[np.bool_]] = []
    if seen is not None:
        weight = torch.from_numpy(seen).to(device)[None, None].float()
        finest = seen_cells(seen, min(QUIET, len(fields)))
    for level in range(len(fields)):
        if masks := [cells[level] for cells in (coded or [], finest) if level < len(cells)]:
            mask = felt[level] = torch.from_numpy(np.logical_and.reduce(masks)).to(device)[None, None].float()
            fields[level] = fields[level] * mask
    lam = lagrangian(quality_index) if lam is None else lam
    pace = WARM if start else 1.0

    def adapted(fields: Sequence[Tensor]) -> FieldModel:
        """The model with the filter and the rates that suit the picture best, as far as it is known, or `start`'s."""
        nonlocal deltas
        if start is None:
            nearest, draws = [z.round() for z in fields], torch.Generator().manual_seed(seed)
            deltas = Deltas(
                adapt_filter(model, shown(nearest, own), target, q, lam, draws, weight, before=deltas.filter),
                adapt_rate(model, prior.tensors, nearest, q, seed, before=deltas.rate, coded=own),
            )
        changed = {k: torch.from_numpy(v) for k, v in changed_filter(prior.tensors, deltas.filter).items()}
        changed |= to_floats(changed_rate(prior.tensors, deltas.rate))
        return replace(model, weights=model.weights | {name: tensor.to(device) for name, tensor in changed.items()})

    if steps:
        with one_thread_per_piece(device):
            first = adapted(fields) if start else model
            fields = refine(first, fields, target, q, lam, steps, generator, progress, adapted, pace, weight, felt, own)
            fields = optimised_rounding(adapted(fields), fields, target, q, lam, weight, own, _quick_type(device))
    return tuple(z[0].round().clamp(-MAX_VALUE, MAX_VALUE).to(torch.int32).cpu().numpy() for z in fields), deltas


def refine(
    model: FieldModel,
    fields: list[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    steps: int,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    adapted: Callable[[list[Tensor]], FieldModel] | None = None,
    pace: float = 1.0,
    weight: Tensor | None = None,
    felt: Sequence[Tensor | None] | None = None,
    coded: Sequence[Coded] | None = None,
) -> list[Tensor]:
    """Fields after `steps` descent steps on J, unrounded, of the prior's sizes times `pace`.

    `adapted` gives the model for the last third of them; `weight` and `coded` are `objective`'s. Where `felt`, per
    level (1, 1, h, w) or None, is 0, fields stay zero.
    """
    sizes = model.weights["fit.step"]  # (levels, 2): first and last step
    hot, cold = model.weights["fit.temperature"]
    squares = [z.new_zeros(len(z)) for z in fields]
    felt = felt or [None] * len(fields)
    dtype = _quick_type(target.device)
    moving = torch.stack([sizes.new_ones(()) if mask is None else mask.mean() for mask in felt]).sqrt()
    sizes, least = sizes * moving[:, None], least_gradient(q) * moving  # as if the gradient's RMS were of what moves

    def by_model(
        model: FieldModel,
        fields: list[Tensor],
        squares: list[Tensor],
        noises: list[Tensor],
        temperature: Tensor,
        now: Tensor,
        count: Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Fields and mean squares after step `count`."""
        levels = zip(fields, noises, felt, strict=True)
        pairs = list(in_parallel(partial(_rounded, z, temperature, noise, mask) for z, noise, mask in levels))
        gradients = objective(model, [value for _, value in pairs], target, q, lam, weight, coded, dtype)[1]
        found = in_parallel(
            partial(_moved, pairs[i], gradient, squares[i], now[i], count, least[i])
            for i, gradient in enumerate(gradients)
        )
        moved = list(found)
        return [z for z, _ in moved], [square for _, square in moved]

    moved = Recorded(partial(by_model, model))
    for step in range(steps):
        if adapted and step == steps * 2 // 3:
            moved = Recorded(partial(by_model, adapted(fields)))
        part = step / max(1, steps - 1)
        temperature = hot + (cold - hot) * part
        noises = [torch.rand(z.shape, generator=generator, device=z.device) for z in fields]
        now = pace * (sizes[:, 0] + (sizes[:, 1] - sizes[:, 0]) * part)
        fields, squares = moved(fields, squares, noises, temperature, now, torch.full_like(hot, step + 1))
        if progress:
            progress(step + 1, steps)
    return fields


def _quick_type(device: torch.device) -> torch.dtype:
    """What steps and rounding compute with: bfloat16 on a CPU that has instructions for it."""
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # no public name yet
    return torch.bfloat16 if device.type == "cpu" and native() else torch.float32


def _rounded(values: Tensor, temperature: Tensor, noise: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """A leaf with the values of a level, and what `noisy_round` makes of it, times the mask."""
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        rounded = noisy_round(leaf, temperature, noise)
        return leaf, rounded if mask is None else rounded * mask


def _moved(
    pair: tuple[Tensor, Tensor], upstream: Tensor, square: Tensor, size: Tensor, count: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    """What `descend` says of a pair of `_rounded`, given the gradient by its second."""
    (gradient,) = torch.autograd.grad(pair[1], pair[0], upstream)
    return descend(pair[0].detach(), gradient, square, size, count, least)


def least_gradient(q: Tensor) -> Tensor:
    """`descend`'s `least` for gradients of J, (B,), of qualities q (B, 1)."""
    return LEAST * torch.exp2(q[:, 0])


def descend(
    values: Tensor, gradient: Tensor, square: Tensor, size: Tensor, count: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    """Fields of a level (B, C, h, w) and the gradient's mean square (B,) after step `count` = 1, 2, ...

    A step is normalised by the RMS of a picture's gradient in the level, not elementwise: where the gradient
    is tiny, values stay where they are. In a level whose gradient is small as a whole, against `least` (B,), there
    is not much but the noise of the rounding, and steps of full length would follow it.
    """
    square = torch.lerp(square, gradient.square().mean((1, 2, 3)), 1 - MEMORY)
    unit = (square / (1 - MEMORY**count) + least**2).sqrt()
    return values - (size / unit)[:, None, None, None] * gradient, square


def fit_network(
    prior: Prior,
    pixels: NDArray[np.uint8] | NDArray[np.float32],
    steps: int,
    device: torch.device,
    seed: int = 0,
    progress: Progress | None = None,
    seen: NDArray[np.bool_] | None = None,
) -> list[NDArray[np.float32]]:
    """Deltas of a picture (height, width, 3), per layer: surviving weights in row-major order, then biases.

    Pixels that are not `seen`, (height, width), do not count.
    """
    if seen is not None and not seen.any():
        steps = 0
    height, width, _ = pixels.shape
    counted = slice(None) if seen is None else seen.ravel()
    coordinates = torch.from_numpy(pixel_grid(height, width)[counted]).to(device)  # (N, 2)
    colours = torch.from_numpy(pixels.reshape(-1, 3)[counted]).to(device)  # (N, 3) uint8
    names = [f"siren.{layer}.{part}" for layer in range(prior.layers) for part in ("weight", "bias")]
    start = {name: torch.from_numpy(prior.tensors[name].copy()).to(device) for name in names}
    masks = [torch.from_numpy(prior.mask(layer)).to(device) for layer in range(prior.layers)]
    weights = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    adam = torch.optim.Adam(weights.values(), lr=NETWORK_RATE)
    generator = torch.Generator(device).manual_seed(seed)
    count = len(coordinates)
    for step in range(steps):
        adam.param_groups[0]["lr"] = NETWORK_RATE * (1 - 0.9 * step / steps)
        chosen = torch.randint(count, (PIXELS,), generator=generator, device=device) if count > PIXELS else slice(None)
        error = siren(weights, coordinates[chosen], prior.architecture.omegas) - (colours[chosen].float() / 255 - 0.5)
        adam.zero_grad()
        error.square().mean().backward()  # type: ignore[no-untyped-call]
        for layer, mask in enumerate(masks):
            gradient = weights[f"siren.{layer}.weight"].grad
            assert gradient is not None
            gradient *= mask
        adam.step()
        if progress:
            progress(step + 1, steps)
    deltas = {name: (weights[name].detach() - start[name]).cpu() for name in names}
    return [
        np.concatenate([deltas[f"siren.{i}.weight"].numpy()[mask.cpu().numpy()], deltas[f"siren.{i}.bias"].numpy()])
        for i, mask in enumerate(masks)
    ]
