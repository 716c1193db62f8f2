"""What `inrcodec.spacing` goes by: J at spacing 2 over that at 1, of first guesses and of files.

    python benchmarks/spacing.py photos/ --csv spacing.csv

Each crop of a folder's pictures is encoded at both spacings. The last line is a least-squares fit of the log of how
much more a fit gains at spacing 1, by what is lost where cells are enlarged, over the error to be expected: `GAIN` and
`GAIN_BY_LOST`. Use pictures that no figure is reported on.
"""

from __future__ import annotations

import argparse
import csv
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import numpy as np
from fitting import cost, crops

from inrcodec import codec
from inrcodec.allocation import allocated_index, expected_error
from inrcodec.options import lagrangian, quality_index
from inrcodec.prior import find_prior
from inrcodec.spacing import error_enlarged, guessed_cost


def main() -> None:
    """Print a row for each crop, and the two numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crops", type=int, default=24)
    parser.add_argument("--side", type=int, default=320, help="pixels")
    parser.add_argument("--qualities", type=float, nargs="+", default=[8, 15, 25, 35], help="of the crops in turn")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="file to write the rows to, too")
    arguments = parser.parse_args()
    prior = find_prior(arguments.prior)
    rows: list[tuple[float, float, float, float]] = []
    print(f"{'quality':>8}{'lost':>8}{'guess':>8}{'file':>8}")
    pictures = crops(arguments.folder, arguments.crops, arguments.side, arguments.seed)
    for quality, pixels in zip(cycle(arguments.qualities), pictures, strict=False):
        index = allocated_index(pixels, quality_index(quality), None)
        lost = error_enlarged(pixels) / (expected_error(pixels, lagrangian(index)) * pixels[..., 0].size)
        guesses = [guessed_cost(prior, pixels, index, spacing) for spacing in (1, 2)]
        files = list[float]()
        for spacing in (1, 2):
            with patch.object(codec, "best_spacing", return_value=spacing):
                files.append(cost(pixels, quality, arguments.steps, prior))
        rows.append((quality, lost, guesses[1] / guesses[0], files[1] / files[0]))
        print(f"{quality:8g}" + "".join(f"{value:8.3f}" for value in rows[-1][1:]), flush=True)
        if arguments.csv:
            with arguments.csv.open("w", newline="") as file:
                csv.writer(file).writerows([("quality", "lost", "guess", "file"), *rows])
    _, lost_by_crop, guess, files_ratio = np.array(rows).T
    by_lost, constant = np.polyfit(lost_by_crop, np.log(files_ratio / guess), 1)
    print(f"GAIN {constant:.3f}, GAIN_BY_LOST {by_lost:.3f}")


if __name__ == "__main__":
    main()
