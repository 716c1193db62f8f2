"""Tiny priors and pictures for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tape import Tape, record

from inrcodec import graphs, native, objective
from inrcodec.analysis import init_analysis
from inrcodec.deltas import delta_counts
from inrcodec.prior import Architecture, Prior, save_prior
from inrcodec.rate import init_rate, to_integers
from inrcodec.siren import init_siren
from inrcodec.synthesis import init_between, init_filter

CHANNELS = (1, 2, 2)
OMEGAS = (2.0, 1.0)

T = TypeVar("T")


def field_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random float weights of a small model with fields."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(CHANNELS)
    weights = init_siren(total + 2, (7, 6), 3, OMEGAS, generator)
    weights["skip.weight"] = torch.randn(3, total, generator=generator) * 0.2
    weights["field.gain"] = torch.full((total,), -2.0)
    weights["field.slope"] = torch.full((total,), 1.2)
    weights["field.kernel"] = torch.tensor([[0.0, 0.5], [0.3, 0.4], [1.0, 0.1]])
    weights["fit.step"] = torch.tensor([[0.1, 0.02]] * len(CHANNELS))
    weights["fit.temperature"] = torch.tensor([0.25, 0.12])
    for name in ("filter", "detail"):
        weights |= init_filter(name, 3 + sum(CHANNELS[:2]), 5, generator)
    weights |= init_between("detail", 5, 2, generator)
    for name, out in (("filter", 3), ("detail", 12)):
        weights[f"{name}.out"] = torch.randn(out, 5, 3, 3, generator=generator) * 0.1
        weights[f"{name}.in_bias"] = torch.randn(5, 3, generator=generator) * 0.1
    weights["detail.mid"] = torch.randn(10, 5, 3, 3, generator=generator) * 0.2
    weights["detail.mid_bias"] = torch.randn(10, generator=generator) * 0.1
    return weights | init_rate(CHANNELS, 8, 5, 4, generator) | init_analysis(CHANNELS, 6, generator)


def make_field_prior(folder: Path) -> Prior:
    """A prior with fields at strides 1, 2 and 4."""
    weights = field_weights()
    tensors = {k: v.numpy() for k, v in weights.items() if not k.startswith("rate.")} | to_integers(weights)
    architecture = Architecture(OMEGAS, coordinates=False, channels=CHANNELS)
    return save_prior(folder / "fields.safetensors", "fields", architecture, tensors)


def make_post_prior(folder: Path) -> Prior:
    """The prior of `make_field_prior` with a post-filter of 4 features."""
    prior, generator = make_field_prior(folder), torch.Generator().manual_seed(2)
    shapes = {"in": (4, 6, 3, 3), "in_bias": (4, 3), "mid": (8, 4, 3, 3), "mid_bias": (8,), "out": (3, 4, 3, 3)}
    sizes = {"in": 0.2, "in_bias": 0.1, "mid": 0.2, "mid_bias": 0.1, "out": 0.1}
    post = {f"post.{k}": (torch.randn(shape, generator=generator) * sizes[k]).numpy() for k, shape in shapes.items()}
    tensors = {**prior.tensors, **post, "post.out_bias": np.full(3, 0.01, np.float32)}
    return save_prior(folder / "post.safetensors", "post", prior.architecture, tensors)


def make_expecting_prior(folder: Path) -> Prior:
    """The prior of `make_field_prior`, which expects something of each change and has units of its own for them."""
    prior, rng = make_field_prior(folder), np.random.default_rng(1)
    own = dict[str, NDArray[Any]]()
    for kind, count in zip(("filter", "rate"), delta_counts(prior.tensors), strict=True):
        own[f"deltas.{kind}"] = rng.integers(1, 1 << 16, (3, count)).astype(np.uint16)
        own[f"deltas.{kind}_unit"] = rng.integers(-3, 4, count).astype(np.int8)
    return save_prior(folder / "expecting.safetensors", "expecting", prior.architecture, {**prior.tensors, **own})


def make_network_prior(folder: Path) -> Prior:
    """A sparse prior of coordinates alone, half of whose hidden weights are pruned."""
    generator = torch.Generator().manual_seed(1)
    tensors = {k: v.numpy() for k, v in init_siren(2, (12, 12), 3, (20.0, 20.0), generator).items()}
    mask = (torch.rand(12, 12, generator=generator) < 0.5).numpy()
    tensors["siren.1.weight"] = tensors["siren.1.weight"] * mask
    tensors["siren.1.mask"] = mask.astype(np.uint8)
    return save_prior(folder / "network.safetensors", "network", Architecture((20.0, 20.0)), tensors)


@pytest.fixture(scope="session")
def field_prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return make_field_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="session")
def post_prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return make_post_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="session")
def expecting_prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return make_expecting_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="session")
def network_prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return make_network_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """A smooth coloured picture with an edge, 22 high and 37 wide."""
    y, x = np.mgrid[0:22, 0:37]
    red = 128 + 90 * np.sin(x / 6) * np.cos(y / 5)
    green = np.where(x + y > 30, 200, 60)
    blue = 255 * x / 37
    return np.stack([red, green, blue], -1).clip(0, 255).astype(np.uint8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU need one."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def write_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """A PNG of the pixels."""
    from PIL import Image

    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(params=["compiled", "plain"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that hold with and without what a C compiler has made."""
    if request.param == "plain":
        monkeypatch.setattr(native, "_kernels", None)
    elif not native.available():
        pytest.skip("there was no C compiler when the package was installed")


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tape]]:
    """All that is recorded, on tape: what is compiled is left out, a CPU asks no more than a GPU, with one thread."""
    tapes, threads = list[Tape](), torch.get_num_threads()

    def kept(compute: Callable[[], T]) -> tuple[Tape, T]:
        tape, results = record(compute)
        tapes.append(tape)
        return tape, results

    monkeypatch.setattr(native, "_kernels", None)
    monkeypatch.setattr(graphs, "RECORDS", "cpu")
    monkeypatch.setattr(graphs, "record", kept)
    monkeypatch.setattr(objective, "_counts", lambda plane: True)
    torch.set_num_threads(1)  # what others do is not on tape
    yield tapes
    torch.set_num_threads(threads)
