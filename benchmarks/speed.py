"""Seconds and peak memory of whole `inrcodec` processes, beside Pillow's codecs: one command prints the table.

    python benchmarks/speed.py PICTURE [--steps 0 10 100] [--prior photo]

Each row is a process of its own, started cold; memory is its largest resident set. Pillow's times are of calls in this
process, after a warm-up, and include files and PNG as ours do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image


def measured(*words: str) -> tuple[float, float]:
    """Seconds and MiB of a command."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "inrcodec", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(words)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def pillow(source: Path, target: Path, **options: Any) -> tuple[float, float]:
    """Seconds to encode and to decode."""
    for _ in range(2):
        began = time.perf_counter()
        with Image.open(source) as image:
            image.convert("RGB").save(target, **options)
        between = time.perf_counter()
        with Image.open(target) as image:
            image.save(target.with_suffix(".png"))
    return between - began, time.perf_counter() - between


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--steps", type=int, nargs="*", default=[0, 10, 100])
    parser.add_argument("--prior", default="photo")
    arguments = parser.parse_args()
    with Image.open(arguments.picture) as image:
        width, height = image.size
    pixels = width * height / 1e6
    print(f"{arguments.picture.name}, {width}x{height}, {os.cpu_count()} cores")
    print(f"{'':24}{'seconds':>9}{'s / Mpx':>9}{'MiB':>8}")

    def row(title: str, seconds: float, memory: float | None = None) -> None:
        print(f"{title:24}{seconds:9.2f}{seconds / pixels:9.2f}{'' if memory is None else f'{memory:8.0f}'}")

    with tempfile.TemporaryDirectory() as folder:
        coded = str(Path(folder, "x.sinr"))
        for steps in arguments.steps:
            words = (str(arguments.picture), "-o", coded, "--force", "--prior", arguments.prior, "--steps", str(steps))
            row(f"encode, {steps} steps", *measured("encode", *words))
        for scale in ("1", "4"):
            row(f"decode, x{scale}", *measured("decode", coded, "--scale", scale, "-o", f"{coded}-{scale}.png"))
        choices: dict[str, dict[str, Any]] = {".jpg": {}, ".webp": {"method": 6}, ".avif": {}}
        for suffix, options in choices.items():
            encode, decode = pillow(arguments.picture, Path(folder, f"y{suffix}"), **options)
            row(f"Pillow {suffix[1:]}, encode", encode)
            row(f"Pillow {suffix[1:]}, decode", decode)


if __name__ == "__main__":
    main()
