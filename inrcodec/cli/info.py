"""`info` and `priors`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inrcodec.cli.app import (
    JsonOption,
    QuietOption,
    Reporter,
    VerboseOption,
    app,
    naming,
    read_input,
)
from inrcodec.errors import PriorError

if TYPE_CHECKING:
    from inrcodec.bitstream import SinrFile


@app.command(epilog="Example:  inrcodec info photo.sinr --json")
def info(
    file: Annotated[Path, typer.Argument(help="File to describe; - is stdin.")],
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a .sinr file holds, without decoding it."""
    from inrcodec.bitstream import VERSION, unpack
    from inrcodec.options import index_quality
    from inrcodec.prior import bundled_priors, read_prior

    data = read_input(file)
    with naming(file):
        header = unpack(data)
    names = {prior.id: prior.name for prior in map(read_prior, bundled_priors())}
    facts: dict[str, Any] = {
        "file": str(file),
        "version": VERSION,
        "width": header.width,
        "height": header.height,
        "colour": header.colour.name.lower(),
        "alpha": header.alpha is not None,
        "bit_depth": header.bit_depth,
        "quality": round(index_quality(header.asked_index), 1),
        "lambda": round(header.lam, 2),
        "spacing": header.spacing,
        "post_filter": header.post,
        "prior": names.get(header.prior_id),
        "prior_id": header.prior_id.hex(),
        "self_contained": header.prior is not None,
        "bytes": len(data),
        "bpp": round(len(data) * 8 / (header.width * header.height), 4),
        "groups": [len(group) for group in header.groups],
        "metadata": {key: len(value) for key, value in header.metadata.items()},
    }
    shown = facts | {"prior": facts["prior"] or "not bundled"}
    text = "\n".join(f"{key:15}{value}" for key, value in shown.items())
    Reporter(as_json, quiet, verbose)(facts, text, _spent(header, len(data)) if verbose else "")


def _spent(file: SinrFile, size: int) -> str:
    """What the bytes of a file are for, a line each."""
    from inrcodec.codec import DELTA_GROUPS, prior_of

    names = [f"parameter group {i}" for i in range(len(file.groups))]
    with suppress(PriorError):  # who cannot decode a file can still say what it holds
        levels = len(prior_of(file).architecture.channels)
        if levels and len(names) == levels + DELTA_GROUPS:
            fields = (f"field of stride {file.spacing << i}" for i in reversed(range(levels)))
            names = ["changes of the filter", "changes of the rate model", *fields]
    spent = dict(zip(names, map(len, file.groups), strict=True))
    spent["header, metadata, opacity and prior"] = size - sum(spent.values())
    return "\n".join(f"{count:8} bytes, {100 * count / size:5.1f} %: {name}" for name, count in spent.items())


@app.command(epilog="Example:  inrcodec priors -v")
def priors(quiet: QuietOption = False, verbose: VerboseOption = False, as_json: JsonOption = False) -> None:
    """List the bundled priors."""
    from inrcodec.prior import DEFAULT_PRIOR, bundled_priors, read_prior

    rows, details = [], list[str]()
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
        notes = [f"  {key}: {value}" for key, value in prior.notes.items()]
        details += [f"{path}: {prior.architecture}", *notes]
    lines = []
    for row in rows:
        kind = f"{row['field_levels']} levels of fields" if row["field_levels"] else "no fields"
        text = f"{row['surviving_weights']} of {row['weights']} weights, {kind}, {row['bytes']} bytes, id {row['id']}"
        lines.append(f"{row['name']}{' (default)' if row['default'] else ''}: {text}")
    Reporter(as_json, quiet, verbose)(rows, "\n".join(lines), "\n".join(details))
