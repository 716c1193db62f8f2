"""`bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from inrcodec.cli.app import (
    DeviceOption,
    ForceOption,
    JsonOption,
    PriorOption,
    QuietOption,
    VerboseOption,
    app,
    console,
    progress_bar,
)
from inrcodec.errors import OptionError
from inrcodec.options import Device


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
        Path | None,
        typer.Option(help="CSV with columns codec,bpp,psnr_rgb: published curves to plot and compare with."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Rate-distortion plot to write (PNG, SVG or PDF).")] = None,
    csv: Annotated[Path | None, typer.Option(help="Rows to write, one per picture, codec and quality.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the rows that --csv has already, and measure the others.")
    ] = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare rate, distortion and time with JPEG, WebP, AVIF and JPEG XL, on real files."""
    from inrcodec import bench as library
    from inrcodec import codec
    from inrcodec.image import check_output, read_picture, write_atomically, write_picture
    from inrcodec.options import EncodeOptions
    from inrcodec.prior import DEFAULT_PRIOR, find_prior

    if resume and not csv:
        raise OptionError("--resume needs --csv, where the rows are")
    for target, replaced in ((plot, force), (csv, force or resume)):
        if target:
            check_output(target, overwrite=replaced)
    known = library.read_rows(csv) if resume and csv and csv.exists() else []
    published = library.read_curves(overlay) if overlay else {}
    loaded = find_prior(prior or DEFAULT_PRIOR)

    def encode_file(source: Path, target: Path, quality: float) -> None:
        options = EncodeOptions(quality, steps, device=device)
        write_atomically(target, codec.encode(read_picture(source), options, prior=loaded).data)

    def decode_file(source: Path, target: Path) -> None:
        write_picture(codec.decode(source.read_bytes(), prior=loaded), target)

    def note(text: str) -> None:
        if not quiet:
            console().print(f"note: {text}")

    def tell(row: library.Row) -> None:
        if csv:
            known.append(row)
            write_atomically(csv, library.to_csv(known).encode(), overwrite=True)
        if verbose:
            quality = f"{row.file}: {row.codec}, quality {row.quality:g}"
            console().print(f"{quality}: {row.bpp:.3f} bits per pixel, {row.psnr:.2f} dB", soft_wrap=True, markup=False)

    ours = library.Codec("inrcodec", ".sinr", tuple(qualities), encode_file, decode_file)
    codecs = [ours] + (library.pillow_codecs(note) if others else [])
    with progress_bar("measuring", not (as_json or quiet)) as progress:
        rows = library.measure(folder, codecs, progress, tell, tuple(known))
    if csv:  # in the order of the folder; then what it had besides
        kept = [row for row in known if row not in rows]
        write_atomically(csv, library.to_csv([*rows, *kept]).encode(), overwrite=True)
    measured = library.curves(library.average(rows))
    rates = library.bd_rates({**measured, **published}, ours.name)
    if plot:
        library.plot(measured, plot, published=published, overwrite=force)
    if as_json:
        print(json.dumps(library.report(rows, rates, ours.name)))
    elif not quiet:
        from rich.console import Console

        for table in library.tables(rows, rates, ours.name):
            Console().print(table)
