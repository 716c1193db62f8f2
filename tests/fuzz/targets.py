"""Fuzz targets: functions of bytes that must return, or raise an error of ours, whatever the bytes are.

`test_fuzz` runs them on mutations of the corpus; `run.py` gives them to atheris. Where a file has a checksum it is made
right first, since otherwise hardly any mutation would get past it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import golden

from inrcodec import image
from inrcodec.bitstream import Colour, Limits, SinrFile, pack, unpack
from inrcodec.codec import decode, encode, read_parameters
from inrcodec.errors import ImageError, InrcodecError, PriorError, SinrError
from inrcodec.image import read_picture
from inrcodec.options import EncodeOptions

LIMITS = Limits(max_pixels=1 << 12, max_side=1 << 10)
FIELDS, NETWORK = golden.carried_prior("fields"), golden.carried_prior("network")
CARRIER = unpack((golden.FOLDER / golden.CARRIERS["network"]).read_bytes())
PRIORS = {prior.id: prior for prior in (FIELDS, NETWORK)}
INPUT = Path(tempfile.gettempdir()) / f"inrcodec-fuzz-{os.getpid()}"


def sealed(data: bytes) -> bytes:
    """A file with the magic, the version and the CRC-32 that a reader looks at first."""
    body = b"SINR\x01" + data[5:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def sealed_png(data: bytes) -> bytes:
    """A PNG file whose chunks have the right CRC-32."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        out += data[at:end] + zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return out


def header(data: bytes) -> None:
    """The container: what is read can be written, and is the same file again."""
    with suppress(SinrError):
        unpack(data)
    with suppress(SinrError):
        file = unpack(sealed(data))
        assert unpack(pack(file)) == file


def payload(data: bytes) -> None:
    """Entropy coding: height, width, quality index and group lengths come first, a byte each, then the groups."""
    for prior, count in ((FIELDS, 4), (NETWORK, 3)):
        height, width, index, *sizes = data[: 3 + count].ljust(3 + count, b"\1")
        rest, groups = data[3 + count :], []
        for size in sizes:
            groups.append(rest[:size])
            rest = rest[size:]
        file = SinrFile(width % 24 + 1, height % 24 + 1, Colour.RGB, 8, index, index, prior.id, tuple(groups))
        with suppress(SinrError):
            read_parameters(file, prior)


def whole(data: bytes) -> None:
    """A file to its picture; bytes that do not begin like one are a prior, in a file that carries it."""
    if data.startswith(b"SINR"):
        data = sealed(data)
        with suppress(InrcodecError):
            file = unpack(data, LIMITS)
            picture = decode(data, prior=PRIORS.get(file.prior_id), limits=LIMITS)
            assert picture.pixels.shape == (file.height, file.width, 3)
        return
    data = data or b"\0"
    file = replace(CARRIER, prior=data, prior_id=hashlib.sha256(data).digest()[:8])
    with suppress(PriorError, SinrError):
        decode(pack(file))


def encode_input(data: bytes) -> None:
    """A picture to a file and back."""
    INPUT.write_bytes(sealed_png(data) if data.startswith(b"\x89PNG") else data)
    before, image.LIMITS = image.LIMITS, LIMITS
    pictures = []
    try:
        for convert in (False, True):
            with suppress(ImageError):
                pictures.append(read_picture(INPUT, convert=convert))
    finally:
        image.LIMITS = before
        INPUT.unlink()
    for picture in pictures:
        with suppress(SinrError):  # metadata beyond 64 MiB
            found = decode(encode(picture, EncodeOptions(steps=0), prior=NETWORK).data, prior=NETWORK)
            assert found.pixels.shape == picture.pixels.shape and found.metadata == picture.metadata


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (header, payload, whole, encode_input)
}


def folders(name: str) -> list[Path]:
    """Where the inputs of a target are that fuzzing begins with."""
    return [Path(__file__).parent / "corpus" / name] + [golden.FOLDER] * (name == "whole")
