"""A tile of a picture with fields: what the SIREN and its filter say there, and the gradient back to the fields.

All by hand: no graph is built, and a tile of a CPU's size stays in its cache. Where `native` is there it computes the
layers. `synthesis` has the plain form of the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inrcodec import native, rate
from inrcodec.lattice import interpolation_matrix, near_cells
from inrcodec.native import Axis
from inrcodec.prior import Prior
from inrcodec.render import FILTER_REACH
from inrcodec.synthesis import PACKED, gains

__all__ = [
    "TILE",
    "FieldModel",
    "Network",
    "Part",
    "Tile",
    "add_convolved",
    "by_tap",
    "compiled_for",
    "powers",
    "tile_of",
    "tiles",
]

TILE = {"cpu": 188, "cuda": 1024}  # pixels along a side

Kernel = tuple[float, float]  # (B, C) of a level's cubic
Part = tuple[int, slice, slice, Tensor]  # level, rows, columns and gradient (C, rows, columns) by these values


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
    def kernels(self) -> list[Kernel]:
        """(B, C) of each level's cubic, on the host."""
        return [(b, c) for b, c in self.weights["field.kernel"].tolist()]


def tiles(target: Tensor, most: int | None = None) -> list[tuple[slice, slice]]:
    """Rows and columns of the tiles of pictures (B, 3, H, W), of at most so many pixels a side."""
    side, (height, width) = TILE.get(target.device.type, TILE["cpu"]), target.shape[2:]
    tall, wide = (-(-size // -(-size // min(side, most or side))) for size in (height, width))  # all about as large
    return [
        (slice(top, min(top + tall, height)), slice(left, min(left + wide, width)))
        for top in range(0, height, tall)
        for left in range(0, width, wide)
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
    def gains(self) -> list[native.Floats]:
        """The steps as `native` wants them."""
        return [step.flatten().numpy() for step in self.steps]

    @cached_property
    def compiled(self) -> native.Restored:
        """What `native` wants."""
        wholes = [torch.cat([self.out[0], self.skip], 1), self.out[1][:, 0]]
        forwards = [part for matrix, bias in self.layers for part in (matrix, bias[:, 0])] + wholes
        first, *others = (matrix.T for matrix, _ in self.layers)
        backwards = [self.out[0].T, *reversed(others), torch.cat([first, self.skip.T], 1)]
        kernels = [*self.filter, self.last[0], self.last[1].flatten(), *self.back]
        return native.Restored(
            *(tuple(p.contiguous().numpy() for p in parts) for parts in (forwards, backwards, kernels))
        )


@lru_cache(maxsize=4096)
def _interpolation(
    start: int, stop: int, level: int, count: int, kernel: Kernel, device: torch.device
) -> tuple[slice, Tensor]:
    """The cells that pixels start..stop of an axis depend on, and the matrix from them to the pixels."""
    cells, matrix = interpolation_matrix(np.arange(start, stop) + 0.5, level, count, *kernel)
    return cells, torch.from_numpy(matrix).to(device)


@lru_cache(maxsize=4096)
def _near(start: int, stop: int, level: int, count: int, kernel: Kernel) -> tuple[slice, Axis]:
    """The cells that pixels start..stop of an axis depend on, and which of them each does."""
    return near_cells(np.arange(start, stop) + 0.5, level, count, *kernel)


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
        self.x = self._interpolated(fields)
        """What the SIREN sees, (C, rows, columns)."""

    def _axes(self, level: int, values: Tensor) -> tuple[tuple[int, int, int, int, Kernel], ...]:
        """What `_interpolation` and `_near` are asked of the rows and columns of a level's values, the device apart."""
        kernel = self.network.model.kernels[level]
        pairs = zip((self.rows, self.columns), values.shape[1:], strict=True)
        return tuple((part.start, part.stop, level, count, kernel) for part, count in pairs)

    def _interpolated(self, fields: Sequence[Tensor]) -> Tensor:
        """Fields times the levels' steps at the tile's pixels, (C, rows, columns)."""
        planes, self.places = [], list[tuple[slice, Tensor, slice, Tensor]]()
        for level, (values, step) in enumerate(zip(fields, self.network.steps, strict=True)):
            if not level:
                planes.append(step * values[:, self.rows, self.columns])
                continue
            axes = (_interpolation(*axis, values.device) for axis in self._axes(level, values))
            (over_rows, down), (over_columns, across) = axes
            planes.append(down @ (step * values[:, over_rows, over_columns]) @ across.T)
            self.places.append((over_rows, down, over_columns, across))
        return torch.cat(planes)

    @cached_property
    def values(self) -> Tensor:
        """What the SIREN says, (3, rows, columns)."""
        network, x, self.phases = self.network, self.x.flatten(1), list[Tensor]()
        h = x
        for matrix, bias in network.layers:
            self.phases.append(torch.addmm(bias, matrix, h))
            h = torch.sin(self.phases[-1])
        return torch.addmm(network.out[1], network.skip, x).add_(network.out[0] @ h).view(3, *self.shape)

    @cached_property
    def seen(self) -> Tensor:
        """What the filter looks at, (1, C, rows, columns)."""
        count = self.network.filter[0].shape[1] - 3
        return torch.cat([self.values, self.x[:count]])[None]

    def padded(self) -> Tensor:
        """`seen` and, beyond the picture, its outermost pixels, (1, C, rows + 4, columns + 4) of the tile itself."""
        return functional.pad(self.seen, self.margins, mode="replicate") if any(self.margins) else self.seen

    def picture(self) -> Tensor:
        """The tile of the picture, (3, rows, columns)."""
        seen = self.padded().contiguous(memory_format=PACKED)
        self.hidden = functional.conv2d(seen, *self.network.filter).relu_()  # (1, features, rows + 2, ...)
        kernel, bias = self.network.last
        return add_convolved(self.values[self.inside] + bias, kernel, self.hidden[0])

    def error_and_gradients(
        self, target: Tensor, weight: Tensor | None, scale: float
    ) -> tuple[Tensor | float, list[Part]]:
        """The tile's squared error times a weight (1, rows, columns) and a scale, and the gradients by the fields."""
        missing = self.picture() - target
        weighted = missing if weight is None else missing * weight
        return (missing * weighted).sum() * scale, self._gradients(self._backward(weighted * (2 * scale)))

    def _gradients(self, by_x: Tensor) -> list[Part]:
        """Gradients by the fields, given that by `x`."""
        steps = self.network.steps
        by_planes = torch.split(by_x, list(self.network.model.channels))
        parts: list[Part] = [(0, self.rows, self.columns, steps[0] * by_planes[0])]
        for level, (over_rows, down, over_columns, across) in enumerate(self.places, start=1):
            gradient = steps[level] * (down.T @ by_planes[level] @ across)
            parts.append((level, over_rows, over_columns, gradient))
        return parts

    def _backward(self, upstream: Tensor) -> Tensor:
        """The gradient by `x`, given that by what `picture` has said. Only once: it writes over its inputs."""
        by_out, by_in = self.network.back
        by_hidden = functional.conv2d(upstream[None].contiguous(memory_format=PACKED), by_out, padding=2)
        by_hidden = torch.ops.aten.threshold_backward(by_hidden, self.hidden, 0)
        by_seen = functional.conv2d(by_hidden, by_in, padding=2)[0]
        if any(self.margins):
            by_seen = torch.ops.aten.replication_pad2d_backward(by_seen[None], self.seen, self.margins)[0]
        by_seen[:3][self.inside].add_(upstream)
        by_seen = by_seen.flatten(1)
        back = self._through_sines(by_seen[:3])
        back[: len(by_seen) - 3].add_(by_seen[3:])
        return back.view_as(self.x)

    def _through_sines(self, by_values: Tensor) -> Tensor:
        """The gradient by `x`, (C, n), given that by what the SIREN has said, (3, n)."""
        network = self.network
        back = network.out[0].T @ by_values
        for (matrix, _), phase in zip(reversed(network.layers), reversed(self.phases), strict=True):
            back = matrix.T @ back.mul_(phase.cos_())
        return back.addmm_(network.skip.T, by_values)


class CompiledTile(Tile):
    """A tile whose layers `native` computes."""

    def _interpolated(self, fields: Sequence[Tensor]) -> Tensor:
        """Fields times the levels' steps at the tile's pixels, (C, rows, columns)."""
        network = self.network
        x = fields[0].new_empty(sum(network.model.channels), *self.shape)
        planes, self.near = torch.split(x, list(network.model.channels)), list[tuple[slice, Axis, slice, Axis]]()
        torch.mul(fields[0][:, self.rows, self.columns], network.steps[0], out=planes[0])
        for level, values in enumerate(fields[1:], start=1):
            (over_rows, rows), (over_columns, columns) = (_near(*axis) for axis in self._axes(level, values))
            own, gains = values[:, over_rows, over_columns].numpy(), network.gains[level]
            native.interpolate(own, gains, rows, columns, planes[level].numpy())
            self.near.append((over_rows, rows, over_columns, columns))
        return x

    def _gradients(self, by_x: Tensor) -> list[Part]:
        """Gradients by the fields, given that by `x`."""
        network = self.network
        by_planes = torch.split(by_x, list(network.model.channels))
        parts: list[Part] = [(0, self.rows, self.columns, network.steps[0] * by_planes[0])]
        for level, (over_rows, rows, over_columns, columns) in enumerate(self.near, start=1):
            size = over_rows.stop - over_rows.start, over_columns.stop - over_columns.start
            gradient = by_x.new_zeros(network.model.channels[level], *size)
            native.interpolate_back(by_planes[level].numpy(), network.gains[level], rows, columns, gradient.numpy())
            parts.append((level, over_rows, over_columns, gradient))
        return parts

    @property
    def place(self) -> tuple[int, int, int, int]:
        """`native`'s."""
        _, rows, columns = self.inside
        left, _, top, _ = self.margins
        return top, left, rows.stop - rows.start, columns.stop - columns.start

    @cached_property
    def values(self) -> Tensor:
        """What the SIREN says, (3, rows, columns)."""
        found = native.sines(self.x.flatten(1).numpy(), self.network.compiled.forwards)
        return torch.from_numpy(found).view(3, *self.shape)

    def picture(self) -> Tensor:
        """The tile of the picture, (3, rows, columns)."""
        return torch.from_numpy(self.network.compiled.picture(self.x.numpy(), self.place))

    def error_and_gradients(
        self, target: Tensor, weight: Tensor | None, scale: float
    ) -> tuple[Tensor | float, list[Part]]:
        """The tile's squared error times a weight (1, rows, columns) and a scale, and the gradients by the fields."""
        counts = None if weight is None else weight[0].numpy()
        error, by_x = self.network.compiled.error_and_slopes(self.x.numpy(), self.place, target.numpy(), counts, scale)
        return error, self._gradients(torch.from_numpy(by_x))


def compiled_for(device: torch.device) -> bool:
    """Whether what lies on a device is `native`'s."""
    return device.type == "cpu" and native.available()


def tile_of(network: Network, fields: Sequence[Tensor], shape: Sequence[int], rows: slice, columns: slice) -> Tile:
    """The tile at rows and columns of a picture of given height and width, compiled if possible."""
    kind = CompiledTile if compiled_for(fields[0].device) else Tile
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
