import numpy as np
import pytest
import torch
from conftest import CHANNELS, OMEGAS, field_weights

from inrcodec import objective as module
from inrcodec.lattice import continued, field_shapes, visible_cells
from inrcodec.objective import Coded, costs, objective, within_memory
from inrcodec.parallel import one_thread_per_piece
from inrcodec.rate import distributions, laplace_bits, rate
from inrcodec.stripe import ROWS
from inrcodec.synthesis import synthesize
from inrcodec.tile import TILE, FieldModel

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("arithmetic")


def random_fields(height: int, width: int, batch: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(batch, *s, generator=generator) for s in field_shapes(height, width, CHANNELS)]


def check_against_the_plain_form(
    height: int, width: int, batch: int, q: torch.Tensor, weight: torch.Tensor | None = None
) -> None:
    """`objective` and its gradients are those of `synthesize` and `rate`."""
    model = FieldModel(field_weights(), OMEGAS, CHANNELS)
    target = torch.rand(batch, 3, height, width) - 0.5
    fast, by_hand = objective(model, random_fields(height, width, batch), target, q, 300.0, weight)
    plain = [z.clone().requires_grad_() for z in random_fields(height, width, batch)]
    qs = q.expand(batch, 1)
    squared = (synthesize(model.weights, plain, qs, OMEGAS) - target).square()
    error = (squared if weight is None else squared * weight).sum() * 255**2
    slow = error / 300.0 + rate(model.weights, plain, qs).sum()
    slow.backward()  # type: ignore[no-untyped-call]
    assert float(fast) == pytest.approx(float(slow.detach()), rel=1e-5)
    for gradient, z in zip(by_hand, plain, strict=True):
        assert z.grad is not None
        assert torch.allclose(gradient, z.grad, rtol=1e-3, atol=1e-4 * float(z.grad.abs().max()))


@pytest.mark.parametrize(("height", "width", "batch"), [(70, 45, 1), (1, 5, 1), (130, 80, 2)])
def test_objective_and_its_gradient_are_those_of_the_plain_form(height: int, width: int, batch: int) -> None:
    check_against_the_plain_form(height, width, batch, torch.full((1, 1), 0.4))


def test_pixels_count_by_their_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TILE, "cpu", 32)
    weight = torch.rand(1, 1, 70, 45)
    weight[:, :, 20:60, :30] = 0
    check_against_the_plain_form(70, 45, 1, torch.zeros(1, 1), weight)


def test_only_coded_cells_have_bits_and_the_others_go_on_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TILE, "cpu", 32)
    height, width, q = 150, 45, torch.full((1, 1), 0.4)
    visible = np.zeros((height, width), bool)
    visible[70:93, 5:20] = visible[100, 40] = True
    masks = visible_cells(visible, len(CHANNELS))
    coded = [Coded.of(mask, CPU) for mask in masks]
    weight = torch.from_numpy(visible).float()[None, None]
    model, target = FieldModel(field_weights(), OMEGAS, CHANNELS), torch.rand(1, 3, height, width) - 0.5
    fields = [z * part.mask for z, part in zip(random_fields(height, width), coded, strict=True)]
    fast, by_hand = objective(model, fields, target, q, 300.0, weight, coded)

    plain = [z.clone().requires_grad_() for z in fields]
    whole = [part.continued(z) for z, part in zip(plain, coded, strict=True)]
    for z, mask, found in zip(fields, masks, whole, strict=True):
        assert np.array_equal(continued(z[0].numpy(), mask), found[0].detach().numpy())
    error = ((synthesize(model.weights, whole, q, OMEGAS) - target).square() * weight).sum(1) * 255**2 / 300.0
    bits = [
        laplace_bits(z - mean, log_scale).sum(1) * part.mask
        for z, (mean, log_scale), part in zip(plain, distributions(model.weights, plain, q), coded, strict=True)
    ]
    slow = error.sum() + sum(plane.sum() for plane in bits)
    slow.backward()  # type: ignore[no-untyped-call]
    assert float(fast) == pytest.approx(float(slow.detach()), rel=1e-5)
    for gradient, z, part in zip(by_hand, plain, coded, strict=True):
        assert z.grad is not None
        near = gradient * part.mask, z.grad * part.mask
        assert torch.allclose(*near, rtol=1e-3, atol=1e-4 * float(z.grad.abs().max()))

    errors, planes = costs(model, fields, target, q, 300.0, 2, weight, coded)
    assert torch.allclose(errors, error, rtol=1e-4, atol=1e-4)
    for found, expected in zip(planes, bits, strict=False):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_fields_may_lie_in_any_order_in_memory() -> None:
    model, target, q = FieldModel(field_weights(), OMEGAS, CHANNELS), torch.rand(2, 3, 70, 45) - 0.5, torch.zeros(1, 1)
    whole, expected = objective(model, random_fields(70, 45, 2), target, q, 300.0)
    turned = [z.contiguous(memory_format=torch.channels_last) for z in random_fields(70, 45, 2)]
    same, found = objective(model, turned, target.contiguous(memory_format=torch.channels_last), q, 300.0)
    assert float(same) == pytest.approx(float(whole), rel=1e-6)
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))
    for given in (turned, random_fields(70, 45, 2)):
        error, _ = costs(model, given, target, q, 300.0, 1)
        assert float(error.sum()) > 0 and len(module.distributions(model, given, q, 2)) == 2


