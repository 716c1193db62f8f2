"""Files that were built to do harm: each is refused by a named error, at once and in little memory.

They are decoded in another process whose memory is limited. The cases of the container alone are those of
`test_bitstream`; those here reach further, into priors and payloads.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import golden
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save
from test_bitstream import BODY, FIELDS, HOSTILE, chunk, frame_declaring, sealed

from inrcodec.bitstream import MAX_CONTENT, Colour, SinrFile, pack, unpack
from inrcodec.codec import decode
from inrcodec.deltas import delta_counts
from inrcodec.entropy import RateModel, encode_deltas
from inrcodec.lattice import field_shapes
from inrcodec.prior import MAX_FIELD_WEIGHT, MAX_WEIGHT, Prior, parse_prior

Tensors = Mapping[str, NDArray[Any]]
Case = tuple[bytes, str, str]  # the file, the class of its error, part of the message

SECONDS = 1.0  # of processor time: the machine may be busy
MEMORY = 300 << 20  # bytes above those of a process that has imported the decoder

DECODE_ALL = """
import json, resource, sys, time
from pathlib import Path
from inrcodec.codec import decode
from inrcodec.errors import InrcodecError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

idle, limit = peak(), int(sys.argv[2])
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2 * limit, size + 2 * limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    began = time.process_time()
    try:
        decode(data)
        error, text = "none", ""
    except InrcodecError as caught:
        error, text = type(caught).__name__, str(caught)
    except BaseException as caught:
        error, text = "foreign " + type(caught).__name__, str(caught)
    print(json.dumps([path.name, error, text, time.process_time() - began, peak() - idle]))
"""


def with_prior(prior: bytes, groups: tuple[bytes, ...] = (b"",) * 5, **changes: Any) -> bytes:
    """A small self-contained file."""
    file = SinrFile(8, 6, Colour.RGB, 8, 100, 100, hashlib.sha256(prior).digest()[:8], groups, prior=prior)
    return pack(SinrFile(**{**vars(file), **changes}))


def prior_file(prior: Prior, tensors: Tensors | None = None, without: str = "", **meta: Any) -> bytes:
    """The file of a prior with some of its tensors and metadata replaced, and one tensor left out."""
    known: dict[str, object] = {
        "format": 1,
        "name": prior.name,
        "omegas": prior.architecture.omegas,
        "coordinates": prior.architecture.coordinates,
        "channels": prior.architecture.channels,
        "notes": {},
    }
    kept = {**prior.tensors, **(tensors or {})}
    kept.pop(without, None)
    return save(
        {key: np.ascontiguousarray(value) for key, value in kept.items()}, {"inrcodec": json.dumps(known | meta)}
    )


def safetensors_file(header: str | bytes, body: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + body


def changed(tensor: NDArray[Any], value: float) -> NDArray[Any]:
    """A copy whose first number is another one."""
    copy = tensor.copy()
    copy.flat[0] = value
    return copy


def sizes() -> dict[str, Case]:
    """Pictures that are larger than anybody's memory."""

    def sized(width: str, height: str) -> bytes:
        return sealed(FIELDS + bytes.fromhex(width + height) + BODY[8:] + b"\0")

    one, wide, wider, widest = "01", "808004", "ffffffff0f", "ffffffff7f"  # 1, 2**16, 2**32 - 1, 2**35 - 1
    return {
        f"{name} pixels": (sized(width, height), "LimitError", "268435456 pixels")
        for name, width, height in (
            ("65536 x 1", wide, one),
            ("1 x 65536", one, wide),
            ("65536 x 65536", wide, wide),
            ("4294967295 x 1", wider, one),
            ("1 x 4294967295", one, wider),
            ("4294967295 x 4294967295", wider, wider),
            ("34359738367 x 34359738367", widest, widest),
            ("32768 x 32768", "808002", "808002"),
        )
    }


