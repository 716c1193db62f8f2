"""Priors: what is bundled and shared by all files, and named in each of them.

A prior is one safetensors file. Its tensors are the meta-learned network and, for
a prior with lattice fields, the rate model and the numbers that drive a fit; its
metadata holds one JSON object under the key `inrcodec`:

    format        1
    name          what `--prior` and `inrcodec priors` call it
    omegas        one frequency factor per sine layer of the SIREN
    coordinates   whether the network's inputs begin with the normalised (x, y)
    channels      values per cell of the field at stride 2**level, level 0 first; [] = no fields
    notes         where it comes from: data, command, steps, scores

Tensors that this module knows (others belong to the modules that use them):

    siren.I.weight  float32 (out, in)   siren.I.bias  float32 (out,)
    siren.I.mask    uint8 (out, in)     1 = the weight survived pruning; optional, absent = all did
    field.gain      float32 (channels,) logarithm of a step's size, all levels in a row, and
    field.slope     float32 (channels,) what conditioning adds to it
    field.kernel    float32 (levels, 2) (B, C) of the interpolation, see `lattice`
    skip.weight     float32 (3, channels)
    filter.in       float32 (features, 3 + planes, 3, 3), filter.in_bias (features, 3), filter.out (3, features, 3, 3),
                    filter.out_bias (3,): the filter of `render`; the bias in powers of q. It sees the first `planes`
                    channels. detail.*: likewise, with 12 for 3 in the output, and
    detail.mid      float32 (layers * features, features, 3, 3), detail.mid_bias (layers * features,): those in between
    post.*          the post-filter, like detail.*, with 3 for 12 in the output; optional

A layer has at most 1024 units and no number is beyond 10**6 (16 in field.*, so that exp is harmless):
whatever a file holds, decoding stays finite, and a sample costs a bounded number of operations.

Nothing is unpickled. A prior's identity is the first 8 bytes of its file's SHA-256,
which is why a changed bit is always found: the file that names it no longer opens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from inrcodec.bitstream import MAX_CONTENT
from inrcodec.errors import PriorError
from inrcodec.image import write_atomically

ID_SIZE = 8  # bytes of the SHA-256 that name a prior
FORMAT = 1
DEFAULT_PRIOR = "photo"
MAX_SIZE = MAX_CONTENT  # bytes of a prior file: what a self-contained file can carry
MAX_OMEGAS = 16  # sine layers
MAX_CHANNELS = 16  # per level
MAX_LEVELS = 12
MAX_LAYERS = 8  # in between, of a filter that has such
FIRST_FILTER = "filter"  # which alone changes from picture to picture, and has no layers in between
FILTERS = {FIRST_FILTER: 3, "detail": 12, "post": 3}  # what each says of a pixel: values
MAX_HEADER = 1 << 20  # bytes of the safetensors header, which is JSON: it takes fifty times as much once parsed
MAX_WIDTH = 1024  # units per layer
MAX_WEIGHT = 1e6
MAX_FIELD_WEIGHT = 16.0  # of gains, slopes and kernels


@dataclass(frozen=True)
class Architecture:
    """What the tensors of a prior mean. Layer widths are the tensors' own shapes."""

    omegas: tuple[float, ...]  # frequency factor of each sine layer
    coordinates: bool = True  # inputs begin with the normalised (x, y)
    channels: tuple[int, ...] = ()  # of the field at stride 2**level, level 0 first

    def __post_init__(self) -> None:
        if not 1 <= len(self.omegas) <= MAX_OMEGAS or not all(0 < omega < 1e4 for omega in self.omegas):
            raise PriorError(f"a prior has 1..{MAX_OMEGAS} sine layers with factors in (0, 10000), not {self.omegas}")
        if len(self.channels) > MAX_LEVELS or not all(1 <= c <= MAX_CHANNELS for c in self.channels):
            raise PriorError(
                f"a prior has at most {MAX_LEVELS} levels of 1..{MAX_CHANNELS} channels, not {self.channels}"
            )
        if not self.coordinates and not self.channels:
            raise PriorError("a prior needs coordinates, lattice fields or both")

    @property
    def in_features(self) -> int:
        """Inputs of the first layer: (x, y), the interpolated fields, then (q, q**2) for priors with fields."""
        return 2 * self.coordinates + sum(self.channels) + 2 * bool(self.channels)


