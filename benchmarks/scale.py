"""Is decoding at x2 or x4 better than decoding at x1 and enlarging?

    python benchmarks/scale.py FOLDER [--factor 2] [--quality 60] [--steps 100] [--prior photo]

Each picture is reduced (at x2 to means of 2x2 pixels), encoded, and decoded at the factor; the PSNR with the picture
itself stands beside that of the x1 decode enlarged by Lanczos. The last line is the mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from inrcodec.codec import decode, encode
from inrcodec.image import Picture, find_pictures, read_picture
from inrcodec.metrics import psnr
from inrcodec.options import DecodeOptions, EncodeOptions
from inrcodec.prior import find_prior


def main() -> None:
    """Print a line per picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--quality", type=float, default=60)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--prior", default="photo")
    arguments = parser.parse_args()
    options, prior = EncodeOptions(arguments.quality, arguments.steps), find_prior(arguments.prior)
    scores, factor = [], arguments.factor
    print(f"{'':20}{f'x{factor} (dB)':>9}{'Lanczos':>9}{'gain':>7}")
    for path in find_pictures(arguments.folder):
        pixels = read_picture(path).pixels
        rows, columns = (size // factor for size in pixels.shape[:2])
        height, width = factor * rows, factor * columns
        pixels = pixels[:height, :width]
        reduced = pixels.reshape(rows, factor, columns, factor, 3).mean((1, 3)).round().astype(np.uint8)
        data = encode(Picture(reduced), options, prior=prior).data
        finer = decode(data, DecodeOptions(scale=factor), prior=prior).pixels
        plain = Image.fromarray(decode(data, prior=prior).pixels).resize((width, height), Image.Resampling.LANCZOS)
        scores.append((psnr(finer, pixels), psnr(np.asarray(plain), pixels)))
        print(f"{path.name:20}{scores[-1][0]:9.2f}{scores[-1][1]:9.2f}{scores[-1][0] - scores[-1][1]:+7.2f}")
    ours, lanczos = np.mean(scores, axis=0)
    print(f"{'mean':20}{ours:9.2f}{lanczos:9.2f}{ours - lanczos:+7.2f}")


if __name__ == "__main__":
    main()
