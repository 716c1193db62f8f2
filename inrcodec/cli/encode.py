"""`encode`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    naming,
    read_input,
    show_warning,
    write_output,
)
from inrcodec.cli.batch import (
    Batch,
    Job,
    JobsOption,
    MemoryShare,
    MtimeOption,
    Progress,
    RecursiveOption,
    Result,
    ResumeOption,
    caught,
    cores,
    do_all,
    find_jobs,
    half_of_memory,
    torchrun_team,
)
from inrcodec.errors import OptionError
from inrcodec.options import Device

if TYPE_CHECKING:
    from inrcodec.codec import Encoded

FIT_MEMORY, GUESS_MEMORY = 500, 50  # bytes per pixel, about, that encoding takes with steps and without


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
    jobs: JobsOption = None,
    resume: ResumeOption = False,
    keep_mtime: MtimeOption = False,
    quality: Annotated[
        float | None,
        typer.Option(
            "-Q",
            "--quality",
            help="1 (smallest) to 100 (best), default 60. Smooth pictures are kept finer than busy ones of a quality.",
        ),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Largest file instead of a quality, for example 40kB; met within 2 %."),
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option(help="Most bits per pixel instead of a quality; met within 2 %.")
    ] = None,
    target_psnr: Annotated[
        float | None, typer.Option(help="Least PSNR in dB instead of a quality; met within 0.1 dB.")
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(help="Mask: a picture of the same size, black or transparent where pixels are to be filled in."),
    ] = None,
    effort: Annotated[
        int | None,
        typer.Option("-e", "--effort", help="0 (a first guess, at once) to 9 (1000 steps). Default: 5 (100 steps)."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Fitting steps instead of an effort; time is linear in them.")
    ] = None,
    prior: PriorOption = None,
    device: DeviceOption = Device.AUTO,
    seed: Annotated[int, typer.Option(help="Same seed, device and version: same bytes.")] = 0,
    self_contained: Annotated[bool, typer.Option("--self-contained", help="Put the prior into the file.")] = False,
    convert: Annotated[
        bool,
        typer.Option(
            "--convert", help="Accept CMYK, floats or animation; make the picture 8 bits, opaque and RGB or grey."
        ),
    ] = False,
    strip: Annotated[bool, typer.Option("--strip", help="Leave ICC profile, EXIF and XMP out.")] = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit pictures and write them as .sinr files beside them. Small ones of the same size are fitted together.

    Under torchrun, processes and machines share the files; the first reports for all. With --resume, those that it
    restarts go on.
    """
    from dataclasses import replace

    from inrcodec.image import SUFFIXES, Picture, parse_picture, picture_size, read_mask, read_picture
    from inrcodec.options import EncodeOptions, Target, steps_of
    from inrcodec.prior import DEFAULT_PRIOR, find_prior

    target = None
    if any(goal is not None for goal in (target_size, target_bpp, target_psnr)):
        target = Target(size_of(target_size) if target_size else None, target_bpp, target_psnr)
        if quality is not None:
            raise OptionError("give a quality or a target, not both")
    wanted = EncodeOptions.quality if quality is None else quality
    options = EncodeOptions(wanted, steps_of(effort, steps), prior or DEFAULT_PRIOR, device, seed, target)
    found, single = find_jobs(images, SUFFIXES, recursive, output, ".sinr")
    batch = Batch(found, single, jobs, resume, keep_mtime, force)
    loaded = find_prior(options.prior)
    mask = read_mask(known) if known else None
    memory = MemoryShare(half_of_memory())
    per_pixel = FIT_MEMORY if options.steps else GUESS_MEMORY
    from inrcodec import codec

    def load(job: Job) -> Picture:
        if job.source == STREAM:
            picture = parse_picture(read_input(job.source), "stdin", convert=convert)
        else:
            picture = read_picture(job.source, convert=convert)
        return replace(picture, metadata={}) if strip else picture

    def fitted(pictures: Sequence[Picture], progress: Progress) -> list[tuple[Encoded, float]]:
        """Files, and the seconds that each took."""
        with memory(sum(picture.pixels[..., 0].size for picture in pictures) * per_pixel):
            began = time.perf_counter()
            made = codec.encode_together(
                pictures, options, prior=loaded, self_contained=self_contained, known=mask, progress=progress
            )
            return [(each, (time.perf_counter() - began) / len(made)) for each in made]

    def work(jobs: Sequence[Job], progress: Progress) -> list[Result | Exception]:
        read = {job: caught(load, job) for job in jobs}
        whole = {job: picture for job, picture in read.items() if isinstance(picture, Picture)}
        together = caught(fitted, [*whole.values()], progress) if len(whole) > 1 else None
        # What cannot be done together is done one by one: then an error is of its own file only.
        made = dict(zip(whole, together, strict=True)) if isinstance(together, list) else {}

        def one(job: Job) -> Result:
            picture = read[job]
            if isinstance(picture, Exception):
                raise picture
            with naming(job.source):
                return written(job, *(made[job] if job in made else fitted([picture], progress)[0]))

        return [caught(one, job) for job in jobs]

    def written(job: Job, result: Encoded, seconds: float) -> Result:
        assert job.target is not None
        write_output(job.target, result.data, overwrite=force)
        facts = {
            "input": str(job.source),
            "output": str(job.target),
            "width": result.width,
            "height": result.height,
            "bytes": len(result.data),
            "bpp": round(result.bits_per_pixel, 4),
            "quality": round(result.quality, 1),
            "steps": options.steps,
            "prior": result.prior,
            "seconds": round(seconds, 3),
        }
        if target:
            facts["target_met"] = not result.missed
        if result.missed and not quiet:
            show_warning(f"{job.source}: {result.missed}")
        found = f", quality {result.quality:.1f}" if target else ""
        cost = f"{len(result.data)} bytes, {result.bits_per_pixel:.3f} bits per pixel{found}"
        text = f"{job.target}: {cost}, {result.width}x{result.height}, {seconds:.1f} s"
        used = f"prior {loaded.name} {loaded.id.hex()}, {options.steps} steps"
        detail = f"{job.source}: {used}, groups of {result.groups} bytes"
        return Result(facts, text, detail)

    report = Reporter(as_json, quiet, verbose, aside=found[0].target == STREAM)
    initializer = share_threads(batch.at_once) if options.steps else None

    def size(job: Job) -> tuple[int, int] | None:
        """Of a picture that can be fitted with others."""
        return picture_size(job.source) if options.steps and target is None else None

    with torchrun_team(device) as team:
        do_all(batch, work, report, "encoding", initializer, team, size)


def size_of(text: str) -> int:
    """The number of bytes in "40kB", "1.5 MB", "64KiB" or "40000"."""
    stated = re.fullmatch(r"(\d+\.?\d*) ?(|k|K|M|G)(i?)B?", text)
    if not stated:
        raise OptionError(f"--target-size is a size, for example 40kB, not {text!r}")
    power = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3}[stated[2]]
    unit: int = (1024 if stated[3] else 1000) ** power
    return round(float(stated[1]) * unit)


def share_threads(jobs: int) -> Callable[[], None]:
    """What gives each of several threads its share of the cores, and its process's GPU."""

    def initializer() -> None:
        import torch

        torch.set_num_threads(max(1, cores() // jobs))
        if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:  # torchrun's; each thread says it for itself
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))

    return initializer
