"""Seconds and peak memory of whole `inrcodec` processes, beside Pillow's codecs: one command prints the table.

    python benchmarks/speed.py PICTURE [--efforts 0 5 9] [--csv speed.csv]

Each row of ours is a process of its own, started cold; memory is its largest resident set, and the CPU's seconds, of
all cores, say how far the machine was busy with something else. Pillow's times are of calls in this process, after a
warm-up, and include files and PNG as ours do. A ratio is our seconds over the other codec's. Effort 9 takes 1000 steps:
minutes for 768x512 on two cores; a process is stopped after --limit seconds, and its row left out.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from inrcodec.options import DEFAULT_EFFORT, steps_of

PILLOW: dict[str, dict[str, Any]] = {"jpg": {}, "webp": {"method": 6}, "avif": {}}


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    seconds: float
    cpu: float  # seconds, of all cores
    memory: float  # MiB, the largest resident set


def measured(*words: str, limit: float = 900) -> Cost | None:
    """The cost of an `inrcodec` command, None if it took longer than the limit in seconds."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "inrcodec", *words], stdout=subprocess.DEVNULL)
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        process.kill()

    timer = threading.Timer(limit, stop)
    timer.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # as Popen's own wait would have it
    timer.cancel()
    if stopped.is_set():
        return None
    if process.returncode:
        sys.exit(f"failed: {' '.join(words)}")
    return Cost(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


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


def table(picture: Path, efforts: list[int], prior: str, limit: float) -> list[dict[str, str]]:
    """A row per operation; one of steps per second, if there is more than the first guess; three of Pillow's codecs."""
    ours: dict[str, Cost | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        coded = Path(folder, "x.sinr")
        for effort in efforts:
            words = (str(picture), "-o", str(coded), "--force", "--prior", prior, "--effort", str(effort))
            ours[f"encode, effort {effort}"] = measured("encode", *words, limit=limit)
        if coded.exists():
            for scale in ("1", "4"):
                target = str(Path(folder, f"{scale}.png"))
                ours[f"decode, x{scale}"] = measured(
                    "decode", str(coded), "--scale", scale, "-o", target, "--prior", prior, limit=limit
                )
        others = {suffix: pillow(picture, Path(folder, f"y.{suffix}"), **PILLOW[suffix]) for suffix in PILLOW}
    rows = []
    for title, cost in ours.items():
        if cost:
            side = title.startswith("decode")
            same = {} if title == "decode, x4" else others  # they have nothing of that size
            ratios = {f"/ {suffix}": f"{cost.seconds / times[side]:.1f}" for suffix, times in same.items()}
            memory = f"{cost.memory:.0f}"
            rows.append({"": title, "seconds": f"{cost.seconds:.2f}", "CPU": f"{cost.cpu:.2f}", "MiB": memory} | ratios)
    few, many = (ours.get(f"encode, effort {effort}") for effort in (0, DEFAULT_EFFORT))
    if few and many:
        rate = steps_of(DEFAULT_EFFORT, None) / (many.seconds - few.seconds)
        rows.append({"": "steps per second, with adapting and rounding", "seconds": f"{rate:.2f}"})
    for suffix, times in others.items():
        for what, seconds in zip(("encode", "decode"), times, strict=True):
            rows.append({"": f"Pillow {suffix}, {what}", "seconds": f"{seconds:.4f}"})
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("picture", type=Path)
    parser.add_argument("--efforts", type=int, nargs="*", default=[0, DEFAULT_EFFORT, 9])
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--limit", type=float, default=900, help="seconds of a process")
    parser.add_argument("--csv", type=Path, help="file to write the table to, too")
    arguments = parser.parse_args()
    with Image.open(arguments.picture) as image:
        width, height = image.size
    print(f"{arguments.picture.name}, {width}x{height}, {os.cpu_count()} cores")
    columns = ["", "seconds", "CPU", "MiB", *(f"/ {suffix}" for suffix in PILLOW)]
    rows = table(arguments.picture, arguments.efforts, arguments.prior, arguments.limit)
    for row in ({column: column for column in columns}, *rows):
        print(f"{row['']:46}" + "".join(f"{row.get(column, ''):>9}" for column in columns[1:]))
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
