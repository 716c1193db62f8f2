"""Pictures: image files to arrays and back, through Pillow, with their metadata.

Inside this package a picture is 8-bit or 16-bit samples in the file's own colour space (sRGB
unless its ICC profile says otherwise), grey or RGB, upright and still, perhaps with opacity. A file
that is more than that (CMYK, floating-point, animated) is refused, so that nothing is lost in silence; the
caller may ask to convert it instead. Palettes and 1-bit pictures become the colours they show.

Pillow raises almost anything on damaged files and warns about the rest. Both end here:
reading raises ImageError or nothing, writing OutputError or nothing.
"""

from __future__ import annotations

import os
import re
import secrets
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from inrcodec.bitstream import Limits
from inrcodec.errors import ImageError, OutputError, OutputExistsError

__all__ = [
    "Picture",
    "check_output",
    "exif_texts",
    "find_pictures",
    "flatten",
    "format_picture",
    "parse_picture",
    "read_mask",
    "read_picture",
    "write_atomically",
    "write_picture",
]

LIMITS = Limits()  # what cannot be read back by default is not encoded either

# Others that Pillow knows are left out: some run other programs (EPS), some have no signature and so are
# found in any bytes (TGA), some come down to 8 bits without a sign (JPEG 2000).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "QOI", "TIFF", "WEBP")

# Of files that are looked for in folders; a file that is named may have any.
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".qoi", ".tif", ".tiff", ".webp"})

# By suffix: the format, and how to save it. JPEG is the only lossy one; it is kept close to what was decoded.
SAVERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"compress_level": 4}),  # in half the time of Pillow's 6, for 2 to 4 % more bytes
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
}

GREY_MODES = frozenset({"1", "L", "LA", "La"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "RGBa"})
DEEP_GREY_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
# Pillow's raw modes say how samples lie in the file. BGR;15 and BGR;16 are 5 or 6 bits per sample, not 16.
DEEP_RAW_MODE = re.compile(r"(?!BGR)\w+;(12|16|32)")
# Of colours of 16 bits Pillow keeps the upper byte; asked for the other byte order, it keeps the lower.
DEEP_COLOUR = re.compile(r"(LA|RGB|RGBA);16([BLN])")
OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

XMP_TEXT = b"XML:com.adobe.xmp" + bytes(5)  # of the PNG chunk: a keyword and four empty fields come first
EXIF_PREFIX = b"Exif\0\0"  # of the block in JPEG; what follows is a small TIFF file
TIFF_HEADERS = (b"II*\0", b"MM\0*")
# Of a TIFF file's own tags, the ones about the picture. The others say how this file stores it.
DESCRIPTIVE_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.XResolution,
    ExifTags.Base.YResolution,
    ExifTags.Base.ResolutionUnit,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
# Of EXIF, what is shown to people.
TEXT_TAGS = {
    "Description": ExifTags.Base.ImageDescription,
    "Artist": ExifTags.Base.Artist,
    "Copyright": ExifTags.Base.Copyright,
    "Date": ExifTags.Base.DateTime,
    "Camera": ExifTags.Base.Model,
}
MAX_TEXT = 200  # characters of each