@dataclass(frozen=True, eq=False)
class Prior:
    """A loaded prior. Tensors are read-only NumPy arrays."""

    name: str
    architecture: Architecture
    tensors: Mapping[str, NDArray[Any]]
    data: bytes = field(repr=False)  # the safetensors file itself
    notes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def id(self) -> bytes:
        """First 8 bytes of the SHA-256 of the file."""
        return hashlib.sha256(self.data).digest()[:ID_SIZE]

    @property
    def layers(self) -> int:
        """Linear maps of the SIREN, the read-out included."""
        return len(self.architecture.omegas) + 1

    @property
    def post_filtered(self) -> bool:
        """Whether it has a post-filter."""
        return bool(self.architecture.channels) and "post.in" in self.tensors

    def mask(self, layer: int) -> NDArray[np.bool_]:
        """Which weights of a layer survived pruning, shape (out, in)."""
        stored = self.tensors.get(f"siren.{layer}.mask")
        if stored is None:
            return np.ones(self.tensors[f"siren.{layer}.weight"].shape, bool)
        return stored.astype(bool)


def save_prior(
    path: Path,
    name: str,
    architecture: Architecture,
    tensors: Mapping[str, NDArray[Any]],
    notes: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> Prior:
    """The prior as it was written to `path`."""
    meta = {
        "format": FORMAT,
        "name": name,
        "omegas": list(architecture.omegas),
        "coordinates": architecture.coordinates,
        "channels": list(architecture.channels),
        "notes": dict(notes or {}),
    }
    arrays = {key: np.ascontiguousarray(value) for key, value in sorted(tensors.items())}
    data = save(arrays, {"inrcodec": json.dumps(meta, sort_keys=True)})
    prior = parse_prior(data, str(path))
    write_atomically(path, data, overwrite=overwrite)
    return prior


def parse_prior(data: bytes, source: str) -> Prior:
    """The prior in the bytes of a safetensors file; `source` names it in errors.

    Raises PriorError for anything that is not a complete, finite, consistent prior.
    """
    if len(data) > MAX_SIZE:
        raise PriorError(f"{source}: a prior has at most {MAX_SIZE} bytes, found {len(data)}")
    try:
        size = int.from_bytes(data[:8], "little")
        if size > MAX_HEADER:
            raise PriorError(f"{source}: a prior's header has at most {MAX_HEADER} bytes, found {size}")
        header = json.loads(data[8 : 8 + size]) if size <= len(data) - 8 else None
        tensors = load(data)
        meta = json.loads(header["__metadata__"]["inrcodec"])  # type: ignore[index]
        if meta["format"] != FORMAT:
            raise PriorError(f"{source}: prior format {meta['format']} is not known, expected {FORMAT}")
        architecture = Architecture(
            tuple(float(omega) for omega in meta["omegas"]),
            bool(meta["coordinates"]),
            tuple(int(c) for c in meta["channels"]),
        )
        name, notes = str(meta["name"]), dict(meta["notes"])
    except PriorError:
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise PriorError(f"{source}: not an inrcodec prior ({type(error).__name__}: {error})") from None
    _check_network(architecture, tensors, source)
    for tensor in tensors.values():
        tensor.flags.writeable = False
    return Prior(name, architecture, tensors, data, notes)


def _check_network(architecture: Architecture, tensors: Mapping[str, NDArray[Any]], source: str) -> None:
    """Raise PriorError unless the layers chain from the inputs to RGB and every number is within its bound."""
    for key, tensor in tensors.items():
        bound = MAX_FIELD_WEIGHT if key.startswith("field.") else MAX_WEIGHT
        if tensor.dtype.kind == "f" and not (np.abs(tensor) <= bound).all():
            raise PriorError(f"{source}: {key} holds values that are not finite or beyond +-{bound:g}")
    width = architecture.in_features
    for layer in range(len(architecture.omegas) + 1):
        weight, bias = (tensors.get(f"siren.{layer}.{part}") for part in ("weight", "bias"))
        mask = tensors.get(f"siren.{layer}.mask")
        if weight is None or bias is None or weight.dtype != np.float32 or bias.dtype != np.float32:
            raise PriorError(f"{source}: siren.{layer} needs a float32 weight and bias")
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise PriorError(f"{source}: siren.{layer} should take {width} inputs, found weight {weight.shape}")
        if not 1 <= weight.shape[0] <= MAX_WIDTH:
            raise PriorError(f"{source}: siren.{layer} should have 1..{MAX_WIDTH} units, found {weight.shape[0]}")
        if mask is not None and (mask.dtype != np.uint8 or mask.shape != weight.shape or mask.max(initial=0) > 1):
            raise PriorError(f"{source}: siren.{layer}.mask should be 0 or 1 for each weight")
        if mask is not None and np.any(weight[mask == 0]):
            raise PriorError(f"{source}: siren.{layer} has pruned weights that are not zero")
        width = weight.shape[0]
    if width != 3:
        raise PriorError(f"{source}: the network should give 3 values per sample, found {width}")
    for key, shape in _field_shapes(architecture.channels, tensors, source).items():
        found = tensors.get(key)
        if found is None or found.dtype != np.float32 or found.shape != shape:
            raise PriorError(f"{source}: a prior with fields needs {key}, float32 {shape}")


def _field_shapes(
    channels: tuple[int, ...], tensors: Mapping[str, NDArray[Any]], source: str
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that only a prior with fields has, and that decoding needs besides its rate model's."""
    if not channels:
        return {}
    total = sum(channels)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, out in FILTERS.items():
        if name == "post" and "post.in" not in tensors:
            continue
        kernel = tensors.get(f"{name}.in")
        if kernel is None or kernel.ndim != 4 or not 1 <= len(kernel) <= MAX_WIDTH:
            raise PriorError(f"{source}: a prior with fields needs {name}.in with 1..{MAX_WIDTH} features")
        features, seen = len(kernel), tensors["filter.in"].shape[1]
        if not 3 <= seen <= 3 + total:
            raise PriorError(f"{source}: the filters should see 3 values and 0..{total} planes, found {seen}")
        shapes |= {f"{name}.in": (features, seen, 3, 3), f"{name}.in_bias": (features, 3)}
        shapes |= {f"{name}.out": (out, features, 3, 3), f"{name}.out_bias": (out,)}
        if name != FIRST_FILTER:
            found = tensors.get(f"{name}.mid_bias")
            layers = min(max(1, 0 if found is None else found.size // features), MAX_LAYERS)
            shapes |= {f"{name}.mid": (layers * features, features, 3, 3), f"{name}.mid_bias": (layers * features,)}
    return shapes | {
        "field.gain": (total,),
        "field.slope": (total,),
        "field.kernel": (len(channels), 2),
        "skip.weight": (3, total),
    }


def read_prior(path: Path) -> Prior:
    """The prior in a file."""
    try:
        if path.stat().st_size > MAX_SIZE:
            raise PriorError(f"{path}: a prior has at most {MAX_SIZE} bytes, found {path.stat().st_size}")
        return parse_prior(path.read_bytes(), str(path))
    except OSError as error:
        raise PriorError(f"{path}: cannot read the prior: {error.strerror}") from None


def bundled_priors() -> list[Path]:
    """The prior files that came with the package, by name."""
    package = Path(__file__).parent
    for folder in (package / "weights", package.parent / "weights"):  # installed wheel, then checkout
        if folder.is_dir():
            return sorted(folder.glob("*.safetensors"))
    return []


def find_prior(name_or_file: str | os.PathLike[str] = DEFAULT_PRIOR) -> Prior:
    """A bundled prior by its name, or any prior by its path."""
    for path in bundled_priors():
        if path.stem == str(name_or_file):
            return read_prior(path)
    if Path(name_or_file).is_file():
        return read_prior(Path(name_or_file))
    names = ", ".join(path.stem for path in bundled_priors()) or "none"
    raise PriorError(f"no prior {str(name_or_file)!r}: neither a file nor bundled (bundled: {names})")


def prior_by_id(prior_id: bytes) -> Prior:
    """The bundled prior that a `.sinr` file names, verified by its SHA-256."""
    found = []
    for path in bundled_priors():
        prior = read_prior(path)
        if prior.id == prior_id:
            return prior
        found.append(f"{prior.name} {prior.id.hex()}")
    raise PriorError(
        f"the file needs prior {prior_id.hex()}, which is not bundled (bundled: {', '.join(found) or 'none'}); "
        "give it with --prior FILE"
    )
