"""One page of HTML that shows a picture by evaluating its network in the browser (WebGL2), at any zoom.

The page holds all it needs: the network and the quantized fields, gzipped, for the shaders of `page.js`, and the
ordinary picture as a PNG, which is there before anything is computed, serves the other kinds of zoom, and is what
remains without WebGL2 or scripts. It may load nothing and run nothing else: its Content-Security-Policy knows its one
script and its one style sheet by their SHA-256. Whatever comes out of the file is escaped.

Shaders compute with vectors of 4 values, so here all channels are moved to places in groups of 4, of which a level of
fields, the coordinates, the picture's colours and each output of the filters begins a new one; between them there are
zeros. A linear map or a 3x3 layer is a *bank*: for each group of outputs, tap and group of inputs the 4 columns of a
4x4 matrix, row by row of the taps, and then the biases.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inrcodec import codec, lattice, render
from inrcodec.bitstream import Limits, SinrFile, unpack
from inrcodec.image import Picture, exif_texts, format_picture
from inrcodec.options import DecodeOptions, index_quality
from inrcodec.prior import FIRST_FILTER, Prior
from inrcodec.render import Parameters

__all__ = ["page"]

GROUP = 4  # values that a shader handles at once
Floats = NDArray[np.float32]


def page(data: bytes, name: str, *, prior: Prior | None = None, limits: Limits = Limits()) -> bytes:
    """The page of a `.sinr` file, in UTF-8. `name` is what it is called there.

    Raises SinrError if the bytes are not a complete file, PriorError if its prior is missing or `prior` is another one.
    """
    file = unpack(data, limits)
    prior = codec.prior_of(file, prior)
    parameters = codec.read_parameters(file, prior)
    model, blob = _model(prior, parameters)
    model |= {
        "size": [file.width, file.height],
        "grey": bool(file.colour),
        "data": _base64(gzip.compress(blob, 9, mtime=0)),
    }
    picture = _eight_bits(codec.sample(file, prior, parameters, DecodeOptions()))
    facts = _facts(file, name, len(data), prior)
    script, style = (files(__name__).joinpath(part).read_text("utf-8") for part in ("page.js", "page.css"))
    parts = {
        "title": html.escape(name),
        "alt": html.escape(facts.get("Description", name)),
        "facts": "\n".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items()),
        "picture": f"data:image/png;base64,{_base64(format_picture(picture, Path('picture.png')))}",
        "width": str(file.width),
        "height": str(file.height),
        "model": json.dumps(model).replace("<", "\\u003c"),  # nothing in it ends the element it is in
        "script": script,
        "style": style,
        "script_hash": _hash(script),
        "style_hash": _hash(style),
    }
    template = files(__name__).joinpath("page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template).encode("utf-8", "backslashreplace")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _hash(text: str) -> str:
    """How a Content-Security-Policy names the content of an element."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _eight_bits(picture: Picture) -> Picture:
    """A picture as a screen shows it, without metadata."""
    if picture.bit_depth == 8:
        return replace(picture, metadata={})
    pixels, alpha = (
        None if samples is None else np.rint(samples / 257).astype(np.uint8)
        for samples in (picture.pixels, picture.alpha)
    )
    assert pixels is not None
    return Picture(pixels, picture.grey, {}, alpha)


def _facts(file: SinrFile, name: str, size: int, prior: Prior) -> dict[str, str]:
    """What the page says about a file."""
    kind = "grey" if file.colour else "RGB"
    facts = {
        "File": name,
        "Size": f"{size:,} bytes, {size * 8 / (file.width * file.height):.2f} bits per pixel",
        "Picture": f"{file.width} × {file.height}, {kind}, {file.bit_depth} bits{', opacity' if file.alpha else ''}",
        "Quality": f"{index_quality(file.asked_index):.0f}",
        "Prior": prior.name,
    }
    if "icc" in file.metadata:
        facts["Colours"] = "shown as sRGB: the colour profile of the file is not applied"
    return facts | exif_texts(file.metadata.get("exif", b""))


