"""`decode`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from inrcodec.cli.app import (
    DecodeDeviceOption,
    ForceOption,
    JsonOption,
    PriorOption,
    app,
    naming,
    read_file,
    same_file,
)
from inrcodec.errors import OptionError
from inrcodec.options import Device


@app.command(
    epilog="Examples:  inrcodec decode photo.sinr --scale 4    inrcodec decode photo.sinr --region 100,50,64,64"
)
def decode(
    file: Annotated[Path, typer.Argument(help="File to decode.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="PNG, JPEG, WebP or TIFF. Default: FILE with suffix .decoded.png."),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Output samples per pixel, for example 4 or 0.5.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Output size instead of a scale.")] = None,
    region: Annotated[str | None, typer.Option(metavar="X,Y,W,H", help="Only this part, in pixels.")] = None,
    prior: PriorOption = None,
    device: DecodeDeviceOption = Device.AUTO,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Refuse a FILE with more: lower it for files of strangers.")
    ] = 2**28,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Decode a .sinr file to a picture, at any scale."""
    from inrcodec import codec
    from inrcodec.bitstream import Limits
    from inrcodec.image import check_output, write_picture
    from inrcodec.options import DecodeOptions
    from inrcodec.prior import find_prior

    options = DecodeOptions(scale, _pair(size), _region(region))
    target = output or file.with_suffix(".decoded.png")
    if same_file(target, file):
        raise OptionError(f"{file}: the output would replace the file itself; choose another with -o")
    check_output(target, overwrite=force)
    data = read_file(file)
    began = time.perf_counter()
    with naming(file):
        picture = codec.decode(
            data, options, prior=find_prior(prior) if prior else None, device=device, limits=Limits(max_pixels)
        )
    write_picture(picture, target, overwrite=force)
    seconds = time.perf_counter() - began
    height, width, _ = picture.pixels.shape
    if as_json:
        print(
            json.dumps(
                {
                    "input": str(file),
                    "output": str(target),
                    "width": width,
                    "height": height,
                    "seconds": round(seconds, 3),
                }
            )
        )
    else:
        print(f"{target}: {width}x{height}, {seconds:.2f} s")


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
