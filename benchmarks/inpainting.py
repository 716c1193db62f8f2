"""How well does the codec guess pixels that it is not shown?

    python benchmarks/inpainting.py FOLDER --csv FILE [--crop 256x170] [--quality 60] [--steps 100] [--prior photo]

Of each picture (or its centre) 10, 50 or 90 % of the pixels, drawn at random, or eight squares (`--hidden` chooses) are
hidden, and filled in by `encode --known` and by what one would do without it. A row of FILE, written as soon as it is
measured, has the PSNR of RGB on the hidden pixels alone, in dB, and, of the codec, the bits per pixel of the file;
started again, it skips the rows that are there. Then it prints their means over the pictures:

    nearest    the nearest known pixel, in steps along rows and columns
    blurred    normalised convolution (Knutsson & Westin 1993) with the narrowest Gaussian that reaches enough pixels:
               as in Telea (2004), a mean of the known pixels near by, weighted by their distance
    diffused   the harmonic function with the known pixels as boundary: the Laplace equation
    pyramid    what the codec itself begins with (push-pull, Gortler et al. 1996)
    inrcodec   the decoded file
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from inrcodec.alpha import spread_colours
from inrcodec.codec import decode, encode
from inrcodec.image import Picture, find_pictures, read_picture
from inrcodec.metrics import psnr
from inrcodec.options import EncodeOptions
from inrcodec.prior import find_prior

Pixels = NDArray[np.uint8]  # (height, width, 3)
Mask = NDArray[np.bool_]  # (height, width)

COLUMNS = ("file", "hidden", "method", "psnr", "bpp")
HIDDEN = ("10%", "50%", "90%", "squares")
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
        count = round(float(kind.rstrip("%")) / 100 * known.size)
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


METHODS: dict[str, Callable[[Pixels, Mask], Pixels]] = {
    "nearest": nearest,
    "blurred": blurred,
    "diffused": diffused,
    "pyramid": spread_colours,
}


def inrcodec(pixels: Pixels, known: Mask, options: EncodeOptions) -> tuple[Pixels, float]:
    """The decoded file, and its bits per pixel."""
    data = encode(Picture(pixels), options, known=known).data
    return decode(data, prior=find_prior(options.prior)).pixels, 8 * len(data) / known.size


def centre(pixels: Pixels, crop: str | None) -> Pixels:
    """The centre of a picture, `crop` is "WxH"; all of it if there is none."""
    if not crop:
        return pixels
    width, height = map(int, crop.split("x"))
    top, left = (len(pixels) - height) // 2, (len(pixels[0]) - width) // 2
    return pixels[top : top + height, left : left + width]


def measure(pixels: Pixels, known: Mask, options: EncodeOptions) -> list[tuple[str, str, str]]:
    """Method, PSNR in dB on the hidden pixels and bits per pixel, as in the CSV."""
    blank = np.where(known[..., None], pixels, 0).astype(np.uint8)  # nobody can peep
    decoded, bits = inrcodec(blank, known, options)
    filled = {name: method(blank, known) for name, method in METHODS.items()} | {"inrcodec": decoded}
    return [
        (name, f"{psnr(result[~known], pixels[~known]):.3f}", f"{bits:.4f}" if name == "inrcodec" else "")
        for name, result in filled.items()
    ]


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Means over the pictures, in Markdown: a line per kind of HIDDEN."""
    names = [*METHODS, "inrcodec"]
    lines = [f"| hidden | pictures | {' | '.join(names)} | bits per pixel |", "|---" * (len(names) + 3) + "|"]
    for kind in dict.fromkeys(row["hidden"] for row in rows):
        same = [row for row in rows if row["hidden"] == kind]
        scores = {name: [float(row["psnr"]) for row in same if row["method"] == name] for name in names}
        bits = fmean(float(row["bpp"]) for row in same if row["bpp"])
        means = " | ".join(f"{fmean(scores[name]):.2f}" for name in names)
        lines.append(f"| {kind} | {len(scores['inrcodec'])} | {means} | {bits:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not in the CSV yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--hidden", nargs="+", choices=HIDDEN, default=list(HIDDEN))
    parser.add_argument("--crop", help="WxH of the pictures' centres")
    parser.add_argument("--quality", type=float, default=EncodeOptions().quality)
    parser.add_argument("--steps", type=int, default=EncodeOptions().steps)
    parser.add_argument("--prior", default=EncodeOptions().prior)
    arguments = parser.parse_args()
    options = EncodeOptions(arguments.quality, arguments.steps, arguments.prior)
    if not arguments.csv.exists():
        arguments.csv.write_text(",".join(COLUMNS) + "\n", "utf-8")
    done = {(row["file"], row["hidden"]) for row in read_rows(arguments.csv)}
    for seed, path in enumerate(find_pictures(arguments.folder)):
        pixels = centre(read_picture(path).pixels, arguments.crop)
        for kind in arguments.hidden:
            if (path.name, kind) in done:
                continue
            known = known_pixels(kind, (len(pixels), len(pixels[0])), seed)
            rows = [(path.name, kind, *result) for result in measure(pixels, known, options)]
            with arguments.csv.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
            print(*rows[-1], flush=True)
    print(table(read_rows(arguments.csv)))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows that were measured."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
