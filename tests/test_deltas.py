import numpy as np
import pytest

from inrcodec.deltas import PARTS, FilterDeltas, apply_deltas, pack_deltas, unpack_deltas
from inrcodec.errors import SinrError
from inrcodec.prior import Prior


def some(prior: Prior) -> FilterDeltas:
    shapes = [prior.tensors[name].shape for name in PARTS]
    count = sum(int(np.prod(shape)) for shape in shapes) - 2 * shapes[1][0]
    rng = np.random.default_rng(0)
    return FilterDeltas(5, (rng.integers(-3, 4, count) * (rng.random(count) < 0.2)).astype(np.int32))


def test_groups_round_trip(field_prior: Prior) -> None:
    deltas = some(field_prior)
    found = unpack_deltas(pack_deltas(deltas), field_prior.tensors)
    assert found is not None and found.exponent == 5
    assert np.array_equal(found.values, deltas.values)


def test_no_deltas_are_no_bytes(field_prior: Prior) -> None:
    assert pack_deltas(None) == b""
    assert unpack_deltas(b"", field_prior.tensors) is None
    for name, tensor in apply_deltas(field_prior.tensors, None).items():
        assert np.array_equal(tensor, field_prior.tensors[name])


def test_changes_are_multiples_of_the_unit_in_row_major_order(field_prior: Prior) -> None:
    deltas = some(field_prior)
    changed = apply_deltas(field_prior.tensors, deltas)
    steps = [(changed[name] - field_prior.tensors[name]) * 2**5 for name in PARTS]
    assert not steps[1][:, 1:].any()  # of a bias, only the constant changes
    steps[1] = steps[1][:, 0]
    assert np.allclose(np.concatenate([part.ravel() for part in steps]), deltas.values, atol=1e-4)


@pytest.mark.parametrize("data", [b"\x11", b"\xff\x01", b"\x05\xff", b"\x05\x01\xff", b"\x05\x10\x10" + 900 * b"\x55"])
def test_what_is_no_group_is_refused(field_prior: Prior, data: bytes) -> None:
    with pytest.raises(SinrError):
        unpack_deltas(data, field_prior.tensors)
