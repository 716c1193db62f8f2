"""`info` and `priors`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from inrcodec.cli.app import (
    JsonOption,
    Reporter,
    app,
    naming,
    read_input,
)


@app.command(epilog="Example:  inrcodec info photo.sinr --json")
def info(
    file: Annotated[Path, typer.Argument(help="File to describe; - is stdin.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a .sinr file holds, without decoding it."""
    from inrcodec.bitstream import VERSION, unpack
    from inrcodec.options import index_quality, lagrangian
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
    shown = facts | {"prior": facts["prior"] or "not bundled"}
    Reporter(as_json)(facts, "\n".join(f"{key:15}{value}" for key, value in shown.items()))


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
    lines = []
    for row in rows:
        kind = f"{row['field_levels']} levels of fields" if row["field_levels"] else "no fields"
        text = f"{row['surviving_weights']} of {row['weights']} weights, {kind}, {row['bytes']} bytes, id {row['id']}"
        lines.append(f"{row['name']}{' (default)' if row['default'] else ''}: {text}")
    Reporter(as_json)(rows, "\n".join(lines))
