"""Targets: which quality index meets a size or a PSNR.

Both grow with the index, the logarithm of the size and the PSNR almost linearly: a step of the index is about 1 %
or 0.06 dB. Hence few tries are needed, each of which goes on from the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from inrcodec.errors import OptionError
from inrcodec.options import MAX_QUALITY_INDEX, Target, index_quality

SIZE_SLOPE, PSNR_SLOPE = 0.0095, 0.06  # of log size and of dB, per step of the index: of the photos in README
TRIES = 8  # at most
START = 150  # the index of quality 59

Attempt = TypeVar("Attempt")


def window(target: Target, pixels: int) -> tuple[float, float, float]:
    """Least and largest value that meet a target, and the slope; values are log bytes or dB."""
    if target.psnr is not None:
        return target.psnr, target.psnr + 0.1, PSNR_SLOPE
    size = target.size if target.size is not None else (target.bpp or 0) * pixels / 8
    return math.log(size) - 0.02, math.log(size), SIZE_SLOPE


def seek(
    attempt: Callable[[int], Attempt],
    value: Callable[[Attempt], float],
    low: float,
    high: float,
    slope: float,
    start: int,
    spare: int = 0,
) -> Attempt:
    """The attempt whose value is in low..high, or the nearest to it after TRIES.

    Indices are those of qualities and `spare` more at either end.
    """
    aim, index = (low + high) / 2, start
    found: dict[int, Attempt] = {}
    misses: dict[int, float] = {}
    while index not in found and len(found) < TRIES:
        found[index] = attempt(index)
        misses[index] = value(found[index]) - aim
        if abs(misses[index]) <= (high - low) / 2:
            break
        index = _next(misses, slope, -spare, MAX_QUALITY_INDEX + spare)
    return found[min(misses, key=lambda i: abs(misses[i]))]


def _next(misses: dict[int, float], slope: float, lowest: int, highest: int) -> int:
    """Where a rising function should vanish, of which some values are known."""
    last = list(misses)[-1]
    below = [i for i, miss in misses.items() if miss < 0]
    above = [i for i, miss in misses.items() if miss >= 0]
    if not below or not above:
        leap = round(misses[last] / slope * (1 << (len(misses) - 1)))  # a fit that goes on responds less than a new one
        index = last - leap
        index = min(index, min(above) - 1) if above else max(index, max(below) + 1)
        return min(max(index, lowest), highest)
    i, j = max(below), min(above)
    if j - i < 2:
        return last
    guess = round(i - misses[i] * (j - i) / (misses[j] - misses[i]))
    return min(max(guess, i + 1), j - 1)


def check_met(target: Target, index: int, reached: float, low: float, high: float) -> None:
    """OptionError if even the lowest quality is larger than a size, or even the highest is below a PSNR."""
    missed = reached < low - 0.02 if target.psnr is not None else reached > high + 0.02
    if missed and index in (0, MAX_QUALITY_INDEX):
        found = f"{reached:.2f} dB" if target.psnr is not None else f"{math.exp(reached):.0f} bytes"
        raise OptionError(f"{target} is out of reach: quality {index_quality(index):.0f} gives {found}")
