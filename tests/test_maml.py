"""The outer step, against NumPy backpropagation, finite differences, unrolled autograd and torch's Adam."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from inrcodec.grid import pixel_grid
from inrcodec.maml import InnerLoop, Parameters, adam_step, adapt, meta_gradient
from inrcodec.prune import apply_masks, full_masks, prune
from inrcodec.siren import init_siren, siren

HEIGHT, WIDTH = 4, 6
INNER = InnerLoop(omegas=(9.0, 5.0), steps=3, rate=0.02)  # enough for the second-order term to matter

Arrays = dict[str, NDArray[np.float64]]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def parameters() -> Parameters:
    network = init_siren(2, (5, 4), 3, INNER.omegas, seeded(0))
    return {name: value.double() for name, value in network.items()}


@pytest.fixture
def coordinates() -> Tensor:
    return torch.from_numpy(pixel_grid(HEIGHT, WIDTH)).double()


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(2, HEIGHT * WIDTH, 3, generator=seeded(1)).double() - 0.5


def loss_and_gradient(arrays: Arrays, inputs: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, Arrays]:
    """Mean squared error of the network and its gradient, by backpropagation written out in NumPy."""
    hidden, angles = [inputs], []
    for i, omega in enumerate(INNER.omegas):
        angles.append(omega * (hidden[-1] @ arrays[f"siren.{i}.weight"].T + arrays[f"siren.{i}.bias"]))
        hidden.append(np.sin(angles[-1]))
    error = hidden[-1] @ arrays["siren.2.weight"].T + arrays["siren.2.bias"] - target
    gradient: Arrays = {}
    upstream = 2 * error / error.size
    for i in (2, 1, 0):
        if i < 2:
            upstream = upstream @ arrays[f"siren.{i + 1}.weight"] * INNER.omegas[i] * np.cos(angles[i])
        gradient[f"siren.{i}.weight"] = upstream.T @ hidden[i]
        gradient[f"siren.{i}.bias"] = upstream.sum(axis=0)
    return float(np.mean(error**2)), gradient


def outer_loss(arrays: Arrays, inputs: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Summed loss after the inner loop, in NumPy."""
    total = 0.0
    for target in targets:
        adapted = dict(arrays)
        for _ in range(INNER.steps):
            _, gradient = loss_and_gradient(adapted, inputs, target)
            adapted = {name: value - INNER.rate * gradient[name] for name, value in adapted.items()}
        total += loss_and_gradient(adapted, inputs, target)[0]
    return total


def test_meta_gradient_agrees_with_finite_differences_of_a_numpy_inner_loop(
    parameters: Parameters, coordinates: Tensor, pictures: Tensor
) -> None:
    gradient, losses = meta_gradient(parameters, full_masks(parameters), coordinates, pictures, INNER)
    arrays = {name: value.numpy() for name, value in parameters.items()}
    inputs, targets = coordinates.numpy(), pictures.numpy()
    assert losses.sum().item() == pytest.approx(outer_loss(arrays, inputs, targets), rel=1e-12)
    step = 1e-5
    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = array.copy()
                moved[index] += sign * step
                ends.append(outer_loss({**arrays, name: moved}, inputs, targets))
            assert gradient[name][index].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-7)


def unrolled(parameters: Parameters, coordinates: Tensor, pictures: Tensor, second_order: bool) -> list[Tensor]:
    """Gradient of the summed outer loss by autograd through an explicit loop, one per parameter."""
    leaves = [value.clone().requires_grad_() for value in parameters.values()]
    total = torch.zeros((), dtype=torch.float64)
    for picture in pictures:
        values = leaves
        for _ in range(INNER.steps):
            output = siren(dict(zip(parameters, values, strict=True)), coordinates, INNER.omegas)
            gradient = torch.autograd.grad((output - picture).square().mean(), values, create_graph=second_order)
            values = [value - INNER.rate * g for value, g in zip(values, gradient, strict=True)]
        output = siren(dict(zip(parameters, values, strict=True)), coordinates, INNER.omegas)
        total = total + (output - picture).square().mean()
    return list(torch.autograd.grad(total, leaves))


def test_meta_gradient_is_of_second_order(parameters: Parameters, coordinates: Tensor, pictures: Tensor) -> None:
    gradient, _ = meta_gradient(parameters, full_masks(parameters), coordinates, pictures, INNER)
    second = unrolled(parameters, coordinates, pictures, second_order=True)
    first = unrolled(parameters, coordinates, pictures, second_order=False)
    for value, exact in zip(gradient.values(), second, strict=True):
        torch.testing.assert_close(value, exact, rtol=1e-9, atol=1e-13)
    assert any((value - rough).norm() > 0.1 * value.norm() for value, rough in zip(second, first, strict=True))


