"""`convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inrcodec.cli.app import (
    STREAM,
    ForceOption,
    JsonOption,
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


@app.command(epilog="Example:  inrcodec convert photo.sinr -o portable.sinr --self-contained")
def convert(
    file: Annotated[Path, typer.Argument(help="File to convert; - is stdin.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: FILE with suffix .converted.sinr; - is stdout.")
    ] = None,
    self_contained: Annotated[
        bool, typer.Option("--self-contained/--plain", help="With the prior inside, so that it opens anywhere, or not.")
    ] = True,
    strip: Annotated[bool, typer.Option("--strip", help="Leave ICC profile, EXIF and XMP out.")] = False,
    prior: PriorOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put the prior into a .sinr file or take it out; the picture stays bit for bit the same."""
    from inrcodec import codec
    from inrcodec.bitstream import unpack
    from inrcodec.prior import find_prior

    target = output or (STREAM if file == STREAM else file.with_suffix(".converted.sinr"))
    check_target(target, None, overwrite=force)
    before = read_input(file)
    with naming(file):
        given = find_prior(prior) if prior else None
        data = codec.convert(before, self_contained=self_contained, strip=strip, prior=given)
    write_output(target, data, overwrite=force)
    facts = {"input": str(file), "output": str(target), "bytes": len(data), "self_contained": self_contained}
    report = Reporter(as_json, quiet, verbose, aside=target == STREAM)
    content = unpack(data)
    detail = f"{file}: prior {content.prior_id.hex()}, metadata {', '.join(content.metadata) or 'none'}"
    report(facts, f"{target}: {len(data)} bytes, {len(before)} before", detail)
