"""Files of version 1 are read as on the day they were made (see `golden`)."""

import hashlib
import json

import golden
import numpy as np
import plain_decoder
import pytest

from inrcodec.bitstream import unpack
from inrcodec.codec import decode
from inrcodec.image import read_picture

INDEX: dict[str, dict[str, str]] = json.loads(golden.INDEX.read_text())


def kind_of(name: str) -> str:
    return next(kind for kind, carrier in golden.CARRIERS.items() if carrier == INDEX[name]["prior"])


def test_no_golden_file_is_missing_or_new() -> None:
    assert len(INDEX) >= 40
    pictures = {name.replace(".sinr", ".png") for name in INDEX}
    assert {path.name for path in golden.FOLDER.iterdir()} == {golden.INDEX.name} | INDEX.keys() | pictures


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("name", INDEX)
def test_a_golden_file_holds_the_same_numbers_and_the_same_picture(name: str) -> None:
    data, prior = (golden.FOLDER / name).read_bytes(), golden.carried_prior(kind_of(name))
    assert hashlib.sha256(data).hexdigest() == INDEX[name]["sha256"]
    assert golden.digest(unpack(data), prior) == INDEX[name]["numbers"]
    assert golden.exact_digest(data, prior) == INDEX[name]["exact"]
    found, expected = decode(data, prior=prior), read_picture((golden.FOLDER / name).with_suffix(".png"))
    assert found.grey == expected.grey and found.bit_depth == expected.bit_depth
    assert (np.abs(found.pixels.astype(int) - expected.pixels) <= 2 ** (found.bit_depth - 8)).mean() >= 0.999
    if found.alpha is None or expected.alpha is None:
        assert found.alpha is expected.alpha
    else:
        assert np.array_equal(found.alpha, expected.alpha)


def test_a_decoder_written_from_the_spec_finds_the_numbers_of_golden_files() -> None:
    for name in INDEX:
        container = plain_decoder.read_container((golden.FOLDER / name).read_bytes())
        carrier = plain_decoder.read_container((golden.FOLDER / INDEX[name]["prior"]).read_bytes())
        assert container.prior_id == carrier.prior_id == hashlib.sha256(carrier.chunks[1]).digest()[:8]
        meta, tensors = plain_decoder.read_tensors(carrier.chunks[1])
        if meta["channels"]:
            fields = plain_decoder.read_fields(container, meta["channels"], tensors)
            features, seen = len(tensors["filter.in"]), len(tensors["filter.in"][0])
            changes = container.groups[0]  # its first byte is the exponent
            count = features * seen * 9 + features + 3 * features * 9 + 3
            numbers = plain_decoder.read_deltas(changes[1:], count, tensors.get("deltas.filter")) if changes else []
            numbers += plain_decoder.rate_deltas(container.groups[1], len(fields), tensors)
            numbers += [number for field in reversed(fields) for rows in field for row in rows for number in row]
        else:
            numbers = []
            for layer, group in enumerate(container.groups):
                weight = tensors[f"siren.{layer}.weight"]
                mask = tensors.get(f"siren.{layer}.mask", [[1] * len(row) for row in weight])
                numbers += plain_decoder.read_deltas(group, sum(map(sum, mask)) + len(weight))
        digest = hashlib.sha256(b"".join(number.to_bytes(4, "little", signed=True) for number in numbers))
        assert digest.hexdigest() == INDEX[name]["numbers"], name


def test_metadata_of_golden_files_are_kept() -> None:
    for kind in golden.TINY:
        metadata = unpack((golden.FOLDER / f"{kind}-metadata.sinr").read_bytes()).metadata
        assert metadata == {"icc": b"a profile", "exif": b"II*\0\x08" + bytes(9), "xmp": b"<x:xmpmeta/>"}