def test_meta_gradient_is_the_same_one_picture_at_a_time(
    parameters: Parameters, coordinates: Tensor, pictures: Tensor
) -> None:
    masks = full_masks(parameters)
    together, losses = meta_gradient(parameters, masks, coordinates, pictures, INNER)
    singly, same = meta_gradient(parameters, masks, coordinates, pictures, INNER, at_once=1)
    torch.testing.assert_close(losses, same)
    torch.testing.assert_close(together, singly)


def test_adapt_takes_plain_gradient_steps(parameters: Parameters, coordinates: Tensor, pictures: Tensor) -> None:
    expected = {name: value.numpy() for name, value in parameters.items()}
    for _ in range(INNER.steps):
        _, gradient = loss_and_gradient(expected, coordinates.numpy(), pictures[0].numpy())
        expected = {name: value - INNER.rate * gradient[name] for name, value in expected.items()}
    adapted = adapt(parameters, full_masks(parameters), coordinates, pictures[0], INNER)
    for name, value in adapted.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-10, atol=1e-14)


def test_pruned_weights_get_no_gradient_and_do_not_move(
    parameters: Parameters, coordinates: Tensor, pictures: Tensor
) -> None:
    masks = prune(parameters, full_masks(parameters), 0.4)
    sparse = apply_masks(parameters, masks)
    gradient, _ = meta_gradient(sparse, masks, coordinates, pictures, INNER)
    adapted = adapt(sparse, masks, coordinates, pictures[0], INNER)
    for name, mask in masks.items():
        assert gradient[name][~mask].eq(0).all()
        assert adapted[name][~mask].eq(0).all()
        assert gradient[name][mask].ne(0).any()


def test_pruned_weights_count_as_zero_whatever_they_hold(
    parameters: Parameters, coordinates: Tensor, pictures: Tensor
) -> None:
    masks = prune(parameters, full_masks(parameters), 0.4)
    sparse, _ = meta_gradient(apply_masks(parameters, masks), masks, coordinates, pictures, INNER)
    kept, _ = meta_gradient(parameters, masks, coordinates, pictures, INNER)
    torch.testing.assert_close(sparse, kept)


def test_adam_step_agrees_with_torch(parameters: Parameters) -> None:
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    reference = torch.optim.Adam(leaves.values(), lr=1e-3)
    first, second = ({name: torch.zeros_like(value) for name, value in parameters.items()} for _ in range(2))
    for count in range(1, 6):
        gradient = {
            name: torch.randn(value.shape, generator=seeded(count)).double() for name, value in parameters.items()
        }
        parameters, first, second = adam_step(parameters, gradient, first, second, count, 1e-3)
        for name, leaf in leaves.items():
            leaf.grad = gradient[name]
        reference.step()
        for name, leaf in leaves.items():
            torch.testing.assert_close(parameters[name], leaf.detach(), rtol=1e-12, atol=1e-15)


def test_adam_does_not_move_what_has_no_moments_and_no_gradient() -> None:
    weight = {"siren.0.weight": torch.tensor([0.0, 0.5])}
    zeros = {"siren.0.weight": torch.zeros(2)}
    moved, first, second = adam_step(weight, {"siren.0.weight": torch.tensor([-0.0, 1.0])}, zeros, zeros, 1, 0.1)
    assert math.copysign(1, moved["siren.0.weight"][0].item()) == 1
    assert moved["siren.0.weight"][0] == first["siren.0.weight"][0] == second["siren.0.weight"][0] == 0
    assert moved["siren.0.weight"][1] == pytest.approx(0.4)  # the first step of Adam is the rate itself


@pytest.mark.cuda
def test_meta_gradient_is_the_same_on_a_gpu(parameters: Parameters, coordinates: Tensor, pictures: Tensor) -> None:
    masks = full_masks(parameters)
    gradient, losses = meta_gradient(parameters, masks, coordinates, pictures, INNER)
    there, same = meta_gradient(
        {name: value.cuda() for name, value in parameters.items()},
        {name: mask.cuda() for name, mask in masks.items()},
        coordinates.cuda(),
        pictures.cuda(),
        INNER,
    )
    torch.testing.assert_close(losses, same.cpu())
    torch.testing.assert_close(gradient, {name: value.cpu() for name, value in there.items()})
