import numpy as np
import torch
from conftest import CHANNELS, OMEGAS, field_weights

from inrcodec.lattice import field_shapes, interpolation_matrix
from inrcodec.synthesis import haloed, inputs, synthesize, upsample


def random_fields(height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *s, generator=generator) for s in field_shapes(height, width, CHANNELS)]


def test_upsample_is_the_interpolation_of_lattice() -> None:
    values = torch.randn(1, 2, 4, 7)
    kernel = torch.tensor([0.4, 0.3])
    for level in (1, 2, 3):
        size = 1 << level
        fine = upsample(haloed(values), size, kernel)
        rows, down = interpolation_matrix(np.arange(4 * size) + 0.5, level, 4, 0.4, 0.3)
        columns, across = interpolation_matrix(np.arange(7 * size) + 0.5, level, 7, 0.4, 0.3)
        expected = torch.from_numpy(down) @ values[0, :, rows, columns] @ torch.from_numpy(across).T
        assert torch.allclose(fine[0], expected, atol=1e-5)


def test_inputs_of_a_coarse_level_ignore_finer_fields() -> None:
    weights, fields, q = field_weights(), random_fields(13, 22), torch.tensor([[0.2], [-0.5]])
    before = inputs(weights, fields, q, level=1)
    assert before.shape == (2, sum(CHANNELS), 7, 11)
    fields[0] += 1
    assert torch.equal(before, inputs(weights, fields, q, level=1))


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    weights, fields, q = field_weights(), random_fields(9, 14), torch.tensor([[0.2], [-0.5]])
    whole = synthesize(weights, fields, q, OMEGAS)
    second = synthesize(weights, [z[1:] for z in fields], q[1:], OMEGAS)
    assert torch.allclose(whole[1:], second, atol=1e-6)


def test_inputs_are_fields_in_units_of_their_gain() -> None:
    weights, fields, q = field_weights(), random_fields(9, 14), torch.tensor([[0.0], [1.0]])
    planes = inputs(weights, fields, q)
    assert planes.shape == (2, sum(CHANNELS), 9, 14)
    assert torch.allclose(planes[0, 0], fields[0][0, 0] * np.exp(-2.0))
    assert torch.allclose(planes[1, 0], fields[0][1, 0] * np.exp(-0.8))
