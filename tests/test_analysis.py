import torch
from conftest import CHANNELS, OMEGAS, field_weights

from inrcodec.analysis import analyse
from inrcodec.lattice import field_shapes


def test_fields_have_the_shapes_of_the_lattice_for_any_size() -> None:
    for height, width in ((1, 1), (1, 9), (22, 37), (16, 8)):
        fields = analyse(field_weights(), torch.rand(1, 3, height, width) - 0.5, torch.zeros(1, 1), CHANNELS, OMEGAS)
        assert [tuple(z.shape[1:]) for z in fields] == field_shapes(height, width, CHANNELS)


def test_a_guess_depends_on_picture_and_quality() -> None:
    picture = torch.rand(1, 3, 12, 9) - 0.5
    weights = field_weights()
    weights["analysis.0.in_bias"] = torch.randn(6, 3)
    a, b = (analyse(weights, picture, torch.full((1, 1), q), CHANNELS, OMEGAS) for q in (0.0, 0.8))
    c = analyse(weights, -picture, torch.zeros(1, 1), CHANNELS, OMEGAS)
    assert not torch.equal(a[0], b[0])
    assert not torch.equal(a[0], c[0])
