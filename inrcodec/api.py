"""The library for arrays: `encode`, `decode` and `open`, which `inrcodec` offers at its top.

An array is a picture's samples in row-major order, uint8 in sRGB (or what its ICC profile says): (height, width)
if it is grey, else (height, width, 3). Positions and sizes are in pixels, in the order (x, y) and (width, height);
pixel (i, j) covers the square from (i, j) to (i + 1, j + 1), and its sample is at the centre (see `grid`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inrcodec import codec
from inrcodec.bitstream import Colour, SinrFile, read_file, unpack
from inrcodec.errors import OptionError, SinrError
from inrcodec.image import Picture
from inrcodec.options import DecodeOptions, Device, EncodeOptions, index_quality
from inrcodec.prior import DEFAULT_PRIOR, Prior, find_prior
from inrcodec.render import Parameters, render_at

__all__ = ["SinrPicture", "decode", "encode", "open"]


def encode(
    array: ArrayLike,
    quality: float = 60.0,
    *,
    steps: int = 100,
    prior: str | os.PathLike[str] = DEFAULT_PRIOR,
    device: str = "auto",
    seed: int = 0,
    self_contained: bool = False,
    metadata: Mapping[str, bytes] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """The `.sinr` file of a picture: grey (height, width) or RGB (height, width, 3), uint8.

    quality is 1..100; time is linear in `steps`; `prior` is the name of a bundled one or a file; `metadata`
    holds "icc", "exif" and "xmp" as far as there are any; `progress` is told the steps done and all steps.

    Raises ImageError for another kind of array, OptionError for an option out of range, PriorError if the
    prior cannot be used.

    >>> data = encode(np.zeros((6, 8), np.uint8), quality=20, steps=1)
    >>> decode(data, scale=2).shape
    (12, 16)
    """
    picture = Picture.from_array(np.asarray(array), metadata)
    options = EncodeOptions(quality, steps, os.fspath(prior), _device(device), seed)
    return codec.encode(picture, options, self_contained=self_contained, progress=progress).data


def decode(
    data: bytes,
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    region: tuple[int, int, int, int] | None = None,
    levels: int | None = None,
    prior: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> NDArray[np.uint8]:
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
    def grey(self) -> bool:
        """Whether samples are one number instead of red, green and blue."""
        return self._file.colour == Colour.GREY

    @property
    def quality(self) -> float:
        """What it was encoded with, 1..100."""
        return index_quality(self._file.quality_index)

    @property
    def metadata(self) -> Mapping[str, bytes]:
        """What the file has of "icc", "exif" and "xmp"."""
        return self._file.metadata

    def at(self, xy: ArrayLike) -> NDArray[np.float32]:
        """Samples in [0, 1] at positions (x, y) in pixels: (..., 2) -> (..., 3), or (...) if the picture is grey.

        OptionError for positions outside the picture.
        """
        positions = np.asarray(xy, dtype=np.float64)
        if positions.ndim < 1 or positions.shape[-1] != 2:
            raise OptionError(f"positions are (..., 2), not {positions.shape}")
        if not ((positions >= 0) & (positions <= self.size)).all():
            raise OptionError(f"positions must be within the picture of {self.width}x{self.height} pixels")
        samples = render_at(self._prior, self._parameters, positions.reshape(-1, 2)).reshape(*positions.shape[:-1], 3)
        return samples.mean(axis=-1, dtype=np.float32) if self.grey else samples

    def region(
        self,
        x: int,
        y: int,
        width: int,
        height: int,
        *,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> NDArray[np.uint8]:
        """The part of the picture from (x, y) on, in pixels, at a scale or (width, height) as in `decode`."""
        return self._sample(DecodeOptions(scale, size, (x, y, width, height)))

    def decode(self, *, scale: float | None = None, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """The whole picture, as the function `decode` gives it."""
        return self._sample(DecodeOptions(scale, size))

    @cached_property
    def _parameters(self) -> Parameters:
        return codec.read_parameters(self._file, self._prior)

    def _sample(self, options: DecodeOptions) -> NDArray[np.uint8]:
        return codec.sample(self._file, self._prior, self._parameters, options).to_array()


def _prior(name_or_file: str | os.PathLike[str] | None) -> Prior | None:
    return None if name_or_file is None else find_prior(name_or_file)


def _device(name: str) -> Device:
    try:
        return Device(name)
    except ValueError:
        raise OptionError(f"device must be one of {', '.join(Device)}, not {name!r}") from None
