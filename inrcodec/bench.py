"""Benchmarks: rate, distortion and time of codecs over a folder of pictures.

Every number comes from files: each picture is written once without metadata, each codec encodes that file to
another and decodes it to a third. Sizes are those of the files on disk; seconds include reading and writing
them, the decoded PNG too.

A codec here is two functions on paths. Those of other formats are Pillow's; ours are given by the caller.
"""

from __future__ import annotations

import csv
import importlib
import io
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from inrcodec.errors import OptionError
from inrcodec.image import find_pictures, read_picture, write_atomically, write_picture
from inrcodec.metrics import Point, bd_rate, bits_per_pixel, psnr, ssim

__all__ = [
    "Average",
    "Codec",
    "Row",
    "average",
    "bd_rates",
    "bd_rates_by_picture",
    "curves",
    "measure",
    "pillow_codecs",
    "plot",
    "read_curves",
    "read_rows",
    "report",
    "tables",
    "to_csv",
]

QUALITIES = (10.0, 25.0, 40.0, 55.0, 70.0, 85.0, 95.0)  # of Pillow's codecs, each on its own scale
PLOT_SUFFIXES = (".pdf", ".png", ".svg")

# Suffix, Pillow's name and options: each format as small as it gets without a visible wait.
PILLOW_CODECS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "JPEG": (".jpg", "JPEG", {"optimize": True, "progressive": True}),
    "WebP": (".webp", "WEBP", {"method": 6}),
    "AVIF": (".avif", "AVIF", {"speed": 4}),
    "JPEG XL": (".jxl", "JXL", {"effort": 7}),
}


@dataclass(frozen=True)
class Codec:
    """How to encode and decode files."""

    name: str
    suffix: str  # of its files
    qualities: tuple[float, ...]  # to measure
    encode: Callable[[Path, Path, float], None]  # from a PNG, to its own file, at a quality
    decode: Callable[[Path, Path], None]  # from its own file, to a PNG


@dataclass(frozen=True)
class Row:
    """One picture through one codec at one quality."""

    codec: str
    quality: float
    file: str  # relative to the folder
    bytes: int
    bpp: float
    psnr: float  # dB, of RGB; infinite if nothing was lost
    ssim: float
    encode_s: float  # seconds
    decode_s: float


@dataclass(frozen=True)
class Average:
    """Means over the pictures of one codec at one quality."""

    codec: str
    quality: float
    files: int
    bpp: float
    psnr: float  # dB: the mean of the pictures' PSNRs, as published curves have it
    ssim: float
    encode_s: float  # seconds
    decode_s: float


def pillow_codecs(notice: Callable[[str], None], qualities: tuple[float, ...] = QUALITIES) -> list[Codec]:
    """JPEG, WebP, AVIF and JPEG XL, as far as this Pillow can write them; `notice` is told of the others."""
    try:
        importlib.import_module("pillow_jxl")  # a plug-in that registers its format when it is imported
    except ImportError:
        notice("JPEG XL is left out: it needs the package pillow-jxl-plugin")
    Image.init()
    codecs = []
    for name, (suffix, file_format, options) in PILLOW_CODECS.items():
        if file_format in Image.SAVE:
            encode = partial(_pillow_encode, file_format=file_format, options=options)
            codecs.append(Codec(name, suffix, qualities, encode, _pillow_decode))
        elif file_format != "JXL":
            notice(f"{name} is left out: this Pillow was built without it")
    return codecs


def measure(
    folder: Path,
    codecs: Sequence[Codec],
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[Row], None] | None = None,
    known: Iterable[Row] = (),
) -> list[Row]:
    """A row for each picture in the folder, codec and quality, of which each is told when it is there.

    Those that are `known` are not measured again. `progress` is told rows done and rows in all.

    ImageError if there are no pictures or one cannot be read as it is; whatever a codec raises.
    """
    paths = find_pictures(folder)
    total = len(paths) * sum(len(codec.qualities) for codec in codecs)
    rows: list[Row] = []
    before = {(row.codec, row.quality, row.file): row for row in known}
    with TemporaryDirectory(prefix="inrcodec-bench-") as temporary:
        source = Path(temporary, "source.png")
        for path in paths:
            picture = replace(read_picture(path, convert=True), metadata={})
            write_picture(picture, source, overwrite=True)
            for codec in codecs:
                for quality in codec.qualities:
                    name = path.relative_to(folder).as_posix()
                    row = before.get((codec.name, quality, name))
                    if row is None:
                        row = _measure_one(picture.pixels, source, name, codec, quality)
                        if tell:
                            tell(row)
                    rows.append(row)
                    if progress:
                        progress(len(rows), total)
    return rows


