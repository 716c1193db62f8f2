"""Other versions: what a reader cannot read it refuses and says what is needed; what it need not know it skips."""

import zlib

import golden
import numpy as np
import pytest
from test_bitstream import chunk
from test_hostile import prior_file

from inrcodec.codec import decode
from inrcodec.errors import PriorError, UnsupportedVersionError
from inrcodec.prior import parse_prior

FILE = (golden.FOLDER / "fields-metadata.sinr").read_bytes()
PRIOR = golden.carried_prior("fields")


def with_chunk(tag: int, payload: bytes, file: bytes = FILE) -> bytes:
    """The file with one more chunk before its end tag."""
    body = file[:-5] + chunk(tag, payload) + b"\0"
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize("version", [0, 2, 3, 255])
def test_another_version_is_refused_whatever_follows(version: int) -> None:
    for rest in (FILE[5:], b"", b"a layout nobody knows yet"):
        with pytest.raises(UnsupportedVersionError, match=f"version 1, found {version}: it needs a newer inrcodec"):
            decode(FILE[:4] + bytes([version]) + rest + bytes(4), prior=PRIOR)


@pytest.mark.parametrize("tag", [0xC0, 0xE1, 0xFF])
@pytest.mark.parametrize("payload", [b"", b"\0", b"any bytes"])
def test_an_unknown_ancillary_chunk_changes_nothing(tag: int, payload: bytes) -> None:
    found, expected = decode(with_chunk(tag, payload), prior=PRIOR), decode(FILE, prior=PRIOR)
    assert np.array_equal(found.pixels, expected.pixels) and found.metadata == expected.metadata


@pytest.mark.parametrize("tag", [0x20, 0x40, 0x7F])
def test_an_unknown_critical_chunk_is_refused_by_its_tag(tag: int) -> None:
    plain = (golden.FOLDER / "fields-6x8.sinr").read_bytes()
    with pytest.raises(UnsupportedVersionError, match=f"chunk {tag:#04x} is critical and unknown: it needs a newer"):
        decode(with_chunk(tag, b"new", plain), prior=PRIOR)


def test_a_prior_of_another_format_is_refused_and_its_unknown_tensors_are_not() -> None:
    with pytest.raises(PriorError, match="prior format 2 is not known, expected 1"):
        parse_prior(prior_file(PRIOR, format=2), "x")
    assert (
        parse_prior(prior_file(PRIOR, {"later.weight": np.ones(3, np.float32)}), "x").architecture == PRIOR.architecture
    )
