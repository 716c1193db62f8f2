"""The `.sinr` format: literal bytes, round trips, and files built by hand to do harm."""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from inrcodec.bitstream import MAX_CONTENT, Colour, Limits, SinrFile, pack, unpack, unpack_prefix
from inrcodec.errors import LimitError, SinrError, TruncatedFileError, UnsupportedVersionError
from inrcodec.options import lagrangian

PRIOR = b"a prior's file"
PRIOR_ID = hashlib.sha256(PRIOR).digest()[:8]

PLAIN = SinrFile(
    width=300,
    height=200,
    colour=Colour.RGB,
    bit_depth=8,
    quality_index=152,
    asked_index=147,
    prior_id=bytes.fromhex("0011223344556677"),
    groups=(b"\x0a", b"", b"\x00\x0b\x0c"),
)
FULL = dataclasses.replace(
    PLAIN,
    colour=Colour.GREY,
    prior_id=PRIOR_ID,
    metadata={"icc": b"profile" * 9, "exif": b"II*\0", "xmp": b"<x:xmpmeta/>"},
    prior=PRIOR,
)
# 16 bits and opacity.
CLEAR = dataclasses.replace(PLAIN, width=3, height=2, bit_depth=16, alpha=bytes(range(13)), metadata={"xmp": b"<x/>"})
WIDE = dataclasses.replace(PLAIN, spacing=2)
POST = dataclasses.replace(PLAIN, post=True)

PREFIX = b"SINR\x01"
FIELDS = b"\0\0\x08\x98\x93"  # flags, colour, bit depth, quality index, asked index
SIZE = b"\xac\x02\xc8\x01"  # width 300, height 200
GROUPS = b"\x03\x01\x00\x03\x0a\x00\x0b\x0c"  # three of 1, 0 and 3 bytes
BODY = FIELDS + SIZE + PLAIN.prior_id + GROUPS


def sealed(body: bytes, prefix: bytes = PREFIX) -> bytes:
    """A file with the right CRC-32 after whatever body a test has built."""
    return prefix + body + zlib.crc32(prefix + body).to_bytes(4, "little")


def chunk(tag: int, payload: bytes) -> bytes:
    assert len(payload) < 128
    return bytes([tag, len(payload)]) + payload


def frame(content: bytes) -> bytes:
    return zstandard.compress(content)


def with_opacity(payload: bytes) -> bytes:
    """The body of a file whose opacity is a payload."""
    assert len(payload) < 128
    return b"\2" + BODY[1 : -len(GROUPS)] + GROUPS[:4] + bytes([len(payload)]) + payload + GROUPS[4:] + b"\0"


def frame_declaring(size: int) -> bytes:
    """A zstd frame of one empty block whose header declares `size` bytes (RFC 8878, section 3.1.1)."""
    return bytes.fromhex("28b52ffd e0") + size.to_bytes(8, "little") + bytes.fromhex("010000")


def test_a_file_without_chunks_is_these_bytes() -> None:
    golden = (
        "53494e52 01 00 00 08 98 93 ac02 c801"  # magic, version, flags, colour, bit depth, both indices, size
        "0011223344556677 03 01 00 03 0a 000b0c 00 67e57fe8"  # prior id, count, lengths, payloads, end, CRC
    )
    assert pack(PLAIN) == bytes.fromhex(golden)
    assert pack(PLAIN) == sealed(BODY + b"\0")


def test_a_post_filtered_file_differs_by_a_flag() -> None:
    assert pack(POST)[:-4] == pack(PLAIN)[:5] + b"\x08" + pack(PLAIN)[6:-4]
    assert unpack(pack(POST)) == POST != PLAIN


def test_a_wide_file_differs_by_a_flag_and_has_a_fourth_of_the_cells() -> None:
    assert pack(WIDE)[:-4] == pack(PLAIN)[:5] + b"\x04" + pack(PLAIN)[6:-4]
    assert PLAIN.cells == (200, 300) and WIDE.cells == (100, 150)
    assert dataclasses.replace(WIDE, height=199, width=1).cells == (100, 1)
    assert WIDE.lam == 4 * PLAIN.lam == 4 * lagrangian(152)
    with pytest.raises(SinrError, match="spacing: expected 1..2, found 4"):
        pack(dataclasses.replace(PLAIN, spacing=4))


