"""Pillow opens and saves `.sinr` files once this module is imported.

    import inrcodec.plugins.pillow
    image = Image.open("photo.sinr")
    image.save("photo.sinr", quality=60)     # and effort or steps, prior, seed, device, self_contained

An image is saved as what its PNG file would be read as: upright, with its ICC profile, EXIF and XMP. Of 16 bits Pillow
knows grey only; other pictures come down to 8, as it does with PNG files. `draft`, which
`Image.thumbnail` calls, decodes fewer samples, and leaves out levels too fine to be seen in them.
"""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile

from inrcodec import codec
from inrcodec.bitstream import MAGIC, Colour, SinrFile, unpack
from inrcodec.errors import SinrError, TargetWarning
from inrcodec.image import EXIF_PREFIX, parse_picture
from inrcodec.options import DecodeOptions, EncodeOptions, steps_of

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess

FORMAT = "SINR"
OPTIONS = tuple(field.name for field in fields(EncodeOptions))
KEYS = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}  # our names of metadata, and Pillow's
UNSEEN = 2  # a level whose cells are so many powers of 2 smaller than the samples may be left out


class SinrImageFile(ImageFile.ImageFile):
    """An image whose file is decoded when its pixels are first needed."""

    format = FORMAT
    format_description = "Sparse implicit neural representation"

    _data: bytes
    _file: SinrFile
    _halvings = 0

    def _open(self) -> None:
        assert self.fp is not None
        self._data = self.fp.read()
        try:
            self._file = unpack(self._data)
        except SinrError as error:
            raise SyntaxError(str(error)) from None  # as Pillow wants it from a plugin that cannot open a file
        self._size = (self._file.width, self._file.height)
        self._mode = ("L" if self._file.colour == Colour.GREY else "RGB") + ("" if self._file.alpha is None else "A")
        if self._mode == "L" and self._file.bit_depth == 16:
            self._mode = "I;16"
        self.info |= {KEYS[key]: value for key, value in self._file.metadata.items()}
        if "exif" in self.info:
            self.info["exif"] = EXIF_PREFIX + self.info["exif"]
        self.tile = [ImageFile._Tile(FORMAT, (0, 0, *self.size), 0, self.mode)]

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Decode at the smallest power of 1/2 that is not smaller than a size. The mode stays what it is."""
        if size is None or not self.tile:
            return None
        factor = min(self._file.width // max(1, size[0]), self._file.height // max(1, size[1]))
        halvings = max(0, factor.bit_length() - 1)
        self._size = (-(-self._file.width >> halvings), -(-self._file.height >> halvings))
        self._halvings = halvings
        return self.mode, (0, 0, *self.size)

    def load(self) -> PixelAccess | None:
        """Decode the pixels. PriorError if the file's prior is missing."""
        if self.tile:
            # Not by way of `tile`: Pillow would map the file into memory where it takes it for raw samples.
            prior = codec.prior_of(self._file)
            levels = len(prior.architecture.channels) - max(0, self._halvings - UNSEEN)
            options = DecodeOptions(size=self.size, levels=max(1, levels) if self._halvings > UNSEEN else None)
            picture = codec.decode(self._data, options, prior=prior)
            samples = picture.to_array()
            if picture.bit_depth == 16 and self.mode != "I;16":
                samples = np.rint(samples / 257).astype(np.uint8)
            self.im = Image.fromarray(samples).im
            self.tile = []
            if self._exclusive_fp and self.fp:
                self.fp.close()
        return super().load()


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    wanted: dict[str, Any] = dict(image.encoderinfo)  # which saving the PNG replaces
    info: dict[Any, Any] = {**image.info, **wanted}
    png = BytesIO()
    image.save(png, "PNG", compress_level=1, icc_profile=info.get("icc_profile"), exif=info.get("exif") or b"")
    picture = parse_picture(png.getvalue(), "the image")
    if info.get("xmp"):
        picture = replace(picture, metadata={**picture.metadata, "xmp": info["xmp"]})
    chosen = {key: wanted[key] for key in OPTIONS if key in wanted}
    chosen["steps"] = steps_of(wanted.get("effort"), wanted.get("steps"))
    made = codec.encode(picture, EncodeOptions(**chosen), self_contained=wanted.get("self_contained", False))
    if made.missed:
        warnings.warn(made.missed, TargetWarning, stacklevel=4)  # of image.save
    file.write(made.data)


Image.register_open(FORMAT, SinrImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".sinr")
