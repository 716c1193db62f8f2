from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from conftest import CHANNELS
from numpy.typing import NDArray

from inrcodec.deltas import (
    FILTER,
    MAX_RATE,
    Deltas,
    FilterDeltas,
    changed_filter,
    changed_rate,
    delta_counts,
    filter_units,
    pack_deltas,
    rate_units,
    unpack_deltas,
)
from inrcodec.entropy import RateModel, encode_deltas
from inrcodec.errors import PriorError, SinrError
from inrcodec.prior import Prior


def drawn(count: int, largest: int = 3) -> NDArray[np.int32]:
    rng = np.random.default_rng(0)
    return (rng.integers(-largest, largest + 1, count) * (rng.random(count) < 0.2)).astype(np.int32)


def some(prior: Prior) -> FilterDeltas:
    return FilterDeltas(5, drawn(delta_counts(prior.tensors)[0]))


def rate_count(prior: Prior) -> int:
    return delta_counts(prior.tensors)[1]


def test_groups_round_trip(field_prior: Prior) -> None:
    deltas = Deltas(some(field_prior), drawn(rate_count(field_prior), MAX_RATE))
    found = unpack_deltas(pack_deltas(deltas, field_prior.tensors), field_prior.tensors)
    assert found.filter is not None and deltas.filter is not None and found.filter.exponent == 5
    assert np.array_equal(found.filter.values, deltas.filter.values)
    assert found.rate is not None and deltas.rate is not None and np.array_equal(found.rate, deltas.rate)


@pytest.fixture
def tensors(expecting_prior: Prior) -> Mapping[str, NDArray[Any]]:
    return expecting_prior.tensors


def test_groups_of_a_prior_that_expects_something_round_trip(tensors: Mapping[str, NDArray[Any]]) -> None:
    of_filter, of_rate = delta_counts(tensors)
    deltas = Deltas(FilterDeltas(9, drawn(of_filter, 400)), drawn(of_rate))
    found = unpack_deltas(pack_deltas(deltas, tensors), tensors)
    assert found.filter is not None and deltas.filter is not None and found.filter.exponent == 9
    assert np.array_equal(found.filter.values, deltas.filter.values)
    assert found.rate is not None and deltas.rate is not None and np.array_equal(found.rate, deltas.rate)


def test_what_is_expected_costs_less(field_prior: Prior) -> None:
    tensors, rng = dict(field_prior.tensors), np.random.default_rng(2)
    count = delta_counts(tensors)[0]
    often = rng.choice([0.01, 0.5], count)
    values = np.where(rng.random(count) < often, 1 + rng.geometric(0.5, count), 0).astype(np.int32)
    chances = np.stack([often, np.full(count, 0.95), np.full(count, 0.5)]) * (1 << 16)
    likely = tensors | {"deltas.filter": chances.astype(np.uint16)}
    deltas = Deltas(FilterDeltas(8, values))
    assert len(pack_deltas(deltas, likely)[0]) < 0.9 * len(pack_deltas(deltas, tensors)[0])


