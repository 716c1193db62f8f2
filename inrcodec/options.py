"""Settings: what a person chooses, checked once and then frozen.

Quality 1..100 picks a quality index 0..255 for a typical picture; `allocation` moves it up for smooth and down for
busy ones. The index fixes lambda, the squared error (sum over RGB, in units of 1/255) that one bit is worth:

    lambda = 2 ** (11.6 - 8 * index / 255)      3104 at index 0, 12 at 255

and the conditioning q that networks see, which is log lambda, linear in the index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from inrcodec.errors import OptionError

MAX_QUALITY_INDEX = 255
MAX_STEPS = 100_000
EFFORT_STEPS = (0, 10, 20, 30, 50, 100, 200, 300, 500, 1000)  # of effort 0..9; 0 keeps the first guess
DEFAULT_EFFORT = 5


class Device(StrEnum):
    """Where a fit runs. `auto` is cuda, else mps, else cpu."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


def quality_index(quality: float) -> int:
    """The index of a quality in 1..100. OptionError outside."""
    if not 1 <= quality <= 100:
        raise OptionError(f"quality must be 1..100, not {quality:g}")
    return round((quality - 1) / 99 * MAX_QUALITY_INDEX)


def steps_of(effort: int | None, steps: int | None) -> int:
    """The steps of an effort or of DEFAULT_EFFORT, unless they are given. OptionError for both, or outside 0..9."""
    if steps is not None:
        if effort is not None:
            raise OptionError("give an effort or steps, not both")
        return steps
    effort = DEFAULT_EFFORT if effort is None else effort
    if not 0 <= effort < len(EFFORT_STEPS):
        raise OptionError(f"effort must be 0..{len(EFFORT_STEPS) - 1}, not {effort}")
    return EFFORT_STEPS[effort]


def index_quality(index: int) -> float:
    """The quality that an index stands for."""
    return 1 + index / MAX_QUALITY_INDEX * 99


def lagrangian(index: int) -> float:
    """lambda of a quality index: squared 8-bit RGB error per bit."""
    return float(2 ** (11.6 - 8 * index / MAX_QUALITY_INDEX))


def conditioning(index: int) -> float:
    """q of a quality index: (log2(lambda) - 7.6) / 4.5, from 0.89 at quality 1 to -0.89 at quality 100."""
    return (MAX_QUALITY_INDEX - 2 * index) / MAX_QUALITY_INDEX * 4 / 4.5


@dataclass(frozen=True)
class Target:
    """What a file should have instead of a quality: one of these. Quality 1 and 100 are as far as it goes."""

    size: int | None = None  # bytes at most, met within 2 %
    bpp: float | None = None  # bits per pixel of the whole file at most, likewise
    psnr: float | None = None  # dB at least, of RGB at the picture's own pixels; met within 0.1 dB

    def __post_init__(self) -> None:
        given = [value for value in (self.size, self.bpp, self.psnr) if value is not None]
        if len(given) != 1:
            raise OptionError("give one target: a size, bits per pixel or a PSNR")
        if not (math.isfinite(given[0]) and given[0] > 0):
            raise OptionError(f"a target must be above 0, not {given[0]:g}")

    def __str__(self) -> str:
        if self.size is not None:
            return f"a size of {self.size} bytes"
        return f"{self.bpp:g} bits per pixel" if self.bpp is not None else f"a PSNR of {self.psnr:g} dB"


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode one picture."""

    quality: float = 60.0  # 1..100
    steps: int = EFFORT_STEPS[DEFAULT_EFFORT]  # of the fit; time is linear in this
    prior: str = "photo"  # name of a bundled prior, or a file
    device: Device = Device.AUTO
    seed: int = 0  # of whatever a fit draws at random
    target: Target | None = None  # if there is one, the quality is found

    def __post_init__(self) -> None:
        quality_index(self.quality)
        if not 0 <= self.steps <= MAX_STEPS:
            raise OptionError(f"steps must be 0..{MAX_STEPS}, not {self.steps}")


@dataclass(frozen=True)
class DecodeOptions:
    """Which samples to decode. Scale and size exclude each other; neither means the picture's own pixels."""

    scale: float | None = None  # output samples per pixel
    size: tuple[int, int] | None = None  # output (width, height), of the region if there is one
    region: tuple[int, int, int, int] | None = None  # x, y, width, height in pixels
    levels: int | None = None  # at most so many, coarse to fine; the file may be cut short after them
    exact: bool = False  # compute in float64: the same samples on every machine

    def __post_init__(self) -> None:
        if self.scale is not None and self.size is not None:
            raise OptionError("give a scale or a size, not both")
        if self.scale is not None and not 0 < self.scale <= 64:
            raise OptionError(f"scale must be above 0 and at most 64, not {self.scale:g}")
        if self.size is not None and min(self.size) < 1:
            raise OptionError(f"size must be at least 1x1, not {self.size[0]}x{self.size[1]}")
        if self.region is not None and (min(self.region[:2]) < 0 or min(self.region[2:]) < 1):
            raise OptionError(f"a region is x,y,w,h with w and h at least 1, not {self.region}")
        if self.levels is not None and self.levels < 1:
            raise OptionError(f"levels must be at least 1, not {self.levels}")
