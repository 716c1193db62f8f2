"""`view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inrcodec.cli.app import (
    STREAM,
    ForceOption,
    JsonOption,
    MaxPixelsOption,
    PriorOption,
    QuietOption,
    Reporter,
    VerboseOption,
    app,
    check_target,
    naming,
    read_input,
    write_output,
)


@app.command(epilog="Example:  inrcodec view photo.sinr -o photo.html")
def view(
    file: Annotated[Path, typer.Argument(help="File to show; - is stdin.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: FILE with suffix .html; - is stdout.")
    ] = None,
    prior: PriorOption = None,
    max_pixels: MaxPixelsOption = 2**28,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page that shows a .sinr file at any zoom up to x256, its network computed by the browser."""
    from inrcodec.bitstream import Limits
    from inrcodec.prior import find_prior
    from inrcodec.viewer import page

    target = output or (STREAM if file == STREAM else file.with_suffix(".html"))
    check_target(target, file, overwrite=force)
    data = read_input(file)
    with naming(file):
        given = find_prior(prior) if prior else None
        made = page(data, file.name, prior=given, limits=Limits(max_pixels))
    write_output(target, made, overwrite=force)
    facts = {"input": str(file), "output": str(target), "bytes": len(made)}
    report = Reporter(as_json, quiet, verbose, aside=target == STREAM)
    report(facts, f"{target}: {len(made)} bytes; open it in a browser", f"{file}: {len(data)} bytes")
