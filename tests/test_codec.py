from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from inrcodec import codec
from inrcodec.bitstream import Colour, SinrFile, pack, unpack
from inrcodec.codec import convert, decode, dequantize, encode, encode_together, quantize, read_parameters
from inrcodec.entropy import RateModel
from inrcodec.errors import ImageError, OptionError, PriorError, SinrError, TruncatedFileError
from inrcodec.image import Picture
from inrcodec.lattice import field_shapes
from inrcodec.metrics import psnr
from inrcodec.options import DecodeOptions, EncodeOptions, Target
from inrcodec.prior import Prior
from inrcodec.render import render_at


def picture_of(pixels: NDArray[np.uint8]) -> Picture:
    return Picture(pixels, grey=False, metadata={})


@pytest.fixture(params=["fields", "network"])
def prior(request: pytest.FixtureRequest, field_prior: Prior, network_prior: Prior) -> Prior:
    return field_prior if request.param == "fields" else network_prior


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 13), (9, 1), (22, 37)])
def test_a_picture_of_any_size_comes_back_at_its_size(
    prior: Prior, picture: NDArray[np.uint8], height: int, width: int
) -> None:
    encoded = encode(picture_of(picture[:height, :width]), EncodeOptions(steps=2), prior=prior)
    assert (encoded.height, encoded.width) == (height, width)
    assert encoded.bits_per_pixel == len(encoded.data) * 8 / (height * width)
    assert decode(encoded.data, prior=prior).pixels.shape == (height, width, 3)


@pytest.mark.parametrize("name", ["photo", "sparse-siren"])
def test_quality_and_steps_make_a_picture_better_and_quality_makes_it_larger(
    name: str, picture: NDArray[np.uint8]
) -> None:
    def result(quality: float, steps: int) -> tuple[int, float]:
        data = encode(picture_of(picture), EncodeOptions(quality, steps, name)).data
        return len(data), psnr(decode(data).pixels, picture)

    sizes, scores = zip(*(result(quality, 20) for quality in (5, 50, 95)), strict=True)
    assert sorted(sizes) == list(sizes) and sorted(scores) == list(scores)
    if name == "sparse-siren":  # the other has a good first guess: steps save its bits, too
        assert result(95, 2)[1] < scores[-1]


def test_the_same_options_give_the_same_bytes(prior: Prior, picture: NDArray[np.uint8]) -> None:
    a, b = (encode(picture_of(picture), EncodeOptions(steps=3), prior=prior).data for _ in range(2))
    assert a == b


@pytest.mark.parametrize("options", [EncodeOptions(steps=0), EncodeOptions(steps=3, seed=3)])
def test_files_made_together_are_those_made_alone(
    prior: Prior, picture: NDArray[np.uint8], options: EncodeOptions
) -> None:
    alpha = np.where(np.arange(37) < 20, picture[..., 0], 0).astype(np.uint8)
    deep = picture[::-1].astype(np.uint16) * 257 + 5
    pictures = [picture_of(picture), Picture(255 - picture, metadata={"xmp": b"<x/>"}, alpha=alpha), Picture(deep)]
    for known in (None, np.arange(37) % 4 + np.zeros((22, 1)) > 0):
        together = encode_together(pictures, options, prior=prior, known=known)
        alone = [encode(each, options, prior=prior, known=known) for each in pictures]
        assert together == alone


