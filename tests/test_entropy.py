import numpy as np
import pytest
import torch
from conftest import CHANNELS, field_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inrcodec import native
from inrcodec.entropy import ESCAPE, REACH, TABLE_SUM, RateModel, decode_deltas, encode_deltas
from inrcodec.errors import PriorError, SinrError
from inrcodec.lattice import field_shapes
from inrcodec.options import conditioning
from inrcodec.prior import Prior
from inrcodec.rate import rate, to_floats, to_integers


def random_fields(height: int, width: int, spread: float, seed: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    return [np.rint(rng.laplace(0, spread, s)).astype(np.int32) for s in field_shapes(height, width, CHANNELS)]


@pytest.fixture(scope="module")
def model(field_prior: Prior) -> RateModel:
    return RateModel(field_prior.tensors, CHANNELS)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (13, 1), (66, 31), (150, 5)])
@pytest.mark.parametrize("spread", [0.0, 0.4, 30.0])
def test_decode_gives_back_what_encode_was_given(model: RateModel, height: int, width: int, spread: float) -> None:
    fields = random_fields(height, width, spread, seed=height)
    streams = model.encode(fields, 77)
    assert not any(stream.endswith(b"\0") for stream in streams)
    back = model.decode(streams, [z.shape for z in fields], 77)
    for expected, found in zip(fields, back, strict=True):
        assert np.array_equal(expected, found)


def test_cells_that_are_passed_over_cost_nothing_and_are_zero(model: RateModel) -> None:
    fields = random_fields(150, 31, 3.0, seed=5)
    coded = [np.tile(np.arange(z.shape[2]) < 4, (z.shape[1], 1)) for z in fields]
    for mask in coded:
        mask[70:] = False  # whole stripes
    kept = [z * mask for z, mask in zip(fields, coded, strict=True)]
    streams = model.encode(kept, 77, coded)
    back = model.decode(streams, [z.shape for z in fields], 77, coded)
    assert all(np.array_equal(a, b) for a, b in zip(kept, back, strict=True))
    narrow = [z[:, :70, :4] for z in kept]
    assert sum(map(len, streams)) < 1.1 * sum(map(len, model.encode(narrow, 77)))
    everywhere = [np.ones(z.shape[1:], bool) for z in fields]
    assert model.encode(fields, 77, everywhere) == model.encode(fields, 77)
    nowhere = [~mask for mask in everywhere]
    assert model.encode([z * 0 for z in fields], 77, nowhere) == [b""] * len(fields)


