import math
from typing import Any

import pytest

from inrcodec.errors import OptionError
from inrcodec.options import (
    DecodeOptions,
    EncodeOptions,
    Target,
    conditioning,
    index_quality,
    lagrangian,
    quality_index,
    steps_of,
)


def test_quality_runs_over_the_index_and_lambda_falls() -> None:
    assert (quality_index(1), quality_index(100)) == (0, 255)
    indices = [quality_index(q) for q in range(1, 101)]
    assert indices == sorted(set(indices))
    assert all(quality_index(index_quality(i)) == i for i in range(256))
    assert lagrangian(0) == pytest.approx(2**11.6)
    assert lagrangian(255) == pytest.approx(2**3.6)


def test_conditioning_is_log_lambda() -> None:
    import math

    for index in (0, 100, 255):
        assert conditioning(index) == pytest.approx((math.log2(lagrangian(index)) - 7.6) / 4.5)


@pytest.mark.parametrize("quality", [0, 100.5, -3, float("nan")])
def test_a_quality_out_of_range_is_refused(quality: float) -> None:
    with pytest.raises(OptionError, match="quality"):
        EncodeOptions(quality=quality)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0.0},
        {"scale": 65.0},
        {"scale": float("nan")},
        {"size": (0, 4)},
        {"scale": 2.0, "size": (3, 4)},
        {"region": (-1, 0, 2, 2)},
        {"region": (0, 0, 0, 2)},
    ],
)
def test_a_view_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        DecodeOptions(**wrong)  # type: ignore[arg-type]


def test_more_effort_is_more_steps_from_none_on() -> None:
    ladder = [steps_of(effort, None) for effort in range(10)]
    assert ladder == sorted(set(ladder)) and ladder[0] == 0
    assert steps_of(None, None) == EncodeOptions().steps == 100
    assert steps_of(None, 7) == 7


@pytest.mark.parametrize("given", [(-1, None), (10, None), (5, 100)])
def test_an_effort_out_of_range_or_beside_steps_is_refused(given: tuple[int, int | None]) -> None:
    with pytest.raises(OptionError, match="effort"):
        steps_of(*given)


def test_steps_out_of_range_are_refused() -> None:
    for steps in (-1, 100_001):
        with pytest.raises(OptionError, match="steps"):
            EncodeOptions(steps=steps)


@pytest.mark.parametrize("goals", [{}, {"size": 9, "bpp": 1.0}, {"psnr": 0.0}, {"bpp": math.nan}, {"size": -4}])
def test_there_is_one_target_above_0(goals: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="target"):
        Target(**goals)


def test_targets_say_what_they_are() -> None:
    assert [str(Target(9)), str(Target(bpp=0.5)), str(Target(psnr=30))] == [
        "a size of 9 bytes", "0.5 bits per pixel", "a PSNR of 30 dB"
    ]  # fmt: skip
