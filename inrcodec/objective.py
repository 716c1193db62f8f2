"""J of a picture's fields and its gradient, by hand and in pieces that stay in the cache.

    J(s) = |f(s) - picture|^2 / lambda + bits(s)          squared error in units of 1/255, summed over RGB

The error is the sum over square tiles of the picture, the bits over stripes of each level; a piece is computed forwards
and backwards at once, so no graph is built and nothing of the picture's size is in memory but its fields. Pieces do not
depend on each other, and a CPU's threads share them out. `synthesis` and `rate` have the plain forms of the same
numbers, which tests compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial, wraps
from itertools import chain, product
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inrcodec import native, rate
from inrcodec.entropy import CAUSAL, STRIPE
from inrcodec.graphs import forget
from inrcodec.lattice import continuation, interpolation_matrix
from inrcodec.parallel import in_parallel
from inrcodec.prior import Prior
from inrcodec.render import FILTER_REACH
from inrcodec.synthesis import PACKED, gains

__all__ = [
    "Cells",
    "Coded",
    "FieldModel",
    "Network",
    "Tile",
    "add_convolved",
    "by_tap",
    "costs",
    "distributions",
    "laplace",
    "level_cells",
    "objective",
    "powers",
    "shown",
    "tiles",
    "within_memory",
]

TILE = {"cpu": 128, "cuda": 1024}  # pixels along a side; of a CPU's, 32 features are 2 MB
LEAST = 64  # pixels of a side that a device must have memory for
ROWS = {"cpu": 1 << 15, "cuda": 1 << 20}  # samples of a stripe that are looked at at once
SQUARED_UNIT = 255.0**2

IN_ROW = [sum(y == row for y, _ in CAUSAL) for row in (-2, -1, 0)]  # taps of each of a context's rows, from x = -2 on

P = ParamSpec("P")
T = TypeVar("T")
Part = tuple[int, slice, slice, Tensor]  # level, rows, columns and gradient (C, rows, columns) by these values
Piece = Callable[[], tuple[Tensor | float, list[Part]]]  # what it costs


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

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights["field.kernel"].device

    @cached_property
    def kernels(self) -> list[tuple[float, float]]:
        """(B, C) of each level's cubic, on the host."""
        return [(b, c) for b, c in self.weights["field.kernel"].tolist()]


@dataclass(frozen=True, eq=False)
class Coded:
    """The cells of a level that are coded. The others are zero to the rate, and go on from these in the picture."""

    mask: Tensor  # (h, w), 0 or 1
    places: Tensor  # (N,) of cells that go on, in row-major order
    sources: Tensor  # (N,) of those whose values they take

    @classmethod
    def of(cls, coded: NDArray[np.bool_], device: torch.device) -> Coded:
        """From the lattice's masks (h, w)."""
        found = (torch.from_numpy(part).to(device) for part in continuation(coded))
        return cls(torch.from_numpy(coded).to(device).float(), *found)

    def continued(self, values: Tensor) -> Tensor:
        """Values (..., h, w) as the picture has them."""
        flat = values.flatten(-2)
        return flat.index_copy(-1, self.places, flat[..., self.sources]).view_as(values)

    def gathered(self, gradient: Tensor) -> Tensor:
        """The gradient by values, given that by `continued`, (..., h, w)."""
        flat = gradient.flatten(-2)
        moved = flat.index_add(-1, self.sources, flat[..., self.places])
        return moved.index_fill(-1, self.places, 0).view_as(gradient)


def shown(fields: Sequence[Tensor], coded: Sequence[Coded] | None) -> list[Tensor]:
    """Fields (..., h, w) as the picture has them."""
    return list(fields) if coded is None else [part.continued(z) for z, part in zip(fields, coded, strict=True)]


def within_memory(compute: Callable[P, T]) -> Callable[P, T]:
    """`compute`, begun again with pieces half as large whenever a GPU's memory was too small for them.

    What recordings hold is given back, too.
    """

    @wraps(compute)
    def tried(*arguments: P.args, **named: P.kwargs) -> T:
        while True:
            try:
                return compute(*arguments, **named)
            except torch.OutOfMemoryError:
                if TILE["cuda"] <= LEAST:
                    raise
            TILE["cuda"] //= 2
            ROWS["cuda"] //= 2
            forget()
            torch.cuda.empty_cache()

    return tried