def architectures(fields: Prior, network: Prior) -> dict[str, Case]:
    """Priors whose metadata promise what is not there, or too much."""

    def case(match: str, prior: Prior = fields, **meta: Any) -> Case:
        return with_prior(prior_file(prior, **meta)), "PriorError", match

    return {
        "13 levels": case("12 levels", channels=[1] * 13),
        "300,000 levels": case("12 levels", channels=[1] * 300_000),
        "level of 0 channels": case("1..16 channels", channels=[1, 0, 2]),
        "level of 17 channels": case("1..16 channels", channels=[17, 2, 2]),
        "level of 2**32 - 1 channels": case("1..16 channels", channels=[2**32 - 1, 1, 1]),
        "level of -1 channels": case("1..16 channels", channels=[-1, 2, 2]),
        "infinitely many channels": case("not an inrcodec prior", channels=[float("inf")]),
        "channels that are text": case("not an inrcodec prior", channels="many"),
        "one level more than weights": case("inputs", channels=[1, 2, 2, 1]),
        "no sine layer": case("sine layers", omegas=[]),
        "17 sine layers": case("sine layers", omegas=[1.0] * 17),
        "one sine layer more than weights": case("siren.3", omegas=[1.0, 1.0, 1.0]),
        "NaN for a factor": case("sine layers", omegas=[float("nan"), 1.0]),
        "infinite factor": case("sine layers", omegas=[float("inf"), 1.0]),
        "negative factor": case("sine layers", omegas=[-1.0, 1.0]),
        "factor of 10**300": case("sine layers", omegas=[1e300, 1.0]),
        "factors that are text": case("not an inrcodec prior", omegas="ab"),
        "no input at all": case("coordinates", network, coordinates=False),
        "prior format 2": case("format 2", format=2),
        "notes that are a number": case("not an inrcodec prior", notes=7),
    }


def networks(fields: Prior, network: Prior) -> dict[str, Case]:
    """Priors whose network does not fit, or does not stay finite."""

    def case(match: str, tensors: Tensors, prior: Prior = fields) -> Case:
        return with_prior(prior_file(prior, tensors)), "PriorError", match

    f, n = fields.tensors, network.tensors
    wide = {
        "siren.0.weight": np.zeros((1025, 7), np.float32),
        "siren.0.bias": np.zeros(1025, np.float32),
        "siren.1.weight": np.zeros((6, 1025), np.float32),
    }
    huge = {
        "siren.0.weight": np.zeros((1_000_000, 7), np.float32),
        "siren.0.bias": np.zeros(1_000_000, np.float32),
        "siren.1.weight": np.zeros((1, 1_000_000), np.float32),
    }
    cases = {
        "layer of 1025 units": case("1..1024 units", wide),
        "layer of a million units": case("1..1024 units", huge),
        "layer of no units": case(
            "1..1024 units", {"siren.0.weight": np.zeros((0, 7), np.float32), "siren.0.bias": np.zeros(0, np.float32)}
        ),
        "weight that is a vector": case("inputs", {"siren.0.weight": np.zeros(49, np.float32)}),
        "bias that is too long": case("inputs", {"siren.0.bias": np.zeros(8, np.float32)}),
        "weights of 64 bits": case("float32", {"siren.0.weight": f["siren.0.weight"].astype(np.float64)}),
        "weights that are integers": case("float32", {"siren.0.weight": f["siren.0.weight"].astype(np.int32)}),
        "four colours": case(
            "3 values", {"siren.2.weight": np.zeros((4, 6), np.float32), "siren.2.bias": np.zeros(4, np.float32)}
        ),
        "mask of twos": case("0 or 1", {"siren.1.mask": np.full((12, 12), 2, np.uint8)}, network),
        "mask of another shape": case("0 or 1", {"siren.1.mask": np.ones((12, 11), np.uint8)}, network),
        "mask of floats": case("0 or 1", {"siren.1.mask": np.ones((12, 12), np.float32)}, network),
        "weight under the mask": case("pruned", {"siren.1.weight": np.ones((12, 12), np.float32)}, network),
    }
    for name, value in (("NaN", np.nan), ("infinite", np.inf), ("-infinite", -np.inf), ("10**30", 1e30)):
        cases |= {
            f"{name} weight": case(
                "siren.0.weight holds", {"siren.0.weight": changed(n["siren.0.weight"], value)}, network
            ),
            f"{name} gain": case("field.gain holds", {"field.gain": changed(f["field.gain"], value)}),
            f"{name} slope": case("field.slope holds", {"field.slope": changed(f["field.slope"], value)}),
            f"{name} kernel": case("field.kernel holds", {"field.kernel": changed(f["field.kernel"], value)}),
            f"{name} skip": case("skip.weight holds", {"skip.weight": changed(f["skip.weight"], value)}),
        }
    for name in (
        "field.gain",
        "field.slope",
        "field.kernel",
        "skip.weight",
        "siren.1.bias",
        "rate.table",
        "rate.1.mid",
        "filter.in",
        "detail.mid",
        "detail.out",
    ):
        cases[f"no {name}"] = with_prior(prior_file(fields, without=name)), "PriorError", name.removesuffix(".bias")
        cases[f"{name} of another shape"] = case(name.removesuffix(".bias"), {name: np.zeros((5, 5, 5), f[name].dtype)})
    layers = {"detail.mid": np.zeros((45, 5, 3, 3), np.float32), "detail.mid_bias": np.zeros(45, np.float32)}
    cases["a filter of too many layers"] = case("detail.mid", layers)
    post = {
        "post.in": np.zeros((4, 6, 3, 3), np.float32),
        "post.in_bias": np.zeros((4, 3), np.float32),
        "post.mid": np.zeros((4, 4, 3, 3), np.float32),
        "post.mid_bias": np.zeros(4, np.float32),
        "post.out": np.zeros((3, 4, 3, 3), np.float32),
        "post.out_bias": np.zeros(3, np.float32),
    }
    assert parse_prior(prior_file(fields, post), "a whole post-filter").post_filtered
    for name in post:
        if name != "post.in":  # without which there is none
            others = {key: tensor for key, tensor in post.items() if key != name}
            cases[f"no {name}"] = case(name, others)
        cases[f"{name} of another shape"] = case("post", post | {name: np.zeros((5, 5, 5), np.float32)})
    return cases


