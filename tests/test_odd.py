"""Odd pictures (PngSuite, EXIF orientations, palettes, damaged ones): each is encoded or refused by a named error.

They are not in the project: INRCODEC_ODD names the folder they are in.
"""

import os
from pathlib import Path

import golden
import pytest

from inrcodec.codec import decode, encode
from inrcodec.errors import ImageError
from inrcodec.image import read_picture
from inrcodec.options import EncodeOptions

FOLDER = os.environ.get("INRCODEC_ODD")
FILES = sorted(path for path in Path(FOLDER).rglob("*") if path.is_file()) if FOLDER else []


@pytest.mark.skipif(not FILES, reason="INRCODEC_ODD names no folder of pictures")
@pytest.mark.parametrize("convert", [False, True], ids=["as-is", "converted"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_odd_picture_is_encoded_or_refused(path: Path, convert: bool) -> None:
    try:
        picture = read_picture(path, convert=convert)
    except ImageError as error:
        assert str(error).startswith(f"{path}: ")
        return
    prior = golden.carried_prior("network")
    found = decode(encode(picture, EncodeOptions(steps=0), prior=prior).data, prior=prior)
    assert found.pixels.shape == picture.pixels.shape
    assert (found.grey, dict(found.metadata)) == (picture.grey, dict(picture.metadata))
