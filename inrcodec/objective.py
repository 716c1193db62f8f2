"""J of a picture's fields and its gradient, by hand and in pieces that stay in the cache.

    J(s) = |f(s) - picture|^2 / lambda + bits(s)          squared error in units of 1/255, summed over RGB

The error is the sum over square tiles of the picture, the bits over stripes of each level; a piece is computed forwards
and backwards at once, so no graph is built and nothing of the picture's size is in memory but its fields. Pieces do not
depend on each other, and a CPU's threads share them out. `synthesis` and `rate` have the plain forms of the same
numbers, which tests compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inrcodec import rate
from inrcodec.entropy import CAUSAL, STRIPE
from inrcodec.lattice import interpolation_matrix
from inrcodec.prior import Prior
from inrcodec.render import FILTER_REACH
from inrcodec.synthesis import PACKED, gains

__all__ = ["FieldModel", "in_parallel", "objective", "one_thread_per_piece"]

TILE = {"cpu": 128, "cuda": 1024}  # pixels along a side; of a CPU's, 32 features are 2 MB
ROWS = {"cpu": 16384, "cuda": 1 << 20}  # samples of a stripe that are looked at at once
SQUARED_UNIT = 255.0**2

T = TypeVar("T")
Part = tuple[int, slice, slice, Tensor]  # level, rows, columns and gradient (C, rows, columns) by these values

_pool: ContextVar[ThreadPoolExecutor | None] = ContextVar("_pool", default=None)


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

    @cached_property
    def kernels(self) -> list[tuple[float, float]]:
        """(B, C) of each level's cubic, on the host."""
        return [(b, c) for b, c in self.weights["field.kernel"].tolist()]


