"""What each part of a fit is worth: J after some steps without it, on crops of a folder's pictures.

    python benchmarks/fitting.py photos/ --csv fitting.csv

J is squared error / lambda + bits, per pixel, of files as written and decoded. Use pictures that no figure is reported
on.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from inrcodec import codec, fit
from inrcodec.bitstream import unpack
from inrcodec.guess import unrounded_guess
from inrcodec.image import Picture, find_pictures, read_picture
from inrcodec.options import Device, EncodeOptions
from inrcodec.prior import Prior, find_prior

Change = Callable[[Prior], tuple[Prior, dict[str, Any]]]  # of the prior, and of what `fit` looks up
WARM = (24, 25)  # a fit that another goes on from: by how much the quality index is lower, and its steps


def scheduled(steps: ArrayLike) -> Change:
    """Other step sizes (levels, 2), first and last, as multiples of the prior's."""

    def change(prior: Prior) -> tuple[Prior, dict[str, Any]]:
        sizes = (prior.tensors["fit.step"] * np.asarray(steps)).astype(np.float32)
        return replace(prior, tensors={**prior.tensors, "fit.step": sizes}), {}

    return change


def constant(name: str, at: int, factor: float = 1) -> Change:
    """A multiple of the first (0) or last (1) step sizes or temperatures in place of both."""

    def change(prior: Prior) -> tuple[Prior, dict[str, Any]]:
        tensors, slope = dict(prior.tensors), f"{name}_slope"
        tensors[name] = (tensors[name][..., [at, at]] * factor).astype(np.float32)
        if slope in tensors:
            tensors[slope] = tensors[slope][..., [at, at]]
        return replace(prior, tensors=tensors), {}

    return change


def patched(**names: Any) -> Change:
    """Other things by the names that `fit` knows them by."""
    return lambda prior: (prior, names)


def blank(prior: Prior, pixels: NDArray[Any], *rest: Any) -> list[NDArray[np.float32]]:
    """A first guess that is zero."""
    return [np.zeros_like(z) for z in unrounded_guess(prior, pixels, *rest)]


def warm(prior: Prior, pixels: NDArray[Any], index: int, *rest: Any) -> list[NDArray[np.float32]]:
    """The fields of a shorter fit at a lower quality, in steps of this one: as when a target is sought."""
    with patch.object(fit, "unrounded_guess", unrounded_guess):
        given = fit.Given(pixels, max(0, index - WARM[0]))
        ((fields, _),) = fit.fit_together(prior, [given], WARM[1], torch.device("cpu"))
    return [z.astype(np.float32) for z in fields]


def with_momentum(momentum: float) -> Change:
    """Each step is a running mean of what the steps would be."""
    descend, means = fit.descend, dict[torch.Size, torch.Tensor]()  # of each level, by its shape

    def heavy(z: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        _, _, _, count, _ = rest
        moved, square = descend(z, *rest)
        before = torch.zeros_like(z) if count == 1 else means[z.shape]
        means[z.shape] = torch.lerp(before, moved - z, 1 - momentum)
        return z + means[z.shape] / (1 - momentum**count), square

    return patched(descend=heavy)


VARIANTS: dict[str, Change] = {
    "as it is": patched(),
    "started from zero, not from the guess": patched(unrounded_guess=blank),
    f"started from {WARM[1]} steps at a lower quality": patched(unrounded_guess=warm),
    "momentum 0.5": with_momentum(0.5),
    "momentum 0.8": with_momentum(0.8),
    "full steps where gradients are small": patched(LEAST=1e-6),
    "steps that do not fall": constant("fit.step", 0, 0.25),
    "fine levels twice as fast": scheduled(steps=[[2]] * 3 + [[1]] * 3),
    "coarse levels twice as fast": scheduled(steps=[[1]] * 3 + [[2]] * 3),
    "temperature from the start as at the end": constant("fit.temperature", 1),
    "nothing adapted": patched(adapt_filter=lambda *_, **__: None, adapt_rate=lambda *_, **__: None),
    "only the filter adapted": patched(adapt_rate=lambda *_, **__: None),
    "rounded to the nearest": patched(optimised_rounding=lambda _, fields, *__: [z.round() for z in fields]),
}


def crops(folder: Path, count: int, side: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Squares of pictures (side, side, 3), each of another, drawn by the seed."""
    rng = np.random.default_rng(seed)
    files = find_pictures(folder)
    for at in rng.choice(len(files), count, replace=False):
        pixels = read_picture(files[at]).pixels
        top, left = (int(rng.integers(size - side + 1)) for size in pixels.shape[:2])
        yield pixels[top : top + side, left : left + side].astype(np.uint8)


def cost(pixels: NDArray[np.uint8], quality: float, steps: int, prior: Prior) -> float:
    """J per pixel of a picture's file."""
    options = EncodeOptions(quality, steps, device=Device.CPU)
    data = codec.encode(Picture(pixels), options, prior=prior).data
    error = np.square(codec.decode(data, prior=prior).pixels.astype(np.float64) - pixels).sum()
    return float(error / unpack(data).lam + 8 * len(data)) / pixels[..., 0].size


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crops", type=int, default=4)
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--qualities", type=float, nargs="+", default=[15, 60])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="file to write the rows to, too")
    arguments = parser.parse_args()
    prior = find_prior(arguments.prior)
    pictures = list(crops(arguments.folder, arguments.crops, arguments.side, arguments.seed))
    columns = [(quality, steps) for quality in arguments.qualities for steps in arguments.steps]
    rows: list[tuple[str, float, int, float]] = []
    print(f"{'J per pixel':44}" + "".join(f"{f'Q{quality:g} {steps}':>10}" for quality, steps in columns))
    for name in arguments.variants:
        print(f"{name:44}", end="", flush=True)
        for quality, steps in columns:
            other, names = VARIANTS[name](prior)
            with patch.multiple(fit, **names) if names else nullcontext():
                found = float(np.mean([cost(pixels, quality, steps, other) for pixels in pictures]))
            rows.append((name, quality, steps, found))
            print(f"{found:10.4f}", end="", flush=True)
        print()
        if arguments.csv:
            with arguments.csv.open("w", newline="") as file:
                csv.writer(file).writerows([("variant", "quality", "steps", "J"), *rows])


if __name__ == "__main__":
    main()