def rate_models(fields: Prior) -> dict[str, Case]:
    """Priors whose probabilities are none, or are not exact."""

    def case(name: str, value: NDArray[Any], named: str = "") -> Case:
        return with_prior(prior_file(fields, {name: value})), "PriorError", named or name

    t = fields.tensors
    moved = t["rate.table"].copy()
    moved[0, :2] = 0, moved[0, :2].sum()
    wrapped = t["rate.table"].astype(np.uint64)
    wrapped[:, :2] += np.uint64(1) << np.uint64(63)  # the sums are right, modulo 2**64
    of_filter, of_rate = delta_counts(t)
    return {
        "change that is never expected": case("deltas.rate", np.zeros((3, of_rate), np.uint16)),
        "expectations of too few changes": case("deltas.filter", np.ones((3, of_filter - 1), np.uint16)),
        "expectations that are floats": case("deltas.filter", np.ones((3, of_filter), np.float32)),
        "unit of 2**-128": case("deltas.filter_unit", np.full(of_filter, -128, np.int8)),
        "units of too few changes": case("deltas.filter_unit", np.zeros((), np.int8)),
        "probabilities that sum to more": case("rate.table", t["rate.table"] + np.int32(1)),
        "probability of zero": case("rate.table", moved),
        "probability below zero": case("rate.table", changed(changed(t["rate.table"], -1)[:, ::-1], 2)[:, ::-1]),
        "probabilities that sum to more than 2**64": case("rate.table", wrapped),
        "probabilities that are floats": case("rate.table", t["rate.table"].astype(np.float32)),
        "shift of 13 bits": case("rate.shift", changed(t["rate.shift"], 13)),
        "shift of 255 bits": case("rate.shift", changed(t["rate.shift"], 255)),
        "weight of 2**18": case("rate.0.causal", changed(t["rate.0.causal"], 1 << 18)),
        "weight of -2**31": case("rate.0.causal", changed(t["rate.0.causal"], -(1 << 31))),
        "bias of 2**40": case("rate.1.bias", changed(t["rate.1.bias"], 1 << 40)),
        "bias of -2**63": case("rate.1.bias", changed(t["rate.1.bias"], -(1 << 63))),
        "hidden layer of no units": case("rate.2.causal", np.zeros((0, 22), np.int32)),
        "hidden layer of 1025 units": case("rate.2.causal", np.zeros((1025, 22), np.int32)),
        "trunk that is a number": case("rate.1.trunk", np.zeros((), np.int32)),
        "trunk that is a vector": case("rate.2.trunk", np.zeros(72, np.int32)),
    }


