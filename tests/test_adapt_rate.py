import numpy as np
import pytest
import torch
from conftest import CHANNELS

from inrcodec import native, rate
from inrcodec.adapt_rate import STEPS, _compiled, _recorded, _Sample, adapt_rate
from inrcodec.deltas import Deltas, changed_rate, pack_deltas
from inrcodec.entropy import RateModel
from inrcodec.lattice import field_shapes
from inrcodec.options import conditioning
from inrcodec.prior import Prior
from inrcodec.tile import FieldModel

pytestmark = pytest.mark.usefixtures("arithmetic")
INDEX = 90
Q = torch.full((1, 1), conditioning(INDEX))


def fields(height: int, width: int, size: float = 4.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [(size * torch.randn(1, *s, generator=generator)).round() for s in field_shapes(height, width, CHANNELS)]


@pytest.mark.parametrize(("height", "width"), [(60, 91), (1, 1), (150, 3)])
def test_a_file_with_the_changes_is_smaller(field_prior: Prior, height: int, width: int) -> None:
    z = fields(height, width)
    found, _ = adapt_rate(FieldModel.of(field_prior, torch.device("cpu")), field_prior.tensors, z, Q, 0)
    if found is None:
        assert height == 1  # one pixel pays for nothing
        return
    own = [values[0].numpy().astype(np.int32) for values in z]
    plain, adapted = (
        sum(map(len, RateModel(changed_rate(field_prior.tensors, changes), CHANNELS).encode(own, INDEX)))
        for changes in (None, found)
    )
    assert adapted + len(pack_deltas(Deltas(rate=found), field_prior.tensors)[1]) < plain


def test_a_descent_goes_on_from_what_one_has_found(field_prior: Prior) -> None:
    z, model, tensors = fields(60, 91), FieldModel.of(field_prior, torch.device("cpu")), field_prior.tensors
    once, descended = adapt_rate(model, tensors, z, Q, 0)
    twice, _ = adapt_rate(model, tensors, z, Q, 0, before=descended)
    bits = [
        float(rate.rate(model.weights | rate.to_floats(changed_rate(tensors, changes)), z, Q).sum())
        for changes in (None, once, twice)
    ]
    assert bits[2] < bits[1] < bits[0]


def test_rates_that_suit_already_are_left_alone(field_prior: Prior) -> None:
    z = fields(9, 12, size=0.4)
    assert adapt_rate(FieldModel.of(field_prior, torch.device("cpu")), field_prior.tensors, z, Q, 0)[0] is None


def test_slopes_are_the_gradient_of_the_plain_form() -> None:
    shapes = ((8,), (6, 8), (6,), (4, 6), (4,))
    parts, units = ([torch.randn(shape) * size for shape in shapes] for size in (0.5, 0.01))
    first, values = torch.randn(8, 50), torch.randn(2, 50).round()
    sample = _Sample(first, values, 50, parts, units)
    changes = torch.randint(-9, 10, (sum(part.numel() for part in parts),)).float().requires_grad_()
    split = torch.split(changes, [part.numel() for part in parts])
    moved = [part + by.view_as(part) * unit for part, by, unit in zip(parts, split, units, strict=True)]
    hidden = torch.relu(first + (moved[0] - parts[0])[:, None])
    middle = torch.relu(moved[1] @ hidden + moved[2][:, None])
    mean, log_scale = (moved[3] @ middle + moved[4][:, None]).chunk(2)
    bits = rate.laplace_bits(values - mean, log_scale).sum()
    bits.backward()  # type: ignore[no-untyped-call]
    assert changes.grad is not None
    assert float(sample.bits(changes.detach())) == pytest.approx(float(bits.detach()), rel=1e-5)
    found = sample.slopes(changes.detach(), first, values)
    assert torch.allclose(found, changes.grad, rtol=1e-3, atol=1e-4 * float(changes.grad.abs().max()))


@pytest.mark.cuda
def test_a_gpu_saves_as_much(field_prior: Prior) -> None:
    z, tensors = fields(60, 91), field_prior.tensors
    on_gpu = [values.cuda() for values in z]
    found, _ = adapt_rate(FieldModel.of(field_prior, torch.device("cuda")), tensors, on_gpu, Q.cuda(), 0)
    expected, _ = adapt_rate(FieldModel.of(field_prior, torch.device("cpu")), tensors, z, Q, 0)
    bits = [
        float(rate.rate(rate.to_floats(changed_rate(tensors, changes)), z, Q).sum())
        for changes in (None, expected, found)
    ]
    assert bits[0] - bits[2] == pytest.approx(bits[0] - bits[1], rel=0.05)


@pytest.mark.parametrize("cells", [50, 700])
def test_what_is_compiled_descends_as_far(cells: int) -> None:
    if not native.available():
        return
    torch.manual_seed(0)
    shapes = ((8,), (6, 8), (6,), (4, 6), (4,))
    parts, units = ([torch.randn(shape) * size for shape in shapes] for size in (0.5, 0.01))
    sample = _Sample(torch.randn(8, cells), torch.randn(2, cells).round(), 3 * cells, parts, units)
    start = torch.randint(-3, 4, (sum(part.numel() for part in parts),)).float()
    turns = [slice(0, cells // 2) if turn % 2 else slice(cells // 2, cells) for turn in range(STEPS)]
    found, expected = _compiled(sample, start, turns), _recorded(sample, start, turns)
    assert torch.allclose(found, expected, atol=0.02)
    assert float((found - start).abs().max()) > 1