_PILLOW = threading.Lock()  # its limit on pixels and Python's warning filters belong to the whole process


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture."""

    pixels: NDArray[Any]  # (height, width, 3), uint8 or uint16; straight, not multiplied by opacity
    grey: bool = False  # its three channels are equal, and it is to be written with one
    metadata: Mapping[str, bytes] = field(default_factory=dict)  # "icc", "exif", "xmp": what there is
    alpha: NDArray[Any] | None = None  # (height, width), of the pixels' type, 0 = transparent; None = opaque

    @property
    def bit_depth(self) -> int:
        """Bits per sample, 8 or 16."""
        return 8 * self.pixels.dtype.itemsize

    @classmethod
    def from_array(cls, array: NDArray[Any], metadata: Mapping[str, bytes] | None = None) -> Picture:
        """The picture of uint8 or uint16 samples, (height, width) or (height, width, channels).

        2 channels are grey and opacity, 3 are RGB, 4 are RGB and opacity. ImageError for other arrays.
        """
        if array.dtype not in (np.uint8, np.uint16):
            raise ImageError(f"expected samples of type uint8 or uint16, found {array.dtype}")
        if array.ndim not in (2, 3) or array.shape[2:] not in ((), (2,), (3,), (4,)) or not array.size:
            raise ImageError(f"expected an array (height, width) or (height, width, 2..4), found {array.shape}")
        if not LIMITS.allow(array.shape[1], array.shape[0]):
            raise ImageError(f"expected at most {LIMITS}, found {array.shape[1]} x {array.shape[0]}")
        samples = array.reshape(*array.shape[:2], -1)  # (H, W, 1..4)
        grey, alpha = samples.shape[2] < 3, samples.shape[2] in (2, 4)
        pixels = np.repeat(samples[..., :1], 3, axis=2) if grey else samples[..., :3].copy()
        return cls(pixels, grey, dict(metadata or {}), samples[..., -1].copy() if alpha else None)

    def to_array(self) -> NDArray[Any]:
        """The samples as `from_array` takes them."""
        samples = self.pixels[..., :1] if self.grey else self.pixels
        if self.alpha is not None:
            samples = np.concatenate([samples, self.alpha[..., None]], axis=2)
        return np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def read_picture(path: Path, *, convert: bool = False) -> Picture:
    """The picture in a file, turned upright as its EXIF orientation says.

    ICC profile, EXIF (its orientation set to 1) and XMP are kept. With `convert`, CMYK and other colour spaces
    become RGB as Pillow has it, of several pictures the first is taken, of floating-point samples 0..1 as linear light,
    and the result is `flatten`ed. Raises ImageError without it in these cases, and always for what is not a whole
    picture of at most 2**28 pixels and 32768 pixels a side.
    """
    if path.exists() and not path.is_file():
        raise ImageError(f"{path}: expected a file, found something else")
    try:
        file = path.open("rb")
    except OSError as error:
        raise ImageError(f"{path}: cannot read the picture: {error.strerror or error}") from None
    with file:
        return _read_file(file, str(path), convert)


def picture_size(path: Path) -> tuple[int, int] | None:
    """Width and height of the picture in a file as its header has them, not yet turned; None if it has none."""
    if not path.is_file():
        return None
    with (
        suppress(Exception),
        path.open("rb") as file,
        _pillow(),
        Image.open(file, formats=_readable_formats()) as image,
    ):
        return image.size
    return None


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Where the picture in a file is neither black nor transparent, (height, width). Raises as `read_picture` does."""
    picture = read_picture(path)
    lit: NDArray[np.bool_] = picture.pixels.max(axis=2) > 0
    return lit if picture.alpha is None else lit & (picture.alpha > 0)


def parse_picture(data: bytes, source: str, *, convert: bool = False) -> Picture:
    """The picture in the bytes of a file, as `read_picture` has it; `source` names it in errors."""
    return _read_file(BytesIO(data), source, convert)


def flatten(picture: Picture) -> Picture:
    """The picture with 8 bits per sample, and on white where it is transparent."""
    top = 2**picture.bit_depth - 1
    if top == 255 and picture.alpha is None:
        return picture
    samples = picture.pixels.astype(np.float32)
    if picture.alpha is not None:
        opacity = picture.alpha[..., None] / np.float32(top)
        samples = samples * opacity + top * (1 - opacity)  # Porter and Duff 1984, "over" white
    return replace(picture, pixels=np.rint(samples * (255 / top)).astype(np.uint8), alpha=None)


