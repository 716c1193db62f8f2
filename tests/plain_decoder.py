"""A second decoder of `.sinr` files up to the quantized numbers, in plain Python: written from the specifications in
the docstrings of `bitstream`, `prior` and `entropy` alone, slow, and without NumPy, constriction or the package.

It trusts its input: only what a valid file holds is right here.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import zstandard

Rows = list[list[int]]
Field = list[Rows]  # channel, row, column

CAUSAL = [(-2, x) for x in (-2, -1, 0, 1, 2)] + [(-1, x) for x in (-2, -1, 0, 1)] + [(0, -2), (0, -1)]
AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]


@dataclass
class Container:
    width: int
    height: int
    quality_index: int
    prior_id: bytes
    groups: list[bytes]
    visible: list[list[bool]] | None  # per pixel, of a picture with opacity
    chunks: dict[int, bytes]  # content of all chunks, as zstd frames are decompressed
    spacing: int  # pixels from one cell of the finest field to the next


def read_container(data: bytes) -> Container:
    """The fields of a file, in the order of its specification."""
    assert zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        assert at <= len(data) - 4
        return data[at - size : at]

    def varint() -> int:
        value = shift = 0
        while True:
            byte = take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    assert take(5) == b"SINR\x01"
    flags, _colour, depth, quality_index, _asked_index = take(5)
    width, height = varint(), varint()
    prior_id = take(8)
    lengths = [varint() for _ in range(take(1)[0])]
    visible = None
    if flags & 2:
        content = zstandard.decompress(take(varint()))
        steps = [step for (step,) in struct.iter_unpack("<H" if depth == 16 else "B", content[1:])]
        opacity: list[int] = []
        for i, step in enumerate(steps):
            left, above = opacity[i - 1] if i % width else 0, opacity[i - width] if i >= width else 0
            opacity.append((step + (0, left, above)[content[0]]) % 2**depth)
        visible = [[value > 0 for value in opacity[i : i + width]] for i in range(0, len(opacity), width)]
    groups = [take(length) for length in lengths]
    chunks = {}
    while tag := take(1)[0]:
        chunks[tag] = zstandard.decompress(take(varint()))
    assert at == len(data) - 4 and bool(flags & 1) == (1 in chunks)
    return Container(width, height, quality_index, prior_id, groups, visible, chunks, 2 if flags & 4 else 1)


def read_tensors(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata of a prior's file, and its tensors as nested lists of numbers."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    codes = {"U8": "B", "I8": "b", "U16": "H", "I32": "i", "I64": "q", "F32": "f"}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = (8 + size + offset for offset in entry["data_offsets"])
            values: list[Any] = [
                number for (number,) in struct.iter_unpack("<" + codes[entry["dtype"]], data[start:stop])
            ]
            for side in reversed(entry["shape"][1:]):
                values = [values[i : i + side] for i in range(0, len(values), side)]
            tensors[name] = values
    return json.loads(header["__metadata__"]["inrcodec"]), tensors


class RangeDecoder:
    """64 bits of state, words of 32 bits, probabilities in units of 2**-24."""

    def __init__(self, stream: bytes) -> None:
        stream += bytes(-len(stream) % 4)
        self.words = [word for (word,) in struct.iter_unpack("<I", stream)][::-1]
        self.range = 2**64 - 1
        self.offset = self.word() << 32 | self.word()  # of the code from the lower end of the range

    def word(self) -> int:
        return self.words.pop() if self.words else 0

    def symbol(self, bounds: tuple[int, ...]) -> int:
        """The next symbol, of which number i has the probabilities from bounds[i] to bounds[i + 1]."""
        unit = self.range >> 24
        place = self.offset // unit
        symbol = max(i for i in range(len(bounds) - 1) if bounds[i] <= place)
        assert place < 1 << 24
        self.offset -= unit * bounds[symbol]
        self.range = unit * (bounds[symbol + 1] - bounds[symbol])
        if self.range < 1 << 32:
            self.range <<= 32
            self.offset = self.offset << 32 | self.word()
        return symbol

    def uniform(self, count: int) -> int:
        """A number below `count`, all of which are equally probable but the last, which has the remainder too."""
        unit = self.range >> 24
        each = (1 << 24) // count
        number = min(self.offset // unit // each, count - 1)
        width = each if number < count - 1 else (1 << 24) - each * number
        self.offset -= unit * each * number
        self.range = unit * width
        if self.range < 1 << 32:
            self.range <<= 32
            self.offset = self.offset << 32 | self.word()
        return number


@cache
def bounds_of(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Bounds of symbols in units of 2**-24, from counts that sum to 2**20."""
    bounds, below = [], 0
    for symbol, count in enumerate(counts):
        product = below * (2**24 - len(counts)) / 2**20  # exact, but a float32 keeps 24 bits of it
        bounds.append(int(struct.unpack("<f", struct.pack("<f", product))[0]) + symbol)
        below += count
    assert below == 1 << 20
    return (*bounds, 1 << 24)


GAMMA = bounds_of((*(1 << 19 - k for k in range(16)), 1 << 4))


