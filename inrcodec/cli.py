"""The command line: each command parses, calls one library function and reports.

Results go to stdout, progress and errors to stderr. With --json the result, or the error, is one JSON
object on stdout. Exit codes are those of `errors`, 1 for anything else and 130 after Ctrl-C. Heavy
modules are imported by the command that needs them; only `encode` and `train-prior` need torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from inrcodec import __version__
from inrcodec.errors import ImageError, InrcodecError, OptionError, SinrError
from inrcodec.options import Device

if TYPE_CHECKING:
    from inrcodec.train import Progress as TrainingProgress

console = Console(stderr=True, highlight=False)

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 a wrong option, 3 not an image that can be encoded, 4 not a valid .sinr "
    "file, 5 prior missing or wrong, 6 the output exists or cannot be written, 130 interrupted."
)


class Commands(typer.core.TyperGroup):
    """Turns errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except InrcodecError as error:
            _fail(error, error.exit_code)
        except KeyboardInterrupt:
            console.print("interrupted")
            raise typer.Exit(130) from None
        except Exception as error:  # ours to mend, or the machine's; INRCODEC_DEBUG=1 shows where
            if os.environ.get("INRCODEC_DEBUG") or type(error).__module__.startswith("typer"):
                raise
            _fail(error, 1)


def _fail(error: BaseException, code: int) -> None:
    text = " ".join((str(error) or type(error).__name__).split())
    if "--json" in sys.argv:
        print(json.dumps({"error": {"type": type(error).__name__, "message": text, "exit_code": code}}))
    else:
        console.print(f"[red]error:[/] {escape(text)}", soft_wrap=True)
    raise typer.Exit(code) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Images as sparse changes to a meta-learned neural network: encode, then decode at any scale.",
)


def main() -> None:
    """Entry point of the `inrcodec` command."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"inrcodec {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Images as sparse changes to a meta-learned neural network: encode, then decode at any scale."""


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the output if it exists.")]
PriorOption = Annotated[str | None, typer.Option(help="Name of a bundled prior (see `inrcodec priors`) or a file.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto: cuda, else mps, else cpu.")]

DecodeDeviceOption = Annotated[Device, typer.Option(help="Where to sample; auto and cpu: NumPy, without torch.")]