def test_the_header_of_a_photo_takes_at_most_40_bytes() -> None:
    groups = tuple(bytes([1]) * size for size in (30, 90, 400, 3000, 16_000, 60_000))
    file = dataclasses.replace(PLAIN, width=6000, height=4000, groups=groups)
    assert len(pack(file)) - sum(map(len, groups)) <= 40


@pytest.mark.parametrize("file", [PLAIN, FULL, CLEAR, WIDE, POST], ids=["plain", "full", "clear", "wide", "post"])
def test_unpack_inverts_pack(file: SinrFile) -> None:
    assert unpack(pack(file)) == file


@settings(deadline=None)  # the machine may be busy
@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    colour=st.sampled_from(Colour),
    quality_index=st.integers(0, 255),
    asked_index=st.integers(0, 255),
    groups=st.lists(st.binary(max_size=200).map(lambda group: group.rstrip(b"\0")), min_size=1, max_size=64),
    metadata=st.dictionaries(st.sampled_from(["icc", "exif", "xmp"]), st.binary(min_size=1, max_size=50)),
    prior=st.none() | st.binary(min_size=1, max_size=50),
)
def test_unpack_inverts_pack_for_any_content(
    width: int,
    height: int,
    colour: Colour,
    quality_index: int,
    asked_index: int,
    groups: list[bytes],
    metadata: dict[str, bytes],
    prior: bytes | None,
) -> None:
    prior_id = PRIOR_ID if prior is None else hashlib.sha256(prior).digest()[:8]
    file = SinrFile(width, height, colour, 8, quality_index, asked_index, prior_id, tuple(groups), metadata, prior)
    assert unpack(pack(file)) == file


def test_pack_drops_the_zeros_at_the_end_of_a_payload() -> None:
    file = dataclasses.replace(PLAIN, groups=(b"\0a\0\0", b"\0\0"))
    assert unpack(pack(file)).groups == (b"\0a", b"")


def test_the_order_of_metadata_does_not_change_the_file() -> None:
    backwards = dict(reversed(list(FULL.metadata.items())))
    assert pack(dataclasses.replace(FULL, metadata=backwards)) == pack(FULL)


@pytest.mark.parametrize("file", [PLAIN, FULL, CLEAR, WIDE, POST], ids=["plain", "full", "clear", "wide", "post"])
def test_unpack_rejects_every_flipped_bit(file: SinrFile) -> None:
    data = pack(file)
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(SinrError):
            unpack(bytes(flipped))


@pytest.mark.parametrize("file", [PLAIN, FULL, CLEAR, WIDE, POST], ids=["plain", "full", "clear", "wide", "post"])
def test_unpack_rejects_every_truncation_as_such(file: SinrFile) -> None:
    data = pack(file)
    for size in range(len(data)):
        with pytest.raises(TruncatedFileError):
            unpack(data[:size])


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=80))
def test_unpack_raises_nothing_but_our_error_for_any_body(body: bytes) -> None:
    with pytest.raises(SinrError):
        unpack(sealed(body, prefix=b"SINR\x01\xff"))  # illegal flags: no body can be valid
    try:
        unpack(sealed(body))
    except SinrError:
        pass


def test_unpack_says_that_bytes_follow_the_end() -> None:
    with pytest.raises(SinrError, match="3 bytes follow its end"):
        unpack(pack(PLAIN) + b"abc")


def test_unpack_calls_damage_damage_whatever_field_it_hit() -> None:
    damaged = bytearray(pack(PLAIN))
    damaged[6] = 17  # the colour
    with pytest.raises(SinrError, match="damaged"):
        unpack(bytes(damaged))


