"""Targets: the search on functions that are known, and files that meet them."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

import inrcodec
from inrcodec import codec
from inrcodec.codec import decode, encode
from inrcodec.image import Picture, flatten
from inrcodec.metrics import psnr
from inrcodec.options import EncodeOptions, Target
from inrcodec.prior import Prior
from inrcodec.target import FITS, TRIES, Goal, seek, straddle


@pytest.mark.parametrize("goal", [22.0, 30.0, 41.3])
@pytest.mark.parametrize("slope", [0.03, 0.06, 0.12])
def test_a_line_is_met_in_few_tries(goal: float, slope: float) -> None:
    tries: list[int] = []

    def line(index: int) -> float:
        tries.append(index)
        return 30 + slope * (index - 127) + 0.01 * math.sin(index)

    found = seek(line, float, Goal.of(Target(psnr=goal), 1), 150, 0, 255)
    reachable = line(0) <= goal + 0.1 and goal <= line(255)
    assert goal <= found <= goal + 0.1 + slope if reachable else found in (line(0), line(255))
    assert len(tries) <= TRIES + 2


def test_a_function_that_hardly_responds_is_met_too() -> None:
    found = seek(lambda index: 30 + 0.003 * index, float, Goal.of(Target(psnr=30.2), 1), 0, 0, 255)
    assert 30.2 <= found <= 30.3


def test_where_steps_are_too_wide_the_bound_is_kept() -> None:
    def stairs(index: int) -> float:
        return index // 50 * 1.0

    assert seek(stairs, float, Goal(2.8, 2.9, 0.02, at_most=True), 150, 0, 255) == 2
    assert seek(stairs, float, Goal(2.2, 2.3, 0.02, at_most=False), 150, 0, 255) == 3


def test_goals_are_below_a_size_and_above_a_psnr() -> None:
    goal = Goal.of(Target(size=1000), 99)
    assert Goal.of(Target(bpp=0.5), 16_000) == goal
    assert [goal.is_met(math.log(size)) for size in (979, 980, 1000, 1001)] == [False, True, True, False]
    goal = Goal.of(Target(psnr=30), 99)
    assert [goal.is_met(db) for db in (29.99, 30, 30.1, 30.11)] == [False, True, True, False]


def test_of_two_values_the_one_within_the_bound_is_better() -> None:
    goal = Goal.of(Target(size=1000), 99)
    assert sorted([1001, 999, 800, 2000, 985], key=lambda size: goal.badness(math.log(size)))[:3] == [985, 999, 800]


@pytest.mark.parametrize("response", [0.1, 0.5, 1.5])
def test_fits_go_on_until_they_are_on_the_other_side(response: float) -> None:
    goal = Goal.of(Target(psnr=30), 99)
    for first in (29.5, 31.0):
        made = straddle(lambda before, at: before + response * 0.06 * (at - 100), float, goal, first, 100)
        assert made[0] == first and len(made) > 1
        assert goal.is_met(made[-1]) or (made[-1] > 30.1) == (first < 30) == (made[-2] < 30)
    assert straddle(lambda before, at: before, float, goal, 30.05, 100) == [30.05]
    assert len(straddle(lambda before, at: before, float, goal, 20.0, 100)) == 1 + FITS


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
    for target in (Target(size=590), Target(bpp=2.0)):
        size = target.size or 2.0 * 48 * 64 / 8
        encoded = encode(Picture(photo), EncodeOptions(steps=steps, target=target))
        assert 0.98 * size <= len(encoded.data) <= size
        assert 1 < encoded.quality < 100 and not encoded.missed


def test_what_is_out_of_reach_is_missed_by_little_and_said(picture: NDArray[np.uint8]) -> None:
    small = Picture(picture[:6, :8])
    low, high = (len(encode(small, EncodeOptions(quality, steps=0)).data) for quality in (1, 100))
    for target, size in ((Target(size=20), low), (Target(size=9999), high), (Target(bpp=1), low)):
        encoded = encode(small, EncodeOptions(steps=0, target=target))
        assert len(encoded.data) == size
        assert encoded.missed.startswith(f"{target} is not met: the nearest is ")
    assert "bytes, at quality 100" in encode(small, EncodeOptions(steps=0, target=Target(size=9999))).missed
    with pytest.warns(inrcodec.TargetWarning, match=r"a PSNR of 90 dB is not met: the nearest is \d\d\.\d\d dB"):
        inrcodec.encode(small.pixels, target_psnr=90, steps=0)


def test_no_error_at_all_ends_the_search(picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "psnr", lambda a, b: math.inf)
    encoded = encode(Picture(picture[:6, :8]), EncodeOptions(steps=1, target=Target(psnr=30)))
    assert "99.00 dB" in encoded.missed


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
