"""Adam written out (Kingma & Ba 2015, algorithm 1): a step is a function of tensors, which a CUDA graph can record."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["adam_step", "bits_slope"]

MEAN, SQUARE = 0.9, 0.999  # how much of the running means is kept
LEAST = 1e-8

State = tuple[Tensor, Tensor, Tensor]  # values, running mean of their gradient and of its square


def adam_step(state: State, gradient: Tensor, rate: Tensor, count: Tensor) -> State:
    """The state after step `count` = 1, 2, ... of size `rate`."""
    values, mean, square = state
    mean = mean.lerp(gradient, 1 - MEAN)
    square = square.lerp(gradient.square(), 1 - SQUARE)
    size = (square / (1 - SQUARE**count)).sqrt_().add_(LEAST)
    return values - rate / (1 - MEAN**count) * mean / size, mean, square


def bits_slope(changes: Tensor, bits: float) -> Tensor:
    """The gradient of changes' own bits, which are `bits` log2(1 + |change|) each."""
    return bits / math.log(2) * changes.sign() / (1 + changes.abs())
