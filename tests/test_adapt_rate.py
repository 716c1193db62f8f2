import numpy as np
import pytest
import torch
from conftest import CHANNELS

from inrcodec import rate
from inrcodec.adapt_rate import adapt_rate
from inrcodec.deltas import Deltas, changed_rate, pack_deltas
from inrcodec.entropy import RateModel
from inrcodec.lattice import field_shapes
from inrcodec.objective import FieldModel
from inrcodec.options import conditioning
from inrcodec.prior import Prior

INDEX = 90
Q = torch.full((1, 1), conditioning(INDEX))


def fields(height: int, width: int, size: float = 4.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [(size * torch.randn(1, *s, generator=generator)).round() for s in field_shapes(height, width, CHANNELS)]


@pytest.mark.parametrize(("height", "width"), [(60, 91), (1, 1), (150, 3)])
def test_a_file_with_the_changes_is_smaller(field_prior: Prior, height: int, width: int) -> None:
    z = fields(height, width)
    found = adapt_rate(FieldModel.of(field_prior, torch.device("cpu")), field_prior.tensors, z, Q, 0)
    if found is None:
        assert height == 1  # one pixel pays for nothing
        return
    own = [values[0].numpy().astype(np.int32) for values in z]
    plain, adapted = (
        sum(map(len, RateModel(changed_rate(field_prior.tensors, changes), CHANNELS).encode(own, INDEX)))
        for changes in (None, found)
    )
    assert adapted + len(pack_deltas(Deltas(rate=found))[1]) < plain


def test_a_descent_goes_on_from_what_one_has_found(field_prior: Prior) -> None:
    z, model, tensors = fields(60, 91), FieldModel.of(field_prior, torch.device("cpu")), field_prior.tensors
    once = adapt_rate(model, tensors, z, Q, 0)
    twice = adapt_rate(model, tensors, z, Q, 0, before=once)
    bits = [
        float(rate.rate(model.weights | rate.to_floats(changed_rate(tensors, changes)), z, Q).sum())
        for changes in (None, once, twice)
    ]
    assert bits[2] < bits[1] < bits[0]


def test_rates_that_suit_already_are_left_alone(field_prior: Prior) -> None:
    z = fields(9, 12, size=0.4)
    assert adapt_rate(FieldModel.of(field_prior, torch.device("cpu")), field_prior.tensors, z, Q, 0) is None
