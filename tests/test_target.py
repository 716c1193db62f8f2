"""Targets: the search on functions that are known, and files that meet them."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from inrcodec.codec import decode, encode
from inrcodec.errors import OptionError
from inrcodec.image import Picture, flatten
from inrcodec.metrics import psnr
from inrcodec.options import EncodeOptions, Target
from inrcodec.prior import Prior
from inrcodec.target import PSNR_SLOPE, SIZE_SLOPE, TRIES, check_met, seek, window


@pytest.mark.parametrize("goal", [22.0, 30.0, 41.3])
@pytest.mark.parametrize("slope", [0.5 * PSNR_SLOPE, PSNR_SLOPE, 2 * PSNR_SLOPE])
def test_a_line_is_met_in_few_tries(goal: float, slope: float) -> None:
    tries: list[int] = []

    def line(index: int) -> float:
        tries.append(index)
        return 30 + slope * (index - 127) + 0.01 * math.sin(index)

    found = seek(line, float, goal, goal + 0.1, PSNR_SLOPE, 150)
    reachable = line(0) <= goal + 0.1 and goal <= line(255)
    assert goal <= found <= goal + 0.1 + slope if reachable else found in (line(0), line(255))
    assert len(tries) <= TRIES + 2


def test_a_function_that_hardly_responds_is_met_too() -> None:
    found = seek(lambda index: 30 + 0.003 * index, float, 30.2, 30.3, PSNR_SLOPE, 0)
    assert 30.2 <= found <= 30.3


def test_the_nearest_is_taken_where_steps_are_too_wide() -> None:
    assert seek(lambda index: index // 50 * 1.0, float, 2.2, 2.3, 0.02, 150) in (2.0, 3.0)


def test_windows_are_below_a_size_and_above_a_psnr() -> None:
    assert window(Target(size=1000), 99) == (math.log(1000) - 0.02, math.log(1000), SIZE_SLOPE)
    assert window(Target(bpp=0.5), 16_000) == window(Target(size=1000), 99)
    assert window(Target(psnr=30), 99)[:2] == (30, 30.1)


def test_what_no_quality_gives_is_refused_and_what_every_quality_gives_is_not() -> None:
    check_met(Target(size=1000), 255, math.log(55), math.log(1000) - 0.02, math.log(1000))
    check_met(Target(psnr=10), 0, 18, 10, 10.1)
    with pytest.raises(OptionError, match=r"a size of 10 bytes is out of reach: quality 1 gives 55 bytes"):
        check_met(Target(size=10), 0, math.log(55), math.log(10) - 0.02, math.log(10))
    with pytest.raises(OptionError, match=r"a PSNR of 90 dB is out of reach: quality 100 gives 40\.00 dB"):
        check_met(Target(psnr=90), 255, 40, 90, 90.1)


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    """Waves, an edge and noise, 48 high and 64 wide."""
    y, x = np.mgrid[0:48, 0:64]
    waves = 128 + 60 * np.sin(x / 5 + y / 9) + 40 * (x > y)
    noise = np.random.default_rng(0).normal(0, 6, (48, 64, 3))
    pixels: NDArray[np.float64] = np.clip(waves[..., None] + noise, 0, 255)
    return pixels.astype(np.uint8)


@pytest.mark.parametrize("steps", [0, 12])
def test_files_meet_a_size(photo: NDArray[np.uint8], steps: int) -> None:
    for target in (Target(size=600), Target(bpp=2.0)):
        size = target.size or 2.0 * 48 * 64 / 8
        encoded = encode(Picture(photo), EncodeOptions(steps=steps, target=target))
        assert abs(len(encoded.data) / size - 1) <= 0.02
        assert 1 < encoded.quality < 100


def test_files_meet_a_psnr(photo: NDArray[np.uint8]) -> None:
    for pixels in (photo, photo.astype(np.uint16) * 257):
        encoded = encode(Picture(pixels), EncodeOptions(steps=12, target=Target(psnr=32)))
        assert psnr(photo, flatten(decode(encoded.data)).pixels) == pytest.approx(32.05, abs=0.1)


def test_a_network_is_fitted_once_and_then_only_quantized(network_prior: Prior, picture: NDArray[np.uint8]) -> None:
    steps: list[int] = []
    options = EncodeOptions(steps=5, target=Target(size=140))
    encoded = encode(Picture(picture), options, prior=network_prior, progress=lambda done, _: steps.append(done))
    assert steps == [1, 2, 3, 4, 5]
    assert len(encoded.data) == pytest.approx(140, rel=0.03)


def test_unseen_colours_do_not_count(photo: NDArray[np.uint8]) -> None:
    alpha = np.where(np.arange(64) < 40, 255, 0)[None].repeat(48, 0).astype(np.uint8)
    encoded = encode(Picture(photo, alpha=alpha), EncodeOptions(steps=12, target=Target(psnr=32)))
    found = decode(encoded.data).pixels
    assert psnr(photo[:, :40], found[:, :40]) == pytest.approx(32.05, abs=0.15)
