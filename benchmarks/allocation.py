"""What a typical photo's expected error is, and what `inrcodec.allocation` gains by it.

    python benchmarks/allocation.py FOLDER

The first line is a polynomial for the mean over the pictures of log error by log lambda, which `allocation.TYPICAL` is.
Then, for powers of the error that lambda could be multiplied by (the product has 1), the BD-rate against one lambda for
all at qualities 8, 30, 52 and 75, of the means over the pictures, if a picture were as rate-distortion theory has
it: of each coefficient, the error and the bits of reverse water-filling.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from inrcodec.allocation import coefficient_energies
from inrcodec.image import find_pictures, read_picture
from inrcodec.metrics import bd_rate
from inrcodec.options import MAX_QUALITY_INDEX, lagrangian, quality_index

LAMBDAS = np.array([lagrangian(index) for index in range(MAX_QUALITY_INDEX + 1)])
QUALITIES = (8, 30, 52, 75)
POWERS = (0, 0.5, 0.75, 1, 1.5, 2)


def main() -> None:
    """Print the polynomial and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    errors, bits = [], []
    for path in find_pictures(parser.parse_args().folder):
        energies = [e.ravel() for e in coefficient_energies(read_picture(path).pixels, None)]
        found = np.sort(np.concatenate(energies))  # the means' are infinite
        below = np.searchsorted(found, LAMBDAS)
        active = len(found) - below
        energy = np.concatenate([[0], np.cumsum(np.where(np.isinf(found), 0, found))])
        logs = np.concatenate([[0], np.cumsum(np.log2(np.minimum(found, 1e9).clip(1e-9))[::-1])])  # largest first
        pixels = len(found) / 3
        errors.append((energy[below] + active * LAMBDAS) / pixels)
        bits.append((logs[active] - active * np.log2(LAMBDAS)) / 2 / pixels)
    log_errors, rates, log_lambdas = np.log(errors), np.array(bits), np.log(LAMBDAS)
    typical = log_errors.mean(0)
    print("typical:", *np.polyfit(log_lambdas, typical, 2).round(5))
    indices = np.array([quality_index(quality) for quality in QUALITIES])
    per_nat = MAX_QUALITY_INDEX / (log_lambdas[0] - log_lambdas[-1])
    rows = np.arange(len(errors))[:, None]
    curves = {}
    for power in POWERS:
        moved = indices + power * per_nat * (typical - log_errors)[:, indices]
        chosen = np.rint(moved).astype(int).clip(0, MAX_QUALITY_INDEX)
        decibels = 10 * np.log10(3 * 255**2) - 10 / np.log(10) * log_errors[rows, chosen]
        curves[power] = list(zip(rates[rows, chosen].mean(0), decibels.mean(0), strict=True))
        spread = (chosen - indices).std() / MAX_QUALITY_INDEX * 99
        print(f"power {power}: BD-rate {bd_rate(curves[0], curves[power]):+.1f} %, qualities spread by {spread:.1f}")


if __name__ == "__main__":
    main()