def test_pieces_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FieldModel(field_weights(), OMEGAS, CHANNELS)
    fields, target, q = random_fields(70, 45), torch.rand(1, 3, 70, 45) - 0.5, torch.zeros(1, 1)
    whole, expected = objective(model, fields, target, q, 300.0)
    monkeypatch.setitem(TILE, "cpu", 19)
    monkeypatch.setitem(ROWS, "cpu", 45 * 6)
    pieces, found = objective(model, fields, target, q, 300.0)
    assert float(whole) == pytest.approx(float(pieces), rel=1e-5)
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


def test_threads_change_nothing() -> None:
    model = FieldModel(field_weights(), OMEGAS, CHANNELS)
    fields, target, q = random_fields(200, 45), torch.rand(1, 3, 200, 45) - 0.5, torch.zeros(1, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread_per_piece(CPU):
            assert torch.get_num_threads() == 1
            _, shared = objective(model, fields, target, q, 300.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    _, alone = objective(model, fields, target, q, 300.0)
    for a, b in zip(shared, alone, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize(("height", "width", "batch"), [(70, 45, 1), (1, 5, 1), (37, 80, 2)])
def test_costs_are_those_of_the_plain_form(
    height: int, width: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TILE, "cpu", 32)
    monkeypatch.setitem(ROWS, "cpu", 45 * 6)
    model, fields = FieldModel(field_weights(), OMEGAS, CHANNELS), random_fields(height, width, batch)
    target, weight, q = (
        torch.rand(batch, 3, height, width) - 0.5,
        torch.rand(1, 1, height, width),
        torch.full((1, 1), 0.4),
    )
    error, bits = costs(model, fields, target, q, 300.0, 2, weight)
    qs = q.expand(batch, 1)
    squared = (synthesize(model.weights, fields, qs, OMEGAS) - target).square() * weight
    assert torch.allclose(error, squared.sum(1) * 255**2 / 300.0, rtol=1e-4, atol=1e-4)
    assert len(bits) == 2
    for found, z, (mean, log_scale) in zip(bits, fields, distributions(model.weights, fields, qs), strict=False):
        assert torch.allclose(found, laplace_bits(z - mean, log_scale).sum(1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("height", "width", "batch"), [(70, 45, 1), (1, 5, 1), (37, 80, 2)])
def test_distributions_are_those_of_the_plain_form(
    height: int, width: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS, "cpu", 45 * 6)
    model, fields, q = FieldModel(field_weights(), OMEGAS, CHANNELS), random_fields(height, width, batch), 0.4
    plain = distributions(model.weights, fields, torch.full((batch, 1), q), 2)
    found = module.distributions(model, fields, torch.full((1, 1), q), 2)
    assert len(found) == 2
    for ours, theirs in zip(found, plain, strict=True):
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


def test_a_gpu_without_memory_is_given_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TILE, "cuda", 1024)
    monkeypatch.setitem(ROWS, "cuda", 1 << 20)
    room = 300

    @within_memory
    def compute(factor: int) -> int:
        if TILE["cuda"] > room:
            raise torch.OutOfMemoryError
        return factor * TILE["cuda"]

    assert compute(3) == 3 * 256 and ROWS["cuda"] == 1 << 18
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        compute(3)
