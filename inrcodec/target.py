"""Targets: what meets a size or a PSNR, and the search for it.

Both grow with the quality index, the logarithm of the size and the PSNR almost linearly: a step of the index is about
1 % or 0.06 dB. Hence few tries are needed. Where fits only come near, two that go on from each other and lie on either
side are cut together at a row, which is found in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from inrcodec.options import MAX_QUALITY_INDEX, Target

TRIES = 8  # of a search, at most
FITS = 4  # that go on, at most
START = 150  # the index of quality 59

Attempt = TypeVar("Attempt")


@dataclass(frozen=True)
class Goal:
    """Which values, log bytes or dB, meet a target."""

    low: float
    high: float
    slope: float  # per step of the index, of the photos in README
    at_most: bool  # whether above `high` is worse than below `low`

    @classmethod
    def of(cls, target: Target, pixels: int) -> Goal:
        """The one for a picture of so many pixels."""
        if target.psnr is not None:
            return cls(target.psnr, target.psnr + 0.1, 0.06, at_most=False)
        size = target.size if target.size is not None else (target.bpp or 0) * pixels / 8
        return cls(math.log(size * 0.98), math.log(size), 0.0095, at_most=True)

    def loosened(self, steps: int) -> Goal:
        """One that is met by so many steps of the index more and less."""
        return replace(self, low=self.low - steps * self.slope, high=self.high + steps * self.slope)

    def is_met(self, value: float) -> bool:
        """Whether a value meets it."""
        return self.low <= value <= self.high

    def miss(self, value: float) -> float:
        """How far a value is above the middle."""
        return value - (self.low + self.high) / 2

    def badness(self, value: float) -> tuple[bool, float]:
        """What is least for the best of several values: keeping the bound comes first, then being near."""
        return value > self.high if self.at_most else value < self.low, abs(self.miss(value))


def seek(
    attempt: Callable[[int], Attempt],
    value: Callable[[Attempt], float],
    goal: Goal,
    start: int,
    lowest: int,
    highest: int,
) -> Attempt:
    """The attempt of an index that meets a goal, or the best after TRIES. Values rise with the index."""
    index = start
    found: dict[int, Attempt] = {}
    values: dict[int, float] = {}
    while index not in found and len(found) < TRIES:
        found[index] = attempt(index)
        values[index] = value(found[index])
        if goal.is_met(values[index]):
            break
        index = _next({i: goal.miss(v) for i, v in values.items()}, goal.slope, lowest, highest)
    return found[min(values, key=lambda i: goal.badness(values[i]))]


def _next(misses: dict[int, float], slope: float, lowest: int, highest: int) -> int:
    """Where a rising function should vanish, of which some values are known."""
    last = list(misses)[-1]
    below = [i for i, miss in misses.items() if miss < 0]
    above = [i for i, miss in misses.items() if miss >= 0]
    if not below or not above:
        leap = misses[last] / slope * (1 << (len(misses) - 1))
        index = last - round(min(max(leap, lowest - highest), highest - lowest))
        index = min(index, min(above) - 1) if above else max(index, max(below) + 1)
        return min(max(index, lowest), highest)
    i, j = max(below), min(above)
    if j - i < 2:
        return last
    guess = round(i - misses[i] * (j - i) / (misses[j] - misses[i]))
    return min(max(guess, i + 1), j - 1)


def straddle(
    go_on: Callable[[Attempt, int], Attempt], value: Callable[[Attempt], float], goal: Goal, first: Attempt, index: int
) -> list[Attempt]:
    """The first attempt and those that go on from it, until one meets the goal or is on its other side.

    `go_on` has an attempt go on as if to another index. That responds less than a new one: leaps double.
    """
    made, missed = [first], [goal.miss(value(first))]
    while not goal.is_met(value(made[-1])) and len(made) <= FITS and missed[-1] * missed[0] > 0:
        leap = math.ceil(abs(missed[-1]) / goal.slope) * (1 << len(made))
        index = index - leap if missed[-1] > 0 else index + leap
        index = min(max(index, -MAX_QUALITY_INDEX), 2 * MAX_QUALITY_INDEX)
        made.append(go_on(made[-1], index))
        missed.append(goal.miss(value(made[-1])))
    return made
