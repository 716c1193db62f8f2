"""How cost grows with the picture: encode and decode from 0.1 to 24 megapixels.

    python benchmarks/growth.py PHOTOS growth.csv --plot growth.png [--megapixels 0.1 0.4 1.5 6 24] [--steps 0 4]

Pictures are 3 wide to 2 high, tiled from the photos of a folder. Each row of the CSV is a whole process: wall and CPU
seconds, and its largest resident set. Rows that are there are not measured again; a process is stopped after --limit
seconds, and its row left out. With 4 steps, rounding and adapting weigh more than in a whole fit. On two idle cores
expect an hour for all sizes with 4 steps, five minutes with `--steps 0`.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from speed import measured

from inrcodec.image import find_pictures, read_picture

COLUMNS = ("what", "megapixels", "seconds", "cpu_seconds", "mib")
SIDE = 512  # pixels of a tile


def tiled(photos: Path, width: int, height: int) -> Image.Image:
    """A picture of the size, of the photos' top left corners."""
    tiles = []
    needed = -(-width // SIDE) * -(-height // SIDE)
    for path in find_pictures(photos):
        pixels = read_picture(path).pixels
        if min(pixels.shape[:2]) >= SIDE and pixels.dtype == np.uint8:
            tiles.append(pixels[:SIDE, :SIDE])
        if len(tiles) == needed:
            break
    picture = Image.new("RGB", (width, height))
    corners = [(left, top) for top in range(0, height, SIDE) for left in range(0, width, SIDE)]
    for number, corner in enumerate(corners):
        picture.paste(Image.fromarray(tiles[number % len(tiles)]), corner)
    return picture


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(photos: Path, path: Path, sizes: list[float], steps: list[int], limit: float) -> None:
    """Append the rows that are not there."""
    with tempfile.TemporaryDirectory() as folder:
        picture, coded = Path(folder, "x.png"), Path(folder, "x.sinr")
        for size in sizes:
            width = round((size * 1.5e6) ** 0.5)
            height = round(width / 1.5)
            tiled(photos, width, height).save(picture, compress_level=1)
            commands: dict[str, tuple[str, ...]] = {
                f"encode, {count} steps": ("encode", str(picture), "-o", str(coded), "--steps", str(count), "--force")
                for count in steps
            }
            commands["decode, x1"] = ("decode", str(coded), "-o", str(Path(folder, "y.png")), "--force")
            coded.unlink(missing_ok=True)
            for what, words in commands.items():
                there = {(row["what"], float(row["megapixels"])) for row in read(path)}
                if words[0] == "decode" and (what, size) not in there and not coded.exists():
                    measured(*commands["encode, 0 steps"], limit=limit)
                if (what, size) in there or words[0] == "decode" and not coded.exists():
                    continue
                cost = measured(*words, limit=limit)
                if cost is None:
                    print(f"{size:g} megapixels, {what}: stopped after {limit:g} s")
                    continue
                print(f"{size:g} megapixels, {what}: {cost.seconds:.2f} s, CPU {cost.cpu:.2f} s, {cost.memory:.0f} MiB")
                new = not path.exists()
                with path.open("a", newline="") as file:
                    writer = csv.writer(file)
                    if new:
                        writer.writerow(COLUMNS)
                    writer.writerow([what, size, f"{cost.seconds:.2f}", f"{cost.cpu:.2f}", f"{cost.memory:.0f}"])


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """CPU seconds and memory against megapixels, both logarithmic: what is linear has the dotted lines' slope."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")  # inches
    for axes, column, label in zip(
        figure.subplots(1, 2), ("cpu_seconds", "mib"), ("CPU seconds of the process", "peak memory (MiB)"), strict=True
    ):
        for what in dict.fromkeys(row["what"] for row in rows):
            points = sorted((float(row["megapixels"]), float(row[column])) for row in rows if row["what"] == what)
            (line,) = axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=what)
            largest, cost = points[-1]
            axes.plot([points[0][0], largest], [cost * points[0][0] / largest, cost], ":", color=line.get_color())
        axes.set(xscale="log", yscale="log", xlabel="megapixels", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)


def main() -> None:
    """Measure what is missing, then draw all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[0.1, 0.4, 1.5, 6, 24])
    parser.add_argument("--steps", type=int, nargs="*", default=[0, 4])
    parser.add_argument("--limit", type=float, default=1800, help="seconds of a process")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    arguments = parser.parse_args()
    measure(arguments.photos, arguments.csv, arguments.megapixels, sorted(arguments.steps), arguments.limit)
    if arguments.plot:
        plot(read(arguments.csv), arguments.plot)


if __name__ == "__main__":
    main()