def average(rows: Iterable[Row]) -> list[Average]:
    """Means per codec and quality, in the order in which these first occur."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.codec, row.quality), []).append(row)
    means = ("bpp", "psnr", "ssim", "encode_s", "decode_s")
    return [
        Average(*key, len(group), *(fmean(getattr(row, name) for row in group) for name in means))
        for key, group in groups.items()
    ]


def curves(averages: Iterable[Average]) -> dict[str, list[Point]]:
    """Rate-distortion points (bits per pixel, PSNR in dB) by codec, without those that lost nothing."""
    points: dict[str, list[Point]] = {}
    for mean in averages:
        if math.isfinite(mean.psnr):
            points.setdefault(mean.codec, []).append((mean.bpp, mean.psnr))
    return points


def bd_rates(curves: Mapping[str, Sequence[Point]], ours: str) -> dict[str, float | None]:
    """Percent of rate that ours needs more than each other codec at equal PSNR; None if they cannot be compared."""
    rates: dict[str, float | None] = {}
    for codec, points in curves.items():
        if codec != ours:
            try:
                rates[codec] = bd_rate(points, curves.get(ours, ()))
            except OptionError:  # too few points, or no PSNR that both reach
                rates[codec] = None
    return rates


def bd_rates_by_picture(rows: Iterable[Row], ours: str) -> dict[str, float | None]:
    """As `bd_rates`, of each picture's own curves: the geometric mean over the pictures where they can be compared.

    Means over pictures have fewer bits at equal mean PSNR if smooth pictures get more of them; these do not.
    """
    by_picture: dict[str, list[Row]] = {}
    for row in rows:
        by_picture.setdefault(row.file, []).append(row)
    found: dict[str, list[float | None]] = {}
    for group in by_picture.values():
        for codec, rate in bd_rates(curves(average(group)), ours).items():
            found.setdefault(codec, []).append(rate)
    logs = {codec: [math.log1p(rate / 100) for rate in rates if rate is not None] for codec, rates in found.items()}
    return {codec: 100 * math.expm1(fmean(own)) if own else None for codec, own in logs.items()}


def read_curves(path: Path) -> dict[str, list[Point]]:
    """Published points by codec, from a CSV file with the columns codec, bpp and psnr_rgb and any others.

    OptionError if the file cannot be read or has no such columns or other than numbers in them.
    """
    points: dict[str, list[Point]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                points.setdefault(line["codec"], []).append((float(line["bpp"]), float(line["psnr_rgb"])))
    except OSError as error:
        raise OptionError(f"{path}: cannot read the curves: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise OptionError(f"{path}: expected CSV with numbers as codec,bpp,psnr_rgb, found {error!r}") from None
    return points


def report(rows: Sequence[Row], rates: Mapping[str, float | None], ours: str) -> dict[str, Any]:
    """All results as JSON has it: what is infinite becomes null."""
    by_picture = bd_rates_by_picture(rows, ours)
    averages = [_finite(asdict(mean)) for mean in average(rows)]
    return {
        "rows": [_finite(asdict(row)) for row in rows],
        "averages": averages,
        "bd_rate_percent": dict(rates),
        "bd_rate_percent_by_picture": by_picture,
    }


def to_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    return text.getvalue()


def read_rows(path: Path) -> list[Row]:
    """What `to_csv` has written to a file. OptionError if it cannot be read or has other columns."""
    kinds: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file)
            return [Row(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(Row)}) for line in lines]
    except OSError as error:
        raise OptionError(f"{path}: cannot read the rows: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise OptionError(f"{path}: expected the rows of an earlier run, found {error!r}") from None


def tables(rows: Sequence[Row], rates: Mapping[str, float | None], ours: str) -> list[Table]:
    """What to show on a terminal: the averages, and the rate of ours against each other codec."""

    def shown(rate: float | None) -> str:
        return "no common PSNR" if rate is None else f"{rate:+.1f} %"

    means = Table("codec", "quality", "bpp", "PSNR (dB)", "SSIM", "encode (s)", "decode (s)")
    for mean in average(rows):
        numbers = (f"{mean.bpp:.4f}", f"{mean.psnr:.2f}", f"{mean.ssim:.4f}")
        means.add_row(mean.codec, f"{mean.quality:g}", *numbers, f"{mean.encode_s:.3f}", f"{mean.decode_s:.3f}")
    against, by_picture = Table("codec", f"BD-rate of {ours}", "picture by picture"), bd_rates_by_picture(rows, ours)
    for codec, rate in rates.items():
        against.add_row(codec, shown(rate), shown(by_picture[codec]) if codec in by_picture else "")
    return [means, against]


def plot(
    measured: Mapping[str, Sequence[Point]],
    path: Path,
    *,
    published: Mapping[str, Sequence[Point]] | None = None,
    overwrite: bool = False,
) -> None:
    """Draw rate-distortion curves to a PNG, SVG or PDF; published ones are dashed, and cut to the measured rates.

    OptionError for another suffix or without matplotlib, OutputError as `write_atomically`.
    """
    suffix = path.suffix.lower()
    if suffix not in PLOT_SUFFIXES:
        raise OptionError(f"{path}: expected one of the suffixes {', '.join(PLOT_SUFFIXES)}, found {suffix!r}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise OptionError("a plot needs matplotlib: pip install 'inrcodec[bench]'") from None
    figure = Figure(figsize=(8, 5.5), layout="constrained")  # inches; no pyplot, hence no display
    axes = figure.subplots()
    widest = max((bpp for points in measured.values() for bpp, _ in points), default=math.inf)
    for codec, points in (published or {}).items():
        near = sorted(point for point in points if point[0] <= 1.05 * widest)
        if near:
            axes.plot(*zip(*near, strict=True), "--", linewidth=1, label=codec)
    for codec, points in measured.items():
        axes.plot(*zip(*sorted(points), strict=True), "o-", markersize=4, label=codec)
    axes.set_xlim(left=0)
    axes.set(xlabel="bits per pixel", ylabel="PSNR of RGB (dB)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small")
    drawing = io.BytesIO()
    figure.savefig(drawing, format=suffix[1:], dpi=150)
    write_atomically(path, drawing.getvalue(), overwrite=overwrite)


def _measure_one(pixels: NDArray[np.uint8], source: Path, name: str, codec: Codec, quality: float) -> Row:
    """The row of one picture. Its files lie beside the source and are gone afterwards."""
    encoded, decoded = source.with_name(f"encoded{codec.suffix}"), source.with_name("decoded.png")
    began = time.perf_counter()
    codec.encode(source, encoded, quality)
    between = time.perf_counter()
    codec.decode(encoded, decoded)
    ended = time.perf_counter()
    height, width, _ = pixels.shape
    size = encoded.stat().st_size
    result = read_picture(decoded).pixels
    encoded.unlink()
    decoded.unlink()
    return Row(
        codec=codec.name,
        quality=quality,
        file=name,
        bytes=size,
        bpp=bits_per_pixel(size, height, width),
        psnr=psnr(pixels, result),
        ssim=ssim(pixels, result),
        encode_s=between - began,
        decode_s=ended - between,
    )


def _pillow_encode(source: Path, target: Path, quality: float, *, file_format: str, options: Mapping[str, Any]) -> None:
    with Image.open(source) as image:
        image.save(target, file_format, quality=round(quality), **options)


def _pillow_decode(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        image.save(target)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value == math.inf else value for key, value in values.items()}
