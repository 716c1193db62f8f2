"""The `.sinr` file, version 1: this text is the specification, and the code below follows its order.

A file is one picture: a header, one entropy-coded payload per parameter group, and metadata.

    field              type      value
    magic              4 bytes   53 49 4E 52, "SINR"
    version            u8        1
    flags              u8        bit 0: self-contained; 1: with opacity; 2: wide; 3: post-filtered; 4..7 must be 0
    colour             u8        0 RGB, 1 grey (the mean of the three decoded channels); others illegal
    bit depth          u8        8 or 16 bits per sample; others illegal
    quality index      u8        0..255; lambda = 2 ** (11.6 - 8 * index / 255), squared 8-bit error per bit
    asked index        u8        0..255; what a typical picture would have had (`allocation`); for people only
    width              varint    pixels, at least 1
    height             varint    pixels, at least 1
    prior id           8 bytes   the first 8 bytes of the SHA-256 of the prior's file
    group count        u8        1..64
    group length       varint    bytes; repeated once per group
    opacity length     varint    bytes; only if flag bit 1 is set, as the next
    opacity            bytes     a zstd frame, see below
    group payload      bytes     repeated once per group, coarse to fine, back to back
    chunks                       any number, see below
    end tag            u8        0
    CRC-32             u32       of every byte before it, as in zlib and PNG
    nothing follows

Integers are unsigned and little-endian. A varint is LEB128: seven bits per byte, least significant first, bit
7 set on all but the last byte, at most 5 bytes and never longer than the value needs (its last byte is 0 only
if it is the only byte).

Spacing. In a wide file the cells of the finest field are 2 pixels apart, else 1. All that a prior with fields, its
network and filters say of pixels is of cells then, ceil(height / spacing) rows of ceil(width / spacing); the last ones
may reach beyond the picture, which at a position p in pixels is what they say at p / spacing. The quality index, too,
is that of the picture of cells. Priors without fields have no wide files.

Post-filter. If flag bit 3 is set, the post-filter of the prior has a say in the picture (see `render`). A prior that
has none has no such files.

Groups. The prior says what group k means and how to decode it (see `codec` and `entropy`). A decoder reads
zeros past the end of a payload, so a payload does not end in a zero byte: the writer drops them and a reader
refuses them. An empty payload is legal. Coarse-to-fine order makes the beginning of a file a preview of the
picture: of one that ends after the opacity, the payloads that are whole can be decoded, at the risk that
damage goes unnoticed, because the CRC-32 is missing.

Opacity. A byte p, then of every pixel, 0 = transparent, row by row, an integer of the bit depth: the opacity itself
(p = 0), or its difference to the one on the left (1) or above (2; to 0 at the edge), modulo 2 ** bit depth. Without it
the picture is opaque. Colours are straight, not multiplied by opacity, and mean nothing at 0; it comes before the
groups, whose fields have no values there.

Chunks. A chunk is a tag (u8, 1..255), a length (varint, bytes) and that many bytes. Tags ascend, hence each
occurs at most once. Bit 7 of a tag tells a reader that does not know it what to do: clear = critical, refuse
the file; set = ancillary, skip the chunk. Known tags:

    0x01 prior   the prior's file; present exactly if flag bit 0 is set. The file then opens where its prior
                 is not installed. The SHA-256 of the content must begin with the prior id
    0x81 ICC     an ICC profile
    0x82 EXIF    an EXIF block, from its TIFF header (II or MM) on, with orientation 1 or none
    0x83 XMP     an XMP packet, UTF-8

The opacity and the payload of each known chunk are exactly one zstd frame (RFC 8878) that declares its content size, 1
byte to 64 MiB (of opacity: 1 + height x width x bit depth / 8 bytes), uses no dictionary, and is followed by nothing.

What a reader also refuses: more pixels or a longer side than its limits (see `Limits`), which is not part of
the format but of the machine that reads.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

import zstandard

from inrcodec.errors import LimitError, SinrError, TruncatedFileError, UnsupportedVersionError
from inrcodec.options import lagrangian

__all__ = ["Colour", "Limits", "SinrFile", "pack", "read_file", "unpack", "unpack_prefix"]

MAGIC = b"SINR"
VERSION = 1
SELF_CONTAINED, WITH_OPACITY, WIDE, POST_FILTERED = 0x01, 0x02, 0x04, 0x08  # the flags of version 1
BIT_DEPTHS = (8, 16)  # bits per sample
PRIOR_ID_SIZE = 8  # bytes
MAX_GROUPS = 64
MAX_VARINT_SIZE = 5  # bytes, hence
MAX_VARINT = 2 ** (7 * MAX_VARINT_SIZE) - 1
END_TAG = 0x00
PRIOR_TAG = 0x01
METADATA_TAGS = {"icc": 0x81, "exif": 0x82, "xmp": 0x83}
ANCILLARY = 0x80  # the bit of a tag that lets readers skip what they do not know
MAX_CONTENT = 64 << 20  # bytes in a chunk once decompressed
CRC_SIZE = 4  # bytes
ZSTD_LEVEL = 19  # writers may choose; metadata are small, so the slow end costs milliseconds


class Colour(IntEnum):
    """What the samples of a picture are."""

    RGB = 0
    GREY = 1


@dataclass(frozen=True)
class Limits:
    """The largest picture a reader accepts: it is what bounds the memory a small file can ask for."""

    max_pixels: int = 2**28
    max_side: int = 32768  # pixels

    def allow(self, width: int, height: int) -> bool:
        """Whether a picture of this size is within them."""
        return max(width, height) <= self.max_side and width * height <= self.max_pixels

    def __str__(self) -> str:
        return f"{self.max_pixels} pixels and {self.max_side} a side"


@dataclass(frozen=True)
class SinrFile:
    """The content of a file, with the chunks decompressed."""

    width: int  # pixels
    height: int  # pixels
    colour: Colour
    bit_depth: int  # bits per sample
    quality_index: int  # 0..255
    asked_index: int  # 0..255, what a typical picture would have
    prior_id: bytes  # 8 bytes
    groups: tuple[bytes, ...]  # payloads, coarse to fine
    metadata: Mapping[str, bytes] = field(default_factory=dict)  # "icc", "exif", "xmp": what there is
    prior: bytes | None = None  # the prior's file, if this one is self-contained
    alpha: bytes | None = None  # the opacity's content, unless the picture is opaque
    spacing: int = 1  # pixels from one cell of the finest field to the next, 1 or 2
    post: bool = False  # whether the prior's post-filter has a say

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the finest field."""
        return -(-self.height // self.spacing), -(-self.width // self.spacing)

    @property
    def lam(self) -> float:
        """Lambda: squared 8-bit error of the picture per bit."""
        return lagrangian(self.quality_index) * self.spacing**2

    @property
    def alpha_size(self) -> int:
        """Bytes of `alpha`, if there is any."""
        return 1 + self.height * self.width * self.bit_depth // 8


def pack(file: SinrFile) -> bytes:
    """The bytes of a file, such that `unpack` gives it back without the zeros that end a group's payload.

    SinrError if a field is outside of what the format can say.
    """
    groups = [group.rstrip(b"\0") for group in file.groups]
    out = bytearray(MAGIC)
    out.append(VERSION)
    how = WIDE * (_in_range("spacing", file.spacing, 1, 2) == 2) | POST_FILTERED * file.post
    out.append(SELF_CONTAINED * (file.prior is not None) | WITH_OPACITY * (file.alpha is not None) | how)
    out.append(_colour(file.colour))
    out.append(_bit_depth(file.bit_depth))
    out.append(_in_range("quality index", file.quality_index, 0, 255))
    out.append(_in_range("asked index", file.asked_index, 0, 255))
    out += _varint(_in_range("width", file.width, 1, MAX_VARINT))
    out += _varint(_in_range("height", file.height, 1, MAX_VARINT))
    _in_range("size of the prior id", len(file.prior_id), PRIOR_ID_SIZE, PRIOR_ID_SIZE)
    out += file.prior_id
    out.append(_in_range("group count", len(groups), 1, MAX_GROUPS))
    for group in groups:
        out += _varint(len(group))
    if file.alpha is not None:
        _in_range("content of the opacity, in bytes", len(file.alpha), file.alpha_size, file.alpha_size)
        out += _frame(file.alpha)
    for group in groups:
        out += group
    for tag, content in _chunks(file):
        _in_range(f"content of chunk {tag:#04x}, in bytes", len(content), 1, MAX_CONTENT)
        out.append(tag)
        out += _frame(content)
    out.append(END_TAG)
    out += zlib.crc32(out).to_bytes(CRC_SIZE, "little")
    return bytes(out)


def unpack(data: bytes, limits: Limits = Limits()) -> SinrFile:
    """The content of a `.sinr` file, every byte of which has been checked.

    SinrError if the bytes are not a valid file; more precisely TruncatedFileError if they end early,
    UnsupportedVersionError if a newer writer made them, LimitError if the picture is too large.
    """
    _check_magic(data)
    reader = _Reader(data[:-CRC_SIZE])
    _check_version(reader)
    # The CRC comes before the fields, so that damage is called damage and not by the field that it hit.
    if zlib.crc32(reader.data) != int.from_bytes(data[-CRC_SIZE:], "little"):
        raise _damage(reader, limits)
    file = _unpack_body(reader, limits)
    if reader.left:
        raise SinrError(f"expected only the CRC-32 after the end tag, found {reader.left} more bytes")
    return file


def unpack_prefix(data: bytes, limits: Limits = Limits()) -> SinrFile:
    """The content of a file that may be cut short: the groups that are whole, and no chunks. Errors as of `unpack`."""
    _check_magic(data)
    reader = _Reader(data)
    _check_version(reader)
    header, _, lengths = _unpack_header(reader, limits)
    groups: list[bytes] = []
    while len(groups) < len(lengths) and lengths[len(groups)] <= reader.left:
        groups.append(_unpack_group(reader, len(groups), lengths[len(groups)]))
    return replace(header, groups=tuple(groups))


def read_file(path: Path) -> bytes:
    """The bytes at a path, whatever they are. SinrError if they cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SinrError(f"{path}: cannot read the file: {error.strerror}") from None


def _check_magic(data: bytes) -> None:
    if not MAGIC.startswith(data[: len(MAGIC)]):
        raise SinrError(f"not a .sinr file: expected it to begin with {MAGIC!r}, found {data[: len(MAGIC)]!r}")


def _check_version(reader: _Reader) -> None:
    reader.take(len(MAGIC), "magic")
    version = reader.u8("version")
    if version != VERSION:
        raise UnsupportedVersionError(f"expected version {VERSION}, found {version}: it needs a newer inrcodec")


def _unpack_header(reader: _Reader, limits: Limits) -> tuple[SinrFile, int, list[int]]:
    """Everything from after the version to the opacity: a file without groups, the flags and the group lengths."""
    flags = reader.u8("flags")
    if flags & ~(SELF_CONTAINED | WITH_OPACITY | WIDE | POST_FILTERED):
        raise SinrError(f"flags: expected bits 4..7 to be 0, found {flags:#010b}")
    colour = _colour(reader.u8("colour"))
    bit_depth = _bit_depth(reader.u8("bit depth"))
    quality_index, asked_index = reader.u8("quality index"), reader.u8("asked index")
    width = _in_range("width", reader.varint("width"), 1, MAX_VARINT)
    height = _in_range("height", reader.varint("height"), 1, MAX_VARINT)
    if not limits.allow(width, height):
        raise LimitError(f"expected at most {limits}, found {width} x {height}")
    prior_id = reader.take(PRIOR_ID_SIZE, "prior id")
    count = _in_range("group count", reader.u8("group count"), 1, MAX_GROUPS)
    lengths = [reader.varint(f"length of group {index}") for index in range(count)]
    spacing, post = 2 if flags & WIDE else 1, bool(flags & POST_FILTERED)
    header = SinrFile(
        width, height, colour, bit_depth, quality_index, asked_index, prior_id, (), spacing=spacing, post=post
    )
    if flags & WITH_OPACITY:
        payload = reader.take(reader.varint("length of the opacity"), "opacity")
        alpha = _decompress("opacity", payload, header.alpha_size)
        _in_range("content of the opacity, in bytes", len(alpha), header.alpha_size, header.alpha_size)
        header = replace(header, alpha=alpha)
    return header, flags, lengths


def _unpack_group(reader: _Reader, index: int, length: int) -> bytes:
    group = reader.take(length, f"group {index}")
    if group.endswith(b"\0"):
        raise SinrError(f"group {index}: expected no zero byte at its end, found one")
    return group


def _unpack_body(reader: _Reader, limits: Limits) -> SinrFile:
    """Everything after the version, to the end tag and including it."""
    header, flags, lengths = _unpack_header(reader, limits)
    groups = tuple(_unpack_group(reader, index, length) for index, length in enumerate(lengths))
    contents = _unpack_chunks(reader)
    prior = contents.get(PRIOR_TAG)
    if bool(flags & SELF_CONTAINED) != (prior is not None):
        found = "only the flag" if prior is None else "only the chunk"
        raise SinrError(f"expected the self-contained flag and a prior chunk together, found {found}")
    if prior is not None:
        _check_prior_id(prior, header.prior_id)
    metadata = {key: contents[tag] for key, tag in METADATA_TAGS.items() if tag in contents}
    return replace(header, groups=groups, metadata=metadata, prior=prior)


def _damage(reader: _Reader, limits: Limits) -> SinrError:
    """The error of a file whose CRC-32 is wrong, by its likeliest cause."""
    try:
        _unpack_body(reader, limits)
    except TruncatedFileError as error:
        return TruncatedFileError(f"the file is cut short or damaged: {error} (decode --levels previews what is there)")
    except SinrError:
        return SinrError("the file is damaged: its CRC-32 does not match")
    trailing = f" and {reader.left} bytes follow its end" if reader.left else ""
    return SinrError(f"the file is damaged: its CRC-32 does not match{trailing}")


def _unpack_chunks(reader: _Reader) -> dict[int, bytes]:
    """Contents of the known chunks by tag; the end tag is read too."""
    contents = {}
    last = END_TAG
    while tag := reader.u8("chunk tag or end tag"):
        if tag <= last:
            raise SinrError(f"chunk {tag:#04x}: expected a tag above {last:#04x}, the one before")
        payload = reader.take(reader.varint(f"length of chunk {tag:#04x}"), f"chunk {tag:#04x}")
        if tag == PRIOR_TAG or tag in METADATA_TAGS.values():
            contents[tag] = _decompress(f"chunk {tag:#04x}", payload, MAX_CONTENT)
        elif not tag & ANCILLARY:
            raise UnsupportedVersionError(f"chunk {tag:#04x} is critical and unknown: it needs a newer inrcodec")
        last = tag
    return contents


def _chunks(file: SinrFile) -> list[tuple[int, bytes]]:
    """Tags and contents to write, in order."""
    unknown = file.metadata.keys() - METADATA_TAGS.keys()
    if unknown:
        raise SinrError(f"metadata: expected only {sorted(METADATA_TAGS)}, found {sorted(unknown)}")
    chunks = [(METADATA_TAGS[key], content) for key, content in file.metadata.items()]
    if file.prior is not None:
        _check_prior_id(file.prior, file.prior_id)
        chunks.append((PRIOR_TAG, file.prior))
    return sorted(chunks)


def _frame(content: bytes) -> bytes:
    """Length and zstd frame of some content."""
    payload = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(content)
    return _varint(len(payload)) + payload


def _decompress(what: str, payload: bytes, most: int) -> bytes:
    try:
        # zstandard allocates what the frame declares whatever max_output_size says: ask before decompressing.
        size = zstandard.frame_content_size(payload)  # -1 if it is not declared
        if size < 1:
            raise SinrError(f"{what}: expected a zstd frame that declares the size of its content, found none")
        if size > most:
            raise LimitError(f"{what}: expected at most {most} bytes of content, found {size} declared")
        return zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise SinrError(f"{what}: expected one zstd frame and nothing more ({error})") from None


def _check_prior_id(prior: bytes, prior_id: bytes) -> None:
    found = hashlib.sha256(prior).digest()[:PRIOR_ID_SIZE]
    if found != prior_id:
        raise SinrError(f"prior chunk: expected the prior {prior_id.hex()}, found {found.hex()}")


def _colour(value: int) -> Colour:
    return Colour(_in_range("colour", value, Colour.RGB, Colour.GREY))


def _bit_depth(value: int) -> int:
    if value not in BIT_DEPTHS:
        raise SinrError(f"bit depth: expected 8 or 16, found {value}")
    return value


def _in_range(what: str, value: int, low: int, high: int) -> int:
    """The value, if it is low..high."""
    if not low <= value <= high:
        expected = f"{low}..{high}" if low < high else f"{low}"
        raise SinrError(f"{what}: expected {expected}, found {value}")
    return value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Reader:
    """A position in bytes that cannot pass their end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self.data) - self.at

    def take(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise TruncatedFileError(f"{what}: expected {size} bytes before the CRC-32, found {self.left}")
        self.at += size
        return self.data[self.at - size : self.at]

    def u8(self, what: str) -> int:
        return self.take(1, what)[0]

    def varint(self, what: str) -> int:
        value = 0
        for shift in range(0, 7 * MAX_VARINT_SIZE, 7):
            byte = self.u8(what)
            value |= (byte & 0x7F) << shift
            if byte <= 0x7F:
                if byte == 0 and shift:
                    raise SinrError(f"{what}: expected the shortest varint, found one that ends in a zero byte")
                return value
        raise SinrError(f"{what}: expected a varint of at most {MAX_VARINT_SIZE} bytes, found a longer one")