def test_own_units_multiply_changes(field_prior: Prior, tensors: Mapping[str, NDArray[Any]]) -> None:
    of_filter, of_rate = delta_counts(tensors)
    same = {name: tensor for name, tensor in tensors.items() if name != "deltas.filter_unit"}
    own, ones = tensors["deltas.filter_unit"], FilterDeltas(6, np.ones(of_filter, np.int32))
    factors = 2.0**own
    once, plain = (filter_units(part, 6) for part in (tensors, same))
    assert np.array_equal(once, plain * factors)
    changed, usual, base = changed_filter(tensors, ones), changed_filter(same, ones), field_prior.tensors
    far, near = ((found["filter.out"] - base["filter.out"]).ravel() for found in (changed, usual))
    at = of_filter - far.size - 3
    assert np.allclose(far, near * factors[at : at + far.size], atol=1e-6)
    units = np.concatenate([unit.ravel() for level in rate_units(tensors) for unit in level.values()])
    usual_units = np.concatenate([unit.ravel() for level in rate_units(base) for unit in level.values()])
    larger = units / usual_units
    expected = 2.0 ** tensors["deltas.rate_unit"]
    assert np.all((larger == expected) | ((larger < expected) & (units == 1 << 10)))
    RateModel(changed_rate(tensors, np.full(of_rate, MAX_RATE, np.int32)), CHANNELS)  # sums are still exact


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("deltas.filter", lambda part: part[:, 1:]),
        ("deltas.rate", lambda part: part * 0),
        ("deltas.filter", lambda part: part.astype(np.int32)),
        ("deltas.filter_unit", lambda part: part[1:]),
        ("deltas.rate_unit", lambda part: part * 0 + 4),
        ("deltas.rate_unit", lambda part: part.astype(np.int16)),
    ],
)
def test_a_prior_that_expects_nonsense_is_refused(
    tensors: Mapping[str, NDArray[Any]], name: str, wrong: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    tensors = {**tensors, name: wrong(tensors[name])}
    of_filter, of_rate = (np.ones(count, np.int32) for count in delta_counts(tensors))
    with pytest.raises(PriorError, match=name):
        changed_filter(tensors, FilterDeltas(5, of_filter))
        changed_rate(tensors, of_rate)
        pack_deltas(Deltas(rate=of_rate), tensors)


def test_no_deltas_are_no_bytes(field_prior: Prior) -> None:
    tensors = field_prior.tensors
    assert pack_deltas(Deltas(), tensors) == (b"", b"")
    found = unpack_deltas((b"", b""), tensors)
    assert found.filter is None and found.rate is None
    for name, tensor in (changed_filter(tensors, None) | changed_rate(tensors, None)).items():
        assert np.array_equal(tensor, tensors[name])


def test_changes_are_multiples_of_the_unit_in_row_major_order(field_prior: Prior) -> None:
    deltas = some(field_prior)
    changed = changed_filter(field_prior.tensors, deltas)
    steps = [(changed[name] - field_prior.tensors[name]) * 2**5 for name in FILTER]
    assert not steps[1][:, 1:].any()  # of a bias, only the constant changes
    steps[1] = steps[1][:, 0]
    assert np.allclose(np.concatenate([part.ravel() for part in steps]), deltas.values, atol=1e-4)


def test_changes_of_the_rate_model_are_of_its_integers_and_in_order(field_prior: Prior) -> None:
    values, tensors = drawn(rate_count(field_prior)), field_prior.tensors
    changed, found = changed_rate(tensors, values), []
    for level, channels in enumerate(field_prior.architecture.channels):
        steps = {part: changed[f"rate.{level}.{part}"] - tensors[f"rate.{level}.{part}"] for part in
                 ("bias", "mid", "mid_bias", "head", "head_bias", "causal")}  # fmt: skip
        assert not steps["bias"][:, 1:].any() and not steps["causal"].any()
        found += [steps["bias"][:, 0] / 2**27, steps["mid"].ravel() / 2**7, steps["mid_bias"] / 2**15]
        found += [steps["head"][:channels].ravel() / 2**7, steps["head"][channels:].ravel() / 2**10]
        found += [steps["head_bias"][:channels] / 2**15, steps["head_bias"][channels:] / 2**18]
    assert np.array_equal(np.concatenate(found), values)
    assert changed["rate.0.mid"].dtype == np.int32 and changed["rate.0.bias"].dtype == np.int64


@pytest.mark.parametrize("data", [b"\x11", b"\xff\x01", b"\x05\xff", b"\x05\x01\xff", b"\x05\x10\x10" + 900 * b"\x55"])
def test_what_is_no_group_is_refused(field_prior: Prior, data: bytes) -> None:
    with pytest.raises(SinrError):
        unpack_deltas((data, b""), field_prior.tensors)


def test_a_change_of_the_rate_model_beyond_its_bounds_is_refused(field_prior: Prior) -> None:
    values = np.zeros(rate_count(field_prior), np.int32)
    values[3] = -MAX_RATE - 1
    with pytest.raises(SinrError, match="127"):
        unpack_deltas((b"", encode_deltas(values)), field_prior.tensors)
    with pytest.raises(SinrError):
        unpack_deltas((b"", 900 * b"\x55"), field_prior.tensors)
