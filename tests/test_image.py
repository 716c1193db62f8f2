"""Pictures: what is read, what is refused, and that metadata and files survive."""

import os
import struct
import zlib
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, features

from inrcodec.errors import ImageError, OutputError, OutputExistsError
from inrcodec.image import (
    Picture,
    check_output,
    find_pictures,
    flatten,
    format_picture,
    parse_picture,
    picture_size,
    read_mask,
    read_picture,
    write_atomically,
    write_picture,
)

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ICC_GREY = ICC[:16] + b"GRAY" + ICC[20:]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description/></x:xmpmeta>'

# A TIFF block by hand: Make "me", orientation 6, and a maker note that a rewriter would move.
EXIF = (
    b"MM\0*\0\0\0\x08\0\x03"
    b"\x01\x0f\0\x02\0\0\0\x03me\0\0"
    b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    b"\x92\x7c\0\x07\0\0\0\x08\0\0\0\x32"
    b"\0\0\0\0secret!\0"
)
UPRIGHT_EXIF = EXIF.replace(b"\0\x01\0\x06\0\0", b"\0\x01\0\x01\0\0")


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def picture(array: NDArray[np.generic], mode: str | None = None) -> Image.Image:
    image = Image.fromarray(array)
    return image if mode is None else image.convert(mode)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.tif", "a.qoi"])
def test_lossless_files_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    read = read_picture(saved(tmp_path / name, picture(COLOUR)))
    assert read.pixels.dtype == np.uint8
    assert np.array_equal(read.pixels, COLOUR)
    assert not read.grey
    assert read.metadata == {}
    read.pixels[0, 0, 0] ^= 1  # the array is the caller's own


def test_a_size_is_told_by_the_header_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(COLOUR))
    path.write_bytes(path.read_bytes()[:-40])
    assert picture_size(path) == (8, 6)
    path.write_text("no picture")
    assert picture_size(path) is None and picture_size(tmp_path) is None