def test_unpack_skips_unknown_ancillary_chunks() -> None:
    file = unpack(sealed(BODY + chunk(0x83, frame(b"xmp")) + chunk(0x84, b"later") + chunk(0xFF, b"") + b"\0"))
    assert file == dataclasses.replace(PLAIN, metadata={"xmp": b"xmp"})


def test_unpack_accepts_what_the_limits_just_allow() -> None:
    limits = Limits(max_pixels=300 * 200, max_side=300)
    assert unpack(pack(PLAIN), limits) == PLAIN
    with pytest.raises(LimitError, match="300 x 201"):
        unpack(pack(dataclasses.replace(PLAIN, height=201)), limits)
    with pytest.raises(LimitError, match="301 x 10"):
        unpack(pack(dataclasses.replace(PLAIN, width=301, height=10)), limits)


HOSTILE: dict[str, tuple[bytes, type[SinrError], str]] = {
    "empty file": (b"", TruncatedFileError, "magic"),
    "another format": (b"\x89PNG\r\n\x1a\n" + bytes(40), SinrError, "not a .sinr file"),
    "another format, short": (b"GI", SinrError, "not a .sinr file"),
    "magic in lower case": (sealed(BODY + b"\0", prefix=b"sinr\x01"), SinrError, "not a .sinr file"),
    "version 0": (sealed(BODY + b"\0", prefix=b"SINR\0"), UnsupportedVersionError, "found 0"),
    "version 2": (sealed(BODY + b"\0", prefix=b"SINR\x02"), UnsupportedVersionError, "found 2"),
    "no body": (sealed(b""), TruncatedFileError, "flags"),
    "reserved flag": (sealed(b"\x10" + BODY[1:] + b"\0"), SinrError, "bits 4..7"),
    "top flag": (sealed(b"\x80" + BODY[1:] + b"\0"), SinrError, "bits 4..7"),
    "unknown colour": (sealed(b"\0\x02\x08\x98" + BODY[4:] + b"\0"), SinrError, "colour"),
    "bit depth 0": (sealed(b"\0\0\0\x98" + BODY[4:] + b"\0"), SinrError, "bit depth"),
    "bit depth 12": (sealed(b"\0\0\x0c\x98" + BODY[4:] + b"\0"), SinrError, "bit depth"),
    "width 0": (sealed(FIELDS + b"\0\xc8\x01" + BODY[9:] + b"\0"), SinrError, "width: expected 1"),
    "height 0": (sealed(FIELDS + b"\xac\x02\0" + BODY[9:] + b"\0"), SinrError, "height: expected 1"),
    "width of 2**35 - 1": (
        sealed(FIELDS + b"\xff\xff\xff\xff\x7f\1" + BODY[9:] + b"\0"),
        LimitError,
        "32768 a side",
    ),
    "a side too long": (sealed(FIELDS + b"\x81\x80\x02\1" + BODY[9:] + b"\0"), LimitError, "32769 x 1"),
    "too many pixels": (
        sealed(FIELDS + b"\x80\x80\x02\x81\x40" + BODY[9:] + b"\0"),
        LimitError,
        "32768 x 8193",
    ),
    "varint of six bytes": (
        sealed(FIELDS + b"\x80\x80\x80\x80\x80\1\1" + BODY[9:] + b"\0"),
        SinrError,
        "at most 5",
    ),
    "varint longer than needed": (sealed(FIELDS + b"\xac\x82\0\1" + BODY[9:] + b"\0"), SinrError, "shortest"),
    "varint that never ends": (sealed(FIELDS + b"\xff" * 40), SinrError, "at most 5"),
    "prior id cut short": (sealed(FIELDS + SIZE + b"\1\2\3"), TruncatedFileError, "prior id"),
    "no groups": (sealed(BODY[:17] + b"\0\0"), SinrError, "group count"),
    "65 groups": (sealed(BODY[:17] + b"\x41" + b"\0" * 65 + b"\0"), SinrError, "group count"),
    "64 groups, lengths missing": (sealed(BODY[:17] + b"\x40\1\1"), TruncatedFileError, "group"),
    "group longer than the file": (
        sealed(BODY[:17] + b"\1\xff\xff\xff\xff\x7f\1\0"),
        TruncatedFileError,
        "group 0",
    ),
    "group that reaches into the CRC": (
        sealed(BODY[:17] + b"\1\x04ab"),
        TruncatedFileError,
        "group 0: expected 4 .*found 2",
    ),
    "second group missing": (sealed(BODY[:17] + b"\2\1\x05a\0"), TruncatedFileError, "group 1"),
    "group that ends in a zero": (sealed(BODY[:17] + b"\1\2a\0\0"), SinrError, "zero byte"),
    "group of one zero": (sealed(BODY[:17] + b"\1\1\0\0"), SinrError, "zero byte"),
    "no end tag": (sealed(BODY), TruncatedFileError, "end tag"),
    "bytes after the end": (sealed(BODY + b"\0" + b"junk"), SinrError, "4 more bytes"),
    "a whole file after the end": (sealed(BODY + b"\0" + pack(PLAIN)), SinrError, "more bytes"),
    "unknown critical chunk": (sealed(BODY + chunk(0x03, b"x") + b"\0"), UnsupportedVersionError, "0x03"),
    "last critical tag": (sealed(BODY + chunk(0x7F, b"x") + b"\0"), UnsupportedVersionError, "0x7f"),
    "chunk longer than the file": (sealed(BODY + b"\x81\xff\x7f" + b"\0"), TruncatedFileError, "0x81"),
    "chunk length missing": (sealed(BODY + b"\x81"), TruncatedFileError, "length of chunk 0x81"),
    "chunk twice": (sealed(BODY + chunk(0x82, frame(b"a")) * 2 + b"\0"), SinrError, "above 0x82"),
    "unknown chunk twice": (sealed(BODY + chunk(0x99, b"") * 2 + b"\0"), SinrError, "above 0x99"),
    "chunks in descending order": (
        sealed(BODY + chunk(0x83, frame(b"a")) + chunk(0x81, frame(b"b")) + b"\0"),
        SinrError,
        "above 0x83",
    ),
    "metadata that is not zstd": (sealed(BODY + chunk(0x81, b"plain text") + b"\0"), SinrError, "zstd"),
    "metadata of no bytes": (sealed(BODY + chunk(0x81, b"") + b"\0"), SinrError, "zstd"),
    "zstd frame of nothing": (sealed(BODY + chunk(0x81, frame(b"")) + b"\0"), SinrError, "declares"),
    "zstd frame cut short": (sealed(BODY + chunk(0x81, frame(b"abc")[:-1]) + b"\0"), SinrError, "zstd"),
    "zstd frame and junk": (
        sealed(BODY + chunk(0x81, frame(b"abc") + b"x") + b"\0"),
        SinrError,
        "unused data",
    ),
    "two zstd frames": (sealed(BODY + chunk(0x81, frame(b"abc") * 2) + b"\0"), SinrError, "unused data"),
    "zstd skippable frame": (
        sealed(BODY + chunk(0x81, bytes.fromhex("502a4d18 03000000 616263")) + b"\0"),
        SinrError,
        "declares",
    ),
    "zstd frame that hides its size": (
        sealed(BODY + chunk(0x81, zstandard.ZstdCompressor(write_content_size=False).compress(b"abc")) + b"\0"),
        SinrError,
        "declares",
    ),
    "zstd frame that declares too little": (
        sealed(BODY + chunk(0x81, frame(b"a" * 200).replace(b"\xc8", b"\x10", 1)) + b"\0"),
        SinrError,
        "zstd",
    ),
    "zstd frame that declares too much": (
        sealed(BODY + chunk(0x81, frame_declaring(900)) + b"\0"),
        SinrError,
        "zstd",
    ),
    "zstd frame that declares 1 GiB": (
        sealed(BODY + chunk(0x81, frame_declaring(2**30)) + b"\0"),
        LimitError,
        "1073741824 declared",
    ),
    "zstd frame that declares 2**63 bytes": (
        sealed(BODY + chunk(0x83, frame_declaring(2**63)) + b"\0"),
        LimitError,
        "declared",
    ),
    "opacity of another size": (sealed(with_opacity(frame(bytes(60_000)))), SinrError, "content of the opacity"),
    "opacity that is a bomb": (sealed(with_opacity(frame_declaring(60_002))), LimitError, "60002"),
    "self-contained without a prior": (sealed(b"\1" + BODY[1:] + b"\0"), SinrError, "only the flag"),
    "prior without the flag": (sealed(BODY + chunk(0x01, frame(PRIOR)) + b"\0"), SinrError, "only the chunk"),
    "another prior than the header names": (
        sealed(b"\1" + BODY[1:] + chunk(0x01, frame(PRIOR)) + b"\0"),
        SinrError,
        "expected the prior 0011223344556677",
    ),
    "prior that is a bomb": (
        sealed(b"\1" + BODY[1:] + chunk(0x01, frame_declaring(MAX_CONTENT + 1)) + b"\0"),
        LimitError,
        "at most",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_unpack_rejects_what_was_built_to_harm(name: str) -> None:
    data, error, message = HOSTILE[name]
    with pytest.raises(error, match=message) as caught:
        unpack(data)
    assert caught.type is error


def test_a_zstd_bomb_is_refused_before_it_is_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zstandard.compress(bytes(MAX_CONTENT + 1))  # 64 MiB of zeros in a few kilobytes
    assert len(bomb) < 10_000
    length = bytes([len(bomb) & 0x7F | 0x80, len(bomb) >> 7])
    monkeypatch.delattr(zstandard, "ZstdDecompressor")
    with pytest.raises(LimitError, match="chunk 0x82"):
        unpack(sealed(BODY + b"\x82" + length + bomb + b"\0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: dataclasses.replace(file, width=0), "width"),
        (lambda file: dataclasses.replace(file, height=-1), "height"),
        (lambda file: dataclasses.replace(file, colour=2), "colour"),
        (lambda file: dataclasses.replace(file, bit_depth=12), "bit depth"),
        (lambda file: dataclasses.replace(file, quality_index=256), "quality index"),
        (lambda file: dataclasses.replace(file, asked_index=-1), "asked index"),
        (lambda file: dataclasses.replace(file, prior_id=b"short"), "prior id"),
        (lambda file: dataclasses.replace(file, groups=()), "group count"),
        (lambda file: dataclasses.replace(file, groups=(b"",) * 65), "group count"),
        (lambda file: dataclasses.replace(file, metadata={"iptc": b"x"}), "metadata"),
        (lambda file: dataclasses.replace(file, metadata={"icc": b""}), "chunk 0x81"),
        (lambda file: dataclasses.replace(file, prior=b"another"), "prior chunk"),
        (lambda file: dataclasses.replace(file, alpha=bytes(300 * 200)), "opacity"),
    ],
)
def test_pack_refuses_to_write_what_unpack_would_not_read(change: Callable[[SinrFile], SinrFile], message: str) -> None:
    with pytest.raises(SinrError, match=message):
        pack(change(FULL))


def test_a_prefix_has_the_groups_that_are_whole() -> None:
    data = pack(FULL)
    start = len(PREFIX + BODY) - 4  # of the payloads, which take 1, 0 and 3 bytes
    for cut, groups in ((0, 0), (1, 2), (3, 2), (4, 3), (60, 3)):
        found = unpack_prefix(data[: start + cut])
        assert found == dataclasses.replace(FULL, groups=FULL.groups[:groups], metadata={}, prior=None)


def test_a_prefix_without_its_whole_header_is_refused() -> None:
    for size in range(len(PREFIX + BODY) - 4):
        with pytest.raises(TruncatedFileError):
            unpack_prefix(pack(PLAIN)[:size])
    with pytest.raises(SinrError, match=r"not a \.sinr file"):
        unpack_prefix(b"PNG")
    with pytest.raises(LimitError):
        unpack_prefix(pack(PLAIN), Limits(max_side=299))
