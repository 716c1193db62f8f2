"""A stripe of a level's values: what the rate model says of it, and the gradients by values and trunk.

All by hand, as in `tile`. Where `native` is there it computes the layers, but for what `adapt_rate` looks at. `rate`
has the plain form of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from inrcodec import native, rate
from inrcodec.entropy import CAUSAL, STRIPE
from inrcodec.tile import FieldModel, Part, compiled_for, powers

__all__ = [
    "ROWS",
    "Cells",
    "add_through_trunks",
    "bits_and_gradients",
    "compiled_rates",
    "laplace",
    "level_cells",
    "level_trunks",
    "stripe_bits",
    "stripe_distributions",
]

ROWS = {"cpu": 1 << 15, "cuda": 1 << 20}  # samples that are looked at at once

IN_ROW = [sum(y == row for y, _ in CAUSAL) for row in (-2, -1, 0)]  # taps of each of a context's rows, from x = -2 on


def level_cells(
    model: FieldModel, level: int, q: Tensor, values: Tensor, trunk: Tensor | None, mask: Tensor
) -> Iterator[tuple[Cells, Tensor]]:
    """The cells of a level's values (C, h, w), and which of the samples count: those where the mask (h, w) is not 0.

    trunk (features, ceil(h / 2), ceil(w / 2)), None at the coarsest level.
    """
    for top in range(0, values.shape[1], STRIPE):
        for _, cells in _stripe_cells(model, level, q, values, top, trunk):
            yield cells, cells.phased(mask[top : top + STRIPE]).nonzero()[:, 0]


def _padded(stripe: Tensor) -> Tensor:
    """Planes (C, h, w) of a stripe with zeros above and aside, and such that rows and columns are even."""
    height, width = stripe.shape[1:]
    return functional.pad(stripe, (2, 2 + width % 2, 2, height % 2))


def _stripe_cells(
    model: FieldModel, level: int, q: Tensor, values: Tensor, top: int, trunk: Tensor | None
) -> Iterator[tuple[slice, Cells]]:
    """The cells of the stripe of a level that begins at a row, some rows at once, and which rows these are."""
    padded = _padded(values[:, top : top + STRIPE])
    height, width = values[:, top : top + STRIPE].shape[1:]
    size = max(2, ROWS.get(values.device.type, ROWS["cpu"]) // width // 2 * 2)
    for start in range(0, height, size):
        stop = min(start + size, height)
        half = slice((top + start) // 2, (top + stop + 1) // 2)
        cells = Cells(model, level, q, padded, slice(start, stop), width, None if trunk is None else trunk[:, half])
        yield slice(top + start, top + stop), cells


def compiled_rates(model: FieldModel, q: Tensor) -> list[native.Rate] | None:
    """The rate models of all levels as `native` wants them, if it is there."""
    if not compiled_for(model.device):
        return None
    weights = {name: part.numpy() for name, part in model.weights.items() if name.startswith("rate.")}
    biases = [weights[f"rate.{level}.bias"] @ powers(q).numpy() for level in range(len(model.channels))]
    return [native.Rate.of(weights, level, bias) for level, bias in enumerate(biases)]


def level_trunks(model: FieldModel, fields: Sequence[Tensor], rates: Sequence[native.Rate] | None) -> list[Tensor]:
    """What each level but the coarsest sees of coarser ones, (B, features, ceil(h / 2), ceil(w / 2)), of fields."""
    if not rates:
        return [trunk for trunk in rate.trunks(model.weights, fields) if trunk is not None]
    found = list[Tensor]()
    for level in range(len(fields) - 1, 0, -1):
        values = fields[level]
        out = values.new_empty(len(values), len(rates[level].trunk[1]), *values.shape[2:])
        for at, picture in enumerate(values):
            coarser = found[-1][at].numpy() if found else None
            rates[level].features(picture.numpy(), coarser, out[at].numpy())
        found.append(out)
    return found[::-1]


def add_through_trunks(
    model: FieldModel,
    trunks: Sequence[Tensor],
    by_trunks: Sequence[Tensor],
    gradients: Sequence[Tensor],
    rates: Sequence[native.Rate] | None,
) -> None:
    """Add to the gradients by fields (B, C, h, w), given those by the trunks of levels 0, 1, ...

    What a trunk owes to the coarser one is added to the gradient by that.
    """
    for level, (trunk, by_trunk) in enumerate(zip(trunks, by_trunks, strict=True), start=1):
        last = level == len(trunks)
        if rates:
            for at, features in enumerate(trunk):
                coarser = None if last else by_trunks[level][at].numpy()
                by_features, by_values = by_trunk[at].numpy(), gradients[level][at].numpy()
                rates[level].features_backward(features.numpy(), by_features, by_values, coarser)
            continue
        back = torch.ops.aten.threshold_backward(by_trunk, trunk, 0)  # (B, features, h, w)
        kernel = model.weights[f"rate.{level}.trunk"]
        gradients[level].add_(functional.conv_transpose2d(back, kernel.view(len(kernel), -1, 3, 3), padding=1))
        if not last:
            above = model.weights[f"rate.{level}.trunk_above"]
            even = functional.pad(back, (0, back.shape[3] % 2, 0, back.shape[2] % 2))
            by_phases = above.T @ rate.split(even).reshape(len(back), len(above), -1)
            by_trunks[level].add_(by_phases.view_as(by_trunks[level]))


def _above(own: Tensor, top: int, trunk: Tensor | None) -> native.Floats | None:
    """The part of a trunk above a stripe (C, rows, w) that begins at a row, as `native` wants it."""
    return None if trunk is None else trunk[:, top // 2 : (top + own.shape[1] + 1) // 2].numpy()


def stripe_bits(
    model: FieldModel,
    level: int,
    q: Tensor,
    values: Tensor,
    top: int,
    trunk: Tensor | None,
    mask: Tensor | None,
    rates: Sequence[native.Rate] | None,
) -> Tensor:
    """Bits of the cells (rows, w) of the stripe of a level's values (C, h, w) that begins at a row, times a mask."""
    own = values[:, top : top + STRIPE]
    if rates:
        counts = None if mask is None else mask.numpy()
        return torch.from_numpy(rates[level].bits(own.numpy(), _above(own, top, trunk), counts))
    mean, log_scale = stripe_distributions(model, level, q, values, top, trunk, rates)
    bits = rate.laplace_bits(own - mean, log_scale).sum(0)
    return bits if mask is None else bits * mask


