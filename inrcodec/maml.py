"""Meta-learning: one outer step of MAML on initial SIREN parameters.

Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", ICML 2017, as used
for pictures by Meta-SparseINR (Lee, Tack, Lee, Shin, NeurIPS 2021). A task is one
picture. The inner loop is a few SGD steps from the initial parameters on the mean
squared error over all pixels of the picture; the outer loss is that error after
the last inner step. `meta_gradient` differentiates it in the initial parameters
*through* the inner steps (second order), and Adam follows the gradient.

The network sees weight * mask, so the gradient of a pruned weight is zero in the
inner steps and in the outer one, and the weight stays what it is: zero. In Adam
that holds where both moments are zero, which is the caller's to see to.

Coordinates are (N, 2), pictures (B, N, 3) in -0.5..0.5. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from inrcodec.siren import siren

__all__ = ["InnerLoop", "Parameters", "adam_step", "adapt", "meta_gradient"]

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class InnerLoop:
    """How the initial parameters are fitted to one picture."""

    omegas: tuple[float, ...]  # of the sine layers
    steps: int  # of SGD
    rate: float  # its learning rate


def picture_loss(
    parameters: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    coordinates: Tensor,
    picture: Tensor,
    omegas: tuple[float, ...],
) -> Tensor:
    """Mean squared error of the masked network over the pixels and channels of a picture (N, 3)."""
    surviving = {name: value * masks[name] if name in masks else value for name, value in parameters.items()}
    return (siren(surviving, coordinates, omegas) - picture).square().mean()


def adapt(
    parameters: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    coordinates: Tensor,
    picture: Tensor,
    inner: InnerLoop,
) -> Parameters:
    """The parameters after the inner loop on one picture (N, 3)."""
    adapted = dict(parameters)
    for _ in range(inner.steps):
        gradient = grad(picture_loss)(adapted, masks, coordinates, picture, inner.omegas)
        adapted = {name: value - inner.rate * gradient[name] for name, value in adapted.items()}
    return adapted


def meta_gradient(
    parameters: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    coordinates: Tensor,
    pictures: Tensor,
    inner: InnerLoop,
    at_once: int | None = None,
) -> tuple[Parameters, Tensor]:
    """The gradient of the outer loss summed over the pictures, and the loss of each of them, (B,).

    At most `at_once` pictures are differentiated together (None: all); memory grows with it.
    """

    def outer_loss(initial: Parameters, picture: Tensor) -> Tensor:
        adapted = adapt(initial, masks, coordinates, picture, inner)
        return picture_loss(adapted, masks, coordinates, picture, inner.omegas)

    per_picture = vmap(grad_and_value(outer_loss), in_dims=(None, 0), chunk_size=at_once)
    gradients, losses = per_picture(dict(parameters), pictures)  # each (B, *shape), and (B,)
    return {name: gradient.sum(0) for name, gradient in gradients.items()}, losses


def adam_step(
    parameters: Parameters,
    gradient: Parameters,
    first: Parameters,
    second: Parameters,
    count: int | Tensor,
    rate: float,
) -> tuple[Parameters, Parameters, Parameters]:
    """Parameters, first and second moments after step `count` = 1, 2, ... (Kingma & Ba 2015, algorithm 1)."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    first = {name: beta1 * m + (1 - beta1) * gradient[name] for name, m in first.items()}
    second = {name: beta2 * v + (1 - beta2) * gradient[name].square() for name, v in second.items()}
    bias1, bias2 = 1 - beta1**count, 1 - beta2**count
    moved = {
        name: value - rate * (first[name] / bias1) / ((second[name] / bias2).sqrt() + epsilon)
        for name, value in parameters.items()
    }
    return moved, first, second
