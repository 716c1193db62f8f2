"""The library: arrays in, arrays out, and samples anywhere."""

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import inrcodec
from inrcodec import api
from inrcodec.prior import Prior


@pytest.fixture(params=["fields", "network"])
def prior(request: pytest.FixtureRequest, field_prior: Prior, network_prior: Prior, tmp_path: Path) -> Path:
    """The file of a prior."""
    path = tmp_path / "prior.safetensors"
    path.write_bytes((field_prior if request.param == "fields" else network_prior).data)
    return path


@pytest.fixture
def opened(prior: Path, picture: NDArray[np.uint8], tmp_path: Path) -> inrcodec.SinrPicture:
    (tmp_path / "photo.sinr").write_bytes(inrcodec.encode(picture, 80, steps=3, prior=prior))
    return inrcodec.open(tmp_path / "photo.sinr", prior=prior)


def test_every_name_on_offer_is_there_and_no_other() -> None:
    assert sorted(inrcodec.__all__) == inrcodec.__all__ == dir(inrcodec)
    assert all(getattr(inrcodec, name) for name in inrcodec.__all__)
    with pytest.raises(AttributeError, match="no attribute 'decoder'"):
        inrcodec.decoder  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, inrcodec; sys.exit(bool({'torch', 'numpy', 'PIL'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_kind_of_array_comes_back_as_that_kind(prior: Path, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    kinds = (
        picture,
        picture[..., 0],
        picture[..., :2],
        np.dstack([picture, picture[..., 1]]),
        picture.astype(np.uint16),
    )
    for array in kinds:
        data = inrcodec.encode(array, quality=60, steps=1, prior=prior)
        decoded = inrcodec.decode(data, prior=prior)
        assert decoded.shape == array.shape and decoded.dtype == array.dtype
        (tmp_path / "a.sinr").write_bytes(data)
        opened = inrcodec.open(tmp_path / "a.sinr", prior=prior)
        assert opened.shape == array.shape and opened.dtype == array.dtype
        sample = opened.at([5.5, 3.5])
        assert sample.shape == array.shape[2:]
        apart = 0.51 if array.shape[2:] in ((3,), (4,)) else 1.01  # grey is the mean of three whole numbers, rounded
        assert np.abs(sample * np.iinfo(array.dtype).max - decoded[3, 5]).max() <= apart
        assert inrcodec.decode(data, prior=prior, scale=2).shape[:2] == (44, 74)
        assert inrcodec.decode(data, prior=prior, region=(3, 4, 10, 5), size=(7, 9)).shape[:2] == (9, 7)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 5)), np.zeros((4, 5, 7), np.uint8), np.zeros(5, np.uint8), np.zeros((0, 5), np.uint8)],
    ids=["float", "seven channels", "one axis", "empty"],
)
def test_other_arrays_are_refused(array: NDArray[np.generic]) -> None:
    with pytest.raises(inrcodec.ImageError, match="expected"):
        inrcodec.encode(array)


def test_wrong_options_are_refused(picture: NDArray[np.uint8]) -> None:
    with pytest.raises(inrcodec.OptionError, match="device"):
        inrcodec.encode(picture, device="abacus")
    with pytest.raises(inrcodec.OptionError, match="quality"):
        inrcodec.encode(picture, 101)


def test_metadata_and_size_are_known_without_decoding(prior: Path, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    data = inrcodec.encode(picture[..., 0], 80, steps=1, prior=prior, metadata={"icc": b"profile"})
    (tmp_path / "photo.sinr").write_bytes(data)
    opened = inrcodec.open(str(tmp_path / "photo.sinr"), prior=prior)
    assert (opened.size, opened.width, opened.height, opened.grey) == ((37, 22), 37, 22, True)
    assert opened.quality == pytest.approx(80, abs=0.3)
    assert opened.metadata == {"icc": b"profile"}
    assert "_parameters" not in vars(opened)
    assert repr(opened) == "<SinrPicture 37x22 grey, quality 80>"


def test_samples_at_pixel_centres_are_the_pixels(opened: inrcodec.SinrPicture) -> None:
    y, x = np.mgrid[0:22, 0:37] + 0.5
    samples = opened.at(np.stack([x, y], -1))
    assert samples.shape == (22, 37, 3) and samples.dtype == np.float32
    assert np.abs(samples * 255 - opened.decode()).max() <= 0.51


def test_samples_between_pixels_are_those_of_a_finer_grid(opened: inrcodec.SinrPicture) -> None:
    fine = opened.decode(scale=4)
    assert np.abs(opened.at([2 + 0.125, 5 + 0.625]) * 255 - fine[22, 8]).max() <= 0.51
    assert np.array_equal(fine[20:40, 8:48], opened.region(2, 5, 10, 5, scale=4))


def test_grey_samples_are_single_numbers(prior: Path, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "a.sinr").write_bytes(inrcodec.encode(picture[..., 0], steps=1, prior=prior))
    opened = inrcodec.open(tmp_path / "a.sinr", prior=prior)
    assert opened.at([1, 2]).shape == () and opened.at([[1, 2]]).shape == (1,)


def test_positions_outside_the_picture_are_refused(opened: inrcodec.SinrPicture) -> None:
    opened.at([[0, 0], [37, 22]])
    for xy in ([-0.1, 3], [3, 22.1], [np.nan, 1], [1, 2, 3]):
        with pytest.raises(inrcodec.OptionError, match="positions"):
            opened.at(xy)


def test_errors_of_open_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.sinr").write_bytes(b"SINR\x01")
    for name in ("a.sinr", "missing.sinr"):
        with pytest.raises(inrcodec.SinrError) as caught:
            inrcodec.open(tmp_path / name)
        assert str(caught.value).count(name) == 1


def test_examples_in_docstrings_are_true() -> None:
    assert doctest.testmod(api).attempted and not doctest.testmod(api).failed
