"""Where the seconds of one encode go, stage by stage.

    python benchmarks/stages.py PICTURE [--steps 100] [--csv stages.csv]

One encode in this process, from the import of torch on, takes as long as the `encode` command does. A stage's seconds
are without those of the stages inside it; the CPU's seconds are those of all cores.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])  # seconds and CPU seconds of each stage
running: list[str] = []  # stages, the innermost last
last = (time.perf_counter(), time.process_time())


def tick() -> None:
    """Give the time since the last tick to the innermost stage."""
    global last
    now = (time.perf_counter(), time.process_time())
    if running:
        spent[running[-1]] = [total + new - old for total, new, old in zip(spent[running[-1]], now, last, strict=True)]
    last = now


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What is inside belongs to a stage."""
    tick()
    running.append(name)
    yield
    tick()
    running.pop()


def watched() -> dict[tuple[Any, str], str]:
    """Functions by where they are looked up, and the stages that they are."""
    from inrcodec import fit
    from inrcodec.entropy import RateModel

    return {
        (fit, "unrounded_guess"): "first guess",
        (fit, "refine"): "steps: noise, rounding, descent",
        (fit, "objective"): "steps: objective and gradients",
        (fit._Fit, "adapted"): "adapting filter and rate model",
        (fit, "optimised_rounding"): "rounding",
        (RateModel, "encode"): "entropy coding",
    }


def watch(owner: Any, attribute: str, name: str) -> None:
    """Make each call of a function a stage."""
    function: Callable[..., Any] = getattr(owner, attribute)

    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with stage(name):
            return function(*args, **kwargs)

    setattr(owner, attribute, timed)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--csv", type=Path, help="file to write the table to, too")
    arguments = parser.parse_args()
    with stage("import"):
        from inrcodec import codec, fit  # noqa: F401  # with torch
        from inrcodec.image import read_picture
        from inrcodec.options import EncodeOptions
    for (owner, attribute), name in watched().items():
        watch(owner, attribute, name)
    with stage("the rest"):
        picture = read_picture(arguments.picture)
        codec.encode(picture, EncodeOptions(steps=arguments.steps))
    total = [sum(times) for times in zip(*spent.values(), strict=True)]
    rows = [(name, *times) for name, times in spent.items()] + [("total", *total)]
    height, width, _ = picture.pixels.shape
    print(f"{arguments.picture.name}, {width}x{height}, {arguments.steps} steps")
    print(f"{'':34}{'seconds':>9}{'CPU':>9}{'share':>8}")
    for name, seconds, cpu in rows:
        print(f"{name:34}{seconds:9.2f}{cpu:9.2f}{seconds / total[0]:8.1%}")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["stage", "seconds", "cpu_seconds"])
            writer.writerows((name, f"{seconds:.3f}", f"{cpu:.3f}") for name, seconds, cpu in rows)


if __name__ == "__main__":
    main()
