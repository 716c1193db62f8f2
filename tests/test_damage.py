"""Damage: no flipped bit, no missing byte and no added one goes unnoticed."""

import json
import time
from collections.abc import Iterator

import golden
import pytest

from inrcodec.codec import decode
from inrcodec.errors import SinrError, TruncatedFileError
from inrcodec.prior import Prior

SECONDS = 1.0  # of processor time, for one file
NAMES = sorted(json.loads(golden.INDEX.read_text()))
PRIORS = {kind: golden.carried_prior(kind) for kind in golden.CARRIERS}


def refuse(data: bytes, prior: Prior) -> SinrError:
    """The error of a damaged file, which must come soon."""
    began = time.process_time()
    with pytest.raises(SinrError) as caught:
        decode(data, prior=prior)
    assert time.process_time() - began < SECONDS
    return caught.value


def flipped(data: bytes, every: int) -> Iterator[bytes]:
    """The file with single bits flipped."""
    for position in range(0, 8 * len(data), every):
        copy = bytearray(data)
        copy[position // 8] ^= 1 << position % 8
        yield bytes(copy)


@pytest.mark.parametrize("name", NAMES)
def test_damage_to_golden_files_is_always_noticed(name: str) -> None:
    """Every bit, every length and every length of junk; of the files that carry a large prior, a sample of them."""
    kind = next(kind for kind in golden.CARRIERS if name.startswith(kind))
    data, prior = (golden.FOLDER / name).read_bytes(), PRIORS[kind]
    every = max(1, len(data) // 2000, len(data) ** 2 >> 28)
    for copy in flipped(data, every):
        refuse(copy, prior)
    for size in range(0, len(data), every):
        assert isinstance(refuse(data[:size], prior), TruncatedFileError)
    for count in range(1, 65):
        for junk in (bytes(count), b"\xff" * count, data[-count:], (data * 64)[:count]):
            refuse(data + junk, prior)