def test_what_is_compiled_takes_and_refuses_the_same_streams(model: RateModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams as they are, with a bit flipped, cut short, with bytes more, and of bytes drawn at random."""
    if not native.available():
        pytest.skip("there was no C compiler when the package was installed")

    def decoded(streams: list[bytes], shapes: list[tuple[int, int, int]]) -> bytes | str:
        try:
            return b"".join(z.tobytes() for z in model.decode(streams, shapes, 50))
        except SinrError as error:
            return str(error).split("(")[0]

    rng, kinds = np.random.default_rng(7), set[type]()
    for trial in range(200):
        shapes = field_shapes(1 + trial % 11, 1 + trial % 7, CHANNELS)
        spread = [0.1, 1, 40, 3000][trial % 4]
        fields = [np.rint(rng.laplace(0, spread, s)).clip(-32767, 32767).astype(np.int32) for s in shapes]
        streams = [bytearray(stream) for stream in model.encode(fields, 50)]
        chosen = streams[int(rng.integers(len(streams)))]
        match trial // 4 % 5:
            case 1 if chosen:
                chosen[rng.integers(len(chosen))] ^= 1 << rng.integers(8)
            case 2:
                del chosen[rng.integers(len(chosen) + 1) :]
            case 3:
                chosen += rng.bytes(int(rng.integers(1, 9)))
            case 4:
                chosen[:] = rng.bytes(int(rng.integers(30)))
        found = decoded([bytes(stream) for stream in streams], shapes)
        with monkeypatch.context() as plain:
            plain.setattr(native, "_kernels", None)
            assert decoded([bytes(stream) for stream in streams], shapes) == found
        kinds.add(type(found))
    assert kinds == {bytes, str}


def test_blocks_of_stripes_are_independent_of_the_size_of_the_picture(model: RateModel) -> None:
    fields = random_fields(530, 3, 0.5, seed=1)  # more than 8 stripes
    back = model.decode(model.encode(fields, 0), [z.shape for z in fields], 0)
    assert all(np.array_equal(a, b) for a, b in zip(fields, back, strict=True))


def test_extreme_values_survive(model: RateModel) -> None:
    fields = random_fields(9, 14, 0.5, seed=2)
    for z in fields:
        z.flat[0], z.flat[-1] = 32767, -32767
    back = model.decode(model.encode(fields, 255), [z.shape for z in fields], 255)
    assert all(np.array_equal(a, b) for a, b in zip(fields, back, strict=True))


def test_values_out_of_range_are_refused(model: RateModel) -> None:
    fields = random_fields(9, 14, 0.5, seed=2)
    fields[1][0, 0, 0] = 32768
    with pytest.raises(ValueError, match="32767"):
        model.encode(fields, 0)


def test_a_prefix_of_the_streams_is_a_preview(model: RateModel) -> None:
    fields = random_fields(20, 14, 1.0, seed=3)
    preview = model.decode(model.encode(fields, 9)[:2], [z.shape for z in fields], 9)
    assert not preview[0].any()
    assert np.array_equal(preview[1], fields[1])


def test_streams_are_as_long_as_the_torch_model_predicts(model: RateModel, field_prior: Prior) -> None:
    fields = random_fields(90, 70, 0.6, seed=4)
    q = torch.full((1, 1), conditioning(60))
    planes = [torch.from_numpy(z).float()[None] for z in fields]
    predicted = rate(to_floats(field_prior.tensors), planes, q).flip(1)[0]
    for stream, bits in zip(model.encode(fields, 60), predicted.tolist(), strict=True):
        assert len(stream) * 8 == pytest.approx(bits, rel=0.01, abs=40)


def plain_symbols(
    tensors: dict[str, NDArray[np.int64]], fields: list[NDArray[np.int32]], n: int
) -> list[tuple[int, int]]:
    """Means (1/16) and table rows in raster order of level 0 of a two-level model: the spec in plain Python."""
    coarse, fine = fields[1], fields[0]

    def value(z: NDArray[np.int32], c: int, y: int, x: int) -> int:
        return int(z[c, y, x]) if 0 <= y < z.shape[1] and 0 <= x < z.shape[2] else 0

    def dot(row: NDArray[np.int64], values: list[int]) -> int:
        return sum(int(w) * v for w, v in zip(row.tolist(), values, strict=True))

    def clip(v: int) -> int:
        return min(max(v, 0), 1 << 16)

    taps = [
        (-2, -2),
        (-2, -1),
        (-2, 0),
        (-2, 1),
        (-2, 2),
        (-1, -2),
        (-1, -1),
        (-1, 0),
        (-1, 1),
        (0, -2),
        (0, -1),
    ]
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    t, out = tensors, []
    for y in range(fine.shape[1]):
        for x in range(fine.shape[2]):
            seen = [value(coarse, c, y // 2 + dy, x // 2 + dx) for c in range(len(coarse)) for dy, dx in around]
            trunk = [
                clip((dot(row, seen) >> 4) + int(b))
                for row, b in zip(t["rate.1.trunk"], t["rate.1.trunk_bias"], strict=True)
            ]
            causal = [value(fine, 0, y + dy, x + dx) if (y + dy) // 64 == y // 64 else 0 for dy, dx in taps]
            hidden = []
            for i, row in enumerate(t["rate.0.causal"]):
                phase = 4 * i + 2 * (y % 2) + x % 2
                above = (dot(t["rate.0.above"][phase], trunk) + int(t["rate.0.above_bias"][phase])) >> 12
                b0, b1, b2 = (int(b) for b in t["rate.0.bias"][i])
                hidden.append(clip((dot(row, causal) >> 4) + above + ((b0 + b1 * n + b2 * n * n) >> 24)))
            middle = [
                clip((dot(r, hidden) + int(b)) >> 12)
                for r, b in zip(t["rate.0.mid"], t["rate.0.mid_bias"], strict=True)
            ]
            mean, scale = (
                dot(r, middle) + int(b) for r, b in zip(t["rate.0.head"], t["rate.0.head_bias"], strict=True)
            )
            mean, scale = (mean + (1 << 15)) >> 16, min(max((scale + (1 << 19)) >> 20, 0), 63)
            centre = (mean + 8) >> 4
            out.append((centre, scale * 16 + mean - 16 * centre + 8))
    return out


@pytest.mark.usefixtures("arithmetic")
def test_probabilities_are_those_of_the_spec_in_plain_integers() -> None:
    from inrcodec.entropy import _Wavefronts
    from inrcodec.rate import init_rate

    weights = init_rate((1, 2), 8, 5, 4, torch.Generator().manual_seed(5))
    tensors = to_integers({name: 3 * value for name, value in weights.items()})
    rng = np.random.default_rng(6)
    fields = [rng.integers(-9, 10, shape, dtype=np.int32) for shape in field_shapes(67, 5, (1, 2))]
    model, n = RateModel(tensors, (1, 2)), 255 - 2 * 31
    expected = plain_symbols(tensors, fields, n)

    ((_, above),) = model._blocks(0, fields, 31)
    waves = _Wavefronts(67, 5)
    padded = waves.pad(fields[0].astype(np.float64))
    for wave in waves:
        cells = waves.cells[wave]
        centre, row = model.levels[0].symbols(padded, waves, wave, above)
        assert list(zip(centre.tolist(), row.tolist(), strict=True)) == [expected[i] for i in cells]
    assert len({row for _, row in expected}) > 20  # the case is not trivial


def test_table_rows_are_probabilities_with_an_escape(field_prior: Prior) -> None:
    table = field_prior.tensors["rate.table"]
    assert table.shape[1] == ESCAPE + 1
    assert (table >= 1).all() and (table.sum(1) == TABLE_SUM).all()
    middle = table[20 * 16 + 8]
    assert middle[REACH] == middle.max()


def test_damaged_streams_decode_to_something_or_raise_ours(model: RateModel) -> None:
    fields = random_fields(20, 14, 1.0, seed=7)
    streams, shapes, rng = model.encode(fields, 9), [z.shape for z in fields], np.random.default_rng(8)
    for _ in range(60):
        broken = [bytearray(stream) for stream in streams]
        for part in broken:
            part[rng.integers(len(part))] ^= 1 << rng.integers(8)
        try:
            model.decode([bytes(part) for part in broken], shapes, 9)
        except SinrError:
            pass


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rate.0.causal", lambda t: t[:, :-1]),
        ("rate.0.causal", lambda t: t.astype(np.int64)),
        ("rate.1.head", lambda t: t[:-1]),
        ("rate.0.mid", lambda t: t + (1 << 18)),
        ("rate.1.bias", lambda t: t + (1 << 40)),
        ("rate.table", lambda t: t + 1),
    ],
)
def test_a_rate_model_that_does_not_fit_is_refused(field_prior: Prior, name: str, change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PriorError):
        RateModel({**field_prior.tensors, name: change(field_prior.tensors[name])}, CHANNELS)


def test_a_missing_tensor_is_named(field_prior: Prior) -> None:
    tensors = {k: v for k, v in field_prior.tensors.items() if k != "rate.1.mid"}
    with pytest.raises(PriorError, match=r"rate\.1\.mid"):
        RateModel(tensors, CHANNELS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-32767, 32767) | st.just(0) | st.integers(-3, 3), max_size=200))
def test_deltas_round_trip(values: list[int]) -> None:
    array = np.array(values, np.int32)
    data = encode_deltas(array)
    assert not data.endswith(b"\0")
    assert np.array_equal(decode_deltas(data, len(values)), array)


def test_deltas_cost_about_their_entropy() -> None:
    rng = np.random.default_rng(9)
    values = np.rint(rng.laplace(0, 1.2, 20000)).astype(np.int32)
    _, counts = np.unique(values, return_counts=True)
    share = counts / counts.sum()
    assert len(encode_deltas(values)) * 8 < 1.03 * 20000 * -(share * np.log2(share)).sum()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 300))
def test_any_bytes_are_deltas_or_raise_ours(data: bytes, count: int) -> None:
    try:
        assert decode_deltas(data, count).shape == (count,)
    except SinrError:
        pass


def test_field_weights_keep_their_meaning_as_integers() -> None:
    weights = field_weights(3)
    for name, value in to_floats(to_integers(weights)).items():
        assert torch.allclose(value, weights[name], atol=3e-3), name