def stripe_distributions(
    model: FieldModel,
    level: int,
    q: Tensor,
    values: Tensor,
    top: int,
    trunk: Tensor | None,
    rates: Sequence[native.Rate] | None,
) -> tuple[Tensor, Tensor]:
    """Mean and log scale (C, rows, w) of the stripe of a level's values (C, h, w) that begins at a row."""
    own = values[:, top : top + STRIPE]
    if rates:
        found = rates[level].distributions(own.numpy(), _above(own, top, trunk))
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])
    mean, log_scale = torch.empty_like(own), torch.empty_like(own)
    for rows, cells in _stripe_cells(model, level, q, values, top, trunk):
        inside = slice(rows.start - top, rows.stop - top)
        for plane, samples in zip((mean, log_scale), cells.distributions(), strict=True):
            plane[:, inside] = cells.plane(samples)
    return mean, log_scale


def bits_and_gradients(
    model: FieldModel,
    level: int,
    q: Tensor,
    values: Tensor,
    top: int,
    above: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
    rates: Sequence[native.Rate] | None,
) -> tuple[Tensor | float, list[Part]]:
    """Bits of a stripe of a level's values (C, h, w), and its gradients by them.

    above: the trunk (features, ceil(h / 2), ceil(w / 2)) and its gradient, which is written. mask: 0 where the stripe's
    cells cost nothing, (rows, w).
    """
    own = values[:, top : top + STRIPE]
    height, width = own.shape[1:]
    place = slice(top, top + height), slice(0, width)
    if rates:
        by_own, counts = torch.zeros_like(own), None if mask is None else mask.numpy()
        trunks = [_above(own, top, plane) for plane in above or (None, None)]
        cost = rates[level].gradients(own.numpy(), trunks[0], counts, by_own.numpy(), trunks[1])
        return cost, [(level, *place, by_own)]
    gradient = torch.zeros_like(_padded(own))
    bits = []
    for rows, cells in _stripe_cells(model, level, q, values, top, None if above is None else above[0]):
        mean, log_scale = cells.distributions()
        own_bits, by_offset, by_log_scale = laplace(cells.values - mean, log_scale)
        counted = None if mask is None else cells.phased(mask)
        for whole in (own_bits, by_offset, by_log_scale):
            if counted is None:
                cells.clear_uneven(whole)
            else:
                whole *= counted
        by_trunk = cells.backward(by_offset, by_log_scale, gradient)
        if above is not None and by_trunk is not None:
            above[1][:, rows.start // 2 : (rows.stop + 1) // 2] = by_trunk
        bits.append(own_bits.sum())
    inside = gradient[:, 2 : 2 + height, 2 : 2 + width]
    return torch.stack(bits).sum(), [(level, *place, inside)]


class Cells:
    """Some rows of a stripe on their way through the rate model.

    padded is `_padded`'s, trunk (features, n / wide, wide) of these rows. The samples of the 2x2 phases lie one after
    the other, as the trunk gives them: (C, 4 n) with n of the trunk's cells.
    """

    def __init__(
        self, model: FieldModel, level: int, q: Tensor, padded: Tensor, rows: slice, width: int, trunk: Tensor | None
    ) -> None:
        names = ("causal", "bias", "mid", "mid_bias", "head", "head_bias")
        part = self.part = {k: model.weights[f"rate.{level}.{k}"] for k in names}
        self.height, self.width = rows.stop - rows.start, width
        self.deep, self.wide = (self.height + 1) // 2, (width + 1) // 2
        self.top = rows.start
        around = padded[:, rows.start : rows.start + 2 * self.deep + 2]
        windows = around.unfold(1, 2 * self.deep, 1).unfold(2, 2 * self.wide, 1)  # (C, rows 3, columns 5, ...) of taps
        taps = torch.cat([rate.split(windows[:, y, :count]) for y, count in enumerate(IN_ROW)], 1)
        context = taps.view(-1, 4 * self.deep * self.wide)  # (C * taps, 4 n)
        self.values = rate.split(windows[:, 2, 2]).reshape(len(padded), -1)
        bias = part["bias"] @ powers(q)  # (hidden,)
        self.above: Tensor | None = None
        if trunk is None:
            hidden = torch.addmm(bias[:, None], part["causal"], context)
        else:
            self.above = model.weights[f"rate.{level}.above"]
            shift = bias.repeat_interleave(4) + model.weights[f"rate.{level}.above_bias"]
            phases = torch.addmm(shift[:, None], self.above, trunk.flatten(1))  # (4 hidden, n)
            hidden = phases.view(len(bias), -1).addmm_(part["causal"], context)
        self.first = hidden
        """What the first layer sums up to, (hidden, 4 n)."""

    def distributions(self) -> tuple[Tensor, Tensor]:
        """Mean and log scale of the values, (C, 4 n) each. Only once: it writes over `first`."""
        part = self.part
        self.hidden = self.first.relu_()
        self.middle = torch.addmm(part["mid_bias"][:, None], part["mid"], self.hidden).relu_()
        mean, log_scale = torch.addmm(part["head_bias"][:, None], part["head"], self.middle).chunk(2)
        return mean, log_scale

    def clear_uneven(self, whole: Tensor) -> None:
        """Make zero what samples (C, 4 n) say of the row and the column that are there for evenness only."""
        phased = whole.view(len(whole), 2, 2, self.deep, self.wide)
        if self.height % 2:
            phased[:, 1, :, -1] = 0
        if self.width % 2:
            phased[:, :, 1, :, -1] = 0

    def plane(self, samples: Tensor) -> Tensor:
        """Samples (..., 4 n) as these rows of a plane (..., rows, w)."""
        whole = rate.joined(samples.view(*samples.shape[:-1], 2, 2, self.deep, self.wide))
        return whole[..., : self.height, : self.width]

    def phased(self, plane: Tensor) -> Tensor:
        """A plane of the stripe, (rows, w), as samples (4 n), zero where they are there for evenness only."""
        padded = _padded(plane[None])[0]
        return rate.split(padded[self._moved((0, 0))]).flatten()

    def _moved(self, by: tuple[int, int]) -> tuple[slice, slice]:
        """Where what a tap (y, x) sees lies in padded planes."""
        top, left = self.top + 2 + by[0], 2 + by[1]
        return slice(top, top + 2 * self.deep), slice(left, left + 2 * self.wide)

    def backward(self, by_offset: Tensor, by_log_scale: Tensor, by_padded: Tensor) -> Tensor | None:
        """The gradient by the trunk, given those by value - mean and log scale; that by the values is added."""
        part = self.part
        back = part["head"].T @ torch.cat([-by_offset, by_log_scale])
        back = part["mid"].T @ torch.ops.aten.threshold_backward(back, self.middle, 0)
        back = torch.ops.aten.threshold_backward(back, self.hidden, 0)
        shape = (len(self.values), -1, 2, 2, self.deep, self.wide)
        by_context = rate.joined((part["causal"].T @ back).view(shape)).unbind(1)
        (by_values,) = rate.joined(by_offset.view(shape)).unbind(1)
        for tap, gradient in (*zip(CAUSAL, by_context, strict=True), ((0, 0), by_values)):
            by_padded[:, *self._moved(tap)].add_(gradient)
        if self.above is None:
            return None
        by_trunk: Tensor = self.above.T @ back.view(len(self.above), -1)
        return by_trunk.view(-1, self.deep, self.wide)


def laplace(offset: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
