"""The library for arrays: `encode`, `decode` and `open`, which `inrcodec` offers at its top.

An array is a picture's samples in row-major order, uint8 or uint16 in sRGB (or what its ICC profile says). Its shape
is (height, width) if it is grey, (height, width, 3) if it is RGB, and (height, width, 2 or 4) with opacity behind, by
which colours are not multiplied. Positions and sizes are in pixels, in the order (x, y) and (width, height);
pixel (i, j) covers the square from (i, j) to (i + 1, j + 1), and its sample is at the centre (see `grid`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inrcodec import codec
from inrcodec.alpha import alpha_at
from inrcodec.bitstream import Colour, SinrFile, read_file, unpack
from inrcodec.errors import OptionError, SinrError, TargetWarning
from inrcodec.image import Picture
from inrcodec.options import DecodeOptions, Device, EncodeOptions, Target, index_quality, steps_of
from inrcodec.prior import DEFAULT_PRIOR, Prior, find_prior
from inrcodec.render import Parameters, render_at

Samples = NDArray[np.unsignedinteger[Any]]

__all__ = ["SinrPicture", "decode", "encode", "open"]


def encode(
    array: ArrayLike,
    quality: float = 60.0,
    *,
    target_size: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    effort: int | None = None,
    steps: int | None = None,
    prior: str | os.PathLike[str] = DEFAULT_PRIOR,
    device: str = "auto",
    seed: int = 0,
    self_contained: bool = False,
    metadata: Mapping[str, bytes] | None = None,
    known: ArrayLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """The `.sinr` file of a picture: (height, width) or (height, width, 2..4), uint8 or uint16.

    quality is 1..100, and keeps smooth pictures finer than busy ones; instead of it the largest size in bytes, the
    most bits per pixel or the least PSNR in dB can be given as a target, and is met within 2 % or 0.1 dB; a
    TargetWarning says where that cannot be. `effort` 0..9, 5 if neither is given, stands for `steps` of the fit, 0
    to 1000, in which time is linear; `prior` is the name of a bundled one or a file; `metadata` holds "icc", "exif"
    and "xmp" as far as there are any; `known`, (height, width), is zero or False at pixels that do not count: the
    file fills them in from those around; `progress` is told the steps done and all steps.

    Raises ImageError for another kind of array or mask, OptionError for an option out of range, PriorError if the
    prior cannot be used.

    >>> data = encode(np.zeros((6, 8), np.uint8), quality=20, steps=1)
    >>> decode(data, scale=2).shape
    (12, 16)
    """
    picture = Picture.from_array(np.asarray(array), metadata)
    goals = (target_size, target_bpp, target_psnr)
    target = None if goals == (None, None, None) else Target(*goals)
    options = EncodeOptions(quality, steps_of(effort, steps), os.fspath(prior), _device(device), seed, target)
    mask = None if known is None else np.asarray(known) != 0
    made = codec.encode(picture, options, self_contained=self_contained, known=mask, progress=progress)
    if made.missed:
        warnings.warn(made.missed, TargetWarning, stacklevel=2)
    return made.data


def decode(
    data: bytes,
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    region: tuple[int, int, int, int] | None = None,
    levels: int | None = None,
    prior: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> Samples:
    """The picture in a `.sinr` file, as `encode` takes it.

    `scale` is samples per pixel, `size` the (width, height) of the result instead, `region` the part (x, y,
    width, height) to decode, in pixels. With `levels`, at most so many are decoded, coarse to fine, and the
    file may be cut short after them: a preview. `prior` is needed only if the file's own is neither bundled nor in it.

    Raises SinrError for bytes that are not a whole file, PriorError if its prior is missing, OptionError for
    an option out of range.
    """
    options = DecodeOptions(scale, size, region, levels)
    return codec.decode(data, options, prior=_prior(prior), device=_device(device)).to_array()


def open(path: str | os.PathLike[str], *, prior: str | os.PathLike[str] | None = None) -> SinrPicture:
    """The picture in a `.sinr` file, to be sampled anywhere. Nothing of it is decoded yet.

    Raises SinrError if there is no valid file at the path, PriorError if its prior is missing.
    """
    data = read_file(Path(path))
    try:
        file = unpack(data)
    except SinrError as error:
        raise type(error)(f"{path}: {error}") from None
    return SinrPicture(file, _prior(prior))


class SinrPicture:
    """A picture that is sampled where you ask; what all samples share is decoded once, with the first."""

    def __init__(self, file: SinrFile, prior: Prior | None = None) -> None:
        self._file = file
        self._prior = codec.prior_of(file, prior)

    def __repr__(self) -> str:
        return f"<SinrPicture {self.width}x{self.height} {self._file.colour.name.lower()}, quality {self.quality:.0f}>"

    @property
    def width(self) -> int:
        """Pixels."""
        return self._file.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self._file.height

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole picture's array."""
        channels = (1 if self.grey else 3) + (self._file.alpha is not None)
        return (self.height, self.width) + ((channels,) if channels > 1 else ())

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Of the whole picture's array, uint8 or uint16."""
        return np.dtype(np.uint8 if self._file.bit_depth == 8 else np.uint16)

    @property
    def grey(self) -> bool:
        """Whether it is grey, perhaps with opacity, instead of red, green and blue."""
        return self._file.colour == Colour.GREY

    @property
    def quality(self) -> float:
        """What was asked for when it was encoded, or found to meet a target, 1..100."""
        return index_quality(self._file.asked_index)

    @property
    def metadata(self) -> Mapping[str, bytes]:
        """What the file has of "icc", "exif" and "xmp"."""
        return self._file.metadata

    def at(self, xy: ArrayLike) -> NDArray[np.float32]:
        """Samples in [0, 1] at positions (x, y) in pixels: (..., 2) -> (..., channels), or (...) if there is one.

        OptionError for positions outside the picture.
        """
        positions = np.asarray(xy, dtype=np.float64)
        if positions.ndim < 1 or positions.shape[-1] != 2:
            raise OptionError(f"positions are (..., 2), not {positions.shape}")
        if not ((positions >= 0) & (positions <= self.size)).all():
            raise OptionError(f"positions must be within the picture of {self.width}x{self.height} pixels")
        points = positions.reshape(-1, 2)
        samples = render_at(self._prior, self._parameters, points)  # (N, 3)
        if self.grey:
            samples = samples.mean(axis=1, keepdims=True, dtype=np.float32)
        if self._parameters.alpha is not None:
            samples = np.concatenate([samples, alpha_at(self._parameters.alpha, points)[:, None]], axis=1)
        return samples.reshape(positions.shape[:-1] + self.shape[2:])

    def region(
        self,
        x: int,
        y: int,
        width: int,
        height: int,
        *,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> Samples:
        """The part of the picture from (x, y) on, in pixels, at a scale or (width, height) as in `decode`."""
        return self._sample(DecodeOptions(scale, size, (x, y, width, height)))

    def decode(self, *, scale: float | None = None, size: tuple[int, int] | None = None) -> Samples:
        """The whole picture, as the function `decode` gives it."""
        return self._sample(DecodeOptions(scale, size))

    @cached_property
    def _parameters(self) -> Parameters:
        return codec.read_parameters(self._file, self._prior)

    def _sample(self, options: DecodeOptions) -> Samples:
        return codec.sample(self._file, self._prior, self._parameters, options).to_array()


def _prior(name_or_file: str | os.PathLike[str] | None) -> Prior | None:
    return None if name_or_file is None else find_prior(name_or_file)


def _device(name: str) -> Device:
    try:
        return Device(name)
    except ValueError:
        raise OptionError(f"device must be one of {', '.join(Device)}, not {name!r}") from None