@within_memory
@torch.no_grad()
def objective(
    model: FieldModel,
    fields: Sequence[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    weight: Tensor | None = None,
    coded: Sequence[Coded] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """J in bits, and its gradients, of fields in steps (B, C, h, w) for pictures (B, 3, H, W); q (1, 1) of them all.

    weight (1, 1, H, W), of them all, is of each pixel's squared error. Cells that are not coded must be zero.
    """
    network = Network.of(model, q)
    gradients = [torch.zeros_like(z) for z in fields]
    by_shown = gradients if coded is None else [torch.zeros_like(z) for z in fields]
    of_tiles: list[tuple[int, Piece]] = []  # which picture, and the work
    for at, picture in enumerate(target):
        seen = shown([z[at] for z in fields], coded)
        for rows, columns in tiles(target):
            part = None if weight is None else weight[0, :, rows, columns]
            if _counts(part):
                piece: Piece = partial(_error_and_gradients, network, seen, picture, rows, columns, lam, part)
                of_tiles.append((at, piece))
    # Other threads are at these while this one is at the trunks, which the stripes need; then at those that are left.
    first = _started(of_tiles[: len(of_tiles) // 2])
    trunks = [trunk for trunk in rate.trunks(model.weights, fields) if trunk is not None]  # levels 0, 1, ...
    by_trunks, rates = [torch.zeros_like(trunk) for trunk in trunks], _compiled_rates(model, q)
    of_stripes: list[tuple[int, Piece]] = []
    for at, (level, values) in product(range(len(target)), enumerate(fields)):
        above = (trunks[level][at], by_trunks[level][at]) if level < len(trunks) else None
        for top in range(0, values.shape[2], STRIPE):
            mask = None if coded is None else coded[level].mask[top : top + STRIPE]
            if _counts(mask):
                piece = partial(_bits_and_gradients, model, level, q, values[at], top, above, mask, rates)
                of_stripes.append((at, piece))
    stripes, last = _started(of_stripes), _started(of_tiles[len(of_tiles) // 2 :])
    total = target.new_zeros(()) + _summed(first, by_shown) + _summed(stripes, gradients)
    for gradient, more in zip(gradients[1:], _through_trunks(model, trunks, by_trunks), strict=True):
        gradient += more
    total = total + _summed(last, by_shown)
    if coded is not None:
        owned = [part.gathered(gradient) for part, gradient in zip(coded, by_shown, strict=True)]
        gradients = [gradient + more for gradient, more in zip(gradients, owned, strict=True)]
    return total, gradients


def _counts(plane: Tensor | None) -> bool:
    """Whether a piece with a weight or mask is needed. A GPU's always is: to ask would be to wait for it."""
    return plane is None or plane.device.type != "cpu" or bool(plane.any())


def _started(pieces: Sequence[tuple[int, Piece]]) -> Iterator[tuple[int, tuple[Tensor | float, list[Part]]]]:
    """The number of each piece's picture, and what the piece gives; threads begin with them now."""
    return zip([at for at, _ in pieces], in_parallel([piece for _, piece in pieces]), strict=True)


def _summed(found: Iterator[tuple[int, tuple[Tensor | float, list[Part]]]], sums: Sequence[Tensor]) -> Tensor | float:
    """The sum of what pieces cost; their gradients are added to those by the fields (B, C, h, w)."""
    total: Tensor | float = 0.0
    for at, (cost, parts) in found:
        total = total + cost
        for level, rows, columns, gradient in parts:
            sums[level][at, :, rows, columns].add_(gradient)
    return total


@within_memory
def costs(
    model: FieldModel,
    fields: Sequence[Tensor],
    target: Tensor,
    q: Tensor,
    lam: float,
    levels: int,
    weight: Tensor | None = None,
    coded: Sequence[Coded] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Error / lambda of each pixel (B, H, W), and bits of each cell of the finest `levels` (B, h, w): terms of J."""
    network = Network.of(model, q)
    error = target.new_zeros(target[:, 0].shape)
    bits = [z.new_zeros(z[:, 0].shape) for z in fields[:levels]]
    seen = shown(fields, coded)

    def of_tile(at: int, rows: slice, columns: slice) -> None:
        if not _counts(None if weight is None else weight[0, 0, rows, columns]):
            return
        tile = tile_of(network, [z[at] for z in seen], target.shape[2:], rows, columns)
        squared = (tile.picture() - target[at, :, rows, columns]).square_().sum(0)
        if weight is not None:
            squared *= weight[0, 0, rows, columns]
        error[at, rows, columns] = squared.mul_(SQUARED_UNIT / lam)

    found = in_parallel([partial(of_tile, at, *place) for at in range(len(target)) for place in tiles(target)])
    trunks = rate.trunks(model.weights, fields)  # in this thread, while others are at the tiles
    rates = _compiled_rates(model, q)

    def of_stripe(at: int, level: int, top: int) -> None:
        mask = None if coded is None else coded[level].mask[top : top + STRIPE]
        if not _counts(mask):
            return
        values = fields[level][at, :, top : top + STRIPE]
        mean, log_scale = _stripe_distributions(
            model, level, q, fields[level][at], top, _of_picture(trunks[level], at), rates
        )
        bits[level][at, top : top + STRIPE] = rate.laplace_bits(values - mean, log_scale).sum(0)
        if mask is not None:
            bits[level][at, top : top + STRIPE].mul_(mask)

    for _ in chain(found, in_parallel(_at_stripes(of_stripe, fields[:levels]))):
        pass
    return error, bits


@within_memory
def distributions(model: FieldModel, fields: Sequence[Tensor], q: Tensor, levels: int) -> list[tuple[Tensor, Tensor]]:
    """`rate.distributions` of the finest `levels` of fields (B, C, h, w); q (1, 1) of them all."""
    trunks = rate.trunks(model.weights, fields)
    planes, rates = [(torch.zeros_like(z), torch.zeros_like(z)) for z in fields[:levels]], _compiled_rates(model, q)

    def of_stripe(at: int, level: int, top: int) -> None:
        found = _stripe_distributions(model, level, q, fields[level][at], top, _of_picture(trunks[level], at), rates)
        for plane, samples in zip(planes[level], found, strict=True):
            plane[at, :, top : top + STRIPE] = samples

    for _ in in_parallel(_at_stripes(of_stripe, fields[:levels])):
        pass
    return planes


def _at_stripes(compute: Callable[[int, int, int], None], fields: Sequence[Tensor]) -> list[Callable[[], None]]:
    """`compute` for each stripe of fields (B, C, h, w): which picture, level and first row."""
    return [
        partial(compute, at, level, top)
        for at in range(len(fields[0]))
        for level, values in enumerate(fields)
        for top in range(0, values.shape[2], STRIPE)
    ]


def _of_picture(trunk: Tensor | None, at: int) -> Tensor | None:
    return None if trunk is None else trunk[at]


def tiles(target: Tensor, most: int | None = None) -> list[tuple[slice, slice]]:
    """Rows and columns of the tiles of pictures (B, 3, H, W), of at most so many pixels a side."""
    side, (height, width) = TILE.get(target.device.type, TILE["cpu"]), target.shape[2:]
    side = min(side, most or side)
    return [
        (slice(top, min(top + side, height)), slice(left, min(left + side, width)))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


@dataclass(frozen=True, eq=False)
class Network:
    """The SIREN and the filter at one quality, in the forms that a tile wants."""

    model: FieldModel
    steps: tuple[Tensor, ...]  # of each level's channels, (C, 1, 1)
    layers: tuple[tuple[Tensor, Tensor], ...]  # matrix and bias (rows, 1), omega included
    out: tuple[Tensor, Tensor]
    skip: Tensor
    filter: tuple[Tensor, Tensor]  # the first layer's kernel and bias
    last: tuple[Tensor, Tensor]  # the second layer's, the bias (3, 1, 1)
    back: tuple[Tensor, Tensor]  # kernels of their gradients, second layer first

    @classmethod
    def of(cls, model: FieldModel, q: Tensor) -> Network:
        """The model's."""
        weights, omegas = model.weights, model.omegas
        condition = powers(q)[1:]
        steps = torch.split(gains(weights, q)[0, :, None, None], list(model.channels))
        layers, last = [], f"siren.{len(omegas)}."
        for i, omega in enumerate(omegas):
            matrix, bias = weights[f"siren.{i}.weight"], weights[f"siren.{i}.bias"]
            if not i:
                matrix, bias = matrix[:, :-2], bias + matrix[:, -2:] @ condition
            layers.append((omega * matrix, omega * bias[:, None]))
        first, second = (weights[f"filter.{part}"].contiguous(memory_format=PACKED) for part in ("in", "out"))
        bias = weights["filter.in_bias"] @ powers(q)
        by_out, by_in = (k.transpose(0, 1).flip(2, 3).contiguous(memory_format=PACKED) for k in (second, first))
        return cls(
            model,
            steps,
            tuple(layers),
            (weights[last + "weight"], weights[last + "bias"][:, None]),
            weights["skip.weight"],
            (first, bias),
            (second, weights["filter.out_bias"][:, None, None]),
            (by_out, by_in),
        )

    @cached_property
    def compiled(self) -> Compiled:
        """What `native` wants."""
        wholes = [torch.cat([self.out[0], self.skip], 1), self.out[1][:, 0]]
        forwards = [part for matrix, bias in self.layers for part in (matrix, bias[:, 0])] + wholes
        first, *others = (matrix.T for matrix, _ in self.layers)
        backwards = [self.out[0].T, *reversed(others), torch.cat([first, self.skip.T], 1)]
        kernels = self.filter[0], self.last[0], *self.back
        return Compiled(*([part.contiguous().numpy() for part in parts] for parts in (forwards, backwards, kernels)))


@dataclass(frozen=True, eq=False)
class Compiled:
    """A network as `native` wants it."""

    forwards: list[native.Floats]
    backwards: list[native.Floats]
    kernels: list[native.Floats]  # of the filter's layers, and of their gradients, second layer first


@lru_cache(maxsize=4096)
def _interpolation(
    start: int, stop: int, level: int, count: int, kernel: tuple[float, float], device: torch.device
) -> tuple[slice, Tensor]:
    """The cells that pixels start..stop of an axis depend on, and the matrix from them to the pixels."""
    cells, matrix = interpolation_matrix(np.arange(start, stop) + 0.5, level, count, *kernel)
    return cells, torch.from_numpy(matrix).to(device)


class Tile:
    """A tile of a picture of given height and width, and the pixels around it that its filter looks at.

    fields (C, h, w) are of the whole picture.
    """

    def __init__(
        self, network: Network, fields: Sequence[Tensor], shape: Sequence[int], rows: slice, columns: slice
    ) -> None:
        height, width = shape
        self.network = network
        self.rows = slice(max(0, rows.start - FILTER_REACH), min(height, rows.stop + FILTER_REACH))
        self.columns = slice(max(0, columns.start - FILTER_REACH), min(width, columns.stop + FILTER_REACH))
        self.shape = (self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)
        self.margins = [
            FILTER_REACH - columns.start + self.columns.start,
            FILTER_REACH + columns.stop - self.columns.stop,
            FILTER_REACH - rows.start + self.rows.start,
            FILTER_REACH + rows.stop - self.rows.stop,
        ]
        self.inside = (
            slice(None),
            slice(rows.start - self.rows.start, rows.stop - self.rows.start),
            slice(columns.start - self.columns.start, columns.stop - self.columns.start),
        )
        planes, self.places = [], list[tuple[slice, Tensor, slice, Tensor]]()
        for level, (values, step, kernel) in enumerate(zip(fields, network.steps, network.model.kernels, strict=True)):
            if level:
                device = values.device
                over_rows, down = _interpolation(
                    self.rows.start, self.rows.stop, level, values.shape[1], kernel, device
                )
                over_columns, across = _interpolation(
                    self.columns.start, self.columns.stop, level, values.shape[2], kernel, device
                )
                planes.append(down @ (step * values[:, over_rows, over_columns]) @ across.T)
                self.places.append((over_rows, down, over_columns, across))
            else:
                planes.append(step * values[:, self.rows, self.columns])
        self.x = torch.cat(planes).flatten(1)  # (C, n)
        values = self._sines().view(3, *self.shape)
        self.values = values
        """What the SIREN says, (3, rows, columns)."""
        count = network.filter[0].shape[1] - 3
        self.seen = torch.cat([values, self.x[:count].view(count, *self.shape)])[None]
        """What the filter looks at, (1, C, rows, columns)."""

    def _sines(self) -> Tensor:
        """What the SIREN makes of `x`, (3, n)."""
        network, h, self.phases = self.network, self.x, list[Tensor]()
        for matrix, bias in network.layers:
            self.phases.append(torch.addmm(bias, matrix, h))
            h = torch.sin(self.phases[-1])
        return torch.addmm(network.out[1], network.skip, self.x).add_(network.out[0] @ h)

    def padded(self) -> Tensor:
        """`seen` and, beyond the picture, its outermost pixels, (1, C, rows + 4, columns + 4) of the tile itself."""
        return functional.pad(self.seen, self.margins, mode="replicate") if any(self.margins) else self.seen

    def picture(self) -> Tensor:
        """The tile of the picture, (3, rows, columns)."""
        seen = self.padded().contiguous(memory_format=PACKED)
        self.hidden = functional.conv2d(seen, *self.network.filter).relu_()  # (1, features, rows + 2, ...)
        kernel, bias = self.network.last
        return add_convolved(self.values[self.inside] + bias, kernel, self.hidden[0])

    def backward(self, upstream: Tensor) -> list[Part]:
        """Gradients by the fields, given those by what `picture` has said. Only once: it writes over its inputs."""
        by_seen = self._through_filter(upstream)
        if any(self.margins):
            by_seen = torch.ops.aten.replication_pad2d_backward(by_seen[None], self.seen, self.margins)[0]
        by_seen[:3][self.inside].add_(upstream)
        by_seen = by_seen.flatten(1)
        back = self._through_sines(by_seen[:3])
        back[: len(by_seen) - 3].add_(by_seen[3:])
        steps = self.network.steps
        by_planes = torch.split(back.view(-1, *self.shape), list(self.network.model.channels))
        parts: list[Part] = [(0, self.rows, self.columns, steps[0] * by_planes[0])]
        for level, (over_rows, down, over_columns, across) in enumerate(self.places, start=1):
            gradient = steps[level] * (down.T @ by_planes[level] @ across)
            parts.append((level, over_rows, over_columns, gradient))
        return parts

    def _through_filter(self, upstream: Tensor) -> Tensor:
        """The gradient by `padded`, (C, rows + 4, columns + 4), given that by the picture."""
        by_out, by_in = self.network.back
        by_hidden = functional.conv2d(upstream[None].contiguous(memory_format=PACKED), by_out, padding=2)
        by_hidden = torch.ops.aten.threshold_backward(by_hidden, self.hidden, 0)
        return functional.conv2d(by_hidden, by_in, padding=2)[0]

    def _through_sines(self, by_values: Tensor) -> Tensor:
        """The gradient by `x`, (C, n), given that by what the SIREN has said, (3, n)."""
        network = self.network
        back = network.out[0].T @ by_values
        for (matrix, _), phase in zip(reversed(network.layers), reversed(self.phases), strict=True):
            back = matrix.T @ back.mul_(phase.cos_())
        return back.addmm_(network.skip.T, by_values)


class CompiledTile(Tile):
    """A tile whose layers `native` computes."""

    def _sines(self) -> Tensor:
        units = sum(len(bias) for _, bias in self.network.layers)
        self.cosines = np.empty((units, self.x.shape[1]), np.float32)
        return torch.from_numpy(native.sines(self.x.numpy(), self.network.compiled.forwards, self.cosines))

    def picture(self) -> Tensor:
        """The tile of the picture, (3, rows, columns)."""
        kernels, biases = self.network.compiled.kernels, (self.network.filter[1], self.network.last[1].flatten())
        first, last = (bias.numpy() for bias in biases)
        self.rectified = native.convolved(self.padded()[0].numpy(), kernels[0], first, rectified=True)
        return torch.from_numpy(native.convolved(self.rectified, kernels[1], last)).add_(self.values[self.inside])

    def _through_filter(self, upstream: Tensor) -> Tensor:
        by_out, by_in = self.network.compiled.kernels[2:]
        features, rows, columns = self.rectified.shape
        by_hidden = np.empty((features, rows + 4, columns + 4), np.float32)
        by_hidden[:, :2] = by_hidden[:, -2:] = by_hidden[..., :2] = by_hidden[..., -2:] = 0
        wide = functional.pad(upstream, (2, 2, 2, 2)).numpy()
        native.convolved(wide, by_out, kept=self.rectified, out=by_hidden[:, 2:-2, 2:-2])
        return torch.from_numpy(native.convolved(by_hidden, by_in))

    def _through_sines(self, by_values: Tensor) -> Tensor:
        return torch.from_numpy(native.sines_backward(by_values.numpy(), self.network.compiled.backwards, self.cosines))


def _compiled(device: torch.device) -> bool:
    """Whether what lies on a device is `native`'s."""
    return device.type == "cpu" and native.available()


def tile_of(network: Network, fields: Sequence[Tensor], shape: Sequence[int], rows: slice, columns: slice) -> Tile:
    """The tile at rows and columns of a picture of given height and width, compiled if possible."""
    kind = CompiledTile if _compiled(fields[0].device) else Tile
    return kind(network, fields, shape, rows, columns)


def powers(q: Tensor) -> Tensor:
    """What the constant, linear and quadratic parts of a bias count, (3,), at q (1, 1)."""
    return torch.cat([torch.ones_like(q), q, q**2])[:, 0]


def by_tap(kernel: Tensor) -> Tensor:
    """A 3x3 kernel (C, features, 3, 3) as one product for all taps, (9 * C, features)."""
    return kernel.permute(2, 3, 0, 1).flatten(0, 2)


def add_convolved(found: Tensor, kernel: Tensor, planes: Tensor) -> Tensor:
    """What a 3x3 kernel (C, features, 3, 3) makes of planes (features, h + 2, w + 2), added to (C, h, w).

    One product and shifted sums are faster than a convolution with few outputs.
    """
    rows, columns = found.shape[1:]
    samples = planes.permute(1, 2, 0).flatten(0, 1)  # as they lie in memory
    taps = (by_tap(kernel) @ samples.T).view(9, -1, *planes.shape[1:])
    for (y, x), tap in zip(product(range(3), range(3)), taps, strict=True):
        found += tap[:, y : y + rows, x : x + columns]
    return found


def _error_and_gradients(
    network: Network,
    fields: Sequence[Tensor],
    target: Tensor,
    rows: slice,
    columns: slice,
    lam: float,
    weight: Tensor | None,
) -> tuple[Tensor | float, list[Part]]:
    """Weighted error of a tile of a picture (3, H, W) over lambda, and its gradients by the fields (C, h, w)."""
    tile = tile_of(network, fields, target.shape[1:], rows, columns)
    missing = tile.picture() - target[:, rows, columns]
    weighted = missing if weight is None else missing * weight
    return (missing * weighted).sum() * (SQUARED_UNIT / lam), tile.backward(weighted * (2 * SQUARED_UNIT / lam))


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


def _compiled_rates(model: FieldModel, q: Tensor) -> list[native.Rate] | None:
    """The rate models of all levels as `native` wants them, if it is there."""
    if not _compiled(model.device):
        return None
    weights = {name: part.numpy() for name, part in model.weights.items() if name.startswith("rate.")}
    biases = [weights[f"rate.{level}.bias"] @ powers(q).numpy() for level in range(len(model.channels))]
    return [native.Rate.of(weights, level, bias) for level, bias in enumerate(biases)]


def _stripe_distributions(
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
        half = slice(top // 2, (top + own.shape[1] + 1) // 2)
        found = rates[level].distributions(own.numpy(), None if trunk is None else trunk[:, half].numpy())
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])
    mean, log_scale = torch.empty_like(own), torch.empty_like(own)
    for rows, cells in _stripe_cells(model, level, q, values, top, trunk):
        inside = slice(rows.start - top, rows.stop - top)
        for plane, samples in zip((mean, log_scale), cells.distributions(), strict=True):
            plane[:, inside] = cells.plane(samples)
    return mean, log_scale


def _bits_and_gradients(
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
        half, by_own = slice(top // 2, (top + height + 1) // 2), torch.zeros_like(own)
        trunks = (None, None) if above is None else (above[0][:, half].numpy(), above[1][:, half].numpy())
        counts = None if mask is None else mask.numpy()
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


def _through_trunks(model: FieldModel, trunks: Sequence[Tensor], by_trunks: Sequence[Tensor]) -> Iterator[Tensor]:
    """Gradients by fields (B, C, h, w), from level 1 on, given those by the trunks of levels 0, 1, ...

    What a trunk owes to the coarser one is added to the gradient by that.
    """
    for level, (trunk, by_trunk) in enumerate(zip(trunks, by_trunks, strict=True), start=1):
        back = torch.ops.aten.threshold_backward(by_trunk, trunk, 0)  # (B, features, h, w)
        kernel = model.weights[f"rate.{level}.trunk"]
        yield functional.conv_transpose2d(back, kernel.view(len(kernel), -1, 3, 3), padding=1)
        if level < len(trunks):
            above = model.weights[f"rate.{level}.trunk_above"]
            even = functional.pad(back, (0, back.shape[3] % 2, 0, back.shape[2] % 2))
            by_phases = above.T @ rate.split(even).reshape(len(back), len(above), -1)
            by_trunks[level].add_(by_phases.view_as(by_trunks[level]))


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
