"""Golden files: every later reader must read those in `tests/data/v1` as on the day they were made.

`python tests/golden.py` makes those that are listed below and are not there yet; none is ever made again, since what
an encoder writes may change. `index.json` says what is in each: the SHA-256 of the file, of its quantized numbers and
of its samples in exact arithmetic, which are the same everywhere, and the file that carries its prior. Beside
NAME.sinr lies NAME.png, the picture.
Most priors are tiny ones of random weights; two files carry the bundled ones of the day. A new bundled prior changes
nothing here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from inrcodec.alpha import pack_alpha, unpack_alpha
from inrcodec.bitstream import Colour, SinrFile, pack, unpack
from inrcodec.codec import DELTA_GROUPS, decode, encode
from inrcodec.deltas import Deltas, FilterDeltas, changed_rate, delta_counts, pack_deltas, unpack_deltas
from inrcodec.entropy import RateModel, decode_deltas, encode_deltas
from inrcodec.image import Picture, write_picture
from inrcodec.lattice import field_shapes, visible_cells
from inrcodec.options import DecodeOptions, EncodeOptions
from inrcodec.prior import Prior, find_prior, parse_prior

FOLDER = Path(__file__).parent / "data" / "v1"
INDEX = FOLDER / "index.json"
TINY = ("fields", "network")  # kinds of priors, with and without fields
BUNDLED = ("photo", "sparse-siren")
POST = "post"  # the kind of one with a post-filter
EXPECTING = "expecting"  # the kind of one that says what it expects of deltas
CARRIERS = {kind: f"{kind}.sinr" for kind in (*TINY, POST, EXPECTING, *BUNDLED)}  # self-contained files, by kind
SIZES = ((1, 1), (1, 13), (9, 1), (6, 8), (67, 5), (130, 3))  # height, width
QUALITIES = (1, 20, 40, 60, 80, 100)


def scene(height: int = 22, width: int = 37) -> NDArray[np.uint8]:
    """A smooth coloured picture with an edge."""
    y, x = np.mgrid[0:height, 0:width]
    red = 128 + 90 * np.sin(x / 6) * np.cos(y / 5)
    green = np.where(x + y > 30, 200, 60)
    return np.stack([red, green, 255 * x / 37], -1).clip(0, 255).astype(np.uint8)


def carried_prior(kind: str) -> Prior:
    """The prior of a kind, from the golden file that carries it."""
    prior = unpack((FOLDER / CARRIERS[kind]).read_bytes()).prior
    assert prior is not None
    return parse_prior(prior, kind)


def digest(file: SinrFile, prior: Prior) -> str:
    """SHA-256 of the quantized fields or deltas of a file as int32, little-endian, in the order of its groups."""
    if prior.architecture.channels:
        shapes = field_shapes(*file.cells, prior.architecture.channels)
        coded = None
        if file.alpha is not None:
            alpha = unpack_alpha(file.alpha, file.height, file.width, file.bit_depth)
            coded = visible_cells(alpha > 0, len(shapes), file.spacing)
        changes = unpack_deltas(file.groups[:DELTA_GROUPS], prior.tensors)
        numbers = RateModel(changed_rate(prior.tensors, changes.rate), prior.architecture.channels).decode(
            file.groups[DELTA_GROUPS:], shapes, file.quality_index, coded
        )
        parts = [] if changes.filter is None else [changes.filter.values]
        parts += [] if changes.rate is None else [changes.rate]
        parts += reversed(numbers)
    else:
        masks = [prior.mask(layer) for layer in range(prior.layers)]
        counts = [int(mask.sum()) + len(mask) for mask in masks]
        parts = [decode_deltas(group, count) for group, count in zip(file.groups, counts, strict=True)]
    return hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in parts)).hexdigest()


def exact_digest(data: bytes, prior: Prior) -> str:
    """SHA-256 of the samples in exact arithmetic at x1 and x2, little-endian, opacity behind."""
    found = hashlib.sha256()
    for scale in (1, 2):
        picture = decode(data, DecodeOptions(scale=scale, exact=True), prior=prior)
        for samples in (picture.pixels, picture.alpha):
            if samples is not None:
                found.update(samples.astype(f"<u{samples.itemsize}").tobytes())
    return found.hexdigest()


def numbers_of(
    prior: Prior,
    draw: Callable[[int], NDArray[np.int32]],
    deltas: Deltas | None = None,
    spacing: int = 1,
    alpha: NDArray[np.uint8] | None = None,
) -> tuple[bytes, ...]:
    """Groups of a 22 x 37 picture whose numbers are drawn."""
    channels = prior.architecture.channels
    if channels:
        shapes = field_shapes(-(-22 // spacing), -(-37 // spacing), channels)
        fields = [draw(int(np.prod(shape))).reshape(shape) for shape in shapes]
        changes = deltas or Deltas()
        model = RateModel(changed_rate(prior.tensors, changes.rate), channels)
        coded = None if alpha is None else visible_cells(alpha > 0, len(channels), spacing)
        return (*pack_deltas(changes, prior.tensors), *model.encode(fields, 100, coded))
    return tuple(encode_deltas(draw(int(mask.sum()) + len(mask))) for mask in map(prior.mask, range(prior.layers)))


def recipes(kind: str, prior: Prior) -> dict[str, Callable[[], bytes]]:
    """How the golden files of a kind of prior are made, by name."""
    if kind in BUNDLED:
        options = EncodeOptions(steps=3)
        return {f"{kind}-q60.sinr": lambda: encode(Picture(scene()), options, prior=prior).data}
    rng = np.random.default_rng(0)
    groups = DELTA_GROUPS + len(prior.architecture.channels) if prior.architecture.channels else prior.layers

    def fitted(picture: Picture, quality: float = 60, *, self_contained: bool = False) -> Callable[[], bytes]:
        options = EncodeOptions(quality, steps=3)
        return lambda: encode(picture, options, prior=prior, self_contained=self_contained).data

    def built(
        groups: tuple[bytes, ...], spacing: int = 1, alpha: bytes | None = None, post: bool = False
    ) -> Callable[[], bytes]:
        file = SinrFile(37, 22, Colour.RGB, 8, 100, 100, prior.id, groups, alpha=alpha, spacing=spacing, post=post)
        return lambda: pack(file)

    def few(count: int) -> NDArray[np.int32]:
        return rng.integers(-2, 3, count, dtype=np.int32)

    if kind == EXPECTING:
        of_filter, of_rate = delta_counts(prior.tensors)
        changes = Deltas(FilterDeltas(7, few(of_filter)), few(of_rate))
        return {f"{kind}-changed.sinr": built(numbers_of(prior, few, changes))}
    if kind == POST:
        return {f"{kind}-filtered.sinr": built(numbers_of(prior, few), post=True)}
    grey = Picture(np.repeat(scene()[..., :1], 3, axis=2), grey=True)
    deep = Picture(grey.pixels * np.uint16(200), grey=True, alpha=grey.pixels[..., 0] * np.uint16(9))
    metadata = {"icc": b"a profile", "exif": b"II*\0\x08\0\0\0\0\0\0\0\0\0", "xmp": b"<x:xmpmeta/>"}
    found = {
        "grey": fitted(grey),
        "grey-self-contained": fitted(grey, self_contained=True),
        "alpha": fitted(Picture(scene(), alpha=scene()[..., 2])),
        "half-transparent": fitted(Picture(scene(), alpha=np.tril(np.full((22, 37), 200, np.uint8), -4))),
        "deep": fitted(Picture(scene().astype(np.uint16) * 257)),
        "deep-grey-alpha": fitted(deep),
        "metadata": fitted(Picture(scene(), metadata=metadata)),
        "black": fitted(Picture(np.zeros_like(scene()))),
        "white": fitted(Picture(np.full_like(scene(), 255))),
        "noise": fitted(Picture(rng.integers(0, 256, (22, 37, 3), dtype=np.uint8))),
        "empty-groups": built((b"",) * groups),
        "small-numbers": built(numbers_of(prior, few)),
        "large-numbers": built(numbers_of(prior, lambda n: rng.integers(-32767, 32768, n, dtype=np.int32))),
    }
    if prior.architecture.channels:
        of_filter, of_rate = delta_counts(prior.tensors)
        changes = Deltas(FilterDeltas(7, few(of_filter)), few(of_rate))
        found["changed"] = built(numbers_of(prior, few, changes))
        found["wide"] = built(numbers_of(prior, few, spacing=2), 2)
        alpha = np.tril(np.full((22, 37), 90, np.uint8), -4)
        found["wide-alpha"] = built(numbers_of(prior, few, spacing=2, alpha=alpha), 2, pack_alpha(alpha))
    found |= {f"{height}x{width}": fitted(Picture(scene(height, width))) for height, width in SIZES}
    found |= {f"q{quality}": fitted(Picture(scene()), quality) for quality in QUALITIES}
    return {f"{kind}-{name}.sinr": make for name, make in found.items()}


def record(name: str, kind: str, data: bytes, prior: Prior) -> dict[str, str]:
    """Write a golden file and its picture; return its line of the index."""
    (FOLDER / name).write_bytes(data)
    picture = decode(data, prior=prior)
    write_picture(replace(picture, metadata={}), (FOLDER / name).with_suffix(".png"))
    file = unpack(data)
    numbers = digest(file, prior)
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "numbers": numbers, "exact": exact_digest(data, prior)}
    return facts | {"prior": CARRIERS[kind]}


def main() -> None:
    """Make what is missing."""
    from conftest import make_expecting_prior, make_field_prior, make_network_prior, make_post_prior

    FOLDER.mkdir(parents=True, exist_ok=True)
    index = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    makers: dict[str, Callable[[Path], Prior]] = {
        "fields": make_field_prior,
        "network": make_network_prior,
        POST: make_post_prior,
        EXPECTING: make_expecting_prior,
    }
    for kind, carrier in CARRIERS.items():
        if carrier not in index:
            with TemporaryDirectory() as folder:
                prior = makers[kind](Path(folder)) if kind in makers else find_prior(kind)
            data = encode(Picture(scene()), EncodeOptions(steps=3), prior=prior, self_contained=True).data
            index[carrier] = record(carrier, kind, data, prior)
        prior = carried_prior(kind)
        for name, make in recipes(kind, prior).items():
            if name not in index:
                index[name] = record(name, kind, make(), prior)
    INDEX.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
