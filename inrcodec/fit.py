"""Fit: N steps from the prior to one picture.

Priors with fields minimise, over the fields s in steps,

    J(s) = |f(s) - picture|^2 / lambda + bits(s)          squared error in units of 1/255, summed over RGB,
                                                           times the weight of each pixel: 0 where nothing is to be seen

The analysis network takes the first step. After 10 of the others, every 25 from there on, and once more at the end,
filter and rate model are adapted to the picture (see `adapt_filter`, `adapt_rate`). Each step follows the gradient
through a soft rounding (Agustsson & Theis, NeurIPS 2020) whose temperature falls, normalised by the gradient's RMS per
level where that is large; step sizes and temperatures are the prior's, and change with the quality. The noise of four
steps in a row is spread evenly, which is worth half as many steps more. Momentum made it worse. The last rounding is
`rounding`'s: once before the filter and the rate model are adapted at the end, and once or more often after it.
Several pictures are fitted together: a step is taken for all of them before the next, and a GPU that works at all
of them at once waits less. Nothing of one depends on the others.

Priors without fields minimise the squared error over the surviving weights of the network and its
biases with Adam, as the paper does, on at most 65,536 pixels drawn anew for each step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inrcodec import native
from inrcodec.adapt_filter import adapt_filter
from inrcodec.adapt_rate import adapt_rate
from inrcodec.analysis import analyse
from inrcodec.deltas import Deltas, changed_filter, changed_rate
from inrcodec.entropy import MAX_VALUE
from inrcodec.errors import OptionError
from inrcodec.graphs import Recorded, side_by_side
from inrcodec.grid import pixel_grid
from inrcodec.guess import unrounded_guess
from inrcodec.lattice import seen_cells
from inrcodec.objective import Coded, objective, shown
from inrcodec.options import Device, conditioning, lagrangian
from inrcodec.parallel import in_parallel, one_thread_per_piece
from inrcodec.prior import Prior
from inrcodec.rate import to_floats
from inrcodec.rounding import optimised_rounding
from inrcodec.siren import siren
from inrcodec.tile import FieldModel, compiled_for

Progress = Callable[[int, int], None]  # steps done, steps in all
Fitted = tuple[tuple[NDArray[np.int32], ...], Deltas]  # fields (channels, rows, columns), level 0 first
Back = Callable[[Tensor], Tensor]
State = tuple[list[Tensor], list[Tensor]]  # fields (B, C, h, w), and their gradients' mean squares (B,)

MEMORY = 0.9  # of the gradient's mean square
LEAST = 12.0  # RMS of a gradient, in bits a step at q = 0, below which steps are shorter
PIXELS = 1 << 16  # per step, of a fit of the network
QUARTERS = (0.0, 0.5, 0.25, 0.75)  # by which noise is moved from step to step
WARM = 2.0  # pace of a fit that goes on from another: fewer steps, from where gradients are small, have further to go
ADAPT_AFTER, ADAPT_EVERY = 10, 25  # steps: early, for all that comes later is found with it
STEPS_PER_PASS = 50  # of a fit, for each pass of rounding after the two that any fit has
QUIET = 3  # finest levels that are zero around what is not known; coarser ones fill it in
NETWORK_RATE = 1e-3  # of Adam, first step; falls to a tenth

_GPU = threading.Lock()  # a step can be recorded only while no other thread asks anything of the GPU


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


@dataclass(frozen=True, eq=False)
class Given:
    """A picture to fit, and what is known of it."""

    pixels: NDArray[np.uint8] | NDArray[np.float32]  # (height, width, 3) in 0..255
    quality_index: int
    seen: NDArray[np.bool_] | None = None  # (height, width): pixels that count; the first guess looks at all
    coded: Sequence[NDArray[np.bool_]] | None = None  # cells (rows, columns) per level; the others stay zero
    start: Fitted | None = None  # what an earlier fit gave; this one goes on from it and leaves its deltas
    lam: float | None = None  # lambda, if it is another than the quality's


@dataclass(frozen=True, eq=False)
class Aim:
    """What fields are fitted to: `objective`'s arguments, and how to move."""

    model: FieldModel
    target: Tensor  # (B, 3, H, W)
    q: Tensor  # (1, 1)
    lam: float
    weight: Tensor | None = None  # (1, 1, H, W)
    coded: Sequence[Coded] | None = None
    felt: Sequence[Tensor | None] | None = None  # per level (1, 1, h, w): where it is 0, fields stay zero
    pace: float = 1.0  # of the prior's step sizes

    @cached_property
    def moving(self) -> Tensor:
        """Root of the part of each level that moves, (levels,)."""
        one = self.target.new_ones(())
        felt = self.felt or [None] * len(self.model.channels)
        return torch.stack([one if mask is None else mask.mean() for mask in felt]).sqrt()


