"""Properties that hold for all inputs; those of one module alone are in its tests (bitstream, entropy, metrics)."""

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import golden
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from inrcodec.bitstream import unpack
from inrcodec.codec import decode, delta_step, dequantize, quantize, read_parameters, view_of
from inrcodec.entropy import MAX_VALUE, RateModel
from inrcodec.errors import InrcodecError, PriorError, SinrError
from inrcodec.grid import sample_axis
from inrcodec.image import Picture, read_picture, write_atomically, write_picture
from inrcodec.lattice import cells, field_shapes, taps
from inrcodec.options import DecodeOptions, index_quality, quality_index
from inrcodec.prior import parse_prior
from inrcodec.render import View, render

FIELDS, NETWORK = golden.carried_prior("fields"), golden.carried_prior("network")
MODEL, CHANNELS = RateModel(FIELDS.tensors, FIELDS.architecture.channels), FIELDS.architecture.channels
FILE = (golden.FOLDER / "fields-q60.sinr").read_bytes()
PARAMETERS = read_parameters(unpack(FILE), FIELDS)
FEW = settings(max_examples=50, deadline=None)  # the machine may be busy
MANY = settings(deadline=None)

sides = st.integers(1, 12)
indices = st.integers(0, 255)


@FEW
@given(st.data(), sides, sides, indices)
def test_fields_of_any_size_and_values_round_trip(data: st.DataObject, height: int, width: int, index: int) -> None:
    numbers = st.integers(-3, 3) | st.integers(-MAX_VALUE, MAX_VALUE)
    shapes = field_shapes(height, width, CHANNELS)
    fields = [data.draw(arrays.arrays(np.int32, shape, elements=numbers)) for shape in shapes]
    found = MODEL.decode(MODEL.encode(fields, index), shapes, index)
    assert all(np.array_equal(a, b) for a, b in zip(found, fields, strict=True))


@FEW
@given(st.lists(st.binary(max_size=40), min_size=3, max_size=3), sides, sides, indices)
def test_any_streams_are_fields_or_raise_ours(streams: list[bytes], height: int, width: int, index: int) -> None:
    shapes = field_shapes(height, width, CHANNELS)
    try:
        fields = MODEL.decode(streams, shapes, index)
    except SinrError:
        return
    assert [z.shape for z in fields] == shapes
    assert all(np.abs(z).max() <= MAX_VALUE for z in fields)


@FEW
@given(arrays.arrays(np.float32, st.integers(1, 30), elements=st.floats(-0.5, 0.5, width=32)), indices)
def test_quantized_deltas_are_within_half_a_step(deltas: NDArray[np.float32], index: int) -> None:
    found = dequantize(NETWORK, 1, index, quantize(NETWORK, 1, index, deltas))
    assert np.abs(found - deltas).max() <= 0.5001 * delta_step(NETWORK, 1, index)


@MANY
@given(st.floats(1, 100), st.floats(1, 100))
def test_quality_orders_indices(a: float, b: float) -> None:
    assert (quality_index(a) <= quality_index(b)) or a > b
    assert abs(index_quality(quality_index(a)) - a) <= 0.5 * 99 / 255 + 1e-9


@MANY
@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_the_samples_of_an_axis_average_to_coarser_ones(size: int, samples: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    coarse, fine = (sample_axis(size, start, stop, count) for count in (samples, 4 * samples))
    assert start < fine[0] and fine[-1] < stop and np.all(np.diff(fine) > 0)
    assert np.allclose(fine.reshape(-1, 4).mean(1), coarse)


@MANY
@given(
    arrays.arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 300)),
    st.integers(0, 6),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
def test_interpolation_weights_sum_to_one(positions: NDArray[np.float64], level: int, b: float, c: float) -> None:
    count = cells(300, level)
    index, weights = taps(positions, level, count, b, c)
    assert index.min() >= 0 and index.max() < count
    assert np.allclose(weights.sum(1), 1)


@MANY
@given(st.data(), st.integers(1, 500), st.integers(1, 500), st.floats(0.01, 4))
def test_a_view_has_the_size_of_its_region_times_scale(
    data: st.DataObject, height: int, width: int, scale: float
) -> None:
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    region = (x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
    view = view_of(height, width, DecodeOptions(scale=scale, region=region))
    assert (view.left, view.top, view.width, view.height) == region
    assert abs(view.columns - region[2] * scale) <= 1 and abs(view.rows - region[3] * scale) <= 1


@FEW
@given(st.data())
def test_any_part_of_a_rendering_is_bit_for_bit_that_part(data: st.DataObject) -> None:
    view = View(44, 74, 0, 0, 22, 37)
    whole = render(FIELDS, PARAMETERS, view)
    top, left = data.draw(st.integers(0, 43)), data.draw(st.integers(0, 73))
    rows = slice(top, data.draw(st.integers(top + 1, 44)))
    columns = slice(left, data.draw(st.integers(left + 1, 74)))
    assert np.array_equal(render(FIELDS, PARAMETERS, view, (rows, columns)), whole[rows, columns])


@MANY
@given(st.integers(0, len(FILE) - 4), st.binary(min_size=4, max_size=4).filter(any))
def test_damage_within_four_bytes_is_always_found(at: int, change: bytes) -> None:
    damaged = bytearray(FILE)
    for offset, bits in enumerate(change):
        damaged[at + offset] ^= bits
    with pytest.raises(SinrError):
        unpack(bytes(damaged))


@FEW
@given(st.binary(max_size=400))
def test_random_bytes_are_neither_a_file_nor_a_prior(data: bytes) -> None:
    with pytest.raises(InrcodecError):
        decode(data)
    with pytest.raises(PriorError):
        parse_prior(data, "x")


@FEW
@given(arrays.arrays(np.uint8, st.tuples(sides, sides, st.just(3))), st.sampled_from((".png", ".webp", ".tif")))
def test_any_picture_survives_lossless_formats(pixels: NDArray[np.uint8], suffix: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write_picture(Picture(pixels), path)
        assert np.array_equal(read_picture(path).pixels, pixels)


@FEW
@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_a_file_holds_what_was_written_last(first: bytes, second: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        for data in (first, second):
            write_atomically(path, data, overwrite=True)
            assert [found.read_bytes() for found in path.parent.iterdir()] == [data]


@FEW
@given(arrays.arrays(np.uint8, st.tuples(sides, sides, st.just(3))), st.integers(0, 60))
def test_a_png_cut_short_is_refused_or_whole(pixels: NDArray[np.uint8], missing: int) -> None:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) - missing])
        try:
            assert np.array_equal(read_picture(path).pixels, pixels)
        except InrcodecError as error:
            assert missing and str(path) in str(error)
