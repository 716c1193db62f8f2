from typing import Any

import pytest
import torch
from conftest import CHANNELS, OMEGAS, field_weights

from inrcodec import rounding
from inrcodec.lattice import field_shapes
from inrcodec.rate import laplace_bits, rate
from inrcodec.rounding import optimised_rounding
from inrcodec.synthesis import synthesize
from inrcodec.tile import FieldModel

LAMBDA = 300.0

MODEL = FieldModel(field_weights(), OMEGAS, CHANNELS)


def random_fields(height: int, width: int, batch: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [1.5 * torch.randn(batch, *s, generator=generator) for s in field_shapes(height, width, CHANNELS)]


def objective(fields: list[torch.Tensor], target: torch.Tensor, q: torch.Tensor) -> float:
    weights = field_weights()
    qs = q.expand(len(target), 1)
    error = (synthesize(weights, fields, qs, OMEGAS) - target).square().sum() * 255**2
    return float(error / LAMBDA + rate(weights, fields, qs).sum())


def from_nearest(
    fields: list[torch.Tensor], target: torch.Tensor, q: torch.Tensor, lam: float = LAMBDA, weight: Any = None
) -> list[torch.Tensor]:
    return optimised_rounding(MODEL, fields, [z.round() for z in fields], target, q, lam, weight)


@pytest.mark.parametrize(("height", "width", "batch"), [(37, 46, 1), (1, 1, 1), (1, 9, 1), (21, 30, 2)])
def test_the_objective_is_lower_than_of_nearest_integers(height: int, width: int, batch: int) -> None:
    fields, q = random_fields(height, width, batch), torch.full((1, 1), 0.2)
    target = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)) - 0.5
    found = from_nearest(fields, target, q)
    nearest = objective([z.round() for z in fields], target, q)
    assert objective(found, target, q) <= nearest
    if height > 1:
        assert objective(found, target, q) < 0.99 * nearest


def test_to_try_again_lowers_the_objective_further() -> None:
    fields, q = random_fields(37, 46), torch.full((1, 1), 0.2)
    target = torch.rand(1, 3, 37, 46, generator=torch.Generator().manual_seed(1)) - 0.5
    once = from_nearest(fields, target, q)
    twice = optimised_rounding(MODEL, fields, once, target, q, LAMBDA)
    assert objective(twice, target, q) < objective(once, target, q)


def test_a_change_promises_what_its_own_bits_say_and_less_than_the_gradient_of_all_else() -> None:
    values, wanted = torch.tensor([3.0, 3.0, 0.0, 0.0, 3.0]), torch.tensor([2.6, 3.4, 0.0, 0.3, 3.4])
    mean, log_scale = torch.tensor([1.0, 1.0, 0.4, -2.0, 9.0]), torch.tensor([-1.0, -1.0, 1.0, 0.5, 0.0])
    leaf = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(laplace_bits(leaf - mean, log_scale).sum(), leaf)
    others = torch.tensor([0.0, 0.0, 0.0, 7.0, -30.0])
    direction, promise = rounding._prospects(values, wanted, slope + others, mean, log_scale)
    moved = laplace_bits(values + direction - mean, log_scale) - laplace_bits(values - mean, log_scale)
    assert promise[0] == pytest.approx(float(-moved[0]) - rounding.CURVATURE) and direction[0] == -1
    assert promise[1] == 0  # down is better, but not one of its two integers; up costs bits
    assert promise[2] == 0  # nor is anything but itself of a whole number
    assert promise[3] == 0  # up is what it may do, and the gradient is against it
    assert direction[4] == 1 and 0 < promise[4] - (-moved[4] - rounding.CURVATURE) < 30


def test_values_go_to_one_of_their_two_integers() -> None:
    fields, q = random_fields(23, 31), torch.zeros(1, 1)
    before = [z.clone() for z in fields]
    found = from_nearest(fields, torch.zeros(1, 3, 23, 31), q)
    for wanted, values, kept in zip(fields, found, before, strict=True):
        assert torch.equal(wanted, kept)
        assert torch.equal(values, values.round())
        assert ((values - wanted).abs() <= 1).all()


def test_where_there_is_no_weight_only_bits_count() -> None:
    fields, q = random_fields(37, 46), torch.full((1, 1), 0.2)
    target = torch.rand(1, 3, 37, 46)
    found = from_nearest(fields, target, q, weight=torch.zeros_like(target[:, :1]))
    cheap = from_nearest(fields, torch.zeros_like(target), q, 1e30)
    assert all(torch.equal(a, b) for a, b in zip(found, cheap, strict=True))
