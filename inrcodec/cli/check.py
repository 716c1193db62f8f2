"""`verify` and `compare`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrcodec.cli.app import (
    ForceOption,
    JsonOption,
    PriorOption,
    QuietOption,
    Reporter,
    VerboseOption,
    app,
    naming,
    read_input,
)
from inrcodec.cli.batch import (
    SINR,
    Batch,
    Job,
    JobsOption,
    Progress,
    RecursiveOption,
    Result,
    do_all,
    find_jobs,
    one_by_one,
)

if TYPE_CHECKING:
    from inrcodec.image import Picture
    from inrcodec.prior import Prior


@app.command(epilog="Example:  inrcodec verify photo.sinr")
def verify(
    files: Annotated[list[Path], typer.Argument(help="Files to check, folders or patterns; - is stdin.")],
    recursive: RecursiveOption = False,
    jobs: JobsOption = None,
    prior: PriorOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check .sinr files to their last bit, checksum and entropy coding included, without writing anything."""
    from inrcodec import codec
    from inrcodec.bitstream import unpack
    from inrcodec.prior import find_prior

    found, single = find_jobs(files, SINR, recursive, None, None)
    given = find_prior(prior) if prior else None

    @one_by_one
    def work(job: Job, _: Progress) -> Result:
        data = read_input(job.source)
        with naming(job.source):
            content = unpack(data)
            loaded = codec.prior_of(content, given)
            codec.read_parameters(content, loaded)
        facts = {"file": str(job.source), "valid": True, "bytes": len(data), "prior": loaded.name}
        shape = f"{content.width}x{content.height}"
        detail = f"{job.source}: {shape}, groups of {tuple(map(len, content.groups))} bytes"
        return Result(facts, f"{job.source}: valid, {len(data)} bytes, prior {loaded.name}", detail)

    do_all(Batch(found, single, jobs), work, Reporter(as_json, quiet, verbose), "checking")


@app.command(epilog="Example:  inrcodec compare photo.png photo.sinr --difference where.png")
def compare(
    a: Annotated[Path, typer.Argument(help="Picture or .sinr file; - is stdin.")],
    b: Annotated[Path, typer.Argument(help="Another of the same size.")],
    difference: Annotated[
        Path | None, typer.Option(help="Picture to write: the absolute difference, 8 times as bright.")
    ] = None,
    prior: PriorOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far two pictures are apart: PSNR, SSIM, MS-SSIM, and the bits per pixel of their files.

    They are compared at 8 bits per sample, and on white where they are transparent.
    """
    from inrcodec import metrics
    from inrcodec.image import Picture, check_output, write_picture
    from inrcodec.prior import find_prior

    if difference:
        check_output(difference, overwrite=force)
    loaded = find_prior(prior) if prior else None
    (picture_a, size_a), (picture_b, size_b) = (_read(path, loaded) for path in (a, b))
    pixels_a, pixels_b = picture_a.pixels, picture_b.pixels
    facts = {
        "a": str(a),
        "b": str(b),
        "psnr": metrics.psnr(pixels_a, pixels_b),
        "ssim": metrics.ssim(pixels_a, pixels_b),
        "ms_ssim": metrics.ms_ssim(pixels_a, pixels_b),
        "bpp_a": metrics.bits_per_pixel(size_a, *pixels_a.shape[:2]),
        "bpp_b": metrics.bits_per_pixel(size_b, *pixels_b.shape[:2]),
    }
    if difference:
        write_picture(Picture(metrics.difference(pixels_a, pixels_b)), difference, overwrite=force)
    text = (
        f"PSNR {facts['psnr']:.2f} dB, SSIM {facts['ssim']:.4f}, MS-SSIM {facts['ms_ssim']:.4f}; "
        f"{facts['bpp_a']:.3f} and {facts['bpp_b']:.3f} bits per pixel"
    )
    if facts["psnr"] == math.inf:
        facts["psnr"] = None  # JSON has no infinity
    apart = {
        name: abs(pixels_a[..., i].astype(int) - pixels_b[..., i]) for i, name in enumerate(("red", "green", "blue"))
    }
    shape = f"{pixels_a.shape[1]}x{pixels_a.shape[0]}, {size_a} and {size_b} bytes"
    lines = [f"{name}: mean difference {d.mean():.3f}, largest {d.max()}, of 255" for name, d in apart.items()]
    Reporter(as_json, quiet, verbose)(facts, text, "\n".join([shape, *lines]))


def _read(path: Path, prior: Prior | None) -> tuple[Picture, int]:
    """The picture in a file of either kind, at 8 bits and on white, and the file's bytes."""
    from inrcodec import codec
    from inrcodec.bitstream import MAGIC
    from inrcodec.image import flatten, parse_picture

    data = read_input(path)
    if not data.startswith(MAGIC):
        return parse_picture(data, str(path), convert=True), len(data)
    with naming(path):
        return flatten(codec.decode(data, prior=prior)), len(data)
