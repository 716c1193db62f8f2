"""Fit: N steps from the prior to one picture.

Priors with fields minimise, over the fields s in steps,

    J(s) = |f(s) - picture|^2 / lambda + bits(s)          squared error in units of 1/255, summed over RGB

where the picture is known: a target is NaN where nothing counts, be it transparent or to be filled in.
The analysis network takes the first step. After two thirds of the others, and once more at the end, the filter is
adapted to the picture (see `adapt`). Each step follows the gradient through a soft
rounding (Agustsson & Theis, NeurIPS 2020) whose temperature falls, with momentum, and normalised
by the gradient's RMS per level; step sizes and temperatures are the prior's. The last rounding is `rounding`'s.

Priors without fields minimise the squared error over the surviving weights of the network and its
biases with Adam, as the paper does, on at most 65,536 pixels drawn anew for each step.

No graph is built through the network or the rate model: they are differentiated by hand, in blocks that
stay in the cache, and of a large picture only one band's samples are in memory. `synthesis` and `rate` have the
plain forms, which tests compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inrcodec import rate, synthesis
from inrcodec.adapt import adapt_filter
from inrcodec.analysis import analyse
from inrcodec.deltas import FilterDeltas, apply_deltas
from inrcodec.entropy import CAUSAL, MAX_VALUE, STRIPE
from inrcodec.errors import OptionError
from inrcodec.grid import pixel_grid
from inrcodec.options import Device, conditioning, lagrangian
from inrcodec.prior import Prior
from inrcodec.render import FILTER_REACH
from inrcodec.rounding import optimised_rounding
from inrcodec.siren import siren
from inrcodec.synthesis import HALO

Progress = Callable[[int, int], None]  # steps done, steps in all

BAND = 1 << 19  # pixels whose inputs of the network are in memory at once
BLOCK = 16384  # samples that are differentiated at once
MOMENTUM, MEMORY = 0.8, 0.9  # of the gradient and of its mean square
SQUARED_UNIT = 255.0**2
PIXELS = 1 << 16  # per step, of a fit of the network
WARM = 0.5  # pace of a fit that goes on from another: with full steps it would first lose what that has reached
NETWORK_RATE = 1e-3  # of Adam, first step; falls to a tenth


_pool: ContextVar[ThreadPoolExecutor | None] = ContextVar("_pool", default=None)


def torch_device(device: Device) -> torch.device:
    """`auto` is cuda, else mps, else cpu. OptionError for a device that this machine lacks."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    available = [Device.CUDA] * cuda + [Device.MPS] * mps + [Device.CPU]
    if device not in (Device.AUTO, *available):
        raise OptionError(f"device {device} is not available here ({', '.join(available)})")
    return torch.device(available[0] if device is Device.AUTO else device)


@dataclass(frozen=True, eq=False)
class FieldModel:
    """A prior with fields as float tensors on a device."""

    weights: dict[str, Tensor]
    omegas: tuple[float, ...]
    channels: tuple[int, ...]

    @classmethod
    def of(cls, prior: Prior, device: torch.device) -> FieldModel:
        """The model of a prior."""
        floats = {k: torch.from_numpy(v.copy()) for k, v in prior.tensors.items() if v.dtype == np.float32}
        weights = {k: v.to(device) for k, v in (floats | rate.to_floats(prior.tensors)).items()}
        return cls(weights, prior.architecture.omegas, prior.architecture.channels)


def _in_parallel(function: Callable[..., Tensor], tasks: Sequence[tuple[Any, ...]]) -> list[Tensor]:
    """What a function gives for each task, by the threads of `one_thread_per_block` if there are any."""
    pool = _pool.get()

    def run(task: tuple[Any, ...]) -> Tensor:
        with torch.no_grad():  # which every thread has to say for itself
            return function(*task)

    return list(map(run, tasks) if pool is None else pool.map(run, tasks))