def containers_of_priors(fields: Prior) -> dict[str, Case]:
    """Prior chunks that are no safetensors file, or one that is costly to read."""

    def case(match: str, prior: bytes) -> Case:
        return with_prior(prior), "PriorError", match

    def chunks(data: bytes) -> bytes:
        return sealed(b"\1" + BODY[1:] + chunk(0x01, data) + b"\0")

    meta = json.dumps({"inrcodec": "{}"})
    one = '{"a": {"dtype": "%s", "shape": %s, "data_offsets": [0, %d]}, "__metadata__": ' + meta + "}"
    many = ",".join(f'"t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(15_000))
    nothing = "not an inrcodec prior"
    wide_window = bytes.fromhex("28b52ffd c0 a8") + (100).to_bytes(8, "little") + bytes.fromhex("010000")  # 2**31
    return {
        "prior of one byte": case(nothing, b"x"),
        "prior of 64 MiB of zeros": case(nothing, bytes(MAX_CONTENT)),
        "header of 2**63 bytes": case("header has at most", (1 << 63).to_bytes(8, "little") + b"{}"),
        "header beyond the file": case(nothing, (900).to_bytes(8, "little") + b"{}"),
        "header of 60 MiB": case("header has at most", safetensors_file(b"[" + b"0," * (30 << 20) + b"0]")),
        "header nested 400,000 times": case(nothing, safetensors_file("[" * 400_000)),
        "header that is a number": case(nothing, safetensors_file("1")),
        "header that is not UTF-8": case(nothing, safetensors_file(b'{"\xff": 1}')),
        "header with 15,000 tensors": case(nothing, safetensors_file("{" + many + "}")),
        "metadata nested 100,000 times": case(
            nothing, safetensors_file(json.dumps({"__metadata__": {"inrcodec": "[" * 100_000}}))
        ),
        "tensor of 2**62 bytes": case(nothing, safetensors_file(one % ("U8", "[4611686018427387904]", 4))),
        "tensor whose size overflows": case(nothing, safetensors_file(one % ("F32", "[4294967296, 4294967296, 4]", 0))),
        "empty tensor with a side of 2**63": case(
            nothing, safetensors_file(one % ("F32", "[0, 9223372036854775808]", 0))
        ),
        "tensor of eight-bit floats": case(nothing, safetensors_file(one % ("F8_E4M3", "[4]", 4), bytes(4))),
        "tensor of an unknown type": case(nothing, safetensors_file(one % ("Z9", "[4]", 4), bytes(4))),
        "tensor beyond the file": case(nothing, safetensors_file(one % ("U8", "[99]", 99), bytes(4))),
        "bytes after the tensors": case(nothing, fields.data + b"x"),
        "prior chunk that declares 64 MiB and holds none": (chunks(frame_declaring(MAX_CONTENT)), "SinrError", "zstd"),
        "prior chunk with a window of 2 GiB": (chunks(wide_window), "SinrError", "zstd"),
        "prior that is not here": (sealed(BODY + b"\0"), "PriorError", "not bundled"),
    }


def payloads(fields: Prior, network: Prior) -> dict[str, Case]:
    """Groups that hold other numbers than the prior says, in number or in size."""
    shapes = field_shapes(6, 8, fields.architecture.channels)
    ones = [np.ones(shape, np.int32) for shape in shapes]
    streams = (b"", b"", *RateModel(fields.tensors, fields.architecture.channels).encode(ones, 100))
    counts = [int(network.mask(layer).sum()) + len(network.mask(layer)) for layer in range(network.layers)]
    deltas = tuple(encode_deltas(np.full(count, -300, np.int32)) for count in counts)

    far = np.full(delta_counts(fields.tensors)[1], 128, np.int32)

    def in_fields(match: str, *groups: bytes, **changes: Any) -> Case:
        return with_prior(fields.data, groups, **changes), "SinrError", match

    def in_network(match: str, *groups: bytes) -> Case:
        return with_prior(network.data, groups), "SinrError", match

    return {
        "one group too few": in_fields("5 parameter groups", *streams[:4]),
        "one group too many": in_fields("5 parameter groups", *streams, b""),
        "64 groups": in_fields("5 parameter groups", *streams, *[b"\1"] * (64 - len(streams))),
        "groups in the wrong order": in_fields("level", b"", b"", *streams[:1:-1]),
        "groups of a larger picture": in_fields("hold more", *streams, width=2, height=2),
        "four bytes too many": in_fields("hold more", b"", b"", streams[2] + bytes(8) + b"\1", *streams[3:]),
        "group of a megabyte": in_fields("level", b"", b"", b"\x55" * (1 << 20), b"", b""),
        "picture that needs more memory than there is": (
            with_prior(fields.data, streams, width=16384, height=16384),
            "LimitError",
            "more memory than there is",
        ),
        "group of ones": in_fields("level", b"", b"", b"\xff" * 400, b"", b""),
        "finest group of ones": in_fields("level", *streams[:4], b"\xff" * 400),
        "filter that changes by 2**17 and more": in_fields("exponent of 0..16", b"\x11\1\1", *streams[1:]),
        "filter with too many changes": in_fields("deltas", b"\0\x3f\x1f" + b"\x55" * 4000, *streams[1:]),
        "rate model with too many changes": in_fields("deltas", b"", b"\x3f\x1f" + b"\x55" * 4000, *streams[2:]),
        "rate model that changes by more than 127": in_fields("within .-127", b"", encode_deltas(far), *streams[2:]),
        "bitmap of more weights than survived": in_network("deltas", deltas[0], deltas[0] + deltas[1], deltas[2]),
        "bitmap of another layer": in_network("deltas", deltas[1], deltas[2], deltas[0]),
        "table 64 of densities": in_network("tables 64", b"\x40" + deltas[0][1:], *deltas[1:]),
        "table 32 of magnitudes": in_network("are not known", deltas[0][:1] + b"\x20" + deltas[0][2:], *deltas[1:]),
        "deltas of ones": in_network("delta", b"\x3f\x1f" + b"\xff" * 300, *deltas[1:]),
        "deltas of a megabyte": in_network("delta", deltas[0], b"\x3f\x1f" + b"\x55" * (1 << 20), deltas[2]),
    }


Outcome = tuple[str, str, float, int]  # class and message of the error, seconds, bytes above idle so far


@pytest.fixture(scope="module")
def cases(field_prior: Prior, network_prior: Prior) -> dict[str, Case]:
    found = {name: (data, error.__name__, match) for name, (data, error, match) in HOSTILE.items()}
    for more in (
        sizes(),
        architectures(field_prior, network_prior),
        networks(field_prior, network_prior),
        rate_models(field_prior),
        containers_of_priors(field_prior),
        payloads(field_prior, network_prior),
    ):
        assert not found.keys() & more.keys()
        found |= more
    return found


@pytest.fixture(scope="module")
def outcomes(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What became of each case, all of them decoded in one process."""
    folder = tmp_path_factory.mktemp("hostile")
    names = list(cases)
    for number, (data, _, _) in enumerate(cases.values()):
        (folder / f"{number:03}").write_bytes(data)
    command = [sys.executable, "-c", DECODE_ALL, str(folder), str(MEMORY)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {names[int(row[0])]: tuple(row[1:]) for row in rows}


def test_every_hostile_file_is_refused_by_a_named_error(cases: dict[str, Case], outcomes: dict[str, Outcome]) -> None:
    assert len(cases) >= 100
    wrong = {
        name: outcomes[name][:2]
        for name, (_, error, match) in cases.items()
        if outcomes[name][0] != error or not re.search(match, outcomes[name][1])
    }
    assert not wrong


def test_every_hostile_file_is_refused_at_once_and_in_little_memory(outcomes: dict[str, Outcome]) -> None:
    slow = {name: seconds for name, (_, _, seconds, _) in outcomes.items() if seconds > SECONDS}
    large = {name: f"{memory >> 20} MiB" for name, (_, _, _, memory) in outcomes.items() if memory > MEMORY}
    assert not slow and not large


@pytest.mark.parametrize("signs", ["equal", "random"])
@pytest.mark.parametrize("kind", golden.TINY)
@pytest.mark.parametrize("numbers", ["", "-large-numbers"])
def test_the_largest_numbers_a_prior_may_hold_stay_finite(kind: str, signs: str, numbers: str) -> None:
    """An overflow would be a warning, and a warning is an error here."""
    prior, rng = golden.carried_prior(kind), np.random.default_rng(0)
    largest = {}
    for name, tensor in prior.tensors.items():
        if tensor.dtype == np.float32:
            value = MAX_FIELD_WEIGHT if name.startswith("field.") else MAX_WEIGHT
            sign = rng.choice((-1, 1), tensor.shape) if signs == "random" else 1
            kept = prior.tensors.get(name.replace(".weight", ".mask"), tensor) if name.startswith("siren.") else tensor
            largest[name] = ((kept != 0) * sign * value).astype(np.float32)
    data = prior_file(prior, largest)
    file = unpack((golden.FOLDER / f"{kind}{numbers}.sinr").read_bytes())
    decode(pack(replace(file, prior=data, prior_id=hashlib.sha256(data).digest()[:8])))
