"""The network: a multilayer perceptron with sine activations (SIREN).

Source: Sitzmann et al., "Implicit Neural Representations with Periodic
Activation Functions", NeurIPS 2020. Layer i < n computes sin(omega_i (W_i h +
b_i)), layer n is linear, and n = len(omegas) is the number of sine layers.

A network is plain tensors in a dict, "siren.{i}.weight" (out, in) and
"siren.{i}.bias" (out,), so that `torch.func` can differentiate through it and
stack one copy per picture. What the inputs mean is `grid`'s or the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from inrcodec.errors import OptionError

__all__ = ["init_siren", "siren"]


def siren(parameters: Mapping[str, Tensor], inputs: Tensor, omegas: Sequence[float]) -> Tensor:
    """The network's values at `inputs`: (..., in) -> (..., out)."""
    hidden = inputs
    for i, omega in enumerate(omegas):
        hidden = torch.sin(omega * _layer(parameters, i, hidden))  # (..., widths[i])
    return _layer(parameters, len(omegas), hidden)  # (..., out)


def _layer(parameters: Mapping[str, Tensor], i: int, inputs: Tensor) -> Tensor:
    return functional.linear(inputs, parameters[f"siren.{i}.weight"], parameters[f"siren.{i}.bias"])


def init_siren(
    in_features: int,
    widths: Sequence[int],
    out_features: int,
    omegas: Sequence[float],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Random parameters, float32 on the CPU, under which every layer's input has the same distribution.

    Uniform in +-1/in for the first layer and +-sqrt(6/in)/omega for the others (Sitzmann 2020, section 3.2);
    biases like the weights of their layer and the linear layer with the last omega, as in the code of
    Meta-SparseINR (Lee et al., NeurIPS 2021). OptionError unless there is one omega per sine layer.
    """
    if not omegas or len(widths) != len(omegas):
        raise OptionError(f"expected one omega per sine layer, found {len(omegas)} for {len(widths)} layers")
    sizes = [in_features, *widths, out_features]
    if min(sizes) < 1 or min(omegas) <= 0:
        raise OptionError(f"layer sizes and omegas must be positive, not {sizes} and {list(omegas)}")
    parameters: dict[str, Tensor] = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        bound = 1 / fan_in if i == 0 else math.sqrt(6 / fan_in) / omegas[min(i, len(omegas) - 1)]
        for name, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,))):
            uniform = torch.rand(shape, generator=generator)  # in [0, 1)
            parameters[f"siren.{i}.{name}"] = (2 * uniform - 1) * bound
    return parameters