@contextmanager
def one_thread_per_block(device: torch.device) -> Iterator[None]:
    """Inside, a CPU's threads share out the blocks, instead of each small product among them."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        token = _pool.set(pool)
        try:
            yield
        finally:
            _pool.reset(token)
            torch.set_num_threads(threads)


class _SquaredError(torch.autograd.Function):
    """Squared error of the frozen network and filter, in units of 1/255, with its gradient by the inputs."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        planes: Tensor,
        target: Tensor,
        above: int,
        model: FieldModel,
        q: Tensor,
    ) -> Tensor:
        # planes (B, C, rows, W), target (B, 3, H, W): `above` rows of planes lie above the target's, and up to 2 below
        weights, omegas = model.weights, model.omegas
        first, last = weights["siren.0.weight"], len(omegas)
        condition = torch.cat([q, q**2], 1)[0]  # (2,): one quality per fit
        layers = [(omegas[0] * first[:, :-2], omegas[0] * (weights["siren.0.bias"] + first[:, -2:] @ condition))]
        layers += [
            (w * weights[f"siren.{i}.weight"], w * weights[f"siren.{i}.bias"]) for i, w in enumerate(omegas) if i
        ]
        out, bias, skip = (
            weights[f"siren.{last}.weight"],
            weights[f"siren.{last}.bias"][:, None],
            weights["skip.weight"],
        )
        extra = weights["filter.in"].shape[1] - 3
        (height, width), rows = target.shape[2:], planes.shape[2]
        size = max(1, BLOCK // width)  # target rows of a block

        def block_error(picture: int, top: int) -> Tensor:
            """Error of some rows of the target, then its gradient by the rows of planes that it depends on."""
            bottom = min(top + size, height)
            start, stop = max(0, top + above - FILTER_REACH), min(rows, bottom + above + FILTER_REACH)
            margins = (FILTER_REACH, FILTER_REACH, start - top - above + FILTER_REACH,
                       bottom + above + FILTER_REACH - stop)  # fmt: skip
            x = planes[picture, :, start:stop].flatten(1)  # (C, n)
            h, slopes = x, []
            for matrix, offset in layers:
                a = torch.addmm(offset[:, None], matrix, h)
                h = torch.sin(a)
                slopes.append(a.cos_())
            values = torch.addmm(bias, out, h).addmm_(skip, x)
            with torch.enable_grad():
                seen = torch.cat([values, x[:extra]]).view(1, 3 + extra, -1, width).requires_grad_()
                inside = seen[:, :3, top + above - start : bottom + above - start]
                restored = synthesis.filtered(weights, "filter", functional.pad(seen, margins, mode="replicate"), q)
                missed = (inside + restored - target[picture, None, :, top:bottom]).nan_to_num()
                error = missed.square().sum() * SQUARED_UNIT
                (by_seen,) = torch.autograd.grad(error, seen)
            upstream = by_seen[0].flatten(1)  # (3 + extra, n)
            back = out.T @ upstream[:3]
            for (matrix, _), slope in zip(reversed(layers), reversed(slopes), strict=True):
                back = matrix.T @ back.mul_(slope)
            back.addmm_(skip.T, upstream[:3])
            back[:extra] += upstream[3:]
            return torch.cat([error.detach().view(1), back.flatten()])

        blocks = [(picture, top) for picture in range(len(planes)) for top in range(0, height, size)]
        gradient, total = torch.zeros_like(planes), planes.new_zeros(())
        for (picture, top), found in zip(blocks, _in_parallel(block_error, blocks), strict=True):
            start = max(0, top + above - FILTER_REACH)
            by_rows = found[1:].view(planes.shape[1], -1, width)
            gradient[picture, :, start : start + by_rows.shape[1]] += by_rows
            total += found[0]
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return upstream * gradient, None, None, None, None


class _Bits(torch.autograd.Function):
    """Bits of a level, with the gradients by its values and by the trunk above it found on the way."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        values: Tensor,
        trunk: Tensor | None,
        model: FieldModel,
        q: Tensor,
        level: int,
    ) -> Tensor:
        # values (B, C, h, w), trunk (B, features, ceil(h / 2), ceil(w / 2)) or None
        by_values, by_trunk = torch.zeros_like(values), None if trunk is None else torch.zeros_like(trunk)
        height, width = values.shape[-2:]
        size = max(2, BLOCK // width // 2 * 2)  # rows of a block: even, so that blocks have whole parents

        def stripe_bits(picture: int, stripe: int) -> Tensor:
            """Bits of a stripe; its gradients are written to `by_values` and `by_trunk`."""
            bottom = min(stripe + STRIPE, height)
            padded = functional.pad(values[picture, :, stripe:bottom], (2, 2, 2, 0))
            gradient = torch.zeros_like(padded)
            bits = []
            for top in range(stripe, bottom, size):
                rows = slice(top - stripe, min(top + size, bottom) - stripe)
                parents = by_parents = None
                if trunk is not None and by_trunk is not None:
                    above = slice(top // 2, (stripe + rows.stop + 1) // 2)
                    parents, by_parents = trunk[picture, :, above], by_trunk[picture, :, above]
                bits.append(_block_bits(model, level, q, padded, rows, parents, gradient, by_parents))
            by_values[picture, :, stripe:bottom] = gradient[:, 2:, 2:-2]
            return torch.stack(bits).sum()

        stripes = [(picture, top) for picture in range(len(values)) for top in range(0, height, STRIPE)]
        total = torch.stack(_in_parallel(stripe_bits, stripes)).sum()
        ctx.save_for_backward(by_values, by_trunk)  # type: ignore[arg-type]  # None is kept as such
        return total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor, Tensor | None, None, None, None]:
        by_values, by_trunk = ctx.saved_tensors  # type: ignore[attr-defined]
        return upstream * by_values, None if by_trunk is None else upstream * by_trunk, None, None, None


def _block_bits(
    model: FieldModel,
    level: int,
    q: Tensor,
    padded: Tensor,
    rows: slice,
    parents: Tensor | None,
    by_padded: Tensor,
    by_parents: Tensor | None,
) -> Tensor:
    """Bits of some rows of a stripe; their gradients are added to `by_padded` and `by_parents`.

    padded (C, h + 2, w + 4) is the stripe with zeros above and aside; parents (features, rows / 2, ceil(w / 2)).
    """
    part = {k: model.weights[f"rate.{level}.{k}"] for k in ("causal", "bias", "mid", "mid_bias", "head", "head_bias")}
    count, width, channels = rows.stop - rows.start, padded.shape[2] - 4, len(padded)
    windows = [(slice(rows.start + 2 + dy, rows.stop + 2 + dy), slice(2 + dx, 2 + dx + width)) for dy, dx in CAUSAL]
    context = torch.stack([padded[:, y, x] for y, x in windows], 1).reshape(channels * len(CAUSAL), -1)
    bias = part["bias"] @ torch.stack([torch.ones_like(q[0, 0]), q[0, 0], q[0, 0] ** 2])  # (hidden,)
    hidden = torch.addmm(bias[:, None], part["causal"], context)
    if parents is not None:
        matrix = model.weights[f"rate.{level}.above"]
        phases = torch.addmm(model.weights[f"rate.{level}.above_bias"][:, None], matrix, parents.flatten(1))
        fine = functional.pixel_shuffle(phases.reshape(len(matrix), *parents.shape[1:]), 2)
        hidden.view(-1, count, width).add_(fine[:, :count, :width])
    hidden.relu_()
    middle = torch.addmm(part["mid_bias"][:, None], part["mid"], hidden).relu_()
    mean, log_scale = torch.addmm(part["head_bias"][:, None], part["head"], middle).chunk(2)
    values = padded[:, rows.start + 2 : rows.stop + 2, 2:-2].reshape(channels, -1)
    bits, by_offset, by_log_scale = _laplace(values - mean, log_scale)

    back = part["head"].T @ torch.cat([-by_offset, by_log_scale])
    back = part["mid"].T @ back.mul_(middle > 0)
    back.mul_(hidden > 0)
    if parents is not None and by_parents is not None:
        deep, wide = parents.shape[1:]
        fine = functional.pad(back.reshape(-1, count, width), (0, 2 * wide - width, 0, 2 * deep - count))
        by_parents += (matrix.T @ functional.pixel_unshuffle(fine, 2).flatten(1)).reshape(parents.shape)
    by_context = (part["causal"].T @ back).reshape(channels, len(CAUSAL), count, width)
    for tap, (y, x) in enumerate(windows):
        by_padded[:, y, x] += by_context[:, tap]
    by_padded[:, rows.start + 2 : rows.stop + 2, 2:-2] += by_offset.reshape(channels, count, width)
    return bits


def _laplace(offset: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of `rate.laplace_bits`, and its derivatives by offset and log scale."""
    low, high = rate.LOG_SCALES
    raw = log_scale.clamp(low, high).exp()
    b = raw + rate.LEAST_SCALE
    d = offset.abs()
    inside = d < 0.5
    far = torch.exp(-(0.5 + d) / b)
    near = torch.exp(-(0.5 - d).abs() / b)
    # Inside: p = 1 - (far + near) / 2. Outside: log p = (0.5 - d) / b + log((1 - exp(-1 / b)) / 2).
    whole = torch.exp(-1 / b)
    p = (1 - 0.5 * (far + near)).clamp_min(1e-9)
    nats = torch.where(inside, -p.log(), (d - 0.5) / b - torch.log(0.5 * (1 - whole)))
    by_d = torch.where(inside, 0.5 * (near - far) / (b * p), 1 / b)
    by_b_inside = 0.5 * (far * (0.5 + d) + near * (0.5 - d)) / (b * b * p)
    by_b_outside = -(d - 0.5) / b**2 + whole / (b * b * (1 - whole))
    by_b = torch.where(inside, by_b_inside, by_b_outside)
    bits = nats.sum() / math.log(2)
    by_offset = by_d * offset.sign() / math.log(2)
    by_log_scale = by_b * raw * ((log_scale >= low) & (log_scale <= high)) / math.log(2)
    return bits, by_offset, by_log_scale


def objective(
    model: FieldModel, fields: Sequence[Tensor], target: Tensor, q: Tensor, lam: float
) -> tuple[Tensor, list[Tensor]]:
    """J in bits, and its gradients, of fields in steps (B, C, h, w) for pictures (B, 3, H, W).

    The error is taken band by band, so that only one band's inputs of the network are in memory.
    """
    leaves = [z.detach().requires_grad_() for z in fields]
    levels = enumerate(zip(leaves, rate.trunks(model.weights, leaves), strict=True))
    parts = [_Bits.apply(z, trunk, model, q, level) for level, (z, trunk) in levels]  # type: ignore[no-untyped-call]
    bits = torch.stack(parts).sum()
    halos = [synthesis.haloed(z) for z in leaves]
    upstream = [torch.zeros_like(z) for z in halos]
    height, width = target.shape[2:]
    coarsest = 1 << (len(fields) - 1)
    rows = max(1, BAND // (width * coarsest)) * coarsest
    error = target.new_zeros(())
    for top in range(0, height, rows):
        band = target[:, :, top : top + rows]
        above = min(top, FILTER_REACH)  # rows that the filter sees
        start, stop = max(0, top - coarsest), min(height, top + rows + FILTER_REACH)
        places = [slice(start >> i, -(-stop >> i) + 2 * HALO) for i in range(len(fields))]
        cut = [z.detach()[:, :, place].requires_grad_() for z, place in zip(halos, places, strict=True)]
        planes = synthesis.inputs_of_part(model.weights, cut, q, 0, stop - start, width)[:, :, top - above - start :]
        part: Tensor = _SquaredError.apply(planes, band, above, model, q) / lam  # type: ignore[no-untyped-call]
        for whole, place, gradient in zip(upstream, places, torch.autograd.grad(part, cut), strict=True):
            whole[:, :, place] += gradient
        error += part.detach()
    gradients = torch.autograd.grad([bits, *halos], leaves, [torch.ones_like(bits), *upstream])
    return error + bits.detach(), list(gradients)


def soft_round(x: Tensor, temperature: float) -> Tensor:
    """Rounding that is the identity at high and hard at low temperature (Agustsson & Theis 2020, eq. 10)."""
    middle = x.floor() + 0.5
    return middle + torch.tanh((x - middle) / temperature) / (2 * math.tanh(0.5 / temperature))


def noisy_round(x: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Soft rounding of a soft-rounded value plus uniform noise: values learn to stay clear of the halves."""
    noise = torch.rand(x.shape, generator=generator, device=x.device) - 0.5
    return soft_round(soft_round(x, temperature) + noise * min(1.0, 2.2 * temperature), temperature)


def fit_fields(
    prior: Prior,
    pixels: NDArray[np.uint8] | NDArray[np.float32],
    quality_index: int,
    steps: int,
    device: torch.device,
    seed: int = 0,
    progress: Progress | None = None,
    start: Sequence[NDArray[np.int32]] | None = None,
    lam: float | None = None,
    seen: NDArray[np.bool_] | None = None,
) -> tuple[tuple[NDArray[np.int32], ...], FilterDeltas | None]:
    """Quantized fields (channels, rows, columns), level 0 first, and deltas; pixels (height, width, 3) in 0..255.

    The fit goes on from `start`, the fields of an earlier one, if they are given; lambda may be another than the
    quality's. Pixels that are not `seen`, (height, width), do not count; the first guess looks at them, though.
    """
    model = FieldModel.of(prior, device)
    target = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float() / 255 - 0.5
    q = torch.full((1, 1), conditioning(quality_index), device=device)
    generator = torch.Generator(device).manual_seed(seed)
    if start is None:
        with torch.no_grad():
            fields = analyse(model.weights, target, q, model.channels, model.omegas)
    else:
        fields = [torch.from_numpy(z).to(device)[None].float() for z in start]
    felt = None
    if seen is not None:
        visible = torch.from_numpy(seen).to(device)[None, None]
        target = torch.where(visible, target, math.nan)
        felt = [synthesis.felt(visible, level) for level in range(len(fields))]
        fields = [z * mask for z, mask in zip(fields, felt, strict=True)]
    lam = lagrangian(quality_index) if lam is None else lam
    pace = WARM if start else 1.0
    deltas: FilterDeltas | None = None

    def adapted(fields: Sequence[Tensor]) -> FieldModel:
        """The model with the filter that suits the picture best, as far as it is known."""
        nonlocal deltas
        nearest = [z.round() for z in fields]
        deltas = adapt_filter(model.weights, nearest, target, q, lam, model.omegas, generator)
        changed = apply_deltas(prior.tensors, deltas)
        return replace(model, weights=model.weights | {k: torch.from_numpy(v).to(device) for k, v in changed.items()})

    with one_thread_per_block(device):
        if steps:
            fields = refine(model, fields, target, q, lam, steps, generator, progress, adapted, pace, felt)
            fields = optimised_rounding(adapted(fields).weights, fields, target, q, lam, model.omegas)
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
    felt: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Fields after `steps` descent steps on J, unrounded, of the prior's sizes times `pace`.

    `adapted` gives the model for the last third of them. Where `felt`, per level (1, 1, h, w), is 0, fields stay zero.
    """
    sizes = model.weights["fit.step"]  # (levels, 2): first and last step
    hot, cold = model.weights["fit.temperature"].tolist()
    momenta = [torch.zeros_like(z) for z in fields]
    squares = [z.new_zeros(len(z)) for z in fields]
    for step in range(steps):
        if adapted and step == steps * 2 // 3:
            model = adapted(fields)
        part = step / max(1, steps - 1)
        temperature = hot + (cold - hot) * part
        leaves = [z.detach().requires_grad_() for z in fields]
        rounded = [noisy_round(z, temperature, generator) for z in leaves]
        if felt:
            rounded = [z * mask for z, mask in zip(rounded, felt, strict=True)]
        gradients = torch.autograd.grad(rounded, leaves, objective(model, rounded, target, q, lam)[1])
        for i, gradient in enumerate(gradients):
            size = pace * (sizes[i, 0] + (sizes[i, 1] - sizes[i, 0]) * part)
            if felt:
                size = size * felt[i].mean().sqrt()  # as if the gradient's RMS were that of what moves
            fields[i], momenta[i], squares[i] = descend(
                leaves[i].detach(), gradient, momenta[i], squares[i], size, step + 1
            )
        if progress:
            progress(step + 1, steps)
    return fields


def descend(
    values: Tensor, gradient: Tensor, momentum: Tensor, square: Tensor, size: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fields of a level (B, C, h, w), momentum and mean square (B,) after step `count` = 1, 2, ...

    A step is normalised by the RMS of a picture's gradient in the level, not elementwise: where the gradient
    is tiny, values stay where they are.
    """
    momentum = torch.lerp(momentum, gradient, 1 - MOMENTUM)
    square = torch.lerp(square, gradient.square().mean((1, 2, 3)), 1 - MEMORY)
    unit = (square / (1 - MEMORY**count)).sqrt() + 1e-8
    scale = size / unit / (1 - MOMENTUM**count)
    return values - scale[:, None, None, None] * momentum, momentum, square


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

    Pixels that are not `seen`, (height, width), do not count; there has to be one that is.
    """
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
