"""`encode`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from inrcodec.cli.app import (
    STREAM,
    DeviceOption,
    ForceOption,
    JsonOption,
    PriorOption,
    QuietOption,
    Reporter,
    VerboseOption,
    app,
    check_target,
    progress_bar,
    read_input,
    write_output,
)
from inrcodec.options import Device


@app.command(epilog="Examples:  inrcodec encode photo.png    inrcodec encode photo.jpg -o small.sinr -Q 30 --steps 300")
def encode(
    image: Annotated[Path, typer.Argument(help="Picture to encode (PNG, JPEG, WebP, TIFF, ...); - is stdin.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: IMAGE with suffix .sinr; - is stdout.")
    ] = None,
    quality: Annotated[float, typer.Option("-Q", "--quality", help="1 (smallest) to 100 (best).")] = 60.0,
    steps: Annotated[int, typer.Option(help="Fitting steps; time is linear in them.")] = 100,
    prior: PriorOption = None,
    device: DeviceOption = Device.AUTO,
    seed: Annotated[int, typer.Option(help="Same seed, device and version: same bytes.")] = 0,
    self_contained: Annotated[bool, typer.Option("--self-contained", help="Put the prior into the file.")] = False,
    convert: Annotated[
        bool, typer.Option("--convert", help="Accept transparency, 16 bits, CMYK or animation by converting.")
    ] = False,
    strip: Annotated[bool, typer.Option("--strip", help="Leave ICC profile, EXIF and XMP out.")] = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit a picture and write it as a .sinr file beside it."""
    from dataclasses import replace

    from inrcodec.image import parse_picture, read_picture
    from inrcodec.options import EncodeOptions
    from inrcodec.prior import DEFAULT_PRIOR, find_prior

    options = EncodeOptions(quality, steps, prior or DEFAULT_PRIOR, device, seed)
    target = output or (STREAM if image == STREAM else image.with_suffix(".sinr"))
    report = Reporter(as_json, quiet, verbose, aside=target == STREAM)
    check_target(target, image, overwrite=force)
    if image == STREAM:
        picture = parse_picture(read_input(image), "stdin", convert=convert)
    else:
        picture = read_picture(image, convert=convert)
    loaded = find_prior(options.prior)
    from inrcodec import codec

    if strip:
        picture = replace(picture, metadata={})
    began = time.perf_counter()
    with progress_bar("encoding", not (as_json or quiet)) as progress:
        result = codec.encode(picture, options, prior=loaded, self_contained=self_contained, progress=progress)
    seconds = time.perf_counter() - began
    write_output(target, result.data, overwrite=force)
    size = len(result.data)
    facts = {
        "input": str(image),
        "output": str(target),
        "width": result.width,
        "height": result.height,
        "bytes": size,
        "bpp": round(result.bits_per_pixel, 4),
        "quality": quality,
        "steps": steps,
        "prior": result.prior,
        "seconds": round(seconds, 3),
    }
    shape = f"{result.width}x{result.height}"
    text = f"{target}: {size} bytes, {result.bits_per_pixel:.3f} bits per pixel, {shape}, {seconds:.1f} s"
    detail = f"{image}: {shape}, prior {loaded.name} {loaded.id.hex()}, {steps} steps, groups of {result.groups} bytes"
    report(facts, text, detail)
