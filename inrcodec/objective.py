"""J of a picture's fields and its gradient, by hand and in pieces that stay in the cache.

    J(s) = |f(s) - picture|^2 / lambda + bits(s)          squared error in units of 1/255, summed over RGB

The error is the sum over square tiles of the picture, the bits over stripes of each level; a piece is computed forwards
and backwards at once, so no graph is built and nothing of the picture's size is in memory but its fields. Pieces do not
depend on each other, and a CPU's threads share them out. `synthesis` and `rate` have the plain forms of the same
numbers, which tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from itertools import chain, product
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inrcodec.entropy import STRIPE
from inrcodec.graphs import forget
from inrcodec.lattice import continuation
from inrcodec.parallel import in_parallel
from inrcodec.stripe import (
    ROWS,
    add_through_trunks,
    bits_and_gradients,
    compiled_rates,
    level_trunks,
    stripe_bits,
    stripe_distributions,
)
from inrcodec.tile import TILE, FieldModel, Network, Part, tile_of, tiles

__all__ = ["Coded", "costs", "distributions", "objective", "shown", "within_memory"]

LEAST = 64  # pixels of a tile's side that a device must have memory for
SQUARED_UNIT = 255.0**2

P = ParamSpec("P")
T = TypeVar("T")
Piece = Callable[[], tuple[Tensor | float, list[Part]]]  # what it costs


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
    network, fields, target = Network.of(model, q), [z.contiguous() for z in fields], target.contiguous()
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
    rates = compiled_rates(model, q)
    trunks = level_trunks(model, fields, rates)
    by_trunks = [torch.zeros_like(trunk) for trunk in trunks]
    of_stripes: list[tuple[int, Piece]] = []
    for at, (level, values) in product(range(len(target)), enumerate(fields)):
        above = (trunks[level][at], by_trunks[level][at]) if level < len(trunks) else None
        for top in range(0, values.shape[2], STRIPE):
            mask = None if coded is None else coded[level].mask[top : top + STRIPE]
            if _counts(mask):
                piece = partial(bits_and_gradients, model, level, q, values[at], top, above, mask, rates)
                of_stripes.append((at, piece))
    stripes, last = _started(of_stripes), _started(of_tiles[len(of_tiles) // 2 :])
    total = target.new_zeros(()) + _summed(first, by_shown) + _summed(stripes, gradients)
    add_through_trunks(model, trunks, by_trunks, gradients, rates)
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
    network, fields = Network.of(model, q), [z.contiguous() for z in fields]
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
    rates = compiled_rates(model, q)
    trunks = level_trunks(model, fields, rates)  # in this thread, while others are at the tiles

    def of_stripe(at: int, level: int, top: int) -> None:
        mask = None if coded is None else coded[level].mask[top : top + STRIPE]
        if not _counts(mask):
            return
        above = trunks[level][at] if level < len(trunks) else None
        bits[level][at, top : top + STRIPE] = stripe_bits(model, level, q, fields[level][at], top, above, mask, rates)

    for _ in chain(found, in_parallel(_at_stripes(of_stripe, fields[:levels]))):
        pass
    return error, bits


@within_memory
def distributions(model: FieldModel, fields: Sequence[Tensor], q: Tensor, levels: int) -> list[tuple[Tensor, Tensor]]:
    """`rate.distributions` of the finest `levels` of fields (B, C, h, w); q (1, 1) of them all."""
    fields = [z.contiguous() for z in fields]
    rates = compiled_rates(model, q)
    trunks = level_trunks(model, fields, rates)
    planes = [(torch.zeros_like(z), torch.zeros_like(z)) for z in fields[:levels]]

    def of_stripe(at: int, level: int, top: int) -> None:
        above = trunks[level][at] if level < len(trunks) else None
        found = stripe_distributions(model, level, q, fields[level][at], top, above, rates)
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
    return tile.error_and_gradients(target[:, rows, columns], weight, SQUARED_UNIT / lam)