def find_pictures(folder: Path, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """Files with the suffix of a picture in a folder and those inside it, in the order of their names.

    ImageError if there is no folder or no such file in it.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: expected a folder of pictures, found no folder")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file()]
    if not found:
        raise ImageError(f"{folder}: expected pictures ({', '.join(sorted(suffixes))}), found none")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def write_picture(picture: Picture, path: Path, *, overwrite: bool = False) -> None:
    """Write a picture with its metadata; the suffix chooses PNG, JPEG, WebP or TIFF.

    Errors are those of `format_picture` and `write_atomically`.
    """
    write_atomically(path, format_picture(picture, path), overwrite=overwrite)


def format_picture(picture: Picture, path: Path, *, convert: bool = False) -> bytes:
    """What `write_picture` writes to a path.

    With `convert` the picture is `flatten`ed for a format that holds no transparency or 16 bits. OutputError if
    the suffix is that of no format, or the picture or its metadata do not fit into the format.
    """
    if path.suffix.lower() not in SAVERS:
        raise OutputError(f"{path}: expected one of the suffixes {', '.join(SAVERS)}, found {path.suffix!r}")
    file_format, options = SAVERS[path.suffix.lower()]
    if convert and not _holds(file_format, picture):
        picture = flatten(picture)
    if not _holds(file_format, picture):
        kind = f"{picture.bit_depth} bits{'' if picture.alpha is None else ' and transparency'}"
        raise OutputError(f"{path}: {file_format} cannot hold {kind}; choose PNG, or --convert to 8 bits on white")
    if file_format == "PNG" and picture.bit_depth == 16:
        return _deep_png(picture)
    image = Image.fromarray(picture.to_array())
    buffer = BytesIO()
    try:
        with _pillow():
            image.save(buffer, file_format, **options, **_metadata_options(file_format, picture.metadata))
    except Exception as error:  # too wide for WebP, EXIF too long for JPEG, damaged EXIF for TIFF, ...
        raise OutputError(f"{path}: cannot be written as {file_format}: {error}") from None
    return buffer.getvalue()


def exif_texts(exif: bytes) -> dict[str, str]:
    """What an EXIF block says in words, each on one line; nothing if it is damaged."""
    texts: dict[str, str] = {}
    with suppress(Exception), _pillow():
        tags = Image.Exif()
        tags.load(exif)
        for label, tag in TEXT_TAGS.items():
            printable = "".join(c if c.isprintable() else " " for c in str(tags.get(tag, ""))[:MAX_TEXT])
            if text := " ".join(printable.split()):
                texts[label] = text
    return texts


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise what `write_atomically` would raise anyway, before the work is done.

    OutputExistsError if the path is taken, OutputError if it could not hold a file at all.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: expected a file or nothing, found something else")
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{path}: exists already (--force replaces it)")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: expected a folder {path.parent}, found none")
    if not os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OutputError(f"{path}: cannot write into the folder {path.parent}")


def write_atomically(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file so that at any time the path holds nothing, what it held before, or all of the data.

    OutputExistsError if the path is taken and `overwrite` is false, OutputError if it cannot be written. A
    temporary file beside it is gone afterwards, whatever happens.
    """
    check_output(path, overwrite=overwrite)
    temporary = path.with_name(f".inrcodec-{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite or not _link(temporary, path):
            temporary.replace(path)
    except FileExistsError:  # since it was checked
        raise OutputExistsError(f"{path}: exists already (--force replaces it)") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        try:
            temporary.unlink(missing_ok=True)
        finally:  # Ctrl-C may come just before it is gone
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> bool:
    """Give a file a second name, which unlike renaming it never replaces another file.

    False on file systems without links (FAT, some network shares), FileExistsError if the name is taken.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


@contextmanager
def _pillow() -> Iterator[None]:
    """Pillow with our limit on pixels, which is an error, and without its warnings."""
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LIMITS.max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _read_file(file: BinaryIO, source: str, convert: bool) -> Picture:
    """The picture in an open file. ImageErrors name the source."""
    try:
        with _pillow():
            formats = _readable_formats()
            with Image.open(file, formats=formats) as image:
                if image.format == "PNG":
                    image.verify()  # only this looks at the checksums of the pixel data; it uses the image up
            file.seek(0)
            with Image.open(file, formats=formats) as image:
                return _read(image, file, convert)
    except UnidentifiedImageError:
        found = "none of them, or a damaged one" if file.seek(0, os.SEEK_END) else "an empty file"
        raise ImageError(f"{source}: expected a picture ({', '.join(FORMATS)}), found {found}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{source}: expected at most {LIMITS}, found more") from None
    except ImageError as error:
        raise ImageError(f"{source}: {error}") from None
    except OSError as error:
        raise ImageError(f"{source}: cannot read the picture: {error.strerror or error}") from None
    except Exception as error:  # of a damaged file Pillow raises whatever its parsers happen to meet
        raise ImageError(f"{source}: cannot read the picture: {type(error).__name__}: {error}") from None


def _readable_formats() -> list[str]:
    """FORMATS without those that this Pillow was built without."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _read(image: ImageFile.ImageFile, file: BinaryIO, convert: bool) -> Picture:
    """The picture in an image of which only the header has been read. ImageErrors do not name the file."""
    if not LIMITS.allow(*image.size):
        raise ImageError(f"expected at most {LIMITS}, found {image.width} x {image.height}")
    if min(image.size) < 1:
        raise ImageError(f"expected at least 1 pixel, found {image.width} x {image.height}")
    # The second picture of an MPO is another view or a gain map; its first is what every JPEG viewer shows.
    if getattr(image, "is_animated", False) and image.format != "MPO" and not convert:
        raise ImageError("expected one picture, found several (--convert takes the first)")
    if image.mode == "F" and not convert:
        raise ImageError("expected integer samples, found floating-point ones (--convert takes 0..1 as linear light)")
    top = _largest_sample(image, file)
    reduced = top > 255 and image.mode not in DEEP_GREY_MODES
    stored, tiles = _deep_colours(image), list(image.tile)  # which loading uses up
    if reduced and not stored and not convert:
        raise ImageError(f"expected 8 or 16 bits per sample, found {top.bit_length()} (--convert scales them)")
    known = GREY_MODES | COLOUR_MODES | DEEP_GREY_MODES
    if image.mode not in known and not convert:
        raise ImageError(f"expected RGB, grey or a palette, found {image.mode} (--convert makes it RGB)")

    image.load()
    metadata = _read_metadata(image)
    with suppress(Exception):  # a damaged EXIF block cannot turn the picture, but the picture is whole
        ImageOps.exif_transpose(image, in_place=True)
    samples: NDArray[Any]
    opacity: NDArray[Any]
    if image.mode == "F":
        samples, opacity = _from_light(image), np.full((1, 1, 1), 255, np.uint8)
        metadata.pop("icc", None)  # which was of these samples
    elif image.mode in DEEP_GREY_MODES:
        samples, opacity = _scale_grey(image, top)
    elif reduced and stored:
        samples, opacity = _join_bytes(image, stored, tiles[0], file)
    else:
        samples, opacity = _expand(image, deep=reduced)
    grey = samples.shape[2] == 1
    pixels = np.broadcast_to(samples, (*samples.shape[:2], 3)).copy()  # (H, W, 3), ours to write to
    alpha = opacity[..., 0].copy() if opacity.min() < np.iinfo(opacity.dtype).max else None
    if "icc" in metadata and metadata["icc"][16:20] != (b"GRAY" if grey else b"RGB "):
        del metadata["icc"]  # a profile of another colour space, such as the CMYK it was converted from
    picture = Picture(pixels, grey, metadata, alpha)
    return flatten(picture) if convert else picture


def _deep_colours(image: ImageFile.ImageFile) -> str | None:
    """How an image that Pillow reduces to 8 bits lies in its file: a raw mode, "PPM", or None if we cannot undo it."""
    kinds = {str(_arguments(tile)[0]) for tile in image.tile}
    if image.format == "PPM":
        return "PPM" if kinds == {"RGB"} and image.tile[0].codec_name == "ppm" else None
    return kinds.pop() if len(kinds) == 1 and all(map(DEEP_COLOUR.fullmatch, kinds)) else None


def _arguments(tile: ImageFile._Tile) -> tuple[Any, ...]:
    """Of the decoder of a tile: the raw mode comes first."""
    return tile.args if isinstance(tile.args, tuple) else (tile.args,)


def _join_bytes(
    image: ImageFile.ImageFile, stored: str, tile: ImageFile._Tile, file: BinaryIO
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """16-bit samples (H, W, 1 or 3) and opacity (H, W, 1) of a loaded, upright image of 8 bits."""
    opaque = np.full((1, 1, 1), 65535, np.uint16)
    if stored == "PPM":
        file.seek(tile.offset)
        values = np.frombuffer(file.read(image.height * image.width * 6), ">u2").reshape(image.height, image.width, 3)
        return _to_16_bits(values, _arguments(tile)[-1]), opaque
    grey = stored.startswith("LA")
    file.seek(0)
    with Image.open(file, formats=[image.format or ""]) as other:
        # Grey with opacity has no second byte order. Its 4 bytes pass for those of RGBA.
        raw_mode = "RGBA" if grey else stored[:-1] + OTHER_BYTE[stored[-1]]
        other.tile = [tile._replace(args=(raw_mode, *_arguments(tile)[1:])) for tile in other.tile]
        other.load()
        with suppress(Exception):
            ImageOps.exif_transpose(other, in_place=True)
        lower = np.asarray(other).astype(np.uint16)
    if grey:
        return lower[..., :1] * 256 + lower[..., 1:2], lower[..., 2:3] * 256 + lower[..., 3:]
    samples = np.asarray(image).astype(np.uint16) * 256 + lower
    colour = image.info.get("transparency")
    if samples.shape[2] == 4:
        return samples[..., :3], samples[..., 3:]
    if isinstance(colour, tuple):
        return samples, np.where((samples == colour).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
    return samples, opaque


def _largest_sample(image: ImageFile.ImageFile, file: BinaryIO) -> int:
    """What white is in the file: 255, or more if Pillow is about to reduce the samples to 8 bits unasked."""
    for tile in image.tile:
        args = _arguments(tile)
        if tile.codec_name.startswith("ppm") and args[-1] > 255:
            return 65535  # Pillow scales a PPM to 16 bits, whatever its own maximum
        if isinstance(args[0], str) and (deep := DEEP_RAW_MODE.match(args[0])):
            return 4095 if deep[1] == "12" else 65535
    if image.format == "AVIF":
        file.seek(0)
        # AV1CodecConfigurationBox: bit 6 of its third byte is high_bitdepth (AV1 in ISOBMFF, section 2.3.3).
        configuration = re.search(rb"av1C..(.)", file.read(1 << 16), re.DOTALL)
        if configuration and configuration[1][0] & 0x40:
            return 1023
    return 65535 if image.mode in DEEP_GREY_MODES else 255


def _scale_grey(image: Image.Image, top: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Samples 0..top scaled to 16 bits, and their opacity, both of shape (H, W, 1)."""
    values = np.asarray(image).astype(np.int64)[..., None]
    if values.min() < 0 or values.max() > top:
        raise ImageError(f"expected samples of 0..{top}, found {values.min()}..{values.max()}")
    opacity = np.where(values == image.info.get("transparency", -1), 0, 65535).astype(np.uint16)
    return _to_16_bits(values, top), opacity


def _from_light(image: Image.Image) -> NDArray[np.uint8]:
    """sRGB samples (H, W, 1) of linear light, clipped to 0..1 (IEC 61966-2-1)."""
    light = np.asarray(image, np.float64)[..., None]
    if np.isnan(light).any():
        raise ImageError("expected numbers as samples, found NaN")
    light = light.clip(0, 1)
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    samples: NDArray[np.uint8] = np.rint(255 * curved).astype(np.uint8)
    return samples


def _to_16_bits(values: NDArray[np.integer[Any]], top: int) -> NDArray[np.uint16]:
    """Samples 0..top as 0..65535, rounded to the nearest."""
    return ((values.astype(np.int64) * 65535 + top // 2) // top).astype(np.uint16)


def _expand(image: Image.Image, *, deep: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Grey samples (H, W, 1) or RGB samples (H, W, 3), and their opacity (H, W, 1)."""
    channels = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        samples = np.asarray(image.convert(channels))
        return samples.reshape(image.height, image.width, -1), np.full((1, 1, 1), 255, np.uint8)
    if deep and isinstance(colour := image.info.get("transparency"), tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)  # as Pillow has done to the samples
    if image.mode == "La":  # premultiplied grey converts to nothing else
        image = image.convert("LA")
    rgba = np.asarray(image.convert("RGBA"))  # (H, W, 4)
    return rgba[..., : len(channels)], rgba[..., 3:]


def _read_metadata(image: ImageFile.ImageFile) -> dict[str, bytes]:
    """ICC profile, EXIF and XMP of a loaded image, as far as they are there and make sense."""
    xmp = image.info.get("xmp")
    found = {"icc": image.info.get("icc_profile"), "exif": _read_exif(image), "xmp": xmp}
    metadata = {key: value for key, value in found.items() if isinstance(value, bytes) and value}
    if "xmp" in metadata:
        metadata["xmp"] = re.sub(rb"(tiff:Orientation(?:=[\"']|>))[2-8]", rb"\g<1>1", metadata["xmp"])
    return metadata


def _read_exif(image: ImageFile.ImageFile) -> bytes:
    """The EXIF block from its TIFF header on, upright; empty if there is none."""
    exif = image.info.get("exif", b"")
    with suppress(Exception):  # what cannot be parsed is not kept
        if image.format == "TIFF":
            exif = _exif_of_tiff(image.getexif())
        elif "Raw profile type exif" in image.info:  # text in PNG files from ImageMagick
            exif = image.getexif().tobytes()
    exif = exif.removeprefix(EXIF_PREFIX)
    return _reset_orientation(exif)


def _exif_of_tiff(tags: Image.Exif) -> bytes:
    """A TIFF file has no EXIF block, its own tags are one: here without those that say how it is stored."""
    exif = Image.Exif()
    for tag in DESCRIPTIVE_TAGS:
        if tag in tags:
            exif[tag] = tags[tag]
    for group in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if inner := tags.get_ifd(group):
            exif[group] = inner
    return exif.tobytes() if exif else b""


def _reset_orientation(exif: bytes) -> bytes:
    """The block with orientation 1 if it has one, or nothing if it is damaged.

    All else stays in its place: maker notes hold offsets, and break when they are moved.
    """
    if not exif.startswith(TIFF_HEADERS):
        return b""
    order = "<" if exif.startswith(b"II") else ">"
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for at in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH8x", exif, at)
            if tag == ExifTags.Base.Orientation:
                value = struct.pack(order + ("I" if kind == 4 else "H"), 1)  # type 4 is LONG; it should be SHORT
                return exif[: at + 8] + value.ljust(4, b"\0") + exif[at + 12 :]
    except struct.error:  # the directory is cut short
        return b""
    return exif


def _holds(file_format: str, picture: Picture) -> bool:
    """Whether a format can hold a picture's opacity and depth."""
    if picture.bit_depth == 16:
        return file_format == "PNG" or file_format == "TIFF" and picture.grey and picture.alpha is None
    return picture.alpha is None or file_format != "JPEG"


def _deep_png(picture: Picture) -> bytes:
    """A PNG of 16 bits per sample, which Pillow can write of grey only."""
    samples = picture.to_array().astype(">u2")
    height, width, channels = *samples.shape[:2], samples[0, 0].size
    rows = samples.view(np.uint8).reshape(height, -1)
    filtered = np.diff(rows, axis=0, prepend=np.uint8(0))  # filter type 2, "up"
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), filtered], axis=1)
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    if "icc" in picture.metadata:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.metadata["icc"])))
    if "exif" in picture.metadata:
        chunks.append((b"eXIf", picture.metadata["exif"]))
    if "xmp" in picture.metadata:
        chunks.append((b"iTXt", XMP_TEXT + picture.metadata["xmp"]))
    chunks += [(b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _metadata_options(file_format: str, metadata: Mapping[str, bytes]) -> dict[str, Any]:
    """How Pillow is told to save metadata in a format."""
    options: dict[str, Any] = {}
    if "icc" in metadata:
        options["icc_profile"] = metadata["icc"]
    if file_format == "TIFF":
        tags = Image.Exif()
        tags.load(metadata.get("exif", b""))
        if "xmp" in metadata:
            tags[TiffImagePlugin.XMP] = metadata["xmp"]
        return options | {"exif": tags}
    if "exif" in metadata:
        options["exif"] = EXIF_PREFIX + metadata["exif"]
    if "xmp" in metadata and file_format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add(b"iTXt", XMP_TEXT + metadata["xmp"])  # not Pillow's add_itxt, which takes only valid text
        options["pnginfo"] = text
    elif "xmp" in metadata:
        options["xmp"] = metadata["xmp"]
    return options