def fit_together(
    prior: Prior,
    pictures: Sequence[Given],
    steps: int,
    device: torch.device,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Fitted]:
    """Of each picture, quantized fields (channels, rows, columns), level 0 first, and deltas.

    A CPU computes for each what it would compute for it alone.
    """
    with _GPU if device.type == "cuda" else nullcontext():
        model = FieldModel.of(prior, device)
        fits = [_Fit(prior, model, given, seed) for given in pictures]
        fields = [fit.fields for fit in fits]
        if steps:
            with one_thread_per_piece(device):
                aims = [fit.adapted(fit.fields) if fit.given.start else fit.aim for fit in fits]
                generators = [torch.Generator(device).manual_seed(seed) for _ in fits]
                fields = refine(aims, fields, steps, generators, progress, [fit.adapted for fit in fits])
                fields = [fit.rounded(z, steps) for fit, z in zip(fits, fields, strict=True)]
        return [(_whole(z), fit.deltas) for fit, z in zip(fits, fields, strict=True)]


class _Fit:
    """One picture on its way: its first fields, what they are fitted to, and the deltas so far."""

    def __init__(self, prior: Prior, model: FieldModel, given: Given, seed: int) -> None:
        self.prior, self.given, self.seed = prior, given, seed
        device, coded, index = model.device, given.coded, given.quality_index
        target = torch.from_numpy(given.pixels).to(device).permute(2, 0, 1)[None].float().contiguous() / 255 - 0.5
        q = torch.full((1, 1), conditioning(index), device=device)
        self.deltas = given.start[1] if given.start else Deltas()
        self.descended: tuple[Tensor | None, Tensor | None] = None, None  # where the descents to the deltas are
        if given.start:
            fields = [torch.from_numpy(z).to(device)[None].float() for z in given.start[0]]
        elif device.type == "cpu" or coded is not None:
            guess = unrounded_guess(prior, given.pixels, index, coded)
            fields = [torch.from_numpy(z).to(device)[None] for z in guess]
        else:
            with torch.no_grad():
                fields = analyse(model.weights, target, q, model.channels, model.omegas)
        weight = None
        felt: list[Tensor | None] = [None] * len(fields)
        finest: list[NDArray[np.bool_]] = []
        if given.seen is not None:
            weight = torch.from_numpy(given.seen).to(device)[None, None].float()
            finest = seen_cells(given.seen, min(QUIET, len(fields)))
        for level in range(len(fields)):
            if masks := [cells[level] for cells in (coded or [], finest) if level < len(cells)]:
                mask = felt[level] = torch.from_numpy(np.logical_and.reduce(masks)).to(device)[None, None].float()
                fields[level] = fields[level] * mask
        self.fields = fields
        own = None if coded is None else [Coded.of(cells, device) for cells in coded]
        lam = lagrangian(index) if given.lam is None else given.lam
        self.aim = Aim(model, target, q, lam, weight, own, felt, WARM if given.start else 1.0)

    def adapted(self, fields: Sequence[Tensor]) -> Aim:
        """The aim with the filter and the rates that suit the picture best, as far as it is known, or `start`'s."""
        aim, tensors = self.aim, self.prior.tensors
        if self.given.start is None:
            nearest, draws = [z.round() for z in fields], torch.Generator().manual_seed(self.seed)
            filtered = aim.model, tensors, shown(nearest, aim.coded), aim.target, aim.q, aim.lam, draws, aim.weight
            rated = aim.model, tensors, nearest, aim.q, self.seed
            # Neither depends on the other: another thread is at the rates while this one is at the filter.
            rates = in_parallel([partial(adapt_rate, *rated, before=self.descended[1], coded=aim.coded)])
            changes, of_filter = adapt_filter(*filtered, before=self.descended[0])
            rate, of_rate = next(rates)
            self.deltas, self.descended = Deltas(changes, rate), (of_filter, of_rate)
        return self._with_deltas()

    def _with_deltas(self) -> Aim:
        """The aim with the filter and the rates of the deltas so far."""
        aim, tensors = self.aim, self.prior.tensors
        changed = {k: torch.from_numpy(v) for k, v in changed_filter(tensors, self.deltas.filter).items()}
        changed |= to_floats(changed_rate(tensors, self.deltas.rate))
        own = {name: tensor.to(aim.model.device) for name, tensor in changed.items()}
        return replace(aim, model=replace(aim.model, weights=aim.model.weights | own))

    def rounded(self, fields: list[Tensor], steps: int) -> list[Tensor]:
        """Whole numbers in place of what so many steps gave, and deltas that suit them."""

        def tried(aim: Aim, start: list[Tensor], passes: int) -> list[Tensor]:
            return optimised_rounding(
                aim.model, fields, start, aim.target, aim.q, aim.lam, aim.weight, aim.coded, passes
            )

        found = tried(self._with_deltas(), [z.round() for z in fields], 1)
        return tried(self.adapted(found), found, 1 + steps // STEPS_PER_PASS)


def _whole(fields: Sequence[Tensor]) -> tuple[NDArray[np.int32], ...]:
    """Fields (1, C, h, w) as they are coded."""
    return tuple(z[0].round().clamp(-MAX_VALUE, MAX_VALUE).to(torch.int32).cpu().numpy() for z in fields)


def refine(
    aims: Sequence[Aim],
    fields: Sequence[list[Tensor]],
    steps: int,
    generators: Sequence[torch.Generator | None] | None = None,
    progress: Progress | None = None,
    adapted: Sequence[Callable[[list[Tensor]], Aim]] | None = None,
) -> list[list[Tensor]]:
    """Fields of each aim after `steps` descent steps on its J, unrounded, of the prior's sizes times the aim's pace.

    The generators are of each aim's noise; `adapted` gives each aim anew, now and then. A step is taken for all aims
    before the next: on a GPU it is one graph.
    """
    states = [(values, [z.new_zeros(len(z)) for z in values]) for values in fields]
    each = [noises(z, generator) for z, generator in zip(fields, generators or [None] * len(aims), strict=True)]
    moved = _recorded(aims)
    for step in range(steps):
        if adapted and step % ADAPT_EVERY == ADAPT_AFTER:
            aims = [adapt(values) for adapt, (values, _) in zip(adapted, states, strict=True)]
            moved = _recorded(aims)
        part = step / max(1, steps - 1)
        paces = [schedule(aim.model.weights, aim.q, part) for aim in aims]
        states = moved(states, [next(noise) for noise in each], paces, aims[0].q.new_full((), step + 1))
        if progress:
            progress(step + 1, steps)
    return [values for values, _ in states]


def _recorded(aims: Sequence[Aim]) -> Recorded[list[State]]:
    """`_stepped` for all aims, given their states and noises, temperatures and sizes."""

    def compute(
        states: list[State], noises: list[list[Tensor]], paces: list[tuple[Tensor, Tensor]], count: Tensor
    ) -> list[State]:
        each = zip(aims, states, noises, paces, strict=True)
        steps = [partial(_stepped, aim, *state, noise, *pace, count) for aim, state, noise, pace in each]
        return side_by_side(steps, aims[0].model.device)

    return Recorded(compute)


def _stepped(
    aim: Aim,
    fields: list[Tensor],
    squares: list[Tensor],
    noises: list[Tensor],
    temperature: Tensor,
    size: Tensor,
    count: Tensor,
) -> State:
    """Fields and mean squares after step `count` of sizes (1, levels)."""
    felt = aim.felt or [None] * len(fields)
    size = aim.pace * size * aim.moving  # as if the gradient's RMS were of what moves
    least = least_gradient(aim.q) * aim.moving
    levels = zip(fields, noises, felt, strict=True)
    pairs = list(in_parallel(partial(_rounded, z, temperature, noise, mask) for z, noise, mask in levels))
    rounded = [value for value, _ in pairs]
    gradients = objective(aim.model, rounded, aim.target, aim.q, aim.lam, aim.weight, aim.coded)[1]
    moved = in_parallel(
        partial(_moved, fields[i], pairs[i][1], gradient, squares[i], size[:, i], count, least[i])
        for i, gradient in enumerate(gradients)
    )
    values, means = zip(*moved, strict=True)
    return list(values), list(means)


def _rounded(values: Tensor, temperature: Tensor, noise: Tensor, mask: Tensor | None) -> tuple[Tensor, Back]:
    """What `noisy_round` makes of a level, times the mask, and the gradient by the values, given that by it."""
    if compiled_for(values.device):
        found = native.rounded(values.flatten().numpy(), noise.flatten().numpy(), float(temperature))
        rounded, slopes = (torch.from_numpy(part).view_as(values) for part in found)
        return (rounded, slopes.mul) if mask is None else (rounded * mask, (slopes * mask).mul)
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        softly = noisy_round(leaf, temperature, noise)
        softly = softly if mask is None else softly * mask
    return softly.detach(), lambda upstream: torch.autograd.grad(softly, leaf, upstream)[0]


def _moved(
    values: Tensor, back: Back, upstream: Tensor, square: Tensor, size: Tensor, count: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    """What `descend` says of values, given the gradient by what `_rounded` has made of them."""
    return descend(values, back(upstream), square, size, count, least)


def schedule(weights: Mapping[str, Tensor], q: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Temperature (B, 1, 1, 1) and sizes (B, levels) of a step `part` of the way through fits of qualities q (B, 1)."""
    hot, cold = at_quality(weights, "fit.temperature", q).unbind(-1)
    first, last = at_quality(weights, "fit.step", q).unbind(-1)
    return torch.lerp(hot, cold, part)[:, None, None, None], torch.lerp(first, last, part)


def at_quality(weights: Mapping[str, Tensor], name: str, q: Tensor) -> Tensor:
    """What of each picture of qualities q (B, 1) is `weights[name]` where q is 0, (B, ...).

    Its logarithm is linear in q; its slope is the weights', too, unless it is zero.
    """
    value = weights[name]
    slope = weights.get(f"{name}_slope", torch.zeros_like(value))
    return value * torch.exp(slope * q.view(-1, *[1] * slope.ndim))


def noises(like: Sequence[Tensor], generator: torch.Generator | None) -> Iterator[list[Tensor]]:
    """Noise of one step after the other, uniform in [0, 1), shaped like the fields.

    Of four steps in a row, a value's noises are a quarter apart, so that hardly anything is left of it in their mean.
    """
    while True:
        drawn = [torch.rand(z.shape, generator=generator, device=z.device) for z in like]
        for shift in QUARTERS:
            yield [(noise + shift).frac_() for noise in drawn]


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