def _model(prior: Prior, parameters: Parameters) -> tuple[dict[str, Any], bytes]:
    """What the shaders compute, and its numbers: float32 of the banks, then int16 of the fields, level 0 first."""
    channels = prior.architecture.channels
    coordinates = 2 * prior.architecture.coordinates
    groups = ([coordinates] if coordinates else []) + list(channels)
    inputs = _places(groups)
    layers, skip = render.network_layers(prior, parameters)
    banks: dict[str, tuple[Floats, Floats, NDArray[np.intp], NDArray[np.intp]]] = {}
    omegas = [*prior.architecture.omegas, 1.0]
    for i, ((weight, bias), omega) in enumerate(zip(layers, omegas, strict=True)):
        seen = inputs if i == 0 else np.arange(weight.shape[1])
        banks[f"siren{i}"] = (weight * np.float32(omega), bias * np.float32(omega), np.arange(len(weight)), seen)
    if skip is not None:
        banks["skip"] = (skip, np.zeros(3, np.float32), np.arange(3), inputs)
    filters: list[str] = []
    if channels:
        tensors = {**prior.tensors, **parameters.network}
        powers = np.array([1, parameters.conditioning, parameters.conditioning**2], np.float32)
        planes = inputs[coordinates:] - (GROUP if coordinates else 0)
        seen = np.concatenate([np.arange(3), GROUP + planes[: tensors["filter.in"].shape[1] - 3]])
        filters += [FIRST_FILTER, *render.behind(parameters)]
        for filter_name in filters:
            first, last = tensors[f"{filter_name}.in"], tensors[f"{filter_name}.out"]
            features = np.arange(len(first))
            bias = tensors[f"{filter_name}.in_bias"] @ powers
            banks[f"{filter_name}In"] = (first, bias, features, seen)
            for i, (kernel, shift) in enumerate(render.between(tensors, filter_name)):
                banks[f"{filter_name}Mid{i}"] = (kernel, shift, features, features)
            outputs = _places([3] * (len(last) // 3))  # R; X, Y, D and M; P
            banks[f"{filter_name}Out"] = (last, tensors[f"{filter_name}.out_bias"], outputs, features)
    numbers, described = [], {}
    at = 0
    for name, (weight, bias, outputs, seen) in banks.items():
        packed, described[name] = _bank(weight, bias, outputs, seen, at)
        numbers.append(packed.tobytes())
        at += len(packed)
    gains = render.field_gains(prior, parameters.conditioning)
    levels = []
    for level, (values, gain) in enumerate(zip(parameters.fields, gains, strict=True)):
        numbers.append(_texels(values).tobytes())
        levels.append(
            {
                "channels": len(values),
                "rows": values.shape[1],
                "columns": values.shape[2],
                "gains": [float(g) for g in gain.ravel()],
                "kernel": _polynomials(*map(float, prior.tensors["field.kernel"][level])),
            }
        )
    model = {
        "cells": [parameters.width, parameters.height],
        "spacing": parameters.spacing,
        "coordinates": bool(coordinates),
        "layers": len(layers),
        "filters": filters,
        "reach": render.FILTER_REACH + max(render.reach(tensors, name) for name in filters[1:]) if channels else 0,
        "banks": described,
        "levels": levels,
    }
    return model, b"".join(numbers)


def _places(groups: Sequence[int]) -> NDArray[np.intp]:
    """Places of the channels of groups of so many, each of which begins at a multiple of 4."""
    places: list[int] = []
    start = 0
    for count in groups:
        places += range(start, start + count)
        start += _padded(count)
    return np.array(places, np.intp)


def _padded(count: int) -> int:
    return -(-count // GROUP) * GROUP


def _bank(
    weight: Floats, bias: Floats, outputs: NDArray[np.intp], inputs: NDArray[np.intp], start: int
) -> tuple[Floats, Mapping[str, int]]:
    """Vectors (N, 4) of a map (out, in) or a layer (out, in, 3, 3) with its channels at places, and what they are."""
    taps = weight.reshape(*weight.shape[:2], -1)  # (out, in, 1 or 9)
    rows, columns = _padded(int(outputs.max()) + 1), _padded(int(inputs.max()) + 1)
    full = np.zeros((rows, columns, taps.shape[2]), np.float32)
    full[np.ix_(outputs, inputs)] = taps
    offset = np.zeros(rows, np.float32)
    offset[outputs] = bias
    split = full.reshape(rows // GROUP, GROUP, columns // GROUP, GROUP, -1)  # (O, 4, I, 4, taps)
    vectors = np.concatenate([split.transpose(0, 4, 2, 3, 1).reshape(-1, GROUP), offset.reshape(-1, GROUP)])
    shape = {"inputs": columns // GROUP, "outputs": rows // GROUP, "start": start, "count": len(vectors)}
    return vectors, shape


def _texels(values: NDArray[np.int32]) -> NDArray[np.int16]:
    """A field (channels, rows, columns) as layers of texels (layers, rows, columns, 1..4), each of up to 4 channels."""
    size = min(len(values), GROUP)
    padded = np.pad(values, ((0, -len(values) % size), (0, 0), (0, 0)))
    return padded.reshape(-1, size, *values.shape[1:]).transpose(0, 2, 3, 1).astype("<i2")


def _polynomials(b: float, c: float) -> list[list[float]]:
    """The kernel of `lattice`: the weights of 4 cells, each (4,) in powers of how far a position is past the second."""
    past = np.array([0.125, 0.375, 0.625, 0.875])
    weights = lattice.kernel(past[:, None] - np.arange(-1, 3), b, c)  # (positions, cells)
    return [[float(x) for x in row] for row in np.linalg.solve(np.vander(past, increasing=True), weights).T]
