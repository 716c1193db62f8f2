"""Encode and decode: pictures to `.sinr` bytes and back.

Encoding is the only thing here that needs torch, and imports it when called.

A file's parameter groups, in order: if the prior has no fields, one group per layer of the
network, with the deltas of its surviving weights in row-major order and then of its biases; if
it has fields, one group per level, coarse to fine, as `entropy` writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inrcodec.bitstream import Colour, Limits, SinrFile, pack, unpack
from inrcodec.entropy import MAX_VALUE, RateModel, decode_deltas, encode_deltas
from inrcodec.errors import LimitError, OptionError, PriorError, SinrError
from inrcodec.image import Picture
from inrcodec.lattice import field_shapes
from inrcodec.options import DecodeOptions, Device, EncodeOptions, conditioning, quality_index
from inrcodec.prior import Prior, find_prior, parse_prior, prior_by_id
from inrcodec.render import Parameters, View, render

DELTA_STEP = 2.0**-5  # of a layer's RMS weight: the step of its deltas at q = 0
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """A picture as a file, and what it cost."""

    data: bytes
    height: int  # pixels
    width: int
    prior: str
    groups: tuple[int, ...]  # bytes of each parameter group

    @property
    def bits_per_pixel(self) -> float:
        """Of the whole file, headers and metadata included."""
        return len(self.data) * 8 / (self.height * self.width)


def encode(
    picture: Picture,
    options: EncodeOptions = EncodeOptions(),
    *,
    prior: Prior | None = None,
    self_contained: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """The `.sinr` file of a picture. `progress` is told steps done and steps in all.

    Raises PriorError if the prior of the options cannot be used, OptionError for a device that is not there.
    """
    from inrcodec import fit  # torch

    prior = prior or find_prior(options.prior)
    height, width, _ = picture.pixels.shape
    index = quality_index(options.quality)
    device = fit.torch_device(options.device)
    if prior.architecture.channels:
        fields = fit.fit_fields(prior, picture.pixels, index, options.steps, device, options.seed, progress)
        groups = _rate_model(prior).encode(fields, index)
    else:
        deltas = fit.fit_network(prior, picture.pixels, options.steps, device, options.seed, progress)
        groups = [encode_deltas(quantize(prior, layer, index, values)) for layer, values in enumerate(deltas)]
    file = SinrFile(
        width=width,
        height=height,
        colour=Colour.GREY if picture.grey else Colour.RGB,
        bit_depth=8,
        quality_index=index,
        prior_id=prior.id,
        groups=tuple(groups),
        metadata=picture.metadata,
        prior=prior.data if self_contained else None,
    )
    return Encoded(pack(file), height, width, prior.name, tuple(len(group) for group in groups))


def decode(
    data: bytes,
    options: DecodeOptions = DecodeOptions(),
    *,
    prior: Prior | None = None,
    device: Device = Device.AUTO,
    limits: Limits = Limits(),
) -> Picture:
    """The picture in a `.sinr` file, or the part and samples of it that the options ask for.

    `auto` and `cpu` decode with NumPy; another device evaluates the network there, with torch.

    Raises SinrError if the bytes are not a complete file, PriorError if its prior is missing or `prior` is
    another one, OptionError if the region is outside the picture or the device is not there.
    """
    file = unpack(data, limits)
    prior = prior_of(file, prior)
    view = view_of(file.height, file.width, options)
    parameters = read_parameters(file, prior)
    network = None
    if device not in (Device.AUTO, Device.CPU):
        from inrcodec import fit, synthesis  # torch

        network = synthesis.torch_network(prior, parameters, fit.torch_device(device))
    pixels = render(prior, parameters, view, network=network)
    if file.colour == Colour.GREY:
        mean = np.rint(pixels.mean(axis=2, dtype=np.float32)).astype(np.uint8)
        pixels = np.repeat(mean[..., None], 3, axis=2)
    return Picture(pixels, grey=file.colour == Colour.GREY, metadata=file.metadata)


def prior_of(file: SinrFile, prior: Prior | None = None) -> Prior:
    """The prior that a file names: the given one, the file's own or a bundled one. PriorError if it is none of them."""
    if prior is None:
        prior = (
            parse_prior(file.prior, "the file's own prior") if file.prior is not None else prior_by_id(file.prior_id)
        )
    if prior.id != file.prior_id:
        raise PriorError(f"the file needs prior {file.prior_id.hex()}, but {prior.name} is {prior.id.hex()}")
    return prior


def read_parameters(file: SinrFile, prior: Prior) -> Parameters:
    """The numbers of a file, decoded. SinrError if its groups do not fit the prior."""
    channels = prior.architecture.channels
    expected = len(channels) or prior.layers
    if len(file.groups) != expected:
        raise SinrError(f"prior {prior.name} has {expected} parameter groups, found {len(file.groups)}")
    network = {key: tensor for key, tensor in prior.tensors.items() if key.startswith("siren.")}
    fields: tuple[NDArray[np.int32], ...] = ()
    if channels:
        shapes = field_shapes(file.height, file.width, channels)
        try:
            fields = _rate_model(prior).decode(file.groups, shapes, file.quality_index)
        except MemoryError:
            raise LimitError(f"{file.width} x {file.height} pixels need more memory than there is") from None
    else:
        for layer, group in enumerate(file.groups):
            mask = prior.mask(layer)
            steps = decode_deltas(group, int(mask.sum()) + len(mask))
            values = dequantize(prior, layer, file.quality_index, steps)
            weight, bias = network[f"siren.{layer}.weight"].copy(), network[f"siren.{layer}.bias"]
            weight[mask] += values[: -len(mask)]
            network |= {f"siren.{layer}.weight": weight, f"siren.{layer}.bias": bias + values[-len(mask) :]}
    return Parameters(file.height, file.width, conditioning(file.quality_index), network, fields)


def view_of(height: int, width: int, options: DecodeOptions) -> View:
    """The samples that options ask of a picture. OptionError if the region is not inside it."""
    left, top, columns, rows = options.region or (0, 0, width, height)
    if left + columns > width or top + rows > height:
        raise OptionError(f"region {options.region} is not inside the picture of {width}x{height} pixels")
    if options.size:
        out_columns, out_rows = options.size
    else:
        scale = options.scale or 1.0
        out_columns, out_rows = max(1, round(columns * scale)), max(1, round(rows * scale))
    return View(out_rows, out_columns, float(top), float(left), float(rows), float(columns))


def delta_step(prior: Prior, layer: int, index: int) -> float:
    """Size of one step of a layer's deltas: relative to its surviving weights, and to the root of lambda."""
    weights = prior.tensors[f"siren.{layer}.weight"][prior.mask(layer)].astype(np.float64)
    rms = float(np.sqrt(np.mean(np.square(weights)))) if weights.size else 1.0
    return DELTA_STEP * rms * float(2 ** (4.5 / 2 * conditioning(index)))


def quantize(prior: Prior, layer: int, index: int, deltas: Floats) -> NDArray[np.int32]:
    """Deltas of a layer (N,) in steps, as integers."""
    steps: Floats = np.rint(deltas / delta_step(prior, layer, index)).clip(-MAX_VALUE, MAX_VALUE)
    return steps.astype(np.int32)


def dequantize(prior: Prior, layer: int, index: int, steps: NDArray[np.int32]) -> Floats:
    """The deltas (N,) that `quantize` rounded."""
    return (steps * delta_step(prior, layer, index)).astype(np.float32)


def _rate_model(prior: Prior) -> RateModel:
    return RateModel(prior.tensors, prior.architecture.channels)
