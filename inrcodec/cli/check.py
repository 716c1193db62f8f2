"""`verify` and `compare`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrcodec.cli.app import ForceOption, JsonOption, PriorOption, app, naming, report

if TYPE_CHECKING:
    from inrcodec.image import Picture
    from inrcodec.prior import Prior


@app.command(epilog="Example:  inrcodec verify photo.sinr")
def verify(
    file: Annotated[Path, typer.Argument(help="File to check.")],
    prior: PriorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a .sinr file to its last bit, checksum and entropy coding included, without writing anything."""
    from inrcodec import codec
    from inrcodec.bitstream import read_file, unpack
    from inrcodec.prior import find_prior

    data = read_file(file)
    with naming(file):
        content = unpack(data)
        loaded = codec.prior_of(content, find_prior(prior) if prior else None)
        codec.read_parameters(content, loaded)
    facts = {"file": str(file), "valid": True, "bytes": len(data), "prior": loaded.name}
    report(facts, f"{file}: valid, {len(data)} bytes, prior {loaded.name}", as_json=as_json)


@app.command(epilog="Example:  inrcodec compare photo.png photo.sinr --difference where.png")
def compare(
    a: Annotated[Path, typer.Argument(help="Picture or .sinr file.")],
    b: Annotated[Path, typer.Argument(help="Another of the same size.")],
    difference: Annotated[
        Path | None, typer.Option(help="Picture to write: the absolute difference, 8 times as bright.")
    ] = None,
    prior: PriorOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far two pictures are apart: PSNR, SSIM, MS-SSIM, and the bits per pixel of their files."""
    from inrcodec import metrics
    from inrcodec.image import Picture, check_output, write_picture
    from inrcodec.prior import find_prior

    if difference:
        check_output(difference, overwrite=force)
    loaded = find_prior(prior) if prior else None
    pixels_a, pixels_b = (_read(path, loaded).pixels for path in (a, b))
    facts = {
        "a": str(a),
        "b": str(b),
        "psnr": metrics.psnr(pixels_a, pixels_b),
        "ssim": metrics.ssim(pixels_a, pixels_b),
        "ms_ssim": metrics.ms_ssim(pixels_a, pixels_b),
        "bpp_a": metrics.bits_per_pixel(a.stat().st_size, *pixels_a.shape[:2]),
        "bpp_b": metrics.bits_per_pixel(b.stat().st_size, *pixels_b.shape[:2]),
    }
    if difference:
        write_picture(Picture(metrics.difference(pixels_a, pixels_b)), difference, overwrite=force)
    text = (
        f"PSNR {facts['psnr']:.2f} dB, SSIM {facts['ssim']:.4f}, MS-SSIM {facts['ms_ssim']:.4f}; "
        f"{facts['bpp_a']:.3f} and {facts['bpp_b']:.3f} bits per pixel"
    )
    if facts["psnr"] == math.inf:
        facts["psnr"] = None  # JSON has no infinity
    report(facts, text, as_json=as_json)


def _read(path: Path, prior: Prior | None) -> Picture:
    """The picture in a file of either kind."""
    from inrcodec import codec
    from inrcodec.bitstream import MAGIC, read_file
    from inrcodec.image import read_picture

    data = read_file(path)
    if not data.startswith(MAGIC):
        return read_picture(path, convert=True)
    with naming(path):
        return codec.decode(data, prior=prior)
