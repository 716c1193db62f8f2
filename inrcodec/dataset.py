"""Training pictures: a folder of images, and the batches that are drawn from it.

Each picture is reduced or enlarged so that its shorter side has `resize` pixels,
then cropped to `height` x `width`, in the centre or anywhere. A batch is a pure
function of (seed, step), so a run that was stopped sees the same pictures when
it goes on, and processes that share a batch agree on it without talking.

The protocol of Meta-SparseINR for Imagenette is resize 200, crop 178 x 178 in the
centre (Lee et al., NeurIPS 2021, appendix, and its code: bilinear reduction).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from inrcodec.errors import OptionError
from inrcodec.image import find_pictures, read_picture

__all__ = ["Crop", "Dataset", "open_dataset"]

KEPT_BYTES = 1 << 30  # of resized pictures held in memory; the others are read again when they are drawn


class Crop(StrEnum):
    """Where in a picture its crop is taken."""

    CENTRE = "centre"
    RANDOM = "random"


@dataclass(frozen=True)
class Dataset:
    """Pictures of one size, read when they are first drawn. Made by `open_dataset`."""

    folder: Path
    names: tuple[str, ...]  # of the files, relative to the folder, sorted
    height: int  # pixels of a crop
    width: int
    resize: int  # pixels of the shorter side before cropping; 0 keeps the picture's own
    crop: Crop
    _kept: dict[int, NDArray[np.uint8]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.resize < 0:
            sizes = f"{self.width}x{self.height} of pictures resized to {self.resize}"
            raise OptionError(f"crops need at least 1x1 pixels and a resize of at least 0, not {sizes}")

    @property
    def fingerprint(self) -> str:
        """Hex digest of which files these are (names and sizes in bytes) and how they are cropped."""
        files = [(name, (self.folder / name).stat().st_size) for name in self.names]
        facts = [files, self.height, self.width, self.resize, self.crop]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def batch(self, seed: int, step: int, count: int, part: slice = slice(None)) -> Tensor:
        """The pictures of one training step, float32 in [0, 1], shape (count, height, width, 3).

        No picture comes twice in a batch unless there are fewer pictures than `count`. `part` says which of
        the batch are wanted; the others are not even read.
        """
        draw = np.random.default_rng([seed, step])
        chosen = draw.choice(len(self.names), count, replace=count > len(self.names))
        corners = draw.random((count, 2))  # of the crops, as fractions of the free play
        crops = [self._cropped(int(i), corner) for i, corner in zip(chosen[part], corners[part], strict=True)]
        return torch.from_numpy(np.stack(crops)).float() / 255

    def _cropped(self, index: int, corner: NDArray[np.float64]) -> NDArray[np.uint8]:
        picture = self._resized(index)
        rows, columns, _ = picture.shape
        down, across = corner if self.crop is Crop.RANDOM else (0.5, 0.5)
        top, left = int(down * (rows - self.height + 1)), int(across * (columns - self.width + 1))
        return picture[top : top + self.height, left : left + self.width]

    def _resized(self, index: int) -> NDArray[np.uint8]:
        """A whole picture after resizing, at least as large as a crop, shape (rows, columns, 3)."""
        if index in self._kept:
            return self._kept[index]
        pixels = read_picture(self.folder / self.names[index], convert=True).pixels
        rows, columns, _ = pixels.shape
        scale = self.resize / min(rows, columns) if self.resize else 1.0
        scale = max(scale, self.height / rows, self.width / columns)
        if scale != 1:
            size = max(self.width, round(columns * scale)), max(self.height, round(rows * scale))
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
        if sum(kept.nbytes for kept in self._kept.values()) + pixels.nbytes <= KEPT_BYTES:
            self._kept[index] = pixels
        return pixels


def open_dataset(folder: Path, height: int, width: int, *, resize: int = 0, crop: Crop = Crop.CENTRE) -> Dataset:
    """All images in a folder and the folders inside it, in the order of their names.

    Nothing is read yet. ImageError where there is no folder or no image in it; a file that turns out not to
    be an image raises ImageError when it is drawn.
    """
    names = tuple(path.relative_to(folder).as_posix() for path in find_pictures(folder))
    return Dataset(folder, names, height, width, resize, crop)
