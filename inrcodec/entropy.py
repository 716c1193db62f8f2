"""Entropy coding: integers to bytes and back, with probabilities that are the same on every machine.

No float result decides a probability. Network weights and activations are integers, held
in float64 only because matrix products are fast there: every sum stays below 2**53, so it
is exact whatever the order of summation. The last layer's integers index a table of
integer probabilities that is fixed in the prior. `x >> n` below rounds down.

Range coder (constriction's, with its default word, state and precision)
    A stream is 32-bit words, little-endian, without its trailing zero bytes; zeros are read past its end. The
    decoder holds `range`, 2**64 - 1 at first, and `offset`, the first two words, the first one above the
    second. A symbol has the share from bound L to bound R of 2**24; with unit = range >> 24 it is the one with
    L <= offset // unit < R, and the stream is invalid if that is 2**24 or more. Then offset -= unit * L and
    range = unit * (R - L), and if range < 2**32, range <<= 32 and offset = offset << 32 | the next word.

    A table of N counts, which sum to 2**20: symbol i has L = int(p) + i, where p is c * (2**24 - N) / 2**20 rounded to
    a float32, and c the sum of the counts before i.
    Uniform, below N: symbol i has L = i * (2**24 // N). The last symbol ends at 2**24 in both.

Fields (rate model)
    A level's values are one stream, after those of all coarser levels. Its rows are cut into stripes of 64
    that do not see each other; the cells of 8 stripes are visited in wavefronts x + 2 y = 0, 1, ...
    (y within the stripe), by stripe and row within a wavefront, all channels of a cell
    together. Of a picture with opacity, cells all of whose pixels are fully transparent are passed over, and zero here
    (`lattice` says what the picture has there). With a(c) an activation in units of 2**-8, z the values already known,
    zero outside, channel by channel, and n = 255 - 2 * quality index:

        above   = clip(coarse(ABOVE) + ((b0 + b1 n + b2 n**2) >> 24), -2**16, 2**16)
        hidden  = clip((CAUSAL z >> 4) + above, 0, 2**16)             11 causal cells
        middle  = clip((MID hidden + bias) >> 12, 0, 2**16)
        mean    = (HEAD middle + bias + 2**15) >> 16                  in 1/16 of a step, within +-32767 steps
        scale   = clip((HEAD middle + bias + 2**19) >> 20, 0, 63)     row of the table; HEAD has all means first
        trunk   = clip((TRUNK z >> 4) + bias + coarse(TRUNK_ABOVE), 0, 2**16)   3x3 cells; seen by the next finer level

    coarse(W) for unit i of cell (y, x) is (W t + bias) >> 12 with row 4 i + 2 (y mod 2) + x mod 2 of W and of the
    bias, and t the coarser level's trunk at (y // 2, x // 2); it is 0 at the coarsest level. The tensors of level L
    are `rate.L.causal`, `rate.L.bias` (b0, b1, b2) and so on, with the changes that a picture has made (`deltas`).

    The centre is (mean + 8) >> 4 and the table's row 16 scale + mean - 16 centre + 8. With k the prior's shift for
    the scale and d = z - centre, a value is the symbol (d >> k) + 15 in 0..30, or 31 for an escape. At the
    wavefront's end follow the k low bits of every d with k > 0, uniform, and then each escape: the sign of d >> k,
    uniform below 2, 1 if negative; with e = |d >> k| - 15, how many bits of e follow its highest, of a table that
    halves from 2**19 to 2**4 and ends in another 2**4; and these bits, uniform.

Deltas (static model, or a prior's)
    A group of changes, in row-major order: two bytes s and m that pick the static tables (0 if they are missing), and
    a stream of a bitmap of which are not zero (the significance bitmap), their magnitudes, their signs (uniform
    below 2, 1 if negative) and, uniform below 32767, what each magnitude of 255 or more has above 255.
    Of the bitmap, 1 has the count (2 s + 1) 2**13 and 0 the rest. Magnitudes 1..255 are a table: with v what is left
    of 2**20, magnitude j has max(1, v (63 - 2 m) // 64), but leaves at least 255 - j; 255 has what is left.
    A prior may expect of each change with c that it is not zero, with p that it is positive then, and with g that it
    goes on to grow, all in 2**-16. Then 1 has the count 2**4 leant(c, s) in the bitmap, magnitude j has
    max(1, v (2**16 - leant(g, m + 16)) // 2**16), and sign 0 the count 2**4 p. leant(c, k) has the odds of c times
    2**((k - 32) / 4): it is clip(2**16 a // (a + (2**16 - c) 2**18), 1, 2**16 - 1), with a = c f 2**(k // 4) and
    f = 1024, 1218, 1448 or 1722 for k mod 4 = 0, 1, 2 or 3.

Sources: context modelling as in Cool-Chic (Ladune et al., ICCV 2023) and C3 (Kim et al., CVPR
2024); integer networks as in Balle et al., "Integer networks for data compression", ICLR 2019.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from inrcodec import native
from inrcodec.errors import PriorError, SinrError
from inrcodec.options import MAX_QUALITY_INDEX

# constriction's submodules are not importable packages.
Categorical, Uniform = constriction.stream.model.Categorical, constriction.stream.model.Uniform
RangeDecoder, RangeEncoder = constriction.stream.queue.RangeDecoder, constriction.stream.queue.RangeEncoder
# At its first array it asks for this, and a Ctrl-C that comes meanwhile is a panic: what takes time is done by then.
np.lib.NumpyVersion(np.__version__)

STRIPE = 64  # rows that share a context
STRIPES = 8  # coded together
CHUNK = 16  # rows whose contexts are computed at once
RUN = 1 << 12  # symbols that are encoded at once, or a few more
CAUSAL = tuple((-2, x) for x in (-2, -1, 0, 1, 2)) + tuple((-1, x) for x in (-2, -1, 0, 1)) + ((0, -2), (0, -1))
AROUND = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
REACH = 15  # largest |symbol| that is no escape
ESCAPE = 2 * REACH + 1  # index of the escape; a table row has ESCAPE + 1 entries
SCALES = 64
FRACTIONS = 16  # of a step, resolution of the mean
MAX_SHIFT = 12  # low bits of a value that are coded as they are
TABLE_SUM = 1 << 20
MAX_VALUE = (1 << 15) - 1  # largest |value| of a field or delta
MAX_MEAN = MAX_VALUE * FRACTIONS
MIDDLE = FRACTIONS // 2
TOP = float(1 << 16)  # largest activation

Ints = NDArray[np.int64]
Exact = NDArray[np.float64]  # integers below 2**53

_SYMBOLS = Categorical(perfect=False)
_LOW_BITS = Uniform()
_GAMMA = np.array([0.5 ** (k + 1) for k in range(16)] + [0.5**16], np.float32)  # Elias gamma: number of bits


def _bounds(counts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Bounds of the symbols of each row of a table of counts (rows, N), in 2**-24: (rows, N + 1)."""
    rows, number = counts.shape
    shares = (np.cumsum(counts, 1, dtype=np.int64) - counts) * (2**24 - number) / TABLE_SUM
    begins = shares.astype(np.float32).astype(np.int32) + np.arange(number, dtype=np.int32)
    return np.concatenate([begins, np.full((rows, 1), 1 << 24, np.int32)], 1)


