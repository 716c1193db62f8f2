import numpy as np
import pytest
import torch
from conftest import CHANNELS, field_weights

from inrcodec.lattice import field_shapes
from inrcodec.rate import coarse_rate, distributions, laplace_bits, laplace_table, rate


def fields_of(height: int, width: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, *s, generator=generator).mul(2).round() for s in field_shapes(height, width, CHANNELS)]


def test_coarse_levels_cost_the_same_alone() -> None:
    weights, fields, q = field_weights(), fields_of(37, 22, 5), torch.full((1, 1), 0.4)
    assert torch.allclose(coarse_rate(weights, fields[1:], q, 1), rate(weights, fields, q)[:, 1:])


def test_probabilities_of_all_integers_sum_to_one() -> None:
    values = torch.arange(-4000, 4001).double()
    for log_scale in (-5.0, -1.0, 0.7, 4.0):
        bits = laplace_bits(values - 0.3, torch.tensor(log_scale).double())
        assert float(torch.exp2(-bits).sum()) == pytest.approx(1, abs=1e-6)


def test_table_agrees_with_the_laplace_distribution() -> None:
    table = laplace_table()
    offsets = torch.arange(-15, 16).double() - (3 - 8) / 16
    for scale in (0, 12, 25):
        bits = laplace_bits(offsets, torch.tensor(-4 + scale / 7).double()).numpy()
        row = table[scale * 16 + 3, :31] / 2**20
        likely = row > 2**-10
        assert np.allclose(-np.log2(row[likely]), bits[likely], atol=0.02)


@pytest.mark.parametrize("where", [(0, 0), (4, 7), (63, 2), (64, 2), (69, 8)])
def test_a_value_changes_only_what_is_coded_after_it(where: tuple[int, int]) -> None:
    weights, fields, q = field_weights(), fields_of(70, 9, 0), torch.zeros(1, 1)
    before = distributions(weights, fields, q)
    y, x = where
    fields[0][0, 0, y, x] += 5
    after = distributions(weights, fields, q)
    changed = (before[0][0] != after[0][0])[0, 0]
    front = torch.arange(9)[None] + 2 * (torch.arange(70)[:, None] % 64)
    same_stripe = torch.arange(70)[:, None] // 64 == y // 64
    assert not changed[~(same_stripe & (front > x + 2 * (y % 64)))].any()
    assert all(torch.equal(a, b) for i in (1, 2) for a, b in zip(before[i], after[i], strict=True))


def test_coarser_levels_inform_finer_ones() -> None:
    weights, fields, q = field_weights(), fields_of(24, 17, 0), torch.zeros(1, 1)
    before = distributions(weights, fields, q)[0][0]
    fields[2][0, 1, 3, 2] += 4
    assert (distributions(weights, fields, q)[0][0] != before).any()


def test_rate_is_differentiable_in_all_fields() -> None:
    fields = [z.requires_grad_() for z in fields_of(9, 13, 2)]
    rate(field_weights(), fields, torch.zeros(1, 1)).sum().backward()  # type: ignore[no-untyped-call]
    assert all(z.grad is not None and z.grad.abs().sum() > 0 for z in fields)
