"""How well does the codec guess pixels that it is not shown?

    python benchmarks/inpainting.py FOLDER [--crop 384x256] [--quality 75] [--steps 100] [--prior photo] [--csv FILE]

Of each picture (or its centre) 10, 50 or 90 % of the pixels, drawn at random, or eight squares are hidden, and filled
in by `encode --known` and by what one would do without it. The table has the PSNR of RGB on the hidden pixels alone,
in dB, as means over the pictures:

    nearest    the nearest known pixel, in steps along rows and columns
    blurred    normalised convolution (Knutsson & Westin 1993) with the narrowest Gaussian that reaches enough pixels
    diffused   the harmonic function with the known pixels as boundary: the Laplace equation
    pyramid    what the codec itself begins with (push-pull, Gortler et al. 1996)
    inrcodec   the decoded file
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inrcodec.alpha import spread_colours
from inrcodec.codec import decode, encode
from inrcodec.image import Picture, find_pictures, read_picture
from inrcodec.metrics import psnr
from inrcodec.options import EncodeOptions

Pixels = NDArray[np.uint8]  # (height, width, 3)
Mask = NDArray[np.bool_]  # (height, width)

HIDDEN = ("10 %", "50 %", "90 %", "squares")
SQUARE = 24  # pixels along its side
SQUARES = 8
WIDTHS = [0.5 * 2 ** (i / 2) for i in range(14)]  # standard deviations of Gaussians, in pixels
ENOUGH = 3.0  # known pixels under one
SWEEPS = 500  # of diffusion


def known_pixels(kind: str, shape: tuple[int, int], seed: int) -> Mask:
    """A mask of a kind of HIDDEN."""
    random = np.random.default_rng(seed)
    known = np.ones(shape, bool)
    if kind == "squares":
        for _ in range(SQUARES):
            top, left = random.integers(0, [size - SQUARE for size in shape])
            known[top : top + SQUARE, left : left + SQUARE] = False
    else:
        count = round(float(kind.split()[0]) / 100 * known.size)
        known.ravel()[random.permutation(known.size)[:count]] = False
    return known


def nearest(pixels: Pixels, known: Mask) -> Pixels:
    """Hidden pixels become the nearest known one."""
    filled, done = pixels.copy(), known.copy()
    while not done.all():
        before, front = filled.copy(), done.copy()
        for to, of in ((np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:])):
            for target, source in ((np.s_[to, :], np.s_[of, :]), (np.s_[:, to], np.s_[:, of])):
                reached = front[source] & ~done[target]
                filled[target][reached] = before[source][reached]
                done[target] |= reached
    return filled


def blurred(pixels: Pixels, known: Mask) -> Pixels:
    """Hidden pixels become a mean of the known ones around, with Gaussian weights."""
    filled, done = pixels.copy(), known.copy()
    seen = np.concatenate([pixels * known[..., None], known[..., None]], 2).astype(np.float32)  # (H, W, 4)
    for width in WIDTHS:
        reach = int(np.ceil(3 * width))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2).astype(np.float32)
        sums = seen
        for axis in (0, 1):
            sums = np.apply_along_axis(np.convolve, axis, sums, weights)
            sums = np.take(sums, np.arange(reach, sums.shape[axis] - reach), axis)
        new = ~done & ((sums[..., 3] >= ENOUGH) | (width == WIDTHS[-1]))
        filled[new] = np.rint(sums[new, :3] / np.maximum(sums[new, 3:], 1e-9))
        done |= new
    return filled


def diffused(pixels: Pixels, known: Mask) -> Pixels:
    """Hidden pixels become the mean of their four neighbours."""
    values = spread_colours(pixels, known).astype(np.float32)
    for _ in range(SWEEPS):
        around = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]) / 4
        values = np.where(known[..., None], values, mean)
    return np.rint(values).astype(np.uint8)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crop", help="WxH of the pictures' centres")
    parser.add_argument("--quality", type=float, default=75)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    options = EncodeOptions(arguments.quality, arguments.steps, arguments.prior)

    def inrcodec(pixels: Pixels, known: Mask) -> Pixels:
        return decode(encode(Picture(pixels), options, known=known).data).pixels

    methods: dict[str, Callable[[Pixels, Mask], Pixels]] = {
        "nearest": nearest,
        "blurred": blurred,
        "diffused": diffused,
        "pyramid": spread_colours,
        "inrcodec": inrcodec,
    }
    rows = []
    for seed, path in enumerate(find_pictures(arguments.folder)):
        pixels = read_picture(path).pixels
        if arguments.crop:
            width, height = map(int, arguments.crop.split("x"))
            top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            pixels = pixels[top : top + height, left : left + width]
        for kind in HIDDEN:
            known = known_pixels(kind, (len(pixels), len(pixels[0])), seed)
            blank = np.where(known[..., None], pixels, 0).astype(np.uint8)  # nobody can peep
            for name, method in methods.items():
                score = psnr(method(blank, known)[~known], pixels[~known])
                rows.append((path.name, kind, name, round(score, 3)))
                print(*rows[-1], flush=True)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file).writerows([("file", "hidden", "method", "psnr"), *rows])
    print(f"{'hidden':10}" + "".join(f"{name:>10}" for name in methods))
    for kind in HIDDEN:
        means = (np.mean([row[3] for row in rows if row[1:3] == (kind, name)]) for name in methods)
        print(f"{kind:10}" + "".join(f"{mean:10.2f}" for mean in means))


if __name__ == "__main__":
    main()
