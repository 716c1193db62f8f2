"""The same numbers everywhere: in a second decoder, in any number of threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import plain_decoder
import pytest
from conftest import CHANNELS
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from inrcodec.bitstream import Colour, SinrFile, pack, unpack
from inrcodec.codec import encode, read_parameters
from inrcodec.deltas import Deltas, changed_rate, delta_counts, pack_deltas
from inrcodec.entropy import Expected, RateModel, decode_deltas, encode_deltas
from inrcodec.image import Picture
from inrcodec.lattice import field_shapes
from inrcodec.options import EncodeOptions
from inrcodec.prior import Prior


def random_fields(height: int, width: int, spread: float) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(height)
    return [np.rint(rng.laplace(0, spread, s)).astype(np.int32) for s in field_shapes(height, width, CHANNELS)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (6, 8), (67, 5), (515, 1)])
@pytest.mark.parametrize("spread", [0.0, 0.4, 3.0, 400.0])
def test_a_decoder_written_from_the_spec_finds_the_same_fields(
    field_prior: Prior, height: int, width: int, spread: float
) -> None:
    fields = random_fields(height, width, spread)
    streams = RateModel(field_prior.tensors, CHANNELS).encode(fields, 40)
    file = SinrFile(width, height, Colour.RGB, 8, 40, 40, field_prior.id, (b"", b"", *streams), prior=field_prior.data)
    container = plain_decoder.read_container(pack(file))
    meta, tensors = plain_decoder.read_tensors(container.chunks[1])
    found = plain_decoder.read_fields(container, meta["channels"], tensors)
    assert [np.asarray(z).shape for z in found] == [z.shape for z in fields]
    assert all(np.array_equal(a, b) for a, b in zip(found, fields, strict=True))


@pytest.mark.parametrize("spread", [0.0, 0.3, 5.0, 900.0])
def test_a_decoder_written_from_the_spec_finds_the_same_deltas(spread: float) -> None:
    rng = np.random.default_rng(3)
    deltas = np.rint(rng.laplace(0, spread, 400)).clip(-32767, 32767).astype(np.int32)
    likely = rng.integers(1, 1 << 16, (3, 400)).astype(np.uint16)
    for expected, plain in ((None, None), (Expected(*likely), likely.tolist())):
        group = encode_deltas(deltas, expected)
        found = decode_deltas(group, 400, expected).tolist()
        assert plain_decoder.read_deltas(group, 400, plain) == deltas.tolist() == found


def test_a_decoder_written_from_the_spec_finds_the_same_changes(expecting_prior: Prior) -> None:
    tensors, rng, fields = expecting_prior.tensors, np.random.default_rng(4), random_fields(22, 37, 0.8)
    _, count = delta_counts(tensors)
    changes = np.where(rng.random(count) < 0.2, rng.integers(-9, 10, count), 0).astype(np.int32)
    streams = RateModel(changed_rate(tensors, changes), CHANNELS).encode(fields, 40)
    groups = (*pack_deltas(Deltas(rate=changes), tensors), *streams)
    file = SinrFile(37, 22, Colour.RGB, 8, 40, 40, expecting_prior.id, groups, prior=expecting_prior.data)
    container = plain_decoder.read_container(pack(file))
    meta, plain = plain_decoder.read_tensors(container.chunks[1])
    found = plain_decoder.read_fields(container, meta["channels"], plain)
    assert all(np.array_equal(a, b) for a, b in zip(found, fields, strict=True))


def test_a_decoder_written_from_the_spec_reads_what_encode_writes(
    field_prior: Prior, network_prior: Prior, picture: NDArray[np.uint8]
) -> None:
    disc = np.hypot(*(np.mgrid[:22, :37] - 9.5)) < 6  # far from all but two of the borders
    for quality, alpha in ((5, None), (95, np.where(disc, 200, 0).astype(np.uint8))):
        data = encode(
            Picture(picture, alpha=alpha), EncodeOptions(quality, steps=3), prior=field_prior, self_contained=True
        ).data
        container = plain_decoder.read_container(data)
        meta, tensors = plain_decoder.read_tensors(container.chunks[1])
        expected = read_parameters(unpack(data), field_prior).fields
        found = plain_decoder.read_fields(container, meta["channels"], tensors)
        found = [plain_decoder.shown(container, level, field) for level, field in enumerate(found)]
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))

        data = encode(Picture(picture), EncodeOptions(quality, steps=3), prior=network_prior).data
        for layer, group in enumerate(plain_decoder.read_container(data).groups):
            count = int(network_prior.mask(layer).sum()) + len(network_prior.mask(layer))
            assert plain_decoder.read_deltas(group, count) == decode_deltas(group, count).tolist()


def test_threads_do_not_change_the_numbers(field_prior: Prior) -> None:
    fields = random_fields(530, 260, 0.7)
    model, shapes = RateModel(field_prior.tensors, CHANNELS), [z.shape for z in fields]
    with threadpool_limits(1):
        streams = model.encode(fields, 90)
        one = model.decode(streams, shapes, 90)
    with threadpool_limits(2):
        assert model.encode(fields, 90) == streams
        two = model.decode(streams, shapes, 90)
    with ThreadPoolExecutor(2) as pool:
        beside = [pool.submit(model.decode, streams, shapes, 90) for _ in range(2)]
        for found in (one, two, *(job.result() for job in beside)):
            assert all(np.array_equal(a, b) for a, b in zip(found, fields, strict=True))
