"""Global magnitude pruning: which weights of a network survive.

The smallest surviving weights of all layers together are removed, as in
Meta-SparseINR (Lee et al., NeurIPS 2021, section 3.2); biases always survive.
SIREN draws the first layer's weights much larger than the others, so nearly all of
them survive, even where the rest of a unit's weights are gone: `useful` says which.
A mask is a bool tensor per weight, under the weight's name, True where it
survives. Masks only shrink, and a removed weight is exactly zero: the
multiplication is `apply_masks`, the reason it stays so is in `train`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from inrcodec.errors import OptionError

__all__ = ["apply_masks", "count_surviving", "full_masks", "prune", "useful"]


def full_masks(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks under which every weight survives."""
    return {
        name: torch.ones_like(value, dtype=torch.bool) for name, value in parameters.items() if name.endswith(".weight")
    }


def prune(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """`masks` without the smallest `fraction` of the surviving weights, rounded down to whole weights.

    Of equal magnitudes the first in the order of `masks` goes first. OptionError unless 0 <= fraction < 1.
    """
    if not 0 <= fraction < 1:
        raise OptionError(f"the fraction to prune must be in [0, 1), not {fraction}")
    alive = torch.cat([mask.flatten() for mask in masks.values()])  # (weights,)
    magnitudes = torch.cat([parameters[name].detach().abs().flatten() for name in masks])  # (weights,)
    removed = int(int(alive.sum()) * fraction)
    order = torch.where(alive, magnitudes, torch.inf).argsort(stable=True)
    alive[order[:removed]] = False
    pieces = torch.split(alive, [mask.numel() for mask in masks.values()])
    return {name: piece.view_as(masks[name]).clone() for name, piece in zip(masks, pieces, strict=True)}


def useful(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The surviving weights that lie on a path from an input to an output, in masks of layers in their order.

    The others belong to units that are the same at every coordinate or that no output hears: without them the
    network is the same with other biases.
    """
    layers = list(masks.values())  # (out, in) each
    reached = [layers[0].new_ones(layers[0].shape[1])]  # per layer: which of its inputs depend on the coordinates
    heard = [layers[-1].new_ones(layers[-1].shape[0])]  # per layer, the last first: which outputs have an effect
    for layer in layers[:-1]:
        reached.append((layer & reached[-1]).any(1))
    for layer in layers[:0:-1]:
        heard.append((layer & heard[-1][:, None]).any(0))
    return {
        name: layer & before & after[:, None]
        for (name, layer), before, after in zip(masks.items(), reached, heard[::-1], strict=True)
    }


def apply_masks(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`parameters` with +0.0 wherever a weight does not survive."""
    return {
        name: torch.where(masks[name], value, 0.0) if name in masks else value for name, value in parameters.items()
    }


def count_surviving(masks: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many weights survive, and of how many."""
    return sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