def test_jpeg_webp_and_gif_are_read_as_pillow_has_them(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.webp", "a.gif"):
        path = saved(tmp_path / name, picture(COLOUR))
        with Image.open(path) as image:
            assert np.array_equal(read_picture(path).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_files_become_three_equal_channels(tmp_path: Path, mode: str) -> None:
    image = picture(GREY, mode)
    read = read_picture(saved(tmp_path / "a.png", image))
    assert read.grey
    assert np.array_equal(read.pixels, np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=2))


def test_palettes_are_expanded(tmp_path: Path) -> None:
    image = picture(COLOUR).quantize(5)
    read = read_picture(saved(tmp_path / "a.png", image))
    assert np.array_equal(read.pixels, np.asarray(image.convert("RGB")))
    assert not read.grey


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_opaque_alpha_is_dropped(tmp_path: Path, mode: str) -> None:
    image = picture(COLOUR, "P" if mode == "PA" else None).convert(mode)
    read = read_picture(saved(tmp_path / "a.tif", image) if mode == "PA" else saved(tmp_path / "a.png", image))
    assert np.array_equal(read.pixels, np.asarray(image.convert("RGB")))


def half_transparent() -> Image.Image:
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[2, 3], alpha[4, 5] = 0, 51
    return picture(np.dstack([COLOUR, alpha]))


def test_transparency_is_kept_or_put_on_white(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", half_transparent())
    kept = read_picture(path)
    assert np.array_equal(kept.pixels, COLOUR) and kept.alpha is not None
    assert (kept.alpha[2, 3], kept.alpha[4, 5], kept.alpha.sum()) == (0, 51, 46 * 255 + 51)
    read = read_picture(path, convert=True)
    expected = COLOUR.astype(float)
    expected[2, 3] = 255
    expected[4, 5] = 0.2 * expected[4, 5] + 0.8 * 255
    assert np.array_equal(read.pixels, np.rint(expected))


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_transparent_colour_counts_as_transparency(tmp_path: Path, mode: str) -> None:
    image = picture(np.zeros((6, 8, 3), np.uint8)).convert(mode)
    image.paste(255 if mode == "L" else 1 if mode == "P" else (255, 0, 0), (0, 0, 4, 3))
    colour = image.getpixel((0, 0))
    path = saved(tmp_path / "a.png", image, transparency=colour)
    alpha = read_picture(path).alpha
    assert alpha is not None and alpha[:3, :4].max() == 0 and alpha[3:].min() == 255
    read = read_picture(path, convert=True)
    assert read.pixels[:3, :4].min() == 255
    assert read.pixels[3:].max() == 0


def deep_png(path: Path, samples: NDArray[np.uint16], colour_type: int, extra: bytes = b"") -> Path:
    """A 16-bit PNG by hand: Pillow writes none in colour."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if extra:
        chunks.insert(1, (b"tRNS", extra))
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def test_deep_samples_are_kept_or_scaled(tmp_path: Path) -> None:
    grey = GREY.astype(np.uint16) * 257 + 9
    colour = COLOUR.astype(np.uint16) * 257 - (COLOUR > 9)
    paths = [
        deep_png(tmp_path / "grey.png", grey, 0),
        deep_png(tmp_path / "colour.png", colour, 2),
        saved(tmp_path / "grey.tif", picture(grey)),
        tmp_path / "grey.pgm",
        tmp_path / "colour.ppm",
    ]
    paths[3].write_bytes(b"P5 8 6 65535\n" + grey.astype(">u2").tobytes())
    paths[4].write_bytes(b"P6 8 6 65535\n" + colour.astype(">u2").tobytes())
    for path in paths:
        kept = read_picture(path)
        assert kept.bit_depth == 16 and np.array_equal(kept.to_array(), grey if path.stem == "grey" else colour)
        read = read_picture(path, convert=True)
        assert read.grey == (path.stem == "grey")
        assert np.array_equal(read.pixels, np.repeat(GREY[..., None], 3, axis=2) if read.grey else COLOUR)


def test_deep_grey_is_rounded_to_the_nearest_sample(tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1394
    read = read_picture(saved(tmp_path / "a.tif", picture(values)), convert=True)
    assert np.array_equal(read.pixels[..., 1], np.rint(values / 257))


def test_deep_samples_can_be_transparent(tmp_path: Path) -> None:
    grey = GREY.astype(np.uint16) * 257
    path = deep_png(tmp_path / "grey.png", grey, 0, struct.pack(">H", grey[3, 2]))
    alpha = read_picture(path).alpha
    assert alpha is not None and alpha[3, 2] == 0 and alpha[0, 0] == 65535
    assert read_picture(path, convert=True).pixels[3, 2].tolist() == [255] * 3
    colour = COLOUR.astype(np.uint16) * 257
    path = deep_png(tmp_path / "colour.png", colour, 2, colour[3, 2].astype(">u2").tobytes())
    read = read_picture(path, convert=True).pixels
    assert read[3, 2].tolist() == [255] * 3
    assert np.array_equal(read[:3], COLOUR[:3])
    alpha = read_picture(path).alpha
    assert alpha is not None and alpha[3, 2] == 0 and alpha[0, 0] == 65535


DEEP = np.random.default_rng(2).integers(0, 65536, (6, 8, 4), dtype=np.uint16)


@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_deep_pngs_of_all_kinds_are_read_and_written_to_the_bit(
    tmp_path: Path, channels: int, colour_type: int
) -> None:
    samples = DEEP[..., 0] if channels == 1 else DEEP[..., :channels]
    read = read_picture(deep_png(tmp_path / "a.png", samples, colour_type))
    assert np.array_equal(read.to_array(), samples)
    written = replace(read, metadata={"icc": ICC_GREY if channels < 3 else ICC, "exif": UPRIGHT_EXIF, "xmp": XMP})
    write_picture(written, tmp_path / "b.png")
    again = read_picture(tmp_path / "b.png")
    assert np.array_equal(again.to_array(), samples)
    assert again.metadata == written.metadata


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8], ids=["plain", "deflate"])
def test_deep_colour_tiffs_are_read_to_the_bit(tmp_path: Path, order: str, compression: int) -> None:
    samples = DEEP[..., :3].astype(f"{order}u2").tobytes()
    data = samples if compression == 1 else zlib.compress(samples)
    entries = [
        (256, 4, 8),
        (257, 4, 6),
        (259, 3, compression),
        (262, 3, 2),
        (273, 4, 8),
        (277, 3, 3),
        (279, 4, len(data)),
    ]
    at = 8 + len(data)
    directory = struct.pack(order + "H", len(entries) + 1)
    bits = at + 2 + 12 * (len(entries) + 1) + 4
    for tag, kind, value in sorted([*entries, (258, 3, bits)]):
        packed = struct.pack(order + ("I" if kind == 4 or tag == 258 else "H"), value).ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, kind, 3 if tag == 258 else 1) + packed
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    path = tmp_path / "a.tif"
    path.write_bytes(header + data + directory + bytes(4) + struct.pack(order + "3H", 16, 16, 16))
    assert np.array_equal(read_picture(path).to_array(), DEEP[..., :3])


def test_deep_pictures_are_turned_upright(tmp_path: Path) -> None:
    path = deep_png(tmp_path / "a.png", DEEP[..., :3], 2)
    data = path.read_bytes()
    exif = b"eXIf" + EXIF
    chunk = struct.pack(">I", len(EXIF)) + exif + struct.pack(">I", zlib.crc32(exif))
    path.write_bytes(data[:33] + chunk + data[33:])
    assert np.array_equal(read_picture(path).pixels, UPRIGHT[6](DEEP[..., :3]))


def test_formats_refuse_what_they_cannot_hold_unless_it_is_converted(tmp_path: Path) -> None:
    deep = Picture(DEEP[..., :3])
    clear = Picture(COLOUR, alpha=np.full((6, 8), 77, np.uint8))
    for picture, name in ((deep, "a.jpg"), (deep, "a.webp"), (deep, "a.tif"), (clear, "a.jpg")):
        with pytest.raises(OutputError, match="cannot hold"):
            format_picture(picture, tmp_path / name)
        assert parse_picture(format_picture(picture, tmp_path / name, convert=True), name).alpha is None
    for name in ("b.png", "b.webp", "b.tif"):
        write_picture(clear, tmp_path / name)
        assert np.array_equal(read_picture(tmp_path / name).to_array(), clear.to_array())


def test_flattening_makes_plain_pictures() -> None:
    flat = flatten(Picture(DEEP[..., :3], alpha=DEEP[..., 3]))
    opacity = DEEP[..., 3:] / 65535
    assert flat.alpha is None and flat.pixels.dtype == np.uint8
    assert np.abs(flat.pixels - (DEEP[..., :3] / 257 * opacity + 255 * (1 - opacity))).max() <= 0.501
    plain = Picture(COLOUR)
    assert flatten(plain) is plain


@pytest.mark.parametrize("channels", [None, 2, 3, 4])
def test_arrays_become_pictures_and_pictures_arrays(channels: int | None) -> None:
    for samples in (DEEP, (DEEP >> 8).astype(np.uint8)):
        array = samples[..., 0] if channels is None else samples[..., :channels]
        made = Picture.from_array(array)
        assert made.grey == (channels in (None, 2)) and (made.alpha is None) == (channels in (None, 3))
        assert np.array_equal(made.to_array(), array) and made.to_array().dtype == array.dtype


# An 8x6 AVIF of 10 bits (by libavif; Pillow writes 8 only): a ramp by 60, 40 and 20 in red, green and blue.
TEN_BIT_AVIF = b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAA"
    "AAAAAAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAALAAAAChpaW5mAAAAAAABAAAAGmluZmUC"
    "AAAAAAEAAGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAACAAAAAYAAAAQcGl4aQAAAAADCgoKAAAA"
    "DGF2MUOBIEAAAAAAE2NvbHJuY2x4AAIAAgAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAANG1kYXQSAAoIOAi9bwICBpAy"
    "HheCYwTAAPIKAACQPYCWpUsSE+//xCi8B2yWSzaYAg=="
)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_an_avif_of_ten_bits_is_refused_or_scaled(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.avif", picture(COLOUR))
    assert read_picture(path).pixels.shape == COLOUR.shape
    path.write_bytes(TEN_BIT_AVIF)
    with pytest.raises(ImageError, match="expected 8 or 16 bits per sample, found 10"):
        read_picture(path)
    read = read_picture(path, convert=True).pixels
    ramp = np.add.outer(np.arange(6), np.arange(8))[..., None] * np.array([60, 40, 20]) / 1023 * 255
    assert np.abs(read - ramp).mean() < 2


def test_floats_are_refused_or_taken_as_linear_light(tmp_path: Path) -> None:
    light = np.array([[-3, 0, 0.001, 0.2140411, 1, 700, np.inf]], np.float32)
    path = saved(tmp_path / "a.tif", picture(light))
    with pytest.raises(ImageError, match="found floating-point ones"):
        read_picture(path)
    read = read_picture(path, convert=True)
    assert read.grey and read.pixels[..., 0].tolist() == [[0, 0, 3, 127, 255, 255, 255]]
    path = saved(tmp_path / "b.tif", picture(light * np.float32(np.nan)))
    with pytest.raises(ImageError, match="NaN"):
        read_picture(path, convert=True)


def test_integers_beyond_16_bits_are_refused_even_with_convert(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", picture(GREY.astype(np.int32) + 70_000))
    with pytest.raises(ImageError, match=r"0\.\.65535"):
        read_picture(path, convert=True)


def test_cmyk_is_refused_or_converted_without_its_profile(tmp_path: Path) -> None:
    image = picture(COLOUR, "CMYK")
    path = saved(tmp_path / "a.tif", image, icc_profile=ICC[:16] + b"CMYK" + ICC[20:])
    with pytest.raises(ImageError, match="found CMYK"):
        read_picture(path)
    read = read_picture(path, convert=True)
    assert np.array_equal(read.pixels, np.asarray(image.convert("RGB")))
    assert "icc" not in read.metadata


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_several_pictures_are_refused_or_the_first_is_taken(tmp_path: Path, name: str) -> None:
    first, second = picture(np.zeros_like(COLOUR)), picture(np.full_like(COLOUR, 255))
    path = saved(tmp_path / name, first, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match="found several"):
        read_picture(path)
    assert read_picture(path, convert=True).pixels.max() == 0


def test_the_first_picture_of_an_mpo_is_its_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", picture(COLOUR), format="MPO", save_all=True, append_images=[picture(GREY)])
    assert read_picture(path).pixels.shape == COLOUR.shape


# What a viewer must show for each orientation: the EXIF standard (CIPA DC-008, 4.6.5.1.6) says which sides of
# the picture the file's first row and first column are.
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored[::-1].transpose(1, 0, 2),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_the_picture_is_upright_and_says_so(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    path = saved(
        tmp_path / name,
        picture(COLOUR),
        exif=exif.tobytes(),
        **({"lossless": True} if name == "a.webp" else {}),
    )
    read = read_picture(path)
    assert np.array_equal(read.pixels, UPRIGHT[orientation](COLOUR))
    kept = Image.Exif()
    kept.load(read.metadata["exif"])
    assert kept.get(0x0112, 1) == 1
    assert kept[0x010F] == "maker"


def test_nothing_of_an_exif_block_changes_but_the_orientation(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", picture(COLOUR), exif=b"Exif\0\0" + EXIF)
    assert read_picture(path).metadata["exif"] == UPRIGHT_EXIF
    assert read_picture(path).pixels.shape == (8, 6, 3)


@pytest.mark.parametrize("size", range(0, 48, 5))
def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path: Path, size: int) -> None:
    path = saved(tmp_path / "a.png", picture(COLOUR), exif=b"Exif\0\0" + EXIF[:size])
    read = read_picture(path)
    assert read.pixels.size == COLOUR.size
    assert "exif" not in read.metadata or len(read.metadata["exif"]) == size


@pytest.mark.parametrize("form", [b'<a tiff:Orientation="6"/>', b"<tiff:Orientation>6</tiff:Orientation>"])
def test_an_orientation_in_xmp_alone_is_applied_and_reset(tmp_path: Path, form: bytes) -> None:
    path = saved(tmp_path / "a.jpg", picture(COLOUR), xmp=form)
    read = read_picture(path)
    assert read.pixels.shape == (8, 6, 3)
    assert read.metadata == {"xmp": form.replace(b"6", b"1")}


def test_exif_in_a_text_chunk_is_found(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    block = b"Exif\0\0" + UPRIGHT_EXIF
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    path = saved(tmp_path / "a.png", picture(COLOUR), pnginfo=text)
    kept = Image.Exif()
    kept.load(read_picture(path).metadata["exif"])
    assert kept[0x010F] == "me"


def test_the_tags_that_store_a_tiff_are_not_kept(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", picture(COLOUR), description="a picture", xmp=XMP)
    exif = Image.Exif()
    exif.load(read_picture(path).metadata["exif"])
    assert dict(exif) == {0x010E: "a picture"}


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.TIFF", "a.JPEG"])
def test_metadata_survive_writing_and_reading(tmp_path: Path, name: str) -> None:
    written = Picture(COLOUR, metadata={"icc": ICC, "exif": UPRIGHT_EXIF, "xmp": XMP})
    write_picture(written, tmp_path / name)
    read = read_picture(tmp_path / name)
    assert read.metadata["icc"] == ICC
    assert read.metadata["xmp"] == XMP
    exif = Image.Exif()
    exif.load(read.metadata["exif"])
    assert exif[0x010F] == "me"
    if name.lower().endswith(("png", "jpg", "jpeg", "webp")):
        assert read.metadata["exif"] == UPRIGHT_EXIF


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.tiff"])
def test_read_inverts_write_for_lossless_formats(tmp_path: Path, name: str) -> None:
    write_picture(Picture(COLOUR), tmp_path / name)
    assert np.array_equal(read_picture(tmp_path / name).pixels, COLOUR)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_grey_pictures_are_written_with_one_channel(tmp_path: Path, name: str) -> None:
    write_picture(Picture(np.repeat(GREY[..., None], 3, axis=2), grey=True), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.mode == "L"
    assert read_picture(tmp_path / name).grey


def test_a_jpeg_is_close_to_the_picture(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None] * 9, (24, 16, 3))
    write_picture(Picture(smooth), tmp_path / "a.jpg")
    assert np.abs(read_picture(tmp_path / "a.jpg").pixels.astype(int) - smooth).max() <= 4


def test_writing_refuses_formats_and_contents_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.png.*found '\.xyz'"):
        write_picture(Picture(COLOUR), tmp_path / "a.xyz")
    with pytest.raises(OutputError, match="cannot be written as WEBP"):
        write_picture(Picture(np.zeros((1, 16384, 3), np.uint8)), tmp_path / "a.webp")
    with pytest.raises(OutputError, match="cannot be written as JPEG"):
        write_picture(Picture(COLOUR, metadata={"exif": bytes(70_000)}), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def png_of(width: int, height: int) -> bytes:
    data = BytesIO()
    picture(GREY).save(data, "PNG")
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return data.getvalue()[:16] + header + crc + data.getvalue()[33:]


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "found an empty file"),
    "text": (b"no picture, just words\n" * 9, "found none of them"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n", "found none of them"),
    "header only": (png_of(8, 6)[:33], "cannot read|found none"),
    "no width": (png_of(0, 6), "a.png: "),
    "no height": (png_of(8, 0), "a.png: "),
    "too wide": (png_of(32769, 1), "32768 a side"),
    "too high": (png_of(1, 32769), "32768 a side"),
    "too many pixels": (png_of(16385, 16384), "268435456 pixels"),
    "more than Pillow's own limit": (png_of(32768, 32768), "268435456 pixels"),
    "more than a file can hold": (png_of(2**31 - 1, 2**31 - 1), "a.png: "),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("convert", [False, True])
def test_what_is_not_a_whole_picture_is_refused(tmp_path: Path, name: str, convert: bool) -> None:
    data, message = REFUSED[name]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match=message):
        read_picture(tmp_path / "a.png", convert=convert)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.bmp", "a.ppm"])
def test_every_truncation_is_refused_or_harmless(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, picture(COLOUR))
    whole, data = read_picture(path).pixels, path.read_bytes()
    for size in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:size])
        try:
            assert np.array_equal(read_picture(path).pixels, whole)
        except ImageError as error:
            assert str(path) in str(error)


def test_a_png_whose_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", picture(COLOUR))
    data = bytearray(path.read_bytes())
    end = data.index(b"IEND") - 4
    data[end - 1] ^= 1  # the last byte of the CRC of IDAT, which decoding alone would not look at
    path.write_bytes(data)
    with pytest.raises(ImageError, match="cannot read"):
        read_picture(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(ImageError, match="expected a file"):
        read_picture(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="expected a file"):
        read_picture(tmp_path / "pipe")
    with pytest.raises(OutputError, match="expected a file or nothing"):
        write_atomically(tmp_path / "pipe", b"data", overwrite=True)


def test_pictures_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpg", "a.txt", "c.webp", "d.png/e.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)]
    assert names == ["a/z.jpg", "b.PNG", "c.webp", "d.png/e.tif"]
    with pytest.raises(ImageError, match="found none"):
        (tmp_path / "empty").mkdir()
        find_pictures(tmp_path / "empty")
    with pytest.raises(ImageError, match="found no folder"):
        find_pictures(tmp_path / "b.PNG")


def test_reading_leaves_pillow_as_it_was(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", picture(COLOUR))
    before = Image.MAX_IMAGE_PIXELS
    read_picture(path)
    path.write_bytes(b"")
    with pytest.raises(ImageError):
        read_picture(path)
    assert Image.MAX_IMAGE_PIXELS == before


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.sinr"
    write_atomically(path, b"first")
    with pytest.raises(OutputExistsError, match=r"a\.sinr: exists already"):
        write_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    write_atomically(path, b"third", overwrite=True)
    assert path.read_bytes() == b"third"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.sinr"
    monkeypatch.setattr(os, "fsync", lambda _: path.write_bytes(b"another process"))
    with pytest.raises(OutputExistsError):
        write_atomically(path, b"ours")
    assert path.read_bytes() == b"another process"
    assert list(tmp_path.iterdir()) == [path]


def test_file_systems_without_links_are_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_atomically(tmp_path / "a.sinr", b"data")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.sinr", b"data")]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_behind_by_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (tmp_path / "a.sinr").write_bytes(b"old")

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_atomically(tmp_path / "a.sinr", b"new", overwrite=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.sinr", b"old")]


def test_a_mask_is_where_a_picture_is_neither_black_nor_transparent(tmp_path: Path) -> None:
    bits = np.arange(48).reshape(6, 8) % 5 > 1
    for mode in ("1", "L", "RGB"):
        path = saved(tmp_path / f"{mode}.png", Image.fromarray(bits).convert(mode))
        assert np.array_equal(read_mask(path), bits)
    assert read_mask(saved(tmp_path / "a.png", half_transparent())).sum() == 47


def test_an_output_is_checked_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "new.sinr", overwrite=False)
    (tmp_path / "old.sinr").touch()
    check_output(tmp_path / "old.sinr", overwrite=True)
    with pytest.raises(OutputExistsError):
        check_output(tmp_path / "old.sinr", overwrite=False)
    with pytest.raises(OutputError, match="expected a folder"):
        check_output(tmp_path / "nowhere" / "new.sinr", overwrite=False)
    with pytest.raises(OutputError, match="expected a file or nothing"):
        check_output(tmp_path, overwrite=True)


def test_bytes_are_read_like_the_file_they_are_from(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", picture(COLOUR))
    assert np.array_equal(parse_picture(path.read_bytes(), "stdin").pixels, COLOUR)
    with pytest.raises(ImageError, match="stdin: .*found an empty file"):
        parse_picture(b"", "stdin")
    assert format_picture(Picture(COLOUR), Path("x.png")).startswith(b"\x89PNG")
