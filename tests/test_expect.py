import numpy as np
import pytest
import torch
from conftest import CHANNELS, OMEGAS, field_weights

from inrcodec import rate
from inrcodec.adapt_rate import rate_energies
from inrcodec.deltas import (
    FILTER,
    MAX_OWN,
    Deltas,
    FilterDeltas,
    changed_rate,
    delta_counts,
    expected,
    filter_units,
    part_sizes,
    rate_units,
)
from inrcodec.expect import KINDS, ROWS, _filter_energies, counted, expectations
from inrcodec.lattice import field_shapes
from inrcodec.prior import Prior
from inrcodec.synthesis import synthesize
from inrcodec.tile import FieldModel

CPU, Q = torch.device("cpu"), torch.full((1, 1), 0.2)


def fields(height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(1, *s, generator=generator).round() for s in field_shapes(height, width, CHANNELS)]


def no_counts(prior: Prior) -> dict[str, np.ndarray]:
    return {kind: np.zeros((ROWS, n)) for kind, n in zip(KINDS, delta_counts(prior.tensors), strict=True)}


def test_energies_of_the_filter_are_mean_squares_of_slopes() -> None:
    weights, z = field_weights(), fields(9, 13)
    leaves = {name: weights[name].requires_grad_() for name in FILTER}
    picture = synthesize(weights | leaves, z, Q, OMEGAS)
    squares = [torch.zeros_like(leaf) for leaf in leaves.values()]
    for sample in picture.flatten():
        for total, slope in zip(
            squares, torch.autograd.grad(sample, list(leaves.values()), retain_graph=True), strict=True
        ):
            total += slope.square()
    squares[1] = squares[1][:, 0]  # of a bias, the constant
    expected_energies = torch.cat([part.flatten() for part in squares]) / 117
    found = _filter_energies({k: v.detach() for k, v in weights.items()}, z, Q, OMEGAS)
    assert len(found) == len(expected_energies)
    both = (found > 0) & (expected_energies > 0)
    octaves, others = found[both].log2(), expected_energies[both].log2()
    # What taps of the last layer say of one feature is summed as if it were independent, and borders are zeros.
    assert np.corrcoef(octaves, others)[0, 1] > 0.9 and abs(float((octaves - others).median())) < 0.5


def test_energies_of_the_rate_model_are_squares_of_slopes(field_prior: Prior) -> None:
    z, tensors = fields(4, 5), field_prior.tensors
    model = FieldModel.of(field_prior, CPU)
    count = delta_counts(tensors)[1]
    base = rate.to_floats(changed_rate(tensors, None))
    beside = rate.to_floats(changed_rate(tensors, np.ones(count, np.int32)))
    changes, at, moved = torch.zeros(count, requires_grad=True), 0, dict[str, torch.Tensor]()
    for units in rate_units(tensors):
        for name, unit in units.items():
            part = changes[at : at + unit.size].view(unit.shape)
            part = torch.nn.functional.pad(part[:, None], (0, 2)) if name.endswith(".bias") else part
            moved[name], at = base[name] + part * (beside[name] - base[name]), at + unit.size
    expected_energies = torch.zeros(count)
    for values, (mean, log_scale) in zip(z, rate.distributions(model.weights | moved, z, Q), strict=True):
        for bits in rate.laplace_bits(values - mean, log_scale).sum(1).flatten():  # of a cell
            (slope,) = torch.autograd.grad(bits, changes, retain_graph=True)
            expected_energies += slope.square()
    found = rate_energies(model, tensors, z, Q) * 20
    assert torch.allclose(found, expected_energies, rtol=1e-3, atol=1e-6 * float(expected_energies.max()))


def test_counts_are_of_the_deltas_of_a_picture(field_prior: Prior) -> None:
    of_filter, of_rate = delta_counts(field_prior.tensors)
    changes = np.zeros(of_filter, np.int32)
    changes[:3] = 4, -1, 2
    shown = tuple(values[0].int().numpy() for values in fields(6, 9))
    found = counted(field_prior, FieldModel.of(field_prior, CPU), (shown, Deltas(FilterDeltas(7, changes))), Q)
    assert found["filter"][:3, :4].tolist() == [[1, 1, 1, 0], [1, 0, 1, 0], [3, 0, 1, 0]]
    assert found["rate"].shape == (ROWS, of_rate) and not found["rate"][:3].any() and found["rate"][3].any()


def test_a_prior_gets_units_first_and_then_what_it_expects(field_prior: Prior) -> None:
    counts, rng = no_counts(field_prior), np.random.default_rng(0)
    for part in counts.values():
        part[0], part[3] = 1, 4.0 ** rng.integers(-6, 7, part.shape[1])
    tensors = dict(field_prior.tensors)
    tensors |= expectations(tensors, counts, 1)
    assert set(tensors) - set(field_prior.tensors) == {"deltas.filter_unit", "deltas.rate_unit"}
    matters = np.sqrt(counts["filter"][3]) * filter_units(tensors, 8)
    inside = np.abs(tensors["deltas.filter_unit"]) < MAX_OWN
    assert inside.any() and len(np.unique(matters[inside])) == 1  # a change by a unit matters as much as any other
    assert expected(tensors) == (None, None)
    tensors |= expectations(tensors, counts, 1)
    assert all(found is not None for found in expected(tensors))


@pytest.mark.parametrize("pictures", [1, 10, 1000])
def test_the_more_pictures_say_so_the_more_is_expected(expecting_prior: Prior, pictures: int) -> None:
    counts = no_counts(expecting_prior)
    counts["filter"][:3, 5] = pictures, pictures, 3 * pictures  # always changes, rises, by 4
    tensors = {**expecting_prior.tensors, **expectations(expecting_prior.tensors, counts, pictures)}
    found = tensors["deltas.filter"] / 65536
    size = part_sizes(tensors)["filter"][0]
    assert (found[0, 5] > found[0, :size]).sum() == size - 1 and found[1, 5] > 0.5 == found[1, 6]
    assert pictures < 1000 or np.allclose(found[:, 5], (1, 1, 0.75), atol=0.02)
    assert tensors["deltas.rate"].min() > 0 and np.ptp(tensors["deltas.rate"][1:], axis=1).max() == 0
