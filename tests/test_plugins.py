"""Pillow and imageio open and save .sinr files."""

import io
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

import inrcodec
import inrcodec.plugins.imageio
import inrcodec.plugins.pillow
from inrcodec.errors import ImageError, OptionError
from inrcodec.metrics import psnr
from inrcodec.prior import Prior


@pytest.fixture
def saved(tmp_path: Path, picture: NDArray[np.uint8]) -> Path:
    """A picture with metadata, saved by Pillow with the default prior."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Artist] = 6, "me"
    path = tmp_path / "photo.sinr"
    Image.fromarray(picture).save(path, quality=90, steps=2, exif=exif, xmp=b"<x/>")
    return path


def test_pillow_opens_what_it_saves(saved: Path, picture: NDArray[np.uint8]) -> None:
    with Image.open(saved) as image:
        assert (image.format, image.size, image.mode) == ("SINR", (22, 37), "RGB")  # upright
        assert image.getexif() == {ExifTags.Base.Orientation: 1, ExifTags.Base.Artist: "me"}
        assert image.info["xmp"] == b"<x/>"
        pixels = np.asarray(image)
    assert np.array_equal(pixels, inrcodec.decode(saved.read_bytes()))
    assert psnr(np.rot90(picture, -1), pixels) > 20
    with Image.open(io.BytesIO(saved.read_bytes())) as image:
        assert image.convert("L").size == (22, 37)


def test_pillow_saves_what_it_opened_as_other_formats_with_metadata(saved: Path, tmp_path: Path) -> None:
    with Image.open(saved) as image:
        image.save(tmp_path / "a.jpg", exif=image.info["exif"])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.getexif()[ExifTags.Base.Artist] == "me"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_pillow_saves_every_mode_that_a_picture_can_have(mode: str, picture: NDArray[np.uint8]) -> None:
    file = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(file, "SINR", steps=0)
    assert Image.open(file).mode == ("L" if mode in ("1", "L") else "RGB")


@pytest.mark.parametrize(("mode", "opened"), [("LA", "LA"), ("RGBA", "RGBA"), ("I;16", "I;16")])
def test_pillow_keeps_opacity_and_16_bits_of_grey(mode: str, opened: str, picture: NDArray[np.uint8]) -> None:
    file = io.BytesIO()
    image = (
        Image.fromarray(picture[..., 0] * np.uint16(257)) if mode == "I;16" else Image.fromarray(picture).convert(mode)
    )
    if mode != "I;16":
        image.putalpha(Image.fromarray(picture[..., 1]))
    image.save(file, "SINR", steps=0)
    with Image.open(file) as found:
        assert found.mode == opened
        if mode != "I;16":
            assert np.array_equal(np.asarray(found)[..., -1], picture[..., 1])
        assert found.resize((4, 3)).size == (4, 3)


def test_pillow_takes_an_effort(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    Image.fromarray(picture).save(tmp_path / "a.sinr", effort=1)
    saved = (tmp_path / "a.sinr").read_bytes()
    assert saved == inrcodec.encode(picture, steps=10) == inrcodec.encode(picture, effort=1)


def test_pillow_reduces_16_bits_of_colour(picture: NDArray[np.uint8]) -> None:
    data = inrcodec.encode(picture * np.uint16(257), steps=0)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.rint(inrcodec.decode(data) / 257))
    assert iio.imread(data, extension=".sinr").dtype == iio.improps(data, extension=".sinr").dtype == np.uint16


def test_pillow_refuses_what_cannot_be_kept(picture: NDArray[np.uint8]) -> None:
    with pytest.raises(OSError, match="CMYK"):
        Image.fromarray(picture).convert("CMYK").save(io.BytesIO(), "SINR")
    with pytest.raises(OptionError, match="quality"):
        Image.fromarray(picture).save(io.BytesIO(), "SINR", quality=0)
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"SINR\x01 and then nonsense"))


def test_thumbnails_decode_few_samples(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(saved) as image:
        assert image.draft(None, (5, 9)) == ("RGB", (0, 0, 6, 10))
        assert image.size == image.convert("RGB").size == (6, 10)
    with Image.open(saved) as image:
        image.thumbnail((8, 8), reducing_gap=1)
        assert image.size == (5, 8)
    with Image.open(saved) as image:
        image.draft(None, (1, 1))
        small = np.asarray(image)
    assert small.shape == (3, 2, 3)
    with Image.open(saved) as image:
        whole = np.asarray(image.resize((2, 3), Image.Resampling.BOX))
    assert psnr(small, whole) > 20


def test_a_prior_by_name_or_file_is_an_option(tmp_path: Path, picture: NDArray[np.uint8], field_prior: Prior) -> None:
    (tmp_path / "mine.safetensors").write_bytes(field_prior.data)
    image = Image.fromarray(picture)
    image.save(tmp_path / "a.sinr", prior=str(tmp_path / "mine.safetensors"), steps=1, self_contained=True)
    with Image.open(tmp_path / "a.sinr") as image:
        assert np.asarray(image).shape == picture.shape


def test_imageio_reads_what_it_writes(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    path = tmp_path / "photo.sinr"
    iio.imwrite(path, picture, quality=80, steps=1)
    assert np.array_equal(iio.imread(path), inrcodec.decode(path.read_bytes()))
    assert iio.imread(path, scale=2).shape == (44, 74, 3)
    assert iio.imread(path.read_bytes(), extension=".sinr").shape == picture.shape
    assert iio.improps(path).shape == picture.shape
    assert iio.immeta(path)["quality"] == pytest.approx(80, abs=0.3)
    assert [array.shape for array in iio.imiter(path)] == [picture.shape]
    data = iio.imwrite("<bytes>", picture[..., 0], extension=".sinr", steps=1)
    assert inrcodec.decode(data).shape == (22, 37)
    with pytest.raises(IndexError):
        iio.imread(path, index=1)
    with pytest.raises(ImageError):
        iio.imwrite(path, picture / 255.0)


def test_imageio_opens_other_formats_as_before(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    iio.imwrite(tmp_path / "a.png", picture)
    assert np.array_equal(iio.imread(tmp_path / "a.png"), picture)
    with pytest.raises(OSError):
        iio.imread(tmp_path / "a.png", plugin="inrcodec")
