"""20,000 mutated inputs, the same in every run: no exception but ours, and no warning."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "fuzz"
sys.path.append(str(HERE))

from targets import TARGETS, folders  # noqa: E402  # beside `run.py`, which atheris starts by its path

INPUTS = 5_000  # per target
MAX_SIZE = 8_192  # bytes


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def put(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def put_number(data: bytearray, rng: random.Random) -> None:
    size, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
    value = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), rng.randrange(2 ** (8 * size))))
    at = rng.randrange(len(data))
    data[at : at + size] = value.to_bytes(size, order)  # type: ignore[arg-type]


def cut(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 9)]


def cut_end(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, rng: random.Random) -> None:
    data[(at := rng.randrange(len(data))) : at] = rng.randbytes(rng.randrange(1, 9))


def repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.randrange(1, 65)]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, flip, put, put, put_number, cut, cut_end, insert, repeat,
)  # fmt: skip


def mutated(corpus: list[bytes], rng: random.Random) -> bytes:
    """A mutation of an input, or of the beginning of one and the end of another."""
    data = bytearray(rng.choice(corpus))
    if rng.random() < 0.1:
        other = rng.choice(corpus)
        data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        if data:
            rng.choice(MUTATIONS)(data, rng)
    return bytes(data[:MAX_SIZE])


def corpus_of(name: str) -> list[bytes]:
    inputs = [path.read_bytes() for folder in folders(name) for path in sorted(folder.iterdir())]
    return [data for data in inputs if len(data) <= MAX_SIZE]


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_raises_anything_but_our_errors(name: str) -> None:
    corpus = corpus_of(name)
    rng = random.Random(name)
    for data in corpus:
        TARGETS[name](data)
    for number in range(INPUTS):
        data = mutated(corpus, rng)
        try:
            TARGETS[name](data)
        except BaseException as error:
            raise AssertionError(f"input {number} of {name}: {data.hex()}") from error


def test_the_corpus_is_valid_to_begin_with() -> None:
    """Otherwise mutations of it would not get far."""
    from inrcodec.bitstream import unpack
    from inrcodec.image import read_picture

    for path in (HERE / "corpus" / "header").iterdir():
        unpack(path.read_bytes())
    for path in (HERE / "corpus" / "encode_input").iterdir():
        read_picture(path, convert=True)
