"""Signed distance pictures of glyphs, from the free fonts that come with matplotlib (DejaVu, STIX, Computer Modern).

    python benchmarks/glyphs.py FOLDER [--side 178]

A glyph is a letter or digit of one font, drawn 0.7 of the side high in the centre of a square. Its picture is the
distance of each pixel to the outline, positive outside, as a fraction of the side: grey 0.5 + distance, cut off at 0
and 1, in 8 bits. Of all glyphs in a random order the first 251 are in FOLDER/test, the others in FOLDER/train.
"""

from __future__ import annotations

import argparse
import string
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = string.ascii_letters + string.digits
FONTS = ("DejaVuSans*", "DejaVuSerif*", "STIXGeneral*", "cmr10", "cmss10", "cmtt10", "cmb10")
TESTS = 251  # as in the paper
HEIGHT = 0.7  # of the font, as a fraction of the side


def squared_distance(targets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Squared Euclidean distance of every pixel to the nearest True one, in pixels; infinite if there is none.

    Separable and exact: first the squared distance along the column, then, for each pixel of the row, the least of
    that plus the squared distance to it (Felzenszwalb and Huttenlocher 2012, in the plain O(width) form).
    """
    height, width = targets.shape
    rows = np.square(np.arange(height)[:, None] - np.arange(height)).astype(np.float64)  # (H, H)
    columns = np.square(np.arange(width)[:, None] - np.arange(width)).astype(np.float64)  # (W, W)
    result = np.where(targets, 0.0, np.inf)  # (H, W)
    for axis, costs in ((0, rows), (1, columns)):
        lines = np.moveaxis(result, axis, -1)  # (lines, n)
        nearest = np.stack([(line + costs).min(axis=-1) for line in lines])  # (lines, n)
        result = np.moveaxis(nearest, -1, axis)
    return result


def signed_distance(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of pixel centres to the outline between the two kinds of pixels, negative inside, in pixels."""
    outer, inner = np.sqrt(squared_distance(inside)), np.sqrt(squared_distance(~inside))
    return np.where(inside, 0.5 - inner, outer - 0.5)


def draw(font: Path, character: str, side: int) -> NDArray[np.bool_]:
    """Which pixels of a square of `side` pixels lie inside a glyph."""
    image = Image.new("L", (side, side))
    face = ImageFont.truetype(font, round(side * HEIGHT))
    ImageDraw.Draw(image).text((side / 2, side / 2), character, 255, face, anchor="mm")
    return np.asarray(image) >= 128


def main() -> None:
    """Write the pictures."""
    import matplotlib

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=178)
    arguments = parser.parse_args()
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    paths = sorted({path for name in FONTS for path in fonts.glob(f"{name}.ttf") if "Display" not in path.stem})
    glyphs = [(path, character) for path in paths for character in CHARACTERS]
    for place, index in enumerate(np.random.default_rng(0).permutation(len(glyphs))):
        path, character = glyphs[index]
        distance = signed_distance(draw(path, character, arguments.side)) / arguments.side
        grey = (255 * np.clip(0.5 + distance, 0, 1)).round().astype(np.uint8)
        folder = arguments.folder / ("test" if place < TESTS else "train")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).convert("RGB").save(folder / f"{path.stem}-{ord(character)}.png")
    print(f"{len(glyphs)} glyphs of {len(paths)} fonts in {arguments.folder}")


if __name__ == "__main__":
    main()