_BITS = _bounds((_GAMMA * TABLE_SUM).astype(np.int32)[None])[0]


def _words(data: bytes) -> NDArray[np.uint32]:
    """A stream's 32-bit words. The coder reads zeros behind the last, where `_bytes` cut them off."""
    return np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)


def _bytes(encoder: Any) -> bytes:
    return bytes(encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0"))


@dataclass(frozen=True, eq=False)
class _Level:
    """Integer weights of one level, transposed for row vectors. `above` and `trunk_above` have 4 phases.

    All are divided by the power of two that their sums are shifted by, which is as exact; biases hold what rounding
    adds, too.
    """

    channels: int
    causal: Exact  # (11 * channels, hidden)
    bias: NDArray[np.int64]  # (hidden, 3): 2**-32, times 1, n, n**2 with n = 255 - 2 * quality index
    above: tuple[Exact, Exact] | None  # (features, 4 * hidden), (4 * hidden,); None at the coarsest level
    mid: tuple[Exact, Exact]
    head: tuple[Exact, Exact]  # the mean's bias has the half of a step as well that makes >> 4 round to the centre
    limits: tuple[Exact, Exact]  # least and largest of what the head gives
    trunk: tuple[Exact, Exact] | None  # (9 * channels, features), (features,); None at level 0
    trunk_above: tuple[Exact, Exact] | None  # (features, 4 * features), (4 * features,)

    @property
    def parts(self) -> tuple[Exact, ...]:
        """What `native` wants."""
        return self.causal, *self.mid, *self.head, *self.limits

    def hidden_bias(self, quality_index: int) -> Exact:
        """First bias at a quality, in units of 2**-8, shape (hidden,)."""
        n = MAX_QUALITY_INDEX - 2 * quality_index
        bias: Ints = (self.bias @ np.array([1, n, n * n])) >> 24
        return bias.astype(np.float64)

    def symbols(self, padded: Exact, waves: _Wavefronts, wave: slice, above: NDArray[np.float32]) -> tuple[Ints, Ints]:
        """Rounded means and table rows of a wavefront's cells, (N * channels,), from the padded values of their block.

        above: what quality and coarser levels say of all cells of the block, (cells, hidden).
        """
        cells, places = waves.cells[wave], waves.places[wave]
        if native.available():
            return native.symbols(padded.reshape(self.channels, -1), places, waves.offsets, above, cells, self.parts)
        hidden = waves.context(padded, wave) @ self.causal
        np.floor(hidden, out=hidden)
        hidden += above.take(cells, axis=0)
        hidden.clip(0, TOP, out=hidden)
        middle = _layer(hidden, self.mid)
        middle.clip(0, TOP, out=middle)
        out = _layer(middle, self.head)
        whole = out.clip(*self.limits, out=out).astype(np.int64)
        mean, row = whole[:, : self.channels].ravel(), whole[:, self.channels :].ravel()
        row <<= 4
        row += mean & FRACTIONS - 1
        mean >>= 4
        return mean, row


class RateModel:
    """The probabilities of quantized fields, from a prior's integer tensors `rate.*`.

    Raises PriorError if they do not fit the channels.
    """

    def __init__(self, tensors: Mapping[str, NDArray[Any]], channels: Sequence[int]) -> None:
        try:
            self.levels: list[_Level] = []
            for level in reversed(range(len(channels))):
                coarser = self.levels[0] if self.levels else None
                self.levels.insert(0, _read_level(tensors, level, channels[level], coarser))
            table = tensors["rate.table"]
        except KeyError as error:
            raise PriorError(f"the prior has no tensor {error}") from None
        if (
            table.shape != (SCALES * FRACTIONS, ESCAPE + 1)
            or table.dtype != np.int32
            or not 1 <= table.min() <= table.max() <= TABLE_SUM  # so that the sums do not overflow
            or np.any(table.sum(1) != TABLE_SUM)
        ):
            raise PriorError(
                f"rate.table should be ({SCALES * FRACTIONS}, {ESCAPE + 1}) with rows that sum to {TABLE_SUM}"
            )
        shift = tensors.get("rate.shift")
        if shift is None or shift.shape != (SCALES,) or shift.dtype != np.uint8 or shift.max() > MAX_SHIFT:
            raise PriorError(f"rate.shift should be ({SCALES},) of 0..{MAX_SHIFT}")
        self.table = (table / TABLE_SUM).astype(np.float32)
        self.bounds = _bounds(table)
        self.shift = np.repeat(shift, FRACTIONS).astype(np.int64)  # per row of the table

    def encode(
        self,
        fields: Sequence[NDArray[np.int32]],
        quality_index: int,
        coded: Sequence[NDArray[np.bool_]] | None = None,
    ) -> list[bytes]:
        """One stream per level, coarse to fine, of fields (channels, rows, columns), level 0 first.

        With `coded`, (rows, columns) per level, only of these cells; the others must be zero.
        """
        streams = []
        with threadpool_limits(1, "blas"):
            for number, values in reversed(list(enumerate(fields))):
                if values.size and np.abs(values).max() > MAX_VALUE:
                    raise ValueError(f"field values must be within +-{MAX_VALUE}")
                encoder = RangeEncoder()
                for block, above in self._blocks(number, fields, quality_index):
                    waves = _wavefronts(values, block, number, coded)
                    self._encode_block(encoder, self.levels[number], values[:, block].astype(np.float64), above, waves)
                streams.append(_bytes(encoder))
        return streams

    def decode(
        self,
        streams: Sequence[bytes],
        shapes: Sequence[tuple[int, int, int]],
        quality_index: int,
        coded: Sequence[NDArray[np.bool_]] | None = None,
    ) -> tuple[NDArray[np.int32], ...]:
        """The fields of shapes (channels, rows, columns), level 0 first. SinrError if the streams hold no such thing.

        Fewer streams than levels leave the finer fields zero: a preview.
        """
        fields = [np.zeros(shape, np.int32) for shape in shapes]
        with threadpool_limits(1, "blas"):
            for stream, number in zip(streams, range(len(shapes) - 1, -1, -1), strict=False):
                level, values = self.levels[number], fields[number]
                decoder = (native.Decoder.of if native.available() else RangeDecoder)(_words(stream))
                try:
                    for block, above in self._blocks(number, fields, quality_index):
                        waves = _wavefronts(values, block, number, coded)
                        values[:, block] = self._decode_block(decoder, level, values[:, block].shape, above, waves)
                except (ValueError, AssertionError) as error:
                    raise SinrError(f"field of level {number}: not a valid stream ({error})") from None
                if not decoder.maybe_exhausted():
                    raise SinrError(f"field of level {number}: {len(stream)} bytes hold more than its values")
        return tuple(fields)

    def _blocks(
        self, number: int, fields: Sequence[NDArray[np.int32]], quality_index: int
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows of a level that are coded together, with what quality and coarser levels say of them, (N, hidden)."""
        level, coarser = self.levels[number], slice(number + 1, None)
        bias = level.hidden_bias(quality_index)
        _, height, width = fields[number].shape
        above = np.empty((min(STRIPE * STRIPES, height), width, len(bias)), np.float32)  # of all blocks, one by one

        def fill(start: int, stop: int, out: NDArray[np.float32]) -> None:
            """What is said of some rows."""
            fine = bias
            if level.above is not None:
                trunk = _trunk(self.levels[coarser], fields[coarser], slice(start // 2, (stop + 1) // 2))
                weights, own = level.above
                fine = _finer(trunk, (weights, own + bias.repeat(4)), slice(start, stop), width)
            np.clip(fine, -TOP, TOP, out=out, casting="same_kind")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for top in range(0, height, STRIPE * STRIPES):
                rows = slice(top, min(top + STRIPE * STRIPES, height))
                parts = [(start, min(start + CHUNK, rows.stop)) for start in range(top, rows.stop, CHUNK)]
                for done in [pool.submit(fill, *part, above[part[0] - top : part[1] - top]) for part in parts]:
                    done.result()
                yield rows, above[: rows.stop - top].reshape(-1, len(bias))

    def _encode_block(
        self, encoder: Any, level: _Level, values: Exact, above: NDArray[np.float32], waves: _Wavefronts
    ) -> None:
        padded = waves.pad(values)
        flat = values.reshape(len(values), -1)[:, waves.cells].T.astype(np.int64)  # (cells, channels)
        if not flat.size:
            return
        # All cells at once, as all is known; but a wavefront at a time where the layers take memory for each cell.
        parts = [slice(0, len(flat))] if native.available() else list(waves)
        found = [level.symbols(padded, waves, part, above) for part in parts]
        centre, row = (np.concatenate(each) for each in zip(*found, strict=True))
        shift = self.shift[row]
        low = flat.ravel() - centre
        high = low >> shift
        escaped = np.abs(high) > REACH
        symbols = np.where(escaped, ESCAPE, high + REACH).astype(np.int32)
        followed = escaped | (shift > 0)
        start = 0
        for stop in (waves.ends[1:] * len(values)).tolist():
            ends = bool(followed[start:stop].any())
            if not ends and stop < len(symbols) and stop - start < RUN:
                continue  # nothing follows these symbols but the next wavefront's
            encoder.encode(symbols[start:stop], _SYMBOLS, self.table[row[start:stop]])
            if ends:
                coarse = start + np.flatnonzero(shift[start:stop])
                if coarse.size:
                    sizes = (1 << shift[coarse]).astype(np.int32)
                    encoder.encode((low[coarse] & (sizes - 1)).astype(np.int32), _LOW_BITS, sizes)
                for value in high[start:stop][escaped[start:stop]]:
                    _encode_escape(encoder, int(value))
            start = stop

    def _decode_block(
        self, decoder: Any, level: _Level, shape: tuple[int, ...], above: NDArray[np.float32], waves: _Wavefronts
    ) -> Ints:
        padded = waves.pad(np.zeros(shape))
        flat = padded.reshape(shape[0], -1)
        if native.available():
            tables = self.bounds, self.shift, _BITS
            decoder.values(flat, waves.ends, waves.places, waves.offsets, above, waves.cells, level.parts, tables)
        else:
            self._decode_waves(decoder, level, padded, above, waves)
        found = waves.crop(padded).astype(np.int64)
        if np.abs(found).max() > MAX_VALUE:
            raise SinrError(f"a field value is beyond +-{MAX_VALUE}")
        return found

    def _decode_waves(
        self, decoder: Any, level: _Level, padded: Exact, above: NDArray[np.float32], waves: _Wavefronts
    ) -> None:
        """Write the values of a block's cells to `padded`, a wavefront at a time."""
        flat = padded.reshape(len(padded), -1)
        for wave in waves:
            centre, row = level.symbols(padded, waves, wave, above)
            symbol = decoder.decode(_SYMBOLS, self.table.take(row, axis=0))
            value = symbol.astype(np.int64)
            value -= REACH
            shift = self.shift.take(row)
            low = None
            if shift.any():
                low = decoder.decode(_LOW_BITS, (1 << shift[shift > 0]).astype(np.int32))
            if symbol.max() == ESCAPE:
                for i in np.flatnonzero(symbol == ESCAPE):
                    value[i] = _decode_escape(decoder)
            if low is not None:
                value <<= shift
                value[shift > 0] += low
            value += centre
            flat[:, waves.places[wave]] = value.reshape(-1, len(padded)).T


def _encode_escape(encoder: Any, value: int) -> None:
    """Sign, then |value| - REACH as Elias gamma (|value| > REACH)."""
    rest = abs(value) - REACH
    bits = rest.bit_length() - 1
    encoder.encode(int(value < 0), Uniform(2))
    encoder.encode(bits, Categorical(_GAMMA, perfect=False))
    if bits:
        encoder.encode(rest - (1 << bits), Uniform(1 << bits))


def _decode_escape(decoder: Any) -> int:
    sign = int(decoder.decode(Uniform(2)))
    bits = int(decoder.decode(Categorical(_GAMMA, perfect=False)))
    rest = (1 << bits) + (int(decoder.decode(Uniform(1 << bits))) if bits else 0)
    return (REACH + rest) * (-1 if sign else 1)


class _Wavefronts:
    """The order in which a block's cells are coded: slices of `cells`, one per wavefront, none empty.

    They lie between `ends`, of which the first is 0.
    """

    def __init__(self, height: int, width: int, coded: NDArray[np.bool_] | None = None) -> None:
        self.height, self.width = height, width
        self.stripes = -(-height // STRIPE)
        self.line = width + 4  # a padded row: two zeros at either end
        y = np.arange(height)
        stripe, row = np.divmod(y, STRIPE)
        x = np.arange(width + 2 * int(row.max()))[:, None] - 2 * row  # of a wavefront in each row, (wavefronts, height)
        inside = (x >= 0) & (x < width)
        if coded is not None:
            inside &= coded[y, x.clip(0, width - 1)]
        self.cells = (y * width + x)[inside]  # by wavefront, and in each by stripe, then row
        sizes = inside.sum(1)
        self.ends = np.concatenate([[0], sizes[sizes > 0].cumsum()])
        self.places = ((stripe * (STRIPE + 2) + row + 2) * self.line + x + 2)[inside]  # of cells in the padded array
        self.offsets = np.array([dy * self.line + dx for dy, dx in CAUSAL])

    def __iter__(self) -> Iterator[slice]:
        return (slice(a, b) for a, b in pairwise(self.ends.tolist()))

    def pad(self, values: Exact) -> Exact:
        """Values (channels, height, width) with two rows of zeros above each stripe and two columns at either end."""
        channels = len(values)
        padded = np.zeros((channels, self.stripes, STRIPE + 2, self.line))
        whole = np.zeros((channels, self.stripes * STRIPE, self.width))
        whole[:, : self.height] = values
        padded[:, :, 2:, 2:-2] = whole.reshape(channels, self.stripes, STRIPE, self.width)
        return padded

    def crop(self, padded: Exact) -> Exact:
        """The inverse of `pad`."""
        return padded[:, :, 2:, 2:-2].reshape(len(padded), -1, self.width)[:, : self.height]

    def context(self, padded: Exact, wave: slice) -> Exact:
        """Causal neighbours of a wavefront's cells, (cells, 11 * channels), channel by channel."""
        index = self.places[wave, None] + self.offsets  # (cells, 11)
        flat = padded.reshape(len(padded), -1)
        around: Exact = flat[0].take(index) if len(flat) == 1 else flat.take(index, axis=1).transpose(1, 0, 2)
        return around.reshape(len(index), -1)


def _wavefronts(
    values: NDArray[np.int32], block: slice, number: int, coded: Sequence[NDArray[np.bool_]] | None
) -> _Wavefronts:
    """The order of some rows of a level's field."""
    _, height, width = values[:, block].shape
    return _Wavefronts(height, width, None if coded is None else coded[number][block])


def _trunk(levels: Sequence[_Level], fields: Sequence[NDArray[np.int32]], rows: slice) -> Exact:
    """What the next finer level sees of some rows of the first of these levels, and of all others, (H, W, features)."""
    level, values, count = levels[0], fields[0], rows.stop - rows.start
    assert level.trunk is not None
    channels, _, width = values.shape
    padded = np.zeros((channels, count + 2, width + 2))
    first = max(rows.start - 1, 0)
    seen = values[:, first : rows.stop + 1]
    padded[:, first - rows.start + 1 :, 1:-1][:, : seen.shape[1]] = seen
    around = [padded[:, 1 + dy : 1 + dy + count, 1 + dx : 1 + dx + width] for dy, dx in AROUND]
    patches = np.stack(around, axis=1).reshape(-1, count * width)  # (channels * 9, cells)
    out = _layer(patches.T, level.trunk).reshape(count, width, -1)
    if level.trunk_above is not None:
        above = _trunk(levels[1:], fields[1:], slice(rows.start // 2, (rows.stop + 1) // 2))
        out += _finer(above, level.trunk_above, rows, width)
    return np.clip(out, 0, TOP, out=out)


def _layer(seen: Exact, layer: tuple[Exact, Exact]) -> Exact:
    """What a layer sums up to for rows (N, in), rounded down, (N, out)."""
    out: Exact = seen @ layer[0]
    out += layer[1]
    return np.floor(out, out=out)


def _finer(trunk: Exact, layer: tuple[Exact, Exact], rows: slice, width: int) -> Exact:
    """What a coarser level's trunk says of rows of the next finer one, (rows, width, features): see `coarse` above."""
    part = _layer(trunk.reshape(-1, trunk.shape[2]), layer)
    first = rows.start % 2
    return _unfold_phases(part.reshape(*trunk.shape[:2], -1))[first : first + rows.stop - rows.start, :width]


def _unfold_phases(phases: Exact) -> Exact:
    """(rows, columns, features * 4) to (2 rows, 2 columns, features): the four phases are cells of the finer level."""
    rows, columns, count = phases.shape
    split = phases.reshape(rows, columns, count // 4, 2, 2)  # feature, dy, dx
    return split.transpose(0, 3, 1, 4, 2).reshape(2 * rows, 2 * columns, count // 4)


def _read_level(tensors: Mapping[str, NDArray[Any]], level: int, channels: int, coarser: _Level | None) -> _Level:
    """The integer weights of a level, checked against each other and against the next coarser level."""

    def matrix(name: str, rows: int | None, columns: int | None, shift: int) -> Exact:
        tensor = tensors[f"rate.{level}.{name}"]
        if (
            tensor.ndim != 2
            or tensor.dtype != np.int32
            or tensor.size == 0
            or (rows or len(tensor), columns or tensor.shape[1]) != tensor.shape
        ):
            raise PriorError(
                f"rate.{level}.{name} should be int32 ({rows}, {columns}), found {tensor.dtype} {tensor.shape}"
            )
        if not -(1 << 18) < tensor.min() <= tensor.max() < 1 << 18 or max(tensor.shape) > 1024:
            raise PriorError(f"rate.{level}.{name} has too large weights or sides for exact sums")
        return np.ascontiguousarray(tensor.T, np.float64) * 2.0**-shift

    def bias(name: str, *shape: int) -> NDArray[np.int64]:
        tensor = tensors[f"rate.{level}.{name}"]
        fits = tensor.shape == shape and tensor.dtype == np.int64
        if not fits or not -(1 << 40) < tensor.min() <= tensor.max() < 1 << 40:
            raise PriorError(
                f"rate.{level}.{name} should be int64 {shape} within 2**40, found {tensor.dtype} {tensor.shape}"
            )
        return tensor

    def layer(name: str, rows: int | None, columns: int, shift: int = 12) -> tuple[Exact, Exact]:
        weights = matrix(name, rows, columns, shift)
        return weights, bias(f"{name}_bias", weights.shape[1]).astype(np.float64) * 2.0**-shift

    causal = matrix("causal", None, len(CAUSAL) * channels, 4)
    hidden = causal.shape[1]
    mid = layer("mid", None, hidden)
    above = trunk = trunk_above = None
    features = coarser.trunk[0].shape[1] if coarser and coarser.trunk else 0
    if features:
        above = layer("above", 4 * hidden, features)
    if level > 0:
        kernel = matrix("trunk", None, len(AROUND) * channels, 4)
        trunk = kernel, bias("trunk_bias", kernel.shape[1]).astype(np.float64)
        if features:
            trunk_above = layer("trunk_above", 4 * kernel.shape[1], features)
    head, head_bias = layer("head", 2 * channels, mid[0].shape[1], 16)
    head[:, channels:] /= FRACTIONS  # the scales
    head_bias[channels:] /= FRACTIONS
    head_bias += np.repeat([0.5 + MIDDLE, 0.5], channels)
    ends = [(MIDDLE - MAX_MEAN, 0), (MIDDLE + MAX_MEAN, SCALES - 1)]
    least, most = (np.repeat(np.array(pair, np.float64), channels) for pair in ends)
    return _Level(
        channels, causal, bias("bias", hidden, 3), above, mid, (head, head_bias), (least, most), trunk, trunk_above
    )


# --- deltas: static tables, or what a prior expects --------------------------------------

DENSITIES = 64  # tables of the bitmap: probability (2 k + 1) / 128 of being non-zero, or odds leant so far
DECAYS = 32  # tables of magnitudes: magnitude m + 1 follows m with probability (2 k + 1) / 64, or odds leant so far
CHANCES = 1 << 16  # what a probability of 1 is, where a prior says one
QUARTERS = (1024, 1218, 1448, 1722)  # 1024 times 2**(k / 4)
EVEN = 18  # log2 of what odds are multiplied by in the middle of the tables
_MAGNITUDES = 255  # symbols; the last stands for an escape

Chances = NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Expected:
    """What a prior expects of each delta of a group (N,): probabilities in 2**-16, each 1..65535."""

    changes: Chances  # that it is not zero
    rises: Chances  # that it is positive, if so
    grows: Chances  # that it is larger by 1 than any magnitude that it has at least

    def __getitem__(self, own: slice) -> Expected:
        return Expected(self.changes[own], self.rises[own], self.grows[own])


def _chances(table: int, tables: int, expected: Chances | None, count: int) -> Ints:
    """Probabilities (N,) in 2**-16 of a table: all the same, or those expected with their odds leant."""
    if expected is None:
        return np.full(count, (2 * table + 1) * CHANCES // (2 * tables))
    lean = table + (DENSITIES - tables) // 2
    odds = expected.astype(np.int64) * (QUARTERS[lean % 4] << lean // 4)
    against = (CHANCES - expected.astype(np.int64)) << EVEN
    return (odds * CHANCES // (odds + against)).clip(1, CHANCES - 1)


def _best_table(tables: int, expected: Chances | None, hits: NDArray[Any], misses: NDArray[Any]) -> int:
    """The table that makes so many ones and zeros, of each of N, cost least: cost is convex."""

    def cost(table: int) -> float:
        chances = _chances(table, tables, expected, len(hits)) / CHANCES
        return -float(hits @ np.log2(chances) + misses @ np.log2(1 - chances))

    low, high = 0, tables - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= cost(middle + 1) else (middle + 1, high)
    return low


def _of_ones(chances: Ints) -> NDArray[np.float32]:
    """Probabilities of 0 and 1, (N, 2)."""
    return (np.stack([CHANCES - chances, chances], 1) / CHANCES).astype(np.float32)


def _of_magnitudes(chances: Ints) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Probabilities of magnitudes 1..254 and of an escape, (n, 255), of some after the others.

    They are geometric, in integers of sum 2**20.
    """
    used = np.bincount(chances) > 0
    distinct, which = np.flatnonzero(used), (used.cumsum() - 1)[chances]
    counts, left = np.empty((len(distinct), _MAGNITUDES), np.int32), np.full(len(distinct), TABLE_SUM)
    for m in range(_MAGNITUDES - 1):
        counts[:, m] = np.minimum((left * (CHANCES - distinct) // CHANCES).clip(1), left - (_MAGNITUDES - 1 - m))
        left -= counts[:, m]
    counts[:, -1] = left
    for start in range(0, len(chances), RUN):
        run = slice(start, start + RUN)
        yield run, (counts[which[run]] / TABLE_SUM).astype(np.float32)


def _of_signs(expected: Expected | None, significant: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Probabilities of positive and negative deltas that are not zero, (N, 2)."""
    rises = np.full(int(significant.sum()), CHANCES // 2) if expected is None else expected.rises[significant]
    return _of_ones(CHANCES - rises.astype(np.int64))


def _changes(expected: Expected | None) -> Chances | None:
    return None if expected is None else expected.changes


def _grows(expected: Expected | None, significant: NDArray[np.bool_]) -> Chances | None:
    return None if expected is None else expected.grows[significant]


def encode_deltas(values: NDArray[np.int32], expected: Expected | None = None) -> bytes:
    """A group's quantized deltas (N,), each within +-32767."""
    if values.size and np.abs(values).max() > MAX_VALUE:
        raise ValueError(f"deltas must be within +-{MAX_VALUE}")
    significant = values != 0
    magnitudes = np.abs(values[significant]) - 1  # from 0
    total, changes, grows = len(magnitudes), _changes(expected), _grows(expected, significant)
    density = _best_table(DENSITIES, changes, significant, ~significant)
    decay = _best_table(DECAYS, grows, magnitudes, np.ones(total))
    encoder, last = RangeEncoder(), _MAGNITUDES - 1
    encoder.encode(significant.astype(np.int32), _SYMBOLS, _of_ones(_chances(density, DENSITIES, changes, values.size)))
    for run, table in _of_magnitudes(_chances(decay, DECAYS, grows, total)):
        encoder.encode(np.minimum(magnitudes[run], last).astype(np.int32), _SYMBOLS, table)
    if total:
        encoder.encode((values[significant] < 0).astype(np.int32), _SYMBOLS, _of_signs(expected, significant))
    for rest in magnitudes[magnitudes >= last] - last:
        encoder.encode(int(rest), Uniform(MAX_VALUE))
    return (bytes([density, decay]) + _bytes(encoder)).rstrip(b"\0")


def decode_deltas(data: bytes, count: int, expected: Expected | None = None) -> NDArray[np.int32]:
    """The `count` deltas of a group. SinrError if the bytes hold no such thing."""
    density, decay = data[:2].ljust(2, b"\0")
    if density >= DENSITIES or decay >= DECAYS:
        raise SinrError(f"deltas: tables {density}, {decay} are not known")
    decoder, last = RangeDecoder(_words(data[2:])), _MAGNITUDES - 1
    values = np.zeros(count, np.int32)
    try:
        chances = _chances(density, DENSITIES, _changes(expected), count)
        significant = decoder.decode(_SYMBOLS, _of_ones(chances)).astype(bool)
        if total := int(significant.sum()):
            magnitudes = np.empty(total, np.int32)
            for run, table in _of_magnitudes(_chances(decay, DECAYS, _grows(expected, significant), total)):
                magnitudes[run] = decoder.decode(_SYMBOLS, table)
            negative = decoder.decode(_SYMBOLS, _of_signs(expected, significant))
            for i in np.flatnonzero(magnitudes == last):
                magnitudes[i] += int(decoder.decode(Uniform(MAX_VALUE)))
            values[significant] = (magnitudes + 1) * np.where(negative, -1, 1)
    except (ValueError, AssertionError) as error:
        raise SinrError(f"deltas: not a valid stream ({error})") from None
    if not decoder.maybe_exhausted():
        raise SinrError(f"deltas: {len(data)} bytes hold more than {count} values")
    if np.abs(values).max(initial=0) > MAX_VALUE:
        raise SinrError(f"a delta is beyond +-{MAX_VALUE}")
    return values