def test_a_wide_file_is_that_of_its_cells_twice_as_large(field_prior: Prior) -> None:
    rng = np.random.default_rng(3)
    channels = field_prior.architecture.channels
    fields = [np.rint(rng.laplace(0, 1.5, s)).astype(np.int32) for s in field_shapes(11, 19, channels)]
    streams = RateModel(field_prior.tensors, channels).encode(fields, 90)
    cells = SinrFile(19, 11, Colour.RGB, 8, 90, 90, field_prior.id, (b"", b"", *streams))
    wide = replace(cells, width=37, height=22, spacing=2)

    def samples(file: SinrFile, scale: float, region: tuple[int, int, int, int] | None = None) -> NDArray[np.uint8]:
        return decode(pack(file), DecodeOptions(scale=scale, region=region), prior=field_prior).pixels

    assert samples(wide, 1).shape == (22, 37, 3)
    for scale in (1, 3):
        whole = samples(cells, 2 * scale)[:, : 37 * scale].astype(int)
        assert np.abs(samples(wide, scale) - whole).max() <= 1
        part = samples(wide, scale, (5, 3, 8, 6))
        assert np.abs(part - whole[3 * scale : 9 * scale, 5 * scale : 13 * scale]).max() <= 1
    positions = np.array([[0.5, 0.5], [6.5, 3.5], [36.5, 21.5]])
    at = render_at(field_prior, read_parameters(wide, field_prior), positions) * 255
    assert np.abs(at - samples(wide, 1)[[0, 3, 21], [0, 6, 36]]).max() <= 1


def test_a_wide_file_needs_fields(network_prior: Prior, picture: NDArray[np.uint8]) -> None:
    file = unpack(encode(picture_of(picture), EncodeOptions(steps=1), prior=network_prior).data)
    with pytest.raises(SinrError, match="no fields whose cells could be 2 pixels apart"):
        decode(pack(replace(file, spacing=2)), prior=network_prior)


