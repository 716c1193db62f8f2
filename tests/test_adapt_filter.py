import numpy as np
import pytest
import torch
from conftest import CHANNELS, OMEGAS, field_weights

from inrcodec import native
from inrcodec.adapt_filter import _Aim, _compiled, _parts_at, _recorded, _Sample, adapt_filter
from inrcodec.deltas import FILTER, Deltas, FilterDeltas, changed_filter, delta_counts, pack_deltas
from inrcodec.lattice import field_shapes
from inrcodec.prior import Prior
from inrcodec.synthesis import filtered, synthesize
from inrcodec.tile import FieldModel

pytestmark = pytest.mark.usefixtures("arithmetic")
Q = torch.full((1, 1), 0.2)
MODEL = FieldModel(field_weights(), OMEGAS, CHANNELS)


def fields(height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(1, *s, generator=generator).round() for s in field_shapes(height, width, CHANNELS)]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("height", "width"), [(40, 61), (1, 1), (3, 200)])
def test_deltas_are_given_only_where_they_pay(field_prior: Prior, height: int, width: int, own: bool) -> None:
    weights, z, tensors = field_weights(), fields(height, width), dict(field_prior.tensors)
    if own:
        count, rng = delta_counts(tensors)[0], np.random.default_rng(0)
        tensors["deltas.filter_unit"] = rng.integers(-2, 3, count).astype(np.int8)
        tensors["deltas.filter"] = rng.integers(3000, 60000, (3, count)).astype(np.uint16)
    other = field_weights() | {name: field_weights(1)[name] for name in FILTER}
    target = synthesize(other, z, Q, OMEGAS)  # what another filter would make
    deltas, _ = adapt_filter(MODEL, tensors, z, target, Q, 20.0, torch.Generator().manual_seed(0))
    if deltas is None:
        assert height == 1  # one pixel pays for nothing
        return
    changed = weights | {name: torch.from_numpy(tensor) for name, tensor in changed_filter(tensors, deltas).items()}
    before, after = ((synthesize(w, z, Q, OMEGAS) - target).square().sum() * 255**2 / 20 for w in (weights, changed))
    assert float(after) + 8 * len(pack_deltas(Deltas(deltas), tensors)[0]) < float(before)


def test_a_descent_goes_on_from_what_one_has_found(field_prior: Prior) -> None:
    z, tensors = fields(40, 61), field_prior.tensors
    target = synthesize(field_weights() | {name: field_weights(1)[name] for name in FILTER}, z, Q, OMEGAS)
    once, descended = adapt_filter(MODEL, tensors, z, target, Q, 20.0, torch.Generator().manual_seed(0))
    twice, _ = adapt_filter(MODEL, tensors, z, target, Q, 20.0, torch.Generator().manual_seed(0), before=descended)

    def cost(deltas: FilterDeltas | None) -> float:
        changed = {name: torch.from_numpy(tensor) for name, tensor in changed_filter(tensors, deltas).items()}
        error = (synthesize(field_weights() | changed, z, Q, OMEGAS) - target).square().sum() * 255**2 / 20
        return float(error) + 8 * len(pack_deltas(Deltas(deltas), tensors)[0])

    assert cost(twice) < cost(once) < cost(None)


def test_a_picture_that_is_met_already_has_no_deltas(field_prior: Prior) -> None:
    weights, z = field_weights(), fields(20, 31)
    target = synthesize(weights, z, Q, OMEGAS)
    assert adapt_filter(MODEL, field_prior.tensors, z, target, Q, 20.0, torch.Generator().manual_seed(0))[0] is None


def test_pixels_without_weight_do_not_count(field_prior: Prior) -> None:
    weights, z, tensors = field_weights(), fields(20, 31), field_prior.tensors
    target = synthesize(weights, z, Q, OMEGAS)
    target[:, :, 5:15, 8:20] = 5.0
    weight = (target[:, :1] != 5.0).float()
    assert adapt_filter(MODEL, tensors, z, target, Q, 20.0, torch.Generator().manual_seed(0), weight)[0] is None
    assert adapt_filter(MODEL, tensors, z, target, Q, 20.0, torch.Generator().manual_seed(0))[0]


def test_slopes_are_the_gradient_of_the_plain_form() -> None:
    seen, missing, weight = torch.randn(1, 6, 24, 35), torch.randn(1, 3, 20, 31), torch.rand(1, 1, 20, 31)
    parts = {name: field_weights()[name].requires_grad_() for name in FILTER}
    error = ((filtered(parts, "filter", seen, Q) - missing).square() * weight).sum() * 255**2
    error.backward()  # type: ignore[no-untyped-call]
    plain = {name: part.detach() for name, part in parts.items()}
    sample = _Sample(seen, missing, weight)
    assert float(sample.error(plain, Q)) == pytest.approx(float(error.detach()), rel=1e-5)
    for part, slope in zip(parts.values(), sample.slopes(plain, Q), strict=True):
        assert part.grad is not None
        assert torch.allclose(slope, part.grad, rtol=1e-3, atol=1e-5 * float(part.grad.abs().max()))


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_compiled_descends_as_far(weighted: bool) -> None:
    if not native.available():
        return
    start = {name: field_weights()[name] for name in FILTER}
    torch.manual_seed(0)
    count = sum(part.size for part in _parts_at(start, Q))
    changes, units = 2.5 * torch.randn(count).sign(), 2.0 ** torch.randint(-10, -5, (count,))
    sides = ((20, 31), (7, 64), (1, 1), (16, 12))
    samples = [
        _Sample(
            torch.randn(1, 6, height + 4, width + 4),
            torch.randn(1, 3, height, width),
            torch.rand(1, 1, height, width) if weighted else None,
        )
        for height, width in sides
    ]
    errors = [float(sample.error(start, Q)) for sample in samples]
    plain = [float(sample._forwards(start, Q)[1].square().sum()) * 255**2 for sample in samples]
    assert weighted or errors == pytest.approx(plain, rel=1e-4)
    for sample in samples:
        parts = _parts_at(start, Q)
        slopes = [np.zeros_like(part) for part in parts]
        native.filter_slopes(*sample.arrays, parts, 255.0**2, slopes)
        for slope, own in zip(slopes, sample.slopes(start, Q), strict=True):
            expected = own[:, 0] if own.ndim == 2 else own  # of the first bias, the constant's
            assert np.allclose(slope, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    given = _Aim(start, Q, changes, units, 1e-3), [samples[turn % 4] for turn in range(24)]
    far = (_compiled(*given) - _recorded(*given)).abs()
    # A slope of nearly nothing may have either sign, and Adam's first steps see no more of it.
    assert float((far > 0.02).float().mean()) < 0.02 and float(far.max()) < 0.5


@pytest.mark.cuda
def test_a_gpu_gains_as_much(field_prior: Prior) -> None:
    weights, z = field_weights(), fields(40, 61)
    target = synthesize(weights | {name: field_weights(1)[name] for name in FILTER}, z, Q, OMEGAS)
    errors = []
    for device in ("cpu", "cuda"):
        model = FieldModel({name: tensor.to(device) for name, tensor in weights.items()}, OMEGAS, CHANNELS)
        given = [values.to(device) for values in z], target.to(device), Q.to(device)
        deltas, _ = adapt_filter(model, field_prior.tensors, *given, 20.0, torch.Generator().manual_seed(0))
        changed = changed_filter(field_prior.tensors, deltas)
        own = weights | {name: torch.from_numpy(tensor) for name, tensor in changed.items()}
        errors.append(float((synthesize(own, z, Q, OMEGAS) - target).square().sum()))
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