@app.command(epilog="Examples:  inrcodec encode photo.png    inrcodec encode photo.jpg -o small.sinr -Q 30 --steps 300")
def encode(
    image: Annotated[Path, typer.Argument(help="Picture to encode (PNG, JPEG, WebP, TIFF, ...).")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: IMAGE with suffix .sinr.")] = None,
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
    as_json: JsonOption = False,
) -> None:
    """Fit a picture and write it as a .sinr file beside it."""
    from dataclasses import replace

    from inrcodec.image import check_output, read_picture, write_atomically
    from inrcodec.options import EncodeOptions
    from inrcodec.prior import DEFAULT_PRIOR, find_prior

    options = EncodeOptions(quality, steps, prior or DEFAULT_PRIOR, device, seed)
    target = output or image.with_suffix(".sinr")
    if _same_file(target, image):
        raise OptionError(f"{image}: the output would replace the picture itself; choose another with -o")
    check_output(target, overwrite=force)
    picture = read_picture(image, convert=convert)
    loaded = find_prior(options.prior)
    from inrcodec import codec

    if strip:
        picture = replace(picture, metadata={})
    began = time.perf_counter()
    with _progress("encoding", not as_json) as progress:
        result = codec.encode(picture, options, prior=loaded, self_contained=self_contained, progress=progress)
    seconds = time.perf_counter() - began
    write_atomically(target, result.data, overwrite=force)
    size = target.stat().st_size
    bpp = size * 8 / (result.width * result.height)
    if as_json:
        report = {"input": str(image), "output": str(target), "width": result.width, "height": result.height}
        report |= {
            "bytes": size,
            "bpp": round(bpp, 4),
            "quality": quality,
            "steps": steps,
            "prior": result.prior,
        }
        print(json.dumps(report | {"seconds": round(seconds, 3)}))
    else:
        print(f"{target}: {size} bytes, {bpp:.3f} bits per pixel, {result.width}x{result.height}, {seconds:.1f} s")


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
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Decode a .sinr file to a picture, at any scale."""
    from inrcodec import codec
    from inrcodec.image import check_output, write_picture
    from inrcodec.options import DecodeOptions
    from inrcodec.prior import find_prior

    options = DecodeOptions(scale, _pair(size), _region(region))
    target = output or file.with_suffix(".decoded.png")
    if _same_file(target, file):
        raise OptionError(f"{file}: the output would replace the file itself; choose another with -o")
    check_output(target, overwrite=force)
    data = _read(file)
    began = time.perf_counter()
    with _named(file):
        picture = codec.decode(data, options, prior=find_prior(prior) if prior else None, device=device)
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


@app.command(epilog="Example:  inrcodec info photo.sinr --json")
def info(
    file: Annotated[Path, typer.Argument(help="File to describe.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a .sinr file holds, without decoding it."""
    from inrcodec.bitstream import VERSION, unpack
    from inrcodec.options import index_quality, lagrangian
    from inrcodec.prior import bundled_priors, read_prior

    data = _read(file)
    with _named(file):
        header = unpack(data)
    names = {prior.id: prior.name for prior in map(read_prior, bundled_priors())}
    facts: dict[str, Any] = {
        "file": str(file),
        "version": VERSION,
        "width": header.width,
        "height": header.height,
        "colour": header.colour.name.lower(),
        "bit_depth": header.bit_depth,
        "quality": round(index_quality(header.quality_index), 1),
        "lambda": round(lagrangian(header.quality_index), 2),
        "prior": names.get(header.prior_id),
        "prior_id": header.prior_id.hex(),
        "self_contained": header.prior is not None,
        "bytes": len(data),
        "bpp": round(len(data) * 8 / (header.width * header.height), 4),
        "groups": [len(group) for group in header.groups],
        "metadata": {key: len(value) for key, value in header.metadata.items()},
    }
    if as_json:
        print(json.dumps(facts))
    else:
        for key, value in facts.items():
            print(f"{key:15}{'not bundled' if key == 'prior' and value is None else value}")


@app.command()
def priors(as_json: JsonOption = False) -> None:
    """List the bundled priors."""
    from inrcodec.prior import DEFAULT_PRIOR, bundled_priors, read_prior

    rows = []
    for path in bundled_priors():
        prior = read_prior(path)
        surviving = sum(int(prior.mask(layer).sum()) for layer in range(prior.layers))
        total = sum(prior.mask(layer).size for layer in range(prior.layers))
        rows.append(
            {
                "name": path.stem,
                "id": prior.id.hex(),
                "default": path.stem == DEFAULT_PRIOR,
                "bytes": len(prior.data),
                "field_levels": len(prior.architecture.channels),
                "weights": total,
                "surviving_weights": surviving,
            }
        )
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        kind = f"{row['field_levels']} levels of fields" if row["field_levels"] else "no fields"
        text = f"{row['surviving_weights']} of {row['weights']} weights, {kind}, {row['bytes']} bytes, id {row['id']}"
        print(f"{row['name']}{' (default)' if row['default'] else ''}: {text}")


@app.command(
    "train-prior",
    epilog="Example:  inrcodec train-prior photos/ -o mine.safetensors --hidden 96 --omega 60 --size 64",
)
def train_prior(
    dataset: Annotated[Path, typer.Argument(help="Folder of pictures, searched recursively.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The prior to write.")] = Path("prior.safetensors"),
    folder: Annotated[
        Path | None,
        typer.Option("--run", help="Folder of checkpoint, log and each round's prior. Default: OUTPUT.run"),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the training crops, in pixels.")] = 178,
    resize: Annotated[int, typer.Option(help="Shorter side before cropping; 0 keeps the picture's own.")] = 200,
    random_crops: Annotated[bool, typer.Option("--random-crops/--centre-crops", help="Where crops are taken.")] = False,
    hidden: Annotated[int, typer.Option(help="Units per sine layer.")] = 256,
    layers: Annotated[int, typer.Option(help="Sine layers.")] = 4,
    omega: Annotated[float, typer.Option(help="Frequency factor of the sine layers.")] = 200.0,
    inner_steps: Annotated[int, typer.Option(help="SGD steps from the prior to a picture.")] = 2,
    inner_rate: Annotated[float, typer.Option(help="Learning rate of those.")] = 1e-2,
    outer_rate: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-5,
    batch: Annotated[int, typer.Option(help="Pictures per outer step.")] = 3,
    dense_steps: Annotated[int, typer.Option(help="Outer steps before the first pruning.")] = 150_000,
    rounds: Annotated[int, typer.Option(help="Rounds of pruning.")] = 20,
    round_steps: Annotated[int, typer.Option(help="Outer steps after each pruning.")] = 30_000,
    fraction: Annotated[float, typer.Option(help="Of the surviving weights, pruned per round.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 0,
    device: DeviceOption = Device.AUTO,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a sparse prior on a folder of pictures (Meta-SparseINR); run it again to go on after an interruption."""
    from inrcodec.image import check_output, write_atomically

    check_output(output, overwrite=force)
    from inrcodec.dataset import Crop, open_dataset
    from inrcodec.processes import processes
    from inrcodec.train import TrainOptions, train

    options = TrainOptions(
        hidden=hidden, layers=layers, omega=omega, inner_steps=inner_steps, inner_rate=inner_rate,
        outer_rate=outer_rate, batch=batch, dense_steps=dense_steps, rounds=rounds, round_steps=round_steps,
        fraction=fraction, seed=seed, device=device, threads=threads,
    )  # fmt: skip
    crops = open_dataset(dataset, size, size, resize=resize, crop=Crop.RANDOM if random_crops else Crop.CENTRE)
    run = folder or output.with_suffix(".run")

    notes = {"pictures": len(crops.names)}
    with _progress("training", not as_json) as bar, processes(options.device):
        report = _report(bar, not as_json)
        prior = train(options, crops, run, name=output.stem, notes=notes, progress=report)
    if prior is not None:  # the first of several processes
        write_atomically(output, prior.data, overwrite=force)
        _say_prior(output, prior.id, len(prior.data), run, as_json)


@app.command(
    "train-fields", epilog="Example:  inrcodec train-fields photos/ -o mine.safetensors --start photo --fit-steps 500"
)
def train_fields(
    dataset: Annotated[Path, typer.Argument(help="Folder of pictures, searched recursively.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The prior to write.")] = Path("fields.safetensors"),
    folder: Annotated[
        Path | None, typer.Option("--run", help="Folder of checkpoint and log. Default: OUTPUT.run")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Prior to begin with; default: random weights.")] = None,
    size: Annotated[int, typer.Option(help="Side of the training crops, in pixels.")] = 128,
    batch: Annotated[int, typer.Option(help="Pictures per step.")] = 8,
    guess_steps: Annotated[int, typer.Option(help="Steps that train everything through the first guess.")] = 8000,
    fit_steps: Annotated[int, typer.Option(help="Steps that train network and rate model at fitted fields.")] = 6000,
    fit_length: Annotated[int, typer.Option(help="Steps that a batch is fitted.")] = 60,
    slots: Annotated[int, typer.Option(help="Batches that are fitted in turn.")] = 8,
    guess_rate: Annotated[float, typer.Option(help="Learning rate of the guess steps.")] = 4e-3,
    fit_rate: Annotated[float, typer.Option(help="Learning rate of the fit steps.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 0,
    device: DeviceOption = Device.AUTO,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a prior with lattice fields, as the default prior has them; run it again to go on after an interruption."""
    from inrcodec.image import check_output, write_atomically
    from inrcodec.prior import find_prior

    check_output(output, overwrite=force)
    first = find_prior(start) if start else None
    from inrcodec.dataset import Crop, open_dataset
    from inrcodec.processes import processes
    from inrcodec.train_fields import FieldOptions
    from inrcodec.train_fields import train_fields as train

    options = FieldOptions(
        batch=batch, guess_steps=guess_steps, fit_steps=fit_steps, fit_length=fit_length, slots=slots,
        guess_rate=guess_rate, fit_rate=fit_rate, seed=seed, device=device, threads=threads,
    )  # fmt: skip
    crops = open_dataset(dataset, size, size, crop=Crop.RANDOM)
    run = folder or output.with_suffix(".run")
    notes = {"pictures": len(crops.names)}
    with _progress("training", not as_json) as bar, processes(options.device):
        report = _report(bar, not as_json)
        prior = train(options, crops, run, name=output.stem, start=first, notes=notes, progress=report)
    if prior is not None:  # the first of several processes
        write_atomically(output, prior.data, overwrite=force)
        _say_prior(output, prior.id, len(prior.data), run, as_json)


@app.command(epilog="Example:  inrcodec bench photos/ -Q 30 -Q 60 -Q 90 --plot rd.png --csv rows.csv")
def bench(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    qualities: Annotated[list[float], typer.Option("-Q", "--quality", help="Of this codec; several times.")] = [  # noqa: B006
        10.0,
        30.0,
        50.0,
        70.0,
        90.0,
    ],
    steps: Annotated[int, typer.Option(help="Fitting steps of this codec.")] = 100,
    prior: PriorOption = None,
    device: DeviceOption = Device.AUTO,
    others: Annotated[bool, typer.Option("--others/--alone", help="Measure JPEG, WebP, AVIF and JPEG XL too.")] = True,
    overlay: Annotated[
        Path | None, typer.Option(help="CSV with columns codec,bpp,psnr_rgb: published curves for the plot.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Rate-distortion plot to write (PNG, SVG or PDF).")] = None,
    csv: Annotated[Path | None, typer.Option(help="Rows to write, one per picture, codec and quality.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare rate, distortion and time with JPEG, WebP, AVIF and JPEG XL, on real files."""
    from inrcodec import bench as library
    from inrcodec import codec
    from inrcodec.image import check_output, read_picture, write_atomically, write_picture
    from inrcodec.options import EncodeOptions
    from inrcodec.prior import DEFAULT_PRIOR, find_prior

    for target in (plot, csv):
        if target:
            check_output(target, overwrite=force)
    published = library.read_curves(overlay) if overlay else {}
    loaded = find_prior(prior or DEFAULT_PRIOR)

    def encode_file(source: Path, target: Path, quality: float) -> None:
        options = EncodeOptions(quality, steps, device=device)
        write_atomically(target, codec.encode(read_picture(source), options, prior=loaded).data)

    def decode_file(source: Path, target: Path) -> None:
        write_picture(codec.decode(source.read_bytes(), prior=loaded), target)

    ours = library.Codec("inrcodec", ".sinr", tuple(qualities), encode_file, decode_file)
    codecs = [ours] + (library.pillow_codecs(lambda text: console.print(f"note: {text}")) if others else [])
    with _progress("measuring", not as_json) as progress:
        rows = library.measure(folder, codecs, progress)
    averages = library.average(rows)
    measured = library.curves(averages)
    rates = library.bd_rates(measured, ours.name)
    if csv:
        write_atomically(csv, library.to_csv(rows).encode(), overwrite=force)
    if plot:
        library.plot(measured, plot, published=published, overwrite=force)
    if as_json:
        print(json.dumps(library.report(rows, rates)))
    else:
        for table in library.tables(averages, rates, ours.name):
            Console().print(table)


def _report(bar: Callable[[int, int], None] | None, wanted: bool) -> Callable[[TrainingProgress], None]:
    """What shows how far training is: the bar, if there is one, and a line per report."""

    def report(state: TrainingProgress) -> None:
        if bar:
            bar(state.step, state.steps)
        if wanted:
            left = time.strftime("%H:%M:%S", time.gmtime(state.seconds_left))
            text = f"step {state.step}/{state.steps} round {state.round} surviving {state.surviving:.3f}"
            console.print(f"{text} loss {state.loss:.5f}, {left} left")

    return report


def _say_prior(output: Path, prior_id: bytes, size: int, run: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"output": str(output), "id": prior_id.hex(), "bytes": size, "run": str(run)}))
    else:
        print(f"{output}: prior {prior_id.hex()}, {size} bytes; log and checkpoint in {run}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SinrError(f"{path}: cannot read the file: {error.strerror}") from None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors inside say which file they are about."""
    try:
        yield
    except (SinrError, ImageError) as error:
        raise type(error)(f"{path}: {error}") from None


def _same_file(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and os.path.samefile(a, b)


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


@contextmanager
def _progress(title: str, wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with ETA on a terminal's stderr, else nothing."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