def in_parallel(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """What each task gives, by the threads of `one_thread_per_piece` if there are any. Without gradients."""
    pool = _pool.get()

    def run(task: Callable[[], T]) -> T:
        with torch.no_grad():  # which every thread has to say for itself
            return task()

    return map(run, tasks) if pool is None else pool.map(run, tasks)


@contextmanager
def one_thread_per_piece(device: torch.device) -> Iterator[None]:
    """Inside, a CPU's threads share out the pieces, instead of each small product among them."""
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


def objective(
    model: FieldModel,
    fields: Sequence[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    weight: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """J in bits, and its gradients, of fields in steps (B, C, h, w) for pictures (B, 3, H, W); q (1, 1) of them all.

    weight (1, 1, H, W), of them all, is of each pixel's squared error.
    """
    leaves = [z.detach().requires_grad_() for z in fields]
    with torch.enable_grad():
        trunks = [trunk for trunk in rate.trunks(model.weights, leaves) if trunk is not None]  # levels 0, 1, ...
    by_trunks = [torch.zeros_like(trunk) for trunk in trunks]
    network = _Network.of(model, q)
    side, (height, width) = TILE.get(target.device.type, TILE["cpu"]), target.shape[2:]
    pictures: list[int] = []
    pieces: list[Callable[[], tuple[Tensor, list[Part]]]] = []
    for at, picture in enumerate(target):
        own = [z[at].detach() for z in leaves]
        for top in range(0, height, side):
            for left in range(0, width, side):
                rows, columns = slice(top, min(top + side, height)), slice(left, min(left + side, width))
                part = None if weight is None else weight[0, :, rows, columns]
                pieces.append(partial(_tile, network, own, picture, rows, columns, lam, part))
        for level, values in enumerate(own):
            above = (trunks[level][at].detach(), by_trunks[level][at]) if level < len(trunks) else None
            pieces += [
                partial(_stripe, model, level, q, values, top, above) for top in range(0, len(values[0]), STRIPE)
            ]
        pictures += [at] * (len(pieces) - len(pictures))
    gradients = [torch.zeros_like(z) for z in leaves]
    total = target.new_zeros(())
    for at, (cost, parts) in zip(pictures, in_parallel(pieces), strict=True):
        total += cost
        for level, rows, columns, gradient in parts:
            gradients[level][at, :, rows, columns] += gradient
    if trunks:
        through = torch.autograd.grad(trunks, leaves[1:], by_trunks)
        gradients[1:] = [gradient + more for gradient, more in zip(gradients[1:], through, strict=True)]
    return total, gradients


@dataclass(frozen=True, eq=False)
class _Network:
    """The SIREN and the filter at one quality, in the forms that a tile wants."""

    model: FieldModel
    steps: tuple[Tensor, ...]  # of each level's channels, (C, 1, 1)
    layers: tuple[tuple[Tensor, Tensor], ...]  # matrix and bias (rows, 1), omega included
    out: tuple[Tensor, Tensor]
    skip: Tensor
    filter: tuple[Tensor, Tensor, Tensor, Tensor]  # both layers' kernels and biases
    back: tuple[Tensor, Tensor]  # the kernels of their gradients, second layer first

    @classmethod
    def of(cls, model: FieldModel, q: Tensor) -> _Network:
        weights, omegas = model.weights, model.omegas
        condition = torch.cat([q, q**2], 1)[0]  # (2,)
        steps = torch.split(gains(weights, q)[0, :, None, None], list(model.channels))
        layers, last = [], f"siren.{len(omegas)}."
        for i, omega in enumerate(omegas):
            matrix, bias = weights[f"siren.{i}.weight"], weights[f"siren.{i}.bias"]
            if not i:
                matrix, bias = matrix[:, :-2], bias + matrix[:, -2:] @ condition
            layers.append((omega * matrix, omega * bias[:, None]))
        first, second = (weights[f"filter.{part}"].contiguous(memory_format=PACKED) for part in ("in", "out"))
        bias = weights["filter.in_bias"] @ torch.cat([torch.ones_like(condition[:1]), condition])
        back = [k.transpose(0, 1).flip(2, 3).contiguous(memory_format=PACKED) for k in (second, first)]
        return cls(
            model,
            steps,
            tuple(layers),
            (weights[last + "weight"], weights[last + "bias"][:, None]),
            weights["skip.weight"],
            (first, bias, second, weights["filter.out_bias"]),
            (back[0], back[1]),
        )


@lru_cache(maxsize=4096)
def _interpolation(
    start: int, stop: int, level: int, count: int, kernel: tuple[float, float], device: torch.device
) -> tuple[slice, Tensor]:
    """The cells that pixels start..stop of an axis depend on, and the matrix from them to the pixels."""
    cells, matrix = interpolation_matrix(np.arange(start, stop) + 0.5, level, count, *kernel)
    return cells, torch.from_numpy(matrix).to(device)


def _tile(
    network: _Network,
    fields: Sequence[Tensor],
    target: Tensor,
    rows: slice,
    columns: slice,
    lam: float,
    weight: Tensor | None,
) -> tuple[Tensor, list[Part]]:
    """Weighted error of a tile of a picture (3, H, W) over lambda, and its gradients by the fields (C, h, w)."""
    height, width = target.shape[1:]
    seen_rows = slice(max(0, rows.start - FILTER_REACH), min(height, rows.stop + FILTER_REACH))
    seen_columns = slice(max(0, columns.start - FILTER_REACH), min(width, columns.stop + FILTER_REACH))
    shape = (seen_rows.stop - seen_rows.start, seen_columns.stop - seen_columns.start)
    margins = [
        FILTER_REACH - columns.start + seen_columns.start,
        FILTER_REACH + columns.stop - seen_columns.stop,
        FILTER_REACH - rows.start + seen_rows.start,
        FILTER_REACH + rows.stop - seen_rows.stop,
    ]
    inside = (
        slice(None),
        slice(rows.start - seen_rows.start, rows.stop - seen_rows.start),
        slice(columns.start - seen_columns.start, columns.stop - seen_columns.start),
    )

    planes, places = [], []
    for level, (values, step, kernel) in enumerate(zip(fields, network.steps, network.model.kernels, strict=True)):
        if level:
            over_rows, down = _interpolation(
                seen_rows.start, seen_rows.stop, level, values.shape[1], kernel, values.device
            )
            over_columns, across = _interpolation(
                seen_columns.start, seen_columns.stop, level, values.shape[2], kernel, values.device
            )
            planes.append(down @ (step * values[:, over_rows, over_columns]) @ across.T)
            places.append((over_rows, down, over_columns, across))
        else:
            planes.append(step * values[:, seen_rows, seen_columns])
    x = torch.cat(planes).flatten(1)  # (C, n)

    h, slopes = x, []
    for matrix, bias in network.layers:
        a = torch.addmm(bias, matrix, h)
        h = torch.sin(a)
        slopes.append(a.cos_())
    values = torch.addmm(network.out[1], network.out[0], h).addmm_(network.skip, x)  # (3, n)
    first, first_bias, second, second_bias = network.filter
    extra = first.shape[1] - 3
    seen = torch.cat([values, x[:extra]]).view(1, -1, *shape).contiguous(memory_format=PACKED)
    hidden = functional.conv2d(functional.pad(seen, margins, mode="replicate"), first, first_bias).relu_()
    missing = functional.conv2d(hidden, second, second_bias)[0]
    missing += values.view(3, *shape)[inside]
    missing -= target[:, rows, columns]

    weighted = missing if weight is None else missing * weight
    upstream = weighted * (2 * SQUARED_UNIT / lam)
    wide = functional.pad(upstream[None], (2, 2, 2, 2)).contiguous(memory_format=PACKED)
    by_hidden = torch.ops.aten.threshold_backward(functional.conv2d(wide, network.back[0]), hidden, 0)
    by_padded = functional.conv2d(functional.pad(by_hidden, (2, 2, 2, 2)), network.back[1])
    by_seen = torch.ops.aten.replication_pad2d_backward(by_padded.contiguous(), seen, margins)[0]
    by_seen[:3][inside] += upstream
    by_seen = by_seen.flatten(1)
    back = network.out[0].T @ by_seen[:3]
    for (matrix, _), slope in zip(reversed(network.layers), reversed(slopes), strict=True):
        back = matrix.T @ back.mul_(slope)
    back.addmm_(network.skip.T, by_seen[:3])
    back[:extra] += by_seen[3:]

    by_planes = torch.split(back.view(-1, *shape), list(network.model.channels))
    parts: list[Part] = [(0, seen_rows, seen_columns, network.steps[0] * by_planes[0])]
    for level, (over_rows, down, over_columns, across) in enumerate(places, start=1):
        parts.append((level, over_rows, over_columns, network.steps[level] * (down.T @ by_planes[level] @ across)))
    return (missing * weighted).sum() * (SQUARED_UNIT / lam), parts


def _stripe(
    model: FieldModel, level: int, q: Tensor, values: Tensor, top: int, above: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, list[Part]]:
    """Bits of a stripe of a level's values (C, h, w), and its gradients by them.

    above: the trunk (features, ceil(h / 2), ceil(w / 2)) and its gradient, which is written.
    """
    own = values[:, top : top + STRIPE]
    height, width = own.shape[1:]
    padded = functional.pad(own, (2, 2 + width % 2, 2, height % 2))
    gradient = torch.zeros_like(padded)
    bits = []
    size = max(2, ROWS.get(values.device.type, ROWS["cpu"]) // width // 2 * 2)
    for start in range(0, height, size):
        rows = slice(start, min(start + size, height))
        half = slice((top + rows.start) // 2, (top + rows.stop + 1) // 2)
        over = None if above is None else (above[0][:, half], above[1][:, half])
        bits.append(_rows(model, level, q, padded, rows, width, over, gradient))
    inside = gradient[:, 2 : 2 + height, 2 : 2 + width]
    return torch.stack(bits).sum(), [(level, slice(top, top + height), slice(0, width), inside)]


def _rows(
    model: FieldModel,
    level: int,
    q: Tensor,
    padded: Tensor,
    rows: slice,
    width: int,
    above: tuple[Tensor, Tensor] | None,
    by_padded: Tensor,
) -> Tensor:
    """Bits of some rows of a stripe; their gradients are added to `by_padded` and written to the trunk's.

    padded (C, h + 2, w + 4) is the stripe with zeros above and aside, and an even number of rows and columns. The
    samples of its 2x2 phases lie one after the other, as the trunk gives them: (C, 4 n) with n of the trunk's cells.
    """
    part = {k: model.weights[f"rate.{level}.{k}"] for k in ("causal", "bias", "mid", "mid_bias", "head", "head_bias")}
    channels, deep, wide = len(padded), (rows.stop - rows.start + 1) // 2, (width + 1) // 2
    windows = [  # (taps, phases) of slices; the last tap is the value itself
        [
            (slice(y, y + 2 * deep - 1, 2), slice(x, x + 2 * wide - 1, 2))
            for y, x in ((rows.start + 2 + dy + py, 2 + dx + px) for py in (0, 1) for px in (0, 1))
        ]
        for dy, dx in (*CAUSAL, (0, 0))
    ]
    samples = torch.stack([padded[:, y, x] for tap in windows for y, x in tap], 1).view(channels, -1, 4 * deep * wide)
    context, values = samples[:, :-1].reshape(channels * len(CAUSAL), -1), samples[:, -1]
    bias = part["bias"] @ torch.stack([torch.ones_like(q[0, 0]), q[0, 0], q[0, 0] ** 2])  # (hidden,)
    if above is None:
        hidden = torch.addmm(bias[:, None], part["causal"], context)
    else:
        matrix = model.weights[f"rate.{level}.above"]
        shift = bias.repeat_interleave(4) + model.weights[f"rate.{level}.above_bias"]
        phases = torch.addmm(shift[:, None], matrix, above[0].flatten(1))  # (4 hidden, n)
        hidden = phases.view(len(bias), -1).addmm_(part["causal"], context)
    hidden.relu_()
    middle = torch.addmm(part["mid_bias"][:, None], part["mid"], hidden).relu_()
    mean, log_scale = torch.addmm(part["head_bias"][:, None], part["head"], middle).chunk(2)
    bits, by_offset, by_log_scale = _laplace(values - mean, log_scale)
    for whole in (bits, by_offset, by_log_scale):  # rows and columns that are there for evenness only
        phased = whole.view(channels, 2, 2, deep, wide)
        if (rows.stop - rows.start) % 2:
            phased[:, 1, :, -1] = 0
        if width % 2:
            phased[:, :, 1, :, -1] = 0

    back = part["head"].T @ torch.cat([-by_offset, by_log_scale])
    back = part["mid"].T @ torch.ops.aten.threshold_backward(back, middle, 0)
    back = torch.ops.aten.threshold_backward(back, hidden, 0)
    if above is not None:
        above[1].copy_((matrix.T @ back.view(len(matrix), -1)).view_as(above[1]))
    by_context = (part["causal"].T @ back).view(channels, len(CAUSAL), 4, deep, wide)
    by_samples = torch.cat([by_context, by_offset.view(channels, 1, 4, deep, wide)], 1)
    for tap, phases_of_tap in enumerate(windows):
        for phase, (y, x) in enumerate(phases_of_tap):
            by_padded[:, y, x] += by_samples[:, tap, phase]
    return bits.sum()


def _laplace(offset: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`rate.laplace_bits` elementwise, and its derivatives by offset and log scale."""
    low, high = rate.LOG_SCALES
    raw = log_scale.clamp(low, high).exp_()
    rising = 1 / (raw + rate.LEAST_SCALE)  # 1 / b
    d = offset.abs()
    inside = d < 0.5
    far = torch.exp((-0.5 - d) * rising)
    near = torch.exp((d - 0.5).abs_().neg_() * rising)
    # Inside: p = 1 - (far + near) / 2. Outside: log p = (0.5 - d) / b + log((1 - exp(-1 / b)) / 2).
    whole = torch.exp(-rising)
    p = torch.where(inside, (1 - 0.5 * (far + near)).clamp_min_(1e-9), 0.5 * (1 - whole))
    outwards = torch.where(inside, 0.0, (d - 0.5) * rising)
    nats = outwards - p.log()
    by_d = torch.where(inside, 0.5 * (near - far) * rising / p, rising)
    by_p = torch.where(inside, far * (0.5 + d) + near * (0.5 - d), whole)
    by_b = (0.5 * by_p * rising / p - outwards) * rising
    unit = 1 / math.log(2)
    kept = (log_scale >= low) & (log_scale <= high)
    return nats * unit, by_d * offset.sign() * unit, by_b * raw * kept * unit
