"""What a prior expects of the deltas of pictures (see `deltas`), learnt from many that are fitted as for a file.

Units come first: changes by a unit should matter about equally, or some would be told more finely than they need. What
one matters is the root of the mean square of J's gradient by it (for the filter, of the picture's). Units are powers of
2 times the usual ones, and those of weights that change most often stay about as they are.

Then, with these units, how often each change is not zero, how often positive then, and how far it goes on to grow, each
as far as few pictures tell: beside them stand some that have the mean of the part (layer, level) that the weight is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inrcodec import synthesis
from inrcodec.adapt_rate import rate_energies
from inrcodec.deltas import MAX_OWN, Deltas, delta_counts, part_sizes
from inrcodec.entropy import CHANCES
from inrcodec.fit import Fitted
from inrcodec.prior import Prior
from inrcodec.tile import FieldModel

__all__ = ["KINDS", "ROWS", "counted", "expectations"]

KINDS = ("filter", "rate")
ROWS = 4  # of counts: changes that are not zero, those that are positive, magnitudes beyond 1, energies
BESIDE = 8.0  # pictures of the mean of a part that stand beside those that were seen
RISES_BESIDE = 4.0  # changes, half of which are positive
GROWS_BESIDE = 24.0  # steps that a magnitude goes on or does not
LEAST_CHANCE = 16  # of CHANCES: nothing is ruled out

Counts = dict[str, NDArray[np.float64]]  # of each kind, (ROWS, weights)
Tensors = Mapping[str, NDArray[Any]]


def counted(prior: Prior, model: FieldModel, fitted: Fitted, q: Tensor) -> Counts:
    """What one picture says, given its fields and deltas, q (1, 1); counts of several are added."""
    fields = [torch.from_numpy(z)[None].float().to(model.device) for z in fitted[0]]
    energies = _filter_energies(model.weights, fields, q, model.omegas), rate_energies(model, prior.tensors, fields, q)
    found = Counts()
    each = zip(KINDS, _values(fitted[1]), delta_counts(prior.tensors), energies, strict=True)
    for kind, values, count, energy in each:
        changes = np.zeros(count) if values is None else values.astype(np.float64)
        beyond = (np.abs(changes) - 1).clip(0)
        found[kind] = np.stack([changes != 0, changes > 0, beyond, energy.double().cpu().numpy()])
    return found


def _values(deltas: Deltas) -> tuple[NDArray[np.int32] | None, NDArray[np.int32] | None]:
    return None if deltas.filter is None else deltas.filter.values, deltas.rate


@torch.no_grad()
def _filter_energies(weights: synthesis.Weights, fields: list[Tensor], q: Tensor, omegas: tuple[float, ...]) -> Tensor:
    """Mean over the pixels of the squares of the picture's slopes by each change of the filter, (weights,).

    Slopes by the first layer are summed over the taps of the last as if these were independent.
    """
    planes = synthesis.inputs(weights, fields, q)
    values = synthesis.network(weights, planes, q, omegas)
    seen = torch.cat([values, synthesis.finest(weights, planes)], 1)
    powers = torch.cat([torch.ones_like(q), q, q**2], 1)
    bias = (powers @ weights["filter.in_bias"].T)[:, :, None, None]
    hidden = functional.conv2d(seen, weights["filter.in"], padding=1) + bias  # (1, features, h, w)
    active = (hidden > 0).float()
    out = weights["filter.out"].square().sum((0, 2, 3))  # of a feature's change, (features,)
    inner = torch.einsum("fyx,cyx->fc", active[0], seen[0].square()) / active[0, 0].numel() * out[:, None]
    outer = torch.relu(hidden).square().mean((0, 2, 3))
    colours, taps = len(weights["filter.out"]), 9
    return torch.cat([
        inner[:, :, None].expand(-1, -1, taps).flatten(),
        active.mean((0, 2, 3)) * out,
        outer[None, :, None].expand(colours, -1, taps).flatten(),
        torch.ones_like(weights["filter.out_bias"]),
    ])  # fmt: skip


def expectations(tensors: Tensors, counts: Counts, pictures: int) -> dict[str, NDArray[Any]]:
    """The tensors `deltas.*` that so many pictures give a prior: units if it has none, or else what it expects."""
    if any(f"deltas.{kind}_unit" not in tensors for kind in KINDS):
        return {f"deltas.{kind}_unit": _units(*counts[kind][[0, 3]]) for kind in KINDS}
    sizes = part_sizes(tensors)
    return {f"deltas.{kind}": _expected(counts[kind], sizes[kind], pictures) for kind in KINDS}


def _units(changes: NDArray[np.float64], energies: NDArray[np.float64]) -> NDArray[np.int8]:
    """Powers of 2 for changes (weights,)."""
    matters = 0.5 * np.log2(energies + 1e-30)
    order = np.argsort(matters)
    passed = np.cumsum(changes[order])
    usual = matters[order][np.searchsorted(passed, passed[-1] / 2)] if passed[-1] else np.median(matters)
    return np.rint(usual - matters).clip(-MAX_OWN, MAX_OWN).astype(np.int8)


def _expected(counts: NDArray[np.float64], sizes: list[int], pictures: int) -> NDArray[np.uint16]:
    """Chances (3, weights)."""
    changes, rises, beyond, _ = counts
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    parts = np.repeat(np.arange(len(sizes)), sizes)

    def of_part(hits: NDArray[np.float64], trials: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean chance of each weight's part."""
        chances: NDArray[np.float64] = (np.add.reduceat(hits, starts) + 0.5) / (np.add.reduceat(trials, starts) + 1)
        return chances[parts]

    goes_on = of_part(beyond, beyond + changes)
    chances = np.stack([
        (changes + BESIDE * of_part(changes, np.full(len(parts), float(pictures)))) / (pictures + BESIDE),
        (rises + RISES_BESIDE / 2) / (changes + RISES_BESIDE),
        (beyond + GROWS_BESIDE * goes_on) / (beyond + changes + GROWS_BESIDE),
    ])  # fmt: skip
    whole: NDArray[np.uint16] = np.rint(chances * CHANCES).clip(LEAST_CHANCE, CHANCES - LEAST_CHANCE).astype(np.uint16)
    return whole