def dot(weights: list[int], values: list[int]) -> int:
    return sum(w * v for w, v in zip(weights, values, strict=True))


def clip(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def at(rows: Rows, y: int, x: int) -> int:
    """A cell, zero outside."""
    return rows[y][x] if 0 <= y < len(rows) and 0 <= x < len(rows[0]) else 0


def read_fields(container: Container, channels: list[int], tensors: dict[str, Any]) -> list[Field]:
    """The fields of each level, level 0 first."""
    tensors = tensors | changed_rates(container.groups[1], len(channels), tensors)
    fields: list[Field] = [[] for _ in channels]
    trunk: list[list[list[int]]] | None = None  # of the next coarser level: row, column, feature
    for level, stream in zip(reversed(range(len(channels))), container.groups[2:], strict=True):
        t = {name.split(".", 2)[2]: value for name, value in tensors.items() if name.startswith(f"rate.{level}.")}
        side = container.spacing << level
        height, width = -(-container.height // side), -(-container.width // side)
        fields[level] = [[[0] * width for _ in range(height)] for _ in range(channels[level])]
        coded = {(y, x) for y in range(height) for x in range(width) if _is_coded(container.visible, y, x, side)}
        _read_level(stream, fields[level], coded, trunk, t, tensors, 255 - 2 * container.quality_index)
        trunk = _trunk(fields[level], trunk, t) if level else None
    return fields


def rate_deltas(group: bytes, levels: int, tensors: dict[str, Any]) -> list[int]:
    """The changes of the rate model, in units."""
    count = 0
    for level in range(levels):
        t = {part: tensors[f"rate.{level}.{part}"] for part in ("mid", "head")}
        hidden = len(t["mid"][0])
        count += hidden + sum(len(rows) * (len(rows[0]) + 1) for rows in t.values())
    return read_deltas(group, count, tensors.get("deltas.rate")) if group else []


def changed_rates(group: bytes, levels: int, tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors of the rate model that a picture may change."""
    deltas, changed = rate_deltas(group, levels, tensors), dict[str, Any]()
    values = zip(deltas, tensors.get("deltas.rate_unit", [0] * len(deltas)), strict=True)

    def change(octave: int, most: int = 99) -> int:
        value, own = next(values)
        return int(value << min(octave + own, most))

    for level in range(levels if group else 0):
        t = {part: tensors[f"rate.{level}.{part}"] for part in ("bias", "mid", "mid_bias", "head", "head_bias")}
        half = len(t["head"]) // 2
        own: dict[str, Any] = {"bias": [[b[0] + change(27), *b[1:]] for b in t["bias"]]}
        own["mid"] = [[w + change(7, 10) for w in row] for row in t["mid"]]
        own["mid_bias"] = [b + change(15) for b in t["mid_bias"]]
        own["head"] = [[w + change(7 if i < half else 10, 10) for w in row] for i, row in enumerate(t["head"])]
        own["head_bias"] = [b + change(15 if i < half else 18) for i, b in enumerate(t["head_bias"])]
        changed |= {f"rate.{level}.{part}": value for part, value in own.items()}
    return changed


def _is_coded(visible: list[list[bool]] | None, y: int, x: int, side: int) -> bool:
    """Whether a cell has a value of its own: if one of its pixels, so many a side, is not fully transparent."""
    return visible is None or any(any(row[x * side :][:side]) for row in visible[y * side :][:side])


def shown(container: Container, level: int, field: Field) -> Field:
    """A level's field as the picture has it: it goes on around the cells that have values of their own."""
    height, width = len(field[0]), len(field[0][0])
    cells = [(y, x) for y in range(height) for x in range(width)]
    known = {cell: cell for cell in cells if _is_coded(container.visible, *cell, container.spacing << level)}
    for _ in range(3):
        before = dict(known)
        for y, x in set(cells) - before.keys():
            around = [(y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)]
            around += [(y - 1, x - 1), (y - 1, x + 1), (y + 1, x - 1), (y + 1, x + 1)]
            found = [before[cell] for cell in around if cell in before]
            if found:
                known[y, x] = found[0]
    return [
        [[rows[known[y, x][0]][known[y, x][1]] if (y, x) in known else 0 for x in range(width)] for y in range(height)]
        for rows in field
    ]


def _read_level(
    stream: bytes, field: Field, coded: set[tuple[int, int]], trunk: Any, t: Any, tensors: dict[str, Any], n: int
) -> None:
    decoder = RangeDecoder(stream)
    height, width, channels = len(field[0]), len(field[0][0]), len(field)
    for top in range(0, height, 512):
        block = [(y, x) for y in range(top, min(top + 512, height)) for x in range(width)]
        fronts: dict[int, list[tuple[int, int]]] = {}
        for y, x in block:
            if (y, x) in coded:
                fronts.setdefault(x + 2 * (y % 64), []).append((y, x))
        for front in sorted(fronts):
            places = [(c, y, x) for y, x in fronts[front] for c in range(channels)]
            centres, rows = [], []
            for y, x in fronts[front]:
                for centre, row in _model(field, trunk, t, y, x, n):
                    centres.append(centre)
                    rows.append(row)
            symbols = [decoder.symbol(bounds_of(tuple(tensors["rate.table"][row]))) for row in rows]
            shifts = [tensors["rate.shift"][row // 16] for row in rows]
            low = [decoder.uniform(1 << shift) if shift else 0 for shift in shifts]
            high = [_escape(decoder) if symbol == 31 else symbol - 15 for symbol in symbols]
            for (c, y, x), centre, shift, h, lowest in zip(places, centres, shifts, high, low, strict=True):
                field[c][y][x] = (h << shift) + lowest + centre
                assert abs(field[c][y][x]) <= 32767


def _escape(decoder: RangeDecoder) -> int:
    sign = -1 if decoder.uniform(2) else 1
    bits = decoder.symbol(GAMMA)
    return sign * (15 + (1 << bits) + (decoder.uniform(1 << bits) if bits else 0))


def _model(field: Field, trunk: Any, t: Any, y: int, x: int, n: int) -> list[tuple[int, int]]:
    """Rounded mean and row of the table, for each channel of a cell."""
    near = [at(rows, y + dy, x + dx) if (y + dy) // 64 == y // 64 else 0 for rows in field for dy, dx in CAUSAL]
    hidden = []
    for i, weights in enumerate(t["causal"]):
        b0, b1, b2 = t["bias"][i]
        above = (b0 + b1 * n + b2 * n * n) >> 24
        if trunk:
            phase = 4 * i + 2 * (y % 2) + x % 2
            above += (dot(t["above"][phase], trunk[y // 2][x // 2]) + t["above_bias"][phase]) >> 12
        hidden.append(clip((dot(weights, near) >> 4) + clip(above, -(1 << 16), 1 << 16), 0, 1 << 16))
    middle = [
        clip((dot(weights, hidden) + bias) >> 12, 0, 1 << 16)
        for weights, bias in zip(t["mid"], t["mid_bias"], strict=True)
    ]
    out = [dot(weights, middle) + bias for weights, bias in zip(t["head"], t["head_bias"], strict=True)]
    found = []
    for mean, scale in zip(out[: len(field)], out[len(field) :], strict=True):
        sixteenths = clip((mean + (1 << 15)) >> 16, -32767 * 16, 32767 * 16)
        centre = (sixteenths + 8) >> 4
        found.append((centre, clip((scale + (1 << 19)) >> 20, 0, 63) * 16 + sixteenths - 16 * centre + 8))
    return found


def _trunk(field: Field, coarser: Any, t: Any) -> list[list[list[int]]]:
    height, width = len(field[0]), len(field[0][0])

    def features(y: int, x: int) -> list[int]:
        seen = [at(rows, y + dy, x + dx) for rows in field for dy, dx in AROUND]
        values = []
        for i, weights in enumerate(t["trunk"]):
            value = (dot(weights, seen) >> 4) + t["trunk_bias"][i]
            if coarser:
                phase = 4 * i + 2 * (y % 2) + x % 2
                value += (dot(t["trunk_above"][phase], coarser[y // 2][x // 2]) + t["trunk_above_bias"][phase]) >> 12
            values.append(clip(value, 0, 1 << 16))
        return values

    return [[features(y, x) for x in range(width)] for y in range(height)]


def leant(chance: int, table: int) -> int:
    """A probability in 2**-16, its odds multiplied."""
    a = chance * (1024, 1218, 1448, 1722)[table % 4] << table // 4
    return clip((a << 16) // (a + ((65536 - chance) << 18)), 1, 65535)


def magnitudes_of(grows: int) -> tuple[int, ...]:
    """Counts of magnitudes, of which each goes on to the next with a probability in 2**-16."""
    counts, left = [], 1 << 20
    for magnitude in range(254):
        counts.append(min(max(1, left * (65536 - grows) >> 16), left - (254 - magnitude)))
        left -= counts[-1]
    return (*counts, left)


def read_deltas(group: bytes, count: int, expected: list[list[int]] | None = None) -> list[int]:
    """The changes of a layer's surviving weights and biases."""
    density, decay = group[:2].ljust(2, b"\0")
    changes, rises, grows = expected or ([0] * count, [32768] * count, [0] * count)
    if expected:
        changes, grows = [leant(chance, density) for chance in changes], [leant(chance, decay + 16) for chance in grows]
    else:
        changes, grows = [(2 * density + 1) << 9] * count, [(2 * decay + 1) << 10] * count
    decoder = RangeDecoder(group[2:])
    bitmap = [decoder.symbol(bounds_of(((65536 - chance) << 4, chance << 4))) for chance in changes]
    places = [at for at, bit in enumerate(bitmap) if bit]
    magnitudes = [decoder.symbol(bounds_of(magnitudes_of(grows[at]))) for at in places]
    signs = [decoder.symbol(bounds_of((rises[at] << 4, (65536 - rises[at]) << 4))) for at in places]
    magnitudes = [m + decoder.uniform(32767) if m == 254 else m for m in magnitudes]
    values = iter([-(m + 1) if sign else m + 1 for m, sign in zip(magnitudes, signs, strict=True)])
    return [next(values) if bit else 0 for bit in bitmap]
