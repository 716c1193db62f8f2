"""`encode`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
    read_input,
    write_output,
)
from inrcodec.cli.batch import (
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
)
from inrcodec.options import Device


@app.command(
    epilog="Examples:  inrcodec encode photo.jpg -o small.sinr -Q 30    inrcodec encode -r photos/ -o small/ --resume"
)
def encode(
    images: Annotated[
        list[Path],
        typer.Argument(help="Pictures to encode (PNG, JPEG, WebP, TIFF, ...), folders or patterns; - is stdin."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="File, or folder of several. Default: IMAGE with suffix .sinr; - is stdout."
        ),
    ] = None,
    recursive: RecursiveOption = False,
    jobs: JobsOption = 1,
    resume: ResumeOption = False,
    keep_mtime: MtimeOption = False,
    quality: Annotated[float, typer.Option("-Q", "--quality", help="1 (smallest) to 100 (best).")] = 60.0,
    steps: Annotated[int, typer.Option(help="Fitting steps; time is linear in them.")] = 100,
    prior: PriorOption = None,
    device: DeviceOption = Device.AUTO,
    seed: Annotated[int, typer.Option(help="Same seed, device and version: same bytes.")] = 0,
    self_contained: Annotated[bool, typer.Option("--self-contained", help="Put the prior into the file.")] = False,
    convert: Annotated[
        bool,
        typer.Option("--convert", help="Accept CMYK or animation; make the picture 8 bits, opaque and RGB or grey."),
    ] = False,
    strip: Annotated[bool, typer.Option("--strip", help="Leave ICC profile, EXIF and XMP out.")] = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit pictures and write them as .sinr files beside them."""
    from dataclasses import replace

    from inrcodec.image import SUFFIXES, parse_picture, read_picture
    from inrcodec.options import EncodeOptions
    from inrcodec.prior import DEFAULT_PRIOR, find_prior

    options = EncodeOptions(quality, steps, prior or DEFAULT_PRIOR, device, seed)
    found, single = find_jobs(images, SUFFIXES, recursive, output, ".sinr")
    batch = Batch(found, single, jobs, resume, keep_mtime, force)
    loaded = find_prior(options.prior)
    from inrcodec import codec

    def work(job: Job, progress: Progress) -> Result:
        assert job.target is not None
        if job.source == STREAM:
            picture = parse_picture(read_input(job.source), "stdin", convert=convert)
        else:
            picture = read_picture(job.source, convert=convert)
        if strip:
            picture = replace(picture, metadata={})
        began = time.perf_counter()
        result = codec.encode(picture, options, prior=loaded, self_contained=self_contained, progress=progress)
        seconds = time.perf_counter() - began
        write_output(job.target, result.data, overwrite=force)
        facts = {
            "input": str(job.source),
            "output": str(job.target),
            "width": result.width,
            "height": result.height,
            "bytes": len(result.data),
            "bpp": round(result.bits_per_pixel, 4),
            "quality": quality,
            "steps": steps,
            "prior": result.prior,
            "seconds": round(seconds, 3),
        }
        cost = f"{len(result.data)} bytes, {result.bits_per_pixel:.3f} bits per pixel"
        text = f"{job.target}: {cost}, {result.width}x{result.height}, {seconds:.1f} s"
        detail = f"{job.source}: prior {loaded.name} {loaded.id.hex()}, {steps} steps, groups of {result.groups} bytes"
        return Result(facts, text, detail)

    report = Reporter(as_json, quiet, verbose, aside=found[0].target == STREAM)
    do_all(batch, work, report, "encoding", share_threads(jobs))


def share_threads(jobs: int) -> Callable[[], None]:
    """What gives each of several threads its share of the CPU's."""

    def initializer() -> None:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))

    return initializer
