"""`decode`."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from inrcodec.cli.app import (
    STREAM,
    DecodeDeviceOption,
    ForceOption,
    JsonOption,
    MaxPixelsOption,
    PriorOption,
    QuietOption,
    Reporter,
    VerboseOption,
    app,
    naming,
    read_input,
    write_output,
)
from inrcodec.cli.batch import (
    SINR,
    Batch,
    Job,
    JobsOption,
    MtimeOption,
    Progress,
    RecursiveOption,
    Result,
    ResumeOption,
    do_all,
    find_jobs,
    one_by_one,
)
from inrcodec.errors import OptionError
from inrcodec.options import Device


class Format(StrEnum):
    """Formats by their suffix."""

    PNG = "png"
    JPEG = "jpg"
    WEBP = "webp"
    TIFF = "tiff"


@app.command(
    epilog="Examples:  inrcodec decode photo.sinr --scale 4    inrcodec decode photo.sinr --region 100,50,64,64"
)
def decode(
    files: Annotated[list[Path], typer.Argument(help="Files to decode, folders or patterns; - is stdin.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="PNG, JPEG, WebP or TIFF, or folder of several. Default: FILE with suffix .decoded.png; - is stdout.",
        ),
    ] = None,
    recursive: RecursiveOption = False,
    jobs: JobsOption = None,
    resume: ResumeOption = False,
    keep_mtime: MtimeOption = False,
    file_format: Annotated[
        Format, typer.Option("--format", help="Of an output whose name does not say it.")
    ] = Format.PNG,
    scale: Annotated[float | None, typer.Option(help="Output samples per pixel, for example 4 or 0.5.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Output size instead of a scale.")] = None,
    region: Annotated[str | None, typer.Option(metavar="X,Y,W,H", help="Only this part, in pixels.")] = None,
    levels: Annotated[
        int | None, typer.Option(help="At most so many levels, coarse to fine; FILE may be cut short after them.")
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="For formats without 16 bits or transparency: 8 bits, on white.")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="64-bit sums: the same samples on every machine.")] = False,
    prior: PriorOption = None,
    device: DecodeDeviceOption = Device.AUTO,
    max_pixels: MaxPixelsOption = 2**28,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Decode .sinr files to pictures, at any scale."""
    from inrcodec import codec
    from inrcodec.bitstream import Limits
    from inrcodec.image import format_picture
    from inrcodec.options import DecodeOptions
    from inrcodec.prior import find_prior

    options = DecodeOptions(scale, _pair(size), _region(region), levels, exact)
    found, single = find_jobs(files, SINR, recursive, output, f".decoded.{file_format}")
    batch = Batch(found, single, jobs, resume, keep_mtime, force)
    loaded = find_prior(prior) if prior else None

    @one_by_one
    def work(job: Job, _: Progress) -> Result:
        assert job.target is not None
        data = read_input(job.source)
        began = time.perf_counter()
        with naming(job.source):
            picture = codec.decode(data, options, prior=loaded, device=device, limits=Limits(max_pixels))
        named = Path(f"stdout.{file_format}") if job.target == STREAM else job.target
        write_output(job.target, format_picture(picture, named, convert=convert), overwrite=force)
        seconds = round(time.perf_counter() - began, 3)
        height, width, _ = picture.pixels.shape
        facts = {"input": str(job.source), "output": str(job.target), "width": width, "height": height}
        detail = f"{job.source}: {len(data)} bytes, {'grey' if picture.grey else 'rgb'}, metadata {[*picture.metadata]}"
        return Result(facts | {"seconds": seconds}, f"{job.target}: {width}x{height}, {seconds:.2f} s", detail)

    do_all(batch, work, Reporter(as_json, quiet, verbose, aside=found[0].target == STREAM), "decoding")


def _pair(text: str | None) -> tuple[int, int] | None:
    """Width and height of "WxH"."""
    if text is None:
        return None
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise OptionError(f"--size is WxH, for example 640x480, not {text!r}") from None
    return width, height


def _region(text: str | None) -> tuple[int, int, int, int] | None:
    """x, y, width, height of "x,y,w,h"."""
    if text is None:
        return None
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"--region is x,y,w,h, for example 100,50,64,64, not {text!r}") from None
    return x, y, width, height