def test_where_wide_cells_pay_they_save_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[0:45, 0:66]
    striped = np.where(((x + y) // 2 % 3 == 0)[..., None], [220, 190, 40], [20, 60, 120]).astype(np.uint8)
    soft = np.stack([128 + 90 * np.sin(x / 9 + c) * np.cos(y / 11) for c in range(3)], -1).astype(np.uint8)
    options = EncodeOptions(quality=20, steps=10)
    for pixels, spacing in ((soft, 2), (striped, 1)):
        chosen = encode(picture_of(pixels), options).data
        assert unpack(chosen).spacing == spacing
        costs = []
        for forced in (1, 2):
            monkeypatch.setattr(codec, "best_spacing", lambda *_, forced=forced: forced)
            data = encode(picture_of(pixels), options).data
            error = np.square(decode(data).pixels.astype(float) - pixels).sum()
            costs.append(error / unpack(data).lam + 8 * len(data))
            assert (data == chosen) == (forced == spacing)
        monkeypatch.undo()
        assert costs.index(min(costs)) == spacing - 1


def test_wide_pictures_keep_opacity_depth_and_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "best_spacing", lambda *_: 2)
    y, x = np.mgrid[0:21, 0:34]
    grey = np.repeat((128 + 90 * np.sin(x / 5) * np.cos(y / 6))[..., None], 3, axis=2).astype(np.uint16) * 257
    alpha = (40000 + 500 * x).astype(np.uint16)
    data = encode(Picture(grey, grey=True, alpha=alpha), EncodeOptions(steps=2)).data
    found = decode(data)
    assert unpack(data).spacing == 2 and found.grey and found.pixels.dtype == np.uint16
    assert found.alpha is not None and np.array_equal(found.alpha, alpha)
    assert np.sqrt(np.mean(np.square(found.pixels / 257 - grey / 257))) < 8


@pytest.mark.parametrize("target", [Target(bpp=0.4), Target(psnr=33)])
def test_targets_are_met_with_wide_cells(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[0:67, 0:90]
    soft = np.stack([128 + 90 * np.sin(x / 7 + c) * np.cos(y / 8) for c in range(3)], -1).astype(np.uint8)
    monkeypatch.setattr(codec, "best_spacing", lambda *_: 2)
    found = encode(picture_of(soft), EncodeOptions(steps=10, target=target))
    assert not found.missed and unpack(found.data).spacing == 2


def test_header_overhead_of_a_plain_picture_is_at_most_40_bytes(prior: Prior, picture: NDArray[np.uint8]) -> None:
    encoded = encode(picture_of(picture), EncodeOptions(steps=1), prior=prior)
    assert len(encoded.data) - sum(encoded.groups) <= 40


def test_grey_and_metadata_come_back(prior: Prior, picture: NDArray[np.uint8]) -> None:
    grey = Picture(np.repeat(picture[..., :1], 3, axis=2), grey=True, metadata={"icc": b"profile", "xmp": b"<x/>"})
    found = decode(encode(grey, EncodeOptions(steps=1), prior=prior).data, prior=prior)
    assert found.grey and dict(found.metadata) == {"icc": b"profile", "xmp": b"<x/>"}
    assert np.array_equal(found.pixels[..., 0], found.pixels[..., 2])


def test_views_have_the_size_that_was_asked_for(prior: Prior, picture: NDArray[np.uint8]) -> None:
    data = encode(picture_of(picture), EncodeOptions(steps=1), prior=prior).data

    def shape(options: DecodeOptions) -> tuple[int, ...]:
        return decode(data, options, prior=prior).pixels.shape

    assert shape(DecodeOptions(scale=4)) == (88, 148, 3)
    assert shape(DecodeOptions(scale=0.01)) == (1, 1, 3)
    assert shape(DecodeOptions(size=(10, 5))) == (5, 10, 3)
    assert shape(DecodeOptions(region=(30, 20, 7, 2))) == (2, 7, 3)
    assert shape(DecodeOptions(region=(30, 20, 7, 2), scale=3)) == (6, 21, 3)
    with pytest.raises(OptionError, match="not inside"):
        shape(DecodeOptions(region=(31, 20, 7, 2)))


def test_a_region_is_that_part_of_the_picture(prior: Prior, picture: NDArray[np.uint8]) -> None:
    data = encode(picture_of(picture), EncodeOptions(steps=1), prior=prior).data
    whole, part = (
        decode(data, prior=prior).pixels,
        decode(data, DecodeOptions(region=(9, 4, 20, 11)), prior=prior).pixels,
    )
    assert np.abs(whole[4:15, 9:29].astype(int) - part).max() <= 1


def test_a_self_contained_file_opens_without_its_prior(prior: Prior, picture: NDArray[np.uint8]) -> None:
    plain = encode(picture_of(picture), EncodeOptions(steps=1), prior=prior).data
    carried = encode(picture_of(picture), EncodeOptions(steps=1), prior=prior, self_contained=True).data
    assert np.array_equal(decode(carried).pixels, decode(plain, prior=prior).pixels)
    with pytest.raises(PriorError, match="not bundled"):
        decode(plain)


def test_another_prior_is_refused(field_prior: Prior, network_prior: Prior, picture: NDArray[np.uint8]) -> None:
    data = encode(picture_of(picture), EncodeOptions(steps=1), prior=field_prior).data
    with pytest.raises(PriorError, match=network_prior.id.hex()):
        decode(data, prior=network_prior)


def test_groups_that_do_not_fit_the_prior_are_refused(prior: Prior, picture: NDArray[np.uint8]) -> None:
    file = unpack(encode(picture_of(picture), EncodeOptions(steps=1), prior=prior).data)
    with pytest.raises(SinrError, match="parameter groups"):
        decode(pack(replace(file, groups=file.groups[:-1])), prior=prior)
    with pytest.raises(SinrError):
        read_parameters(replace(file, groups=(b"\xff" * 300,) * len(file.groups)), prior)


def test_quantization_is_within_half_a_step(network_prior: Prior) -> None:
    from inrcodec.codec import delta_step

    deltas = np.linspace(-0.3, 0.3, 50).astype(np.float32)
    for index in (0, 200):
        steps = quantize(network_prior, 1, index, deltas)
        error = np.abs(dequantize(network_prior, 1, index, steps) - deltas).max()
        assert error <= delta_step(network_prior, 1, index) * 0.5001


def test_levels_make_a_preview_of_a_file_that_is_cut_short(field_prior: Prior, picture: NDArray[np.uint8]) -> None:
    encoded = encode(picture_of(picture), EncodeOptions(80, steps=20), prior=field_prior)
    cut = encoded.data[: -encoded.groups[-1] - 5]  # the finest level is missing
    whole = decode(encoded.data, prior=field_prior).pixels
    previews = [decode(cut, DecodeOptions(levels=k), prior=field_prior).pixels for k in (1, 2, 3)]
    assert np.array_equal(previews[1], previews[2])
    assert psnr(previews[0], whole) < psnr(previews[1], whole)
    assert np.array_equal(decode(encoded.data, DecodeOptions(levels=3), prior=field_prior).pixels, whole)
    with pytest.raises(TruncatedFileError, match="coarsest level"):
        decode(encoded.data[: -sum(encoded.groups) - 5], DecodeOptions(levels=1), prior=field_prior)
    with pytest.raises(TruncatedFileError):
        decode(cut, prior=field_prior)


def test_files_of_a_network_alone_have_no_preview(network_prior: Prior, picture: NDArray[np.uint8]) -> None:
    data = encode(picture_of(picture), EncodeOptions(steps=1), prior=network_prior).data
    with pytest.raises(OptionError, match="no levels"):
        decode(data, DecodeOptions(levels=1), prior=network_prior)


def test_converting_there_and_back_gives_the_same_file(prior: Prior, picture: NDArray[np.uint8]) -> None:
    plain = encode(Picture(picture, metadata={"xmp": b"<x/>"}), EncodeOptions(steps=1), prior=prior).data
    carried = convert(plain, self_contained=True, prior=prior)
    assert np.array_equal(decode(carried).pixels, decode(plain, prior=prior).pixels)
    assert convert(carried, self_contained=False) == plain
    assert decode(convert(carried, self_contained=True, strip=True)).metadata == {}


def test_opacity_comes_back_to_the_bit_and_16_bits_as_16(prior: Prior, picture: NDArray[np.uint8]) -> None:
    for kind, top in ((np.uint8, 255), (np.uint16, 65535)):
        alpha = (np.arange(22 * 37).reshape(22, 37) % 300 / 300 * top).astype(kind)
        made = Picture(picture.astype(kind) * (top // 255), alpha=alpha)
        found = decode(encode(made, EncodeOptions(steps=1), prior=prior).data, prior=prior)
        assert found.pixels.dtype == kind and np.array_equal(found.alpha, alpha)  # type: ignore[arg-type]


def test_16_bits_are_finer_than_8(prior: Prior, picture: NDArray[np.uint8]) -> None:
    shallow, deep = (
        encode(Picture(picture.astype(kind) * factor), EncodeOptions(steps=1), prior=prior).data
        for kind, factor in ((np.uint8, 1), (np.uint16, 257))
    )
    fine = decode(deep, prior=prior).pixels
    assert np.abs(fine / 257 - decode(shallow, prior=prior).pixels).max() <= 0.51
    assert (fine % 257 != 0).mean() > 0.3


def test_what_is_fully_transparent_costs_nothing_but_its_outline(picture: NDArray[np.uint8]) -> None:
    alone = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    alone[:32] = picture[:1, :1]
    canvas, alpha = np.full((192, 224, 3), 90, np.uint8), np.zeros((192, 224), np.uint8)
    canvas[64:128, 96:192], alpha[64:128, 96:192] = alone, 255
    for steps in (0, 3):
        options = EncodeOptions(steps=steps)
        wide, own = encode(Picture(canvas, alpha=alpha), options), encode(Picture(alone), options)
        assert sum(wide.groups) < 1.03 * sum(own.groups)
        assert len(wide.data) - sum(wide.groups) < len(own.data) - sum(own.groups) + 60
        shown, expected = decode(wide.data).pixels[alpha > 0], alone.reshape(-1, 3)
        assert psnr(shown, expected) > psnr(decode(own.data).pixels.reshape(-1, 3), expected) - 0.1


def test_colours_of_a_picture_that_is_all_transparent_do_not_matter(
    prior: Prior, field_prior: Prior, picture: NDArray[np.uint8]
) -> None:
    clear = np.zeros((22, 37), np.uint8)
    options = EncodeOptions(steps=2, target=Target(psnr=60))
    for each in (prior, field_prior):
        a, b = (encode(Picture(p, alpha=clear), options, prior=each).data for p in (picture, 255 - picture))
        assert a == b


def test_what_is_not_known_does_not_count_and_is_filled_in(prior: Prior, picture: NDArray[np.uint8]) -> None:
    known = np.random.default_rng(0).random((22, 37)) < 0.6
    other = np.where(known[..., None], picture, 255 - picture)
    a, b = (
        encode(Picture(pixels), EncodeOptions(steps=3), prior=prior, known=known).data for pixels in (picture, other)
    )
    assert a == b


def test_the_bundled_prior_fills_in_better_than_neighbours_do(picture: NDArray[np.uint8]) -> None:
    smooth = np.repeat(picture[..., :1], 3, axis=2)
    known = np.random.default_rng(0).random((22, 37)) < 0.5
    found = decode(encode(Picture(smooth), EncodeOptions(80, steps=20), known=known).data).pixels
    neighbour = np.roll(smooth, 1, axis=1)
    assert psnr(found[~known], smooth[~known]) > psnr(neighbour[~known], smooth[~known]) + 3


def test_a_mask_has_the_size_of_the_picture_and_something_known(prior: Prior, picture: NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError, match="expected 37 x 22 as the picture has, found 22 x 37"):
        encode(Picture(picture), EncodeOptions(steps=1), prior=prior, known=np.ones((37, 22), bool))
    with pytest.raises(ImageError, match="none is known"):
        encode(Picture(picture), EncodeOptions(steps=1), prior=prior, known=np.zeros((22, 37), bool))


def test_a_preview_of_a_file_that_is_cut_short_has_its_opacity(field_prior: Prior, picture: NDArray[np.uint8]) -> None:
    alpha = np.full((22, 37), 9, np.uint8)
    data = encode(Picture(picture, alpha=alpha), EncodeOptions(steps=1), prior=field_prior).data
    for part in (data, data[:-6]):
        found = decode(part, DecodeOptions(levels=2), prior=field_prior).alpha
        assert found is not None and np.array_equal(found, alpha)


def test_a_post_filter_is_used_where_it_brings_a_picture_nearer(post_prior: Prior, picture: NDArray[np.uint8]) -> None:
    """One that only adds to all colours helps where too little is decoded, and harms where it is too much."""
    tensors = {**post_prior.tensors, "post.out": np.zeros_like(post_prior.tensors["post.out"])}
    for bias in (0.1, -0.1):
        tensors["post.out_bias"] = np.full(3, bias, np.float32)
        prior = replace(post_prior, tensors=tensors)
        made = unpack(encode(picture_of(picture), EncodeOptions(steps=0), prior=prior).data)
        errors = [
            np.square(picture - decode(pack(replace(made, post=post)), prior=prior).pixels.astype(float)).sum()
            for post in (False, True)
        ]
        assert made.post == (errors[1] < errors[0]) == (bias < 0)


def test_what_is_not_seen_has_no_say_in_whether_there_is_a_post_filter(
    post_prior: Prior, picture: NDArray[np.uint8]
) -> None:
    tensors = {**post_prior.tensors, "post.out": np.zeros_like(post_prior.tensors["post.out"])}
    tensors["post.out_bias"] = np.full(3, 0.1, np.float32)
    prior = replace(post_prior, tensors=tensors)
    brighter = np.where(np.arange(37)[:, None] < 20, 0, 255).astype(np.uint8) + np.zeros_like(picture)
    for dark in (True, False):
        known = np.zeros((22, 37), bool) | ((np.arange(37) < 20) == dark)
        file = unpack(encode(picture_of(brighter), EncodeOptions(steps=0), prior=prior, known=known).data)
        assert file.post != dark


def test_a_file_that_asks_for_a_post_filter_needs_one(field_prior: Prior, picture: NDArray[np.uint8]) -> None:
    file = unpack(encode(picture_of(picture), EncodeOptions(steps=0), prior=field_prior).data)
    assert not file.post
    with pytest.raises(SinrError, match="no post-filter"):
        decode(pack(replace(file, post=True)), prior=field_prior)
