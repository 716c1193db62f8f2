"""Encode and decode: pictures to `.sinr` bytes and back.

Fitting is the only thing here that needs torch, and imports it when called; the first guess alone does without.

A file's parameter groups, in order: if the prior has no fields, one group per layer of the
network, with the deltas of its surviving weights in row-major order and then of its biases; if
it has fields, two with the deltas of its filter and of its rate model, as `deltas` packs them, then one per level,
coarse to fine, as `entropy` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from inrcodec.allocation import allocated_index
from inrcodec.alpha import pack_alpha, sample_alpha, spread_colours, unpack_alpha
from inrcodec.bitstream import Colour, Limits, SinrFile, pack, unpack, unpack_prefix
from inrcodec.deltas import Deltas, changed_filter, changed_rate, pack_deltas, unpack_deltas
from inrcodec.entropy import MAX_VALUE, RateModel, decode_deltas, encode_deltas
from inrcodec.errors import ImageError, LimitError, OptionError, PriorError, SinrError, TruncatedFileError
from inrcodec.guess import first_guess
from inrcodec.image import Picture
from inrcodec.lattice import cells, continued, field_shapes, visible_cells
from inrcodec.metrics import psnr
from inrcodec.options import (
    MAX_QUALITY_INDEX,
    DecodeOptions,
    Device,
    EncodeOptions,
    Target,
    conditioning,
    index_quality,
    lagrangian,
    quality_index,
)
from inrcodec.postfilter import post_filter_pays
from inrcodec.prior import Prior, find_prior, parse_prior, prior_by_id
from inrcodec.render import Parameters, View, render
from inrcodec.spacing import best_spacing, cell_index, cell_means
from inrcodec.target import START, Goal, seek, straddle

DELTA_GROUPS = 2  # before those of the levels
DELTA_STEP = 2.0**-5  # of a layer's RMS weight: the step of its deltas at q = 0
LEAST = 10  # steps of a fit that goes on: fewer move nothing
NEAR = 8  # steps of the quality index by which a first guess may miss a target
BEST = 99.0  # dB, of a picture without any error
Floats = NDArray[np.float32]
Fields = tuple[NDArray[np.int32], ...]  # (channels, rows, columns) per level, level 0 first


@dataclass(frozen=True)
class Encoded:
    """A picture as a file, and what it cost."""

    data: bytes
    height: int  # pixels
    width: int
    prior: str
    groups: tuple[int, ...]  # bytes of each parameter group
    quality: float  # that was asked for, or has been found to meet a target
    missed: str = ""  # a target that is not met within 2 % or 0.1 dB, and what the file has instead

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
    known: NDArray[np.bool_] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """The `.sinr` file of a picture. `progress` is told steps done and steps in all.

    If it is said which pixels are `known`, (height, width), the others do not count, and the file fills them in.

    A target that cannot be met is missed by as little as possible, and `missed` says so.

    Raises PriorError if the prior of the options cannot be used, OptionError for a device that is not there,
    ImageError if `known` has another size or says that nothing is known.
    """
    return encode_together(
        [picture], options, prior=prior, self_contained=self_contained, known=known, progress=progress
    )[0]


def encode_together(
    pictures: Sequence[Picture],
    options: EncodeOptions = EncodeOptions(),
    *,
    prior: Prior | None = None,
    self_contained: bool = False,
    known: NDArray[np.bool_] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Encoded]:
    """What `encode` makes of each picture, by one fit of them all unless there is a target.

    On a CPU the files are those that `encode` makes. The same pixels are `known` of all.
    """
    prior = prior or find_prior(options.prior)
    files = [_Encoder(picture, options, prior, self_contained, known, progress) for picture in pictures]
    if options.target is None:
        indices = [file.index for file in files]
        for file, index in zip(files, indices, strict=True):
            file.settle(index)
        found = [(made, "") for made in _attempts(files, indices, options.steps)]
    else:
        found = [_meet(options.target, file) for file in files]
    return [
        Encoded(
            made.data, file.height, file.width, prior.name, made.groups, index_quality(file.asked(made.index)), missed
        )
        for file, (made, missed) in zip(files, found, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A file of a quality, and what the next fit can go on from."""

    index: int
    fields: Fields
    deltas: Deltas
    data: bytes
    groups: tuple[int, ...]


class _Encoder:
    """What the files of a picture have in common, whatever their quality."""

    def __init__(
        self,
        picture: Picture,
        options: EncodeOptions,
        prior: Prior,
        self_contained: bool,
        known: NDArray[np.bool_] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.picture, self.options, self.prior, self.known, self.progress = picture, options, prior, known, progress
        self.height, self.width, _ = picture.pixels.shape
        self.levels = len(prior.architecture.channels)
        self.seen = _seen(picture, known)
        pixels = picture.pixels if self.seen is None else spread_colours(picture.pixels, self.seen)
        if picture.bit_depth == 16:
            pixels = pixels.astype(np.float32) / np.float32(257)
        self.pixels = pixels  # (height, width, 3) in 0..255
        self._space(1)
        self.plain = SinrFile(
            width=self.width,
            height=self.height,
            colour=Colour.GREY if picture.grey else Colour.RGB,
            bit_depth=picture.bit_depth,
            quality_index=0,
            asked_index=0,
            prior_id=prior.id,
            groups=(),
            metadata=picture.metadata,
            prior=prior.data if self_contained else None,
            alpha=None if picture.alpha is None else pack_alpha(picture.alpha),
        )

    @property
    def index(self) -> int:
        """The picture's quality index, if there is no target."""
        asked = quality_index(self.options.quality)
        return allocated_index(self.pixels, asked, self.seen) if self.levels else asked

    def cell_index(self, index: int) -> int:
        """The quality index of the picture of cells."""
        return cell_index(index, self.spacing)

    def cell_lambda(self, lam: float | None) -> float | None:
        """The lambda of the picture of cells, for that of the picture of pixels."""
        return None if lam is None else lam / self.spacing**2

    def settle(self, index: int) -> None:
        """Choose the spacing for a quality. Where some pixels do not count, cells are pixels."""
        if self.seen is None and best_spacing(self.prior, self.pixels, index, self.options.steps > 0) == 2:
            self._space(2)

    def _space(self, spacing: int) -> None:
        """Have the cells of the finest field so many pixels apart."""
        alpha = self.picture.alpha
        self.spacing = spacing
        self.cells = cell_means(self.pixels, spacing)  # (rows, columns, 3) in 0..255
        self.coded = None if alpha is None else visible_cells(alpha > 0, self.levels, spacing)

    def asked(self, index: int) -> int:
        """The index that the options ask for, or one that has been found to meet a target."""
        return index if self.options.target else quality_index(self.options.quality)

    @property
    def guesses(self) -> bool:
        """Whether a file without steps needs no torch."""
        return self.known is None and self.options.device in (Device.AUTO, Device.CPU)

    def attempt(self, index: int, steps: int, before: _Attempt | None = None, lam: float | None = None) -> _Attempt:
        """A file of a quality; the fit goes on from that of `before`, and lambda may be another than the quality's."""
        return _attempts([self], [index], steps, before, lam)[0]

    def network(self, index: int) -> _Attempt:
        """A file of the network's deltas."""
        layers = enumerate(self._network_deltas)
        groups = [encode_deltas(quantize(self.prior, layer, index, deltas)) for layer, deltas in layers]
        return self._packed(index, groups, (), Deltas())

    @cached_property
    def _network_deltas(self) -> list[Floats]:
        from inrcodec import fit  # torch

        options, device = self.options, fit.torch_device(self.options.device)
        return fit.fit_network(self.prior, self.pixels, options.steps, device, options.seed, self.progress, self.seen)

    def with_fields(self, index: int, fields: Fields, changes: Deltas) -> _Attempt:
        """A file of fields, and of changes of filter and rate model."""
        own, (rows, columns, _) = self.cell_index(index), self.cells.shape
        streams = _rate_model(self.prior, changes).encode(fields, own, self.coded)
        network = {**self.prior.tensors, **changed_filter(self.prior.tensors, changes.filter)}
        shown = fields if self.coded is None else tuple(map(continued, fields, self.coded))
        parameters = Parameters(rows, columns, conditioning(own), network, shown, spacing=self.spacing)
        post = post_filter_pays(self.prior, parameters, self.pixels, self.seen)
        return self._packed(index, [*pack_deltas(changes, self.prior.tensors), *streams], fields, changes, post)

    def _packed(self, index: int, groups: list[bytes], fields: Fields, changes: Deltas, post: bool = False) -> _Attempt:
        file = replace(
            self.plain,
            quality_index=self.cell_index(index),
            asked_index=self.asked(index),
            groups=tuple(groups),
            spacing=self.spacing,
            post=post,
        )
        return _Attempt(index, fields, changes, pack(file), tuple(map(len, groups)))

    def cut(self, above: _Attempt, below: _Attempt, row: int) -> _Attempt:
        """The rows of one fit down to a pixel's, and those of another, with the same deltas, from there on."""
        pairs, row = enumerate(zip(above.fields, below.fields, strict=True)), row // self.spacing
        fields = (np.concatenate([a[:, : cells(row, i)], b[:, cells(row, i) :]], axis=1) for i, (a, b) in pairs)
        return self.with_fields(above.index, tuple(fields), above.deltas)


def _attempts(
    files: Sequence[_Encoder],
    indices: Sequence[int],
    steps: int,
    before: _Attempt | None = None,
    lam: float | None = None,
) -> list[_Attempt]:
    """`_Encoder.attempt` of each, by one fit if they have fields; of several there is none `before`."""
    pairs = list(zip(files, indices, strict=True))
    if not files[0].levels:
        return [file.network(index) for file, index in pairs]
    if steps == 0 and files[0].guesses:
        guesses = (first_guess(file.prior, file.cells, file.cell_index(index), file.coded) for file, index in pairs)
        fitted = [(fields, Deltas()) for fields in guesses]
    else:
        from inrcodec import fit  # torch

        options, start = files[0].options, (before.fields, before.deltas) if before else None
        given = [
            fit.Given(file.cells, file.cell_index(index), file.seen, file.coded, start, file.cell_lambda(lam))
            for file, index in pairs
        ]
        device = fit.torch_device(options.device)
        fitted = fit.fit_together(files[0].prior, given, steps, device, options.seed, files[0].progress)
    return [file.with_fields(index, *found) for (file, index), found in zip(pairs, fitted, strict=True)]


def _seen(picture: Picture, known: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Which pixels count, (height, width); None if all do."""
    shape = picture.pixels.shape[:2]
    seen = np.ones(shape, bool) if picture.alpha is None else picture.alpha > 0
    if known is not None:
        if known.shape != shape:
            expected, found = (" x ".join(map(str, reversed(sizes))) for sizes in (shape, known.shape))
            raise ImageError(f"the mask of known pixels: expected {expected} as the picture has, found {found}")
        if not known.any():
            raise ImageError("the mask of known pixels: none is known")
        seen = seen & known
    return None if seen.all() else seen


def _meet(target: Target, file: _Encoder) -> tuple[_Attempt, str]:
    """The attempt that meets a target, or comes near, and what is to be said then.

    First guesses and a short fit say which quality comes near; its fit goes on with other lambdas until one is too
    large and one too small, and of these the picture is cut together. Where nothing is seen, any PSNR is met.
    """
    attempt, picture, seen = file.attempt, file.picture, file.seen
    height, width, steps = file.height, file.width, file.options.steps if file.levels else 0
    if target.psnr is not None and seen is not None and not seen.any():
        return attempt(0, steps), ""
    goal = Goal.of(target, height * width)
    counted = np.s_[:] if seen is None else seen
    unit = (2**picture.bit_depth - 1) / 255

    @cache
    def value(made: _Attempt) -> float:
        if target.psnr is None:
            return math.log(len(made.data))
        return min(
            BEST, psnr(picture.pixels[counted] / unit, decode(made.data, prior=file.prior).pixels[counted] / unit)
        )

    def guessed(start: int) -> _Attempt:
        return seek(
            lambda index: attempt(index, 0), value, goal.loosened(NEAR) if steps else goal, start, 0, MAX_QUALITY_INDEX
        )

    made = guessed(START)
    file.settle(made.index)
    if file.spacing > 1:
        made = guessed(made.index)
    if steps:
        short = -(-steps // 4)
        index = made.index - round(goal.miss(value(attempt(made.index, short))) / goal.slope)
        index = min(max(index, 0), MAX_QUALITY_INDEX)
        fits = straddle(
            lambda before, at: attempt(index, max(LEAST, short), before, lagrangian(at)),
            value,
            goal,
            attempt(index, steps),
            index,
        )
        made = min(fits, key=lambda fit: goal.badness(value(fit)))
        small, large = sorted(fits[-2:], key=value) if len(fits) > 1 else (made, made)
        if value(small) < goal.low and goal.high < value(large):
            rows = replace(goal, slope=(value(large) - value(small)) / height)
            start = round(-goal.miss(value(small)) / rows.slope)
            joined = seek(lambda row: file.cut(large, small, row), value, rows, start, 0, height)
            made = min(made, joined, key=lambda fit: goal.badness(value(fit)))
    reached = value(made)
    if goal.is_met(reached):
        return made, ""
    if target.psnr is not None:
        found = f"{reached:.2f} dB"
    elif target.size is not None:
        found = f"{len(made.data)} bytes"
    else:
        found = f"{len(made.data) * 8 / (height * width):.4g}"
    return made, f"{target} is not met: the nearest is {found}, at quality {index_quality(made.index):.0f}"


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

    Raises SinrError if the bytes are not a complete file (or, with `levels`, the beginning of one that has a
    level), PriorError if its prior is missing or `prior` is another one, OptionError if the region is outside
    the picture or the device is not there.
    """
    file = unpack(data, limits) if options.levels is None else whole_groups(data, limits)
    prior = prior_of(file, prior)
    if options.levels is not None:
        if not prior.architecture.channels:
            raise OptionError(f"prior {prior.name} has no levels, so its files have no preview")
        if options.levels < len(prior.architecture.channels):
            file = replace(file, groups=file.groups[: DELTA_GROUPS + options.levels])
    return sample(file, prior, read_parameters(file, prior, partial=options.levels is not None), options, device)


def sample(
    file: SinrFile, prior: Prior, parameters: Parameters, options: DecodeOptions, device: Device = Device.AUTO
) -> Picture:
    """The samples that options ask for of a file whose parameters are decoded."""
    view = view_of(file.height, file.width, options)
    network = None
    if device not in (Device.AUTO, Device.CPU) and not options.exact:
        from inrcodec import fit, synthesis  # torch

        network = synthesis.torch_network(prior, parameters, fit.torch_device(device))
    pixels = render(prior, parameters, view, network=network, bit_depth=file.bit_depth, exact=options.exact)
    if file.colour == Colour.GREY:
        mean = np.rint(pixels.mean(axis=2, dtype=np.float32)).astype(pixels.dtype)
        pixels = np.repeat(mean[..., None], 3, axis=2)
    alpha = None if parameters.alpha is None else sample_alpha(parameters.alpha, view)
    return Picture(pixels, file.colour == Colour.GREY, file.metadata, alpha)


def whole_groups(data: bytes, limits: Limits = Limits()) -> SinrFile:
    """A file, or what is whole of one that is cut short. TruncatedFileError if its coarsest level is not."""
    try:
        return unpack(data, limits)
    except TruncatedFileError:
        file = unpack_prefix(data, limits)
        if len(file.groups) <= DELTA_GROUPS:
            raise TruncatedFileError("the file is cut short before the end of its coarsest level") from None
        return file


def convert(data: bytes, *, self_contained: bool, strip: bool = False, prior: Prior | None = None) -> bytes:
    """The same picture in a file with or without its prior and, if `strip`, without metadata. Nothing is refitted."""
    file = unpack(data)
    carried = prior_of(file, prior).data if self_contained else None
    return pack(replace(file, prior=carried, metadata={} if strip else file.metadata))


def prior_of(file: SinrFile, prior: Prior | None = None) -> Prior:
    """The prior that a file names: the given one, the file's own or a bundled one. PriorError if it is none of them."""
    if prior is None:
        prior = (
            parse_prior(file.prior, "the file's own prior") if file.prior is not None else prior_by_id(file.prior_id)
        )
    if prior.id != file.prior_id:
        raise PriorError(f"the file needs prior {file.prior_id.hex()}, but {prior.name} is {prior.id.hex()}")
    return prior


def read_parameters(file: SinrFile, prior: Prior, *, partial: bool = False) -> Parameters:
    """The numbers of a file, decoded. SinrError if its groups do not fit the prior.

    With `partial` the groups of the finer fields may be missing; these fields are zero.
    """
    channels = prior.architecture.channels
    expected = DELTA_GROUPS + len(channels) if channels else prior.layers
    if len(file.groups) != expected and not (partial and len(file.groups) < expected):
        raise SinrError(f"prior {prior.name} has {expected} parameter groups, found {len(file.groups)}")
    if file.spacing > 1 and not channels:
        raise SinrError(f"prior {prior.name} has no fields whose cells could be {file.spacing} pixels apart")
    if file.post and not prior.post_filtered:
        raise SinrError(f"prior {prior.name} has no post-filter, which the file asks for")
    network = {key: tensor for key, tensor in prior.tensors.items() if key.startswith("siren.")}
    alpha = None if file.alpha is None else unpack_alpha(file.alpha, file.height, file.width, file.bit_depth)
    fields: tuple[NDArray[np.int32], ...] = ()
    if channels:
        shapes = field_shapes(*file.cells, channels)
        coded = None if alpha is None else visible_cells(alpha > 0, len(channels), file.spacing)
        rate_model = _rate_model(prior, Deltas())  # which refuses a prior that has none
        deltas = unpack_deltas(file.groups[:DELTA_GROUPS], prior.tensors)
        network |= changed_filter(prior.tensors, deltas.filter)
        if deltas.rate is not None:
            rate_model = _rate_model(prior, deltas)
        try:
            fields = rate_model.decode(file.groups[DELTA_GROUPS:], shapes, file.quality_index, coded)
            if coded is not None:
                fields = tuple(map(continued, fields, coded))
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
    q = conditioning(file.quality_index)
    return Parameters(*file.cells, q, network, fields, alpha, file.spacing, file.post)


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


def _rate_model(prior: Prior, deltas: Deltas) -> RateModel:
    return RateModel(changed_rate(prior.tensors, deltas.rate), prior.architecture.channels)
