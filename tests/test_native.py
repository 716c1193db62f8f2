"""What is compiled says what PyTorch says, and refuses arrays that it could not read safely."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from inrcodec import native
from inrcodec.adam import adam_step, bits_slope
from inrcodec.fit import noisy_round
from inrcodec.lattice import interpolation_matrix, near_cells
from inrcodec.rate import joined

try:
    from inrcodec import _kernels
except ModuleNotFoundError:
    pytest.skip("there was no C compiler when the package was installed", allow_module_level=True)


def convolved(
    planes: Tensor, kernel: Tensor, bias: Tensor | None = None, rectified: bool = False, residual: bool = False
) -> Tensor:
    """`native.convolved` of tensors."""
    own = None if bias is None else bias.numpy()
    return torch.from_numpy(native.convolved(planes.numpy(), kernel.numpy(), own, rectified, residual))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


Pairs = list[tuple[Tensor, Tensor]]


def network(channels: int, units: tuple[int, ...], places: int) -> tuple[Tensor, Pairs, Tensor, Tensor, Tensor]:
    """Inputs (channels, places), matrix and bias of each sine layer, the last matrix, the skip and their bias."""
    sizes = [channels, *units]
    pairs = [(random(rows, inner), random(rows)) for inner, rows in zip(sizes, units, strict=False)]
    return random(channels, places), pairs, random(3, units[-1]), random(3, channels, seed=1), random(3)


def sine_network(x: Tensor, pairs: Pairs, out: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
    """What it says, by torch."""
    h = x
    for matrix, shift in pairs:
        h = torch.sin(matrix @ h + shift[:, None])
    return out @ h + skip @ x + bias[:, None]


@pytest.mark.parametrize("places", [1, 15, 16, 17, 300])
@pytest.mark.parametrize("units", [(5,), (8, 3), (4, 6, 2)])
def test_sines(places: int, units: tuple[int, ...]) -> None:
    x, pairs, out, skip, bias = network(7, units, places)
    given = [part.numpy() for part in (*sum(pairs, ()), torch.cat([out, skip], 1), bias)]
    assert np.allclose(native.sines(x.numpy(), given), sine_network(x, pairs, out, skip, bias), atol=1e-4)


@pytest.mark.parametrize("units", [(5,), (8, 3), (4, 6, 2)])
@pytest.mark.parametrize("around", [(0, 0, 0, 0), (2, 2, 2, 2), (1, 0, 0, 2)])
@pytest.mark.parametrize("side", [(1, 1), (3, 17), (9, 50), (2, 300)])
def test_a_tile_and_its_gradient(
    units: tuple[int, ...], around: tuple[int, int, int, int], side: tuple[int, int]
) -> None:
    top, left, below, right = around  # pixels of which there are none
    (height, width), channels, seen, features = side, 6, 7, 10
    rows, columns = height + 4 - top - below, width + 4 - left - right
    flat, pairs, out, skip, bias = network(channels, units, rows * columns)
    x = flat.view(channels, rows, columns).requires_grad_()
    first, first_bias, last, last_bias = (
        random(features, seen, 3, 3) / 8,
        random(features),
        random(3, features, 3, 3),
        random(3),
    )
    target, weight = random(3, height, width), torch.rand(height, width)

    values = sine_network(x.flatten(1), pairs, out, skip, bias).view(3, rows, columns)
    padded = functional.pad(torch.cat([values, x[: seen - 3]])[None], (left, right, top, below), mode="replicate")
    hidden = functional.conv2d(padded, first, first_bias).relu()
    picture = functional.conv2d(hidden, last, last_bias)[0] + padded[0, :3, 2:-2, 2:-2]
    error = 0.7 * ((picture - target).square() * weight).sum()
    (by_x,) = torch.autograd.grad(error, x)
    picture, error = picture.detach(), error.detach()

    matrices = [matrix for matrix, _ in pairs]
    parts = (
        [*sum(pairs, ()), torch.cat([out, skip], 1), bias],
        [out.T, *(matrix.T for matrix in matrices[:0:-1]), torch.cat([matrices[0].T, skip.T], 1)],
        [first, first_bias, last, last_bias, *(k.transpose(0, 1).flip(2, 3) for k in (last, first))],
    )
    model = native.Restored(*(tuple(part.contiguous().numpy() for part in each) for each in parts))
    given, place = x.detach().numpy(), (top, left, height, width)
    assert np.allclose(model.picture(given, place), picture, atol=1e-3)
    found, by_given = model.error_and_slopes(given, place, target.numpy(), weight.numpy(), 0.7)
    assert found == pytest.approx(float(error), rel=1e-4)
    assert np.allclose(by_given, by_x, atol=1e-4 * float(by_x.abs().max()))
    plain, _ = model.error_and_slopes(given, place, target.numpy(), None, 1.0)
    assert plain == pytest.approx(float((picture - target).square().sum()), rel=1e-4)
    for no_place in ((top + 1, left, height, width), (top, left, height + 3, width), (top, 3, height, width + 1)):
        with pytest.raises(ValueError, match="fit|expected"):
            model.picture(given, no_place)


@pytest.mark.parametrize("largest", [500, 9e3, 3e6])
def test_sines_of_large_angles(largest: float) -> None:
    x = np.linspace(-1, 1, 997, dtype=np.float32)[None] * np.float32(largest)
    zero = np.zeros(1, np.float32)
    layers = [np.ones((1, 1), np.float32), zero, np.array([[1, 0]], np.float32), zero]
    assert np.allclose(native.sines(x, layers), np.sin(x.astype(float)), atol=1e-4)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_soft_rounding_and_its_slopes(temperature: float) -> None:
    values, noise = (5 * random(83)).requires_grad_(), torch.rand(83)
    expected = noisy_round(values, torch.tensor(temperature), noise)
    (slopes,) = torch.autograd.grad(expected.sum(), values)
    found = native.rounded(values.detach().numpy(), noise.numpy(), temperature)
    assert np.allclose(found[0], expected.detach(), atol=1e-4)
    assert np.allclose(found[1], slopes, rtol=1e-3, atol=1e-4 * float(slopes.max()))


@pytest.mark.parametrize("width", [1, 5, 16, 18, 83])
@pytest.mark.parametrize("features", [1, 2, 3, 7])
def test_convolutions(width: int, features: int) -> None:
    planes, kernel, bias = random(4, 11, width + 2), random(features, 4, 3, 3), random(features)
    expected = functional.conv2d(planes[None], kernel, bias)[0]
    assert torch.allclose(convolved(planes, kernel, bias=bias), expected, atol=1e-4)
    assert torch.allclose(convolved(planes, kernel, bias=bias, rectified=True), expected.relu(), atol=1e-4)
    square = random(4, 4, 3, 3)
    expected = functional.conv2d(planes[None], square)[0].relu() + planes[:, 1:-1, 1:-1]
    assert torch.allclose(convolved(planes, square, rectified=True, residual=True), expected, atol=1e-4)


@pytest.mark.parametrize("width", [1, 2, 5, 33, 96])
@pytest.mark.parametrize("height", [1, 4, 7])
def test_features_of_a_level_and_the_way_back(height: int, width: int) -> None:
    features, hidden, channels = 6, 8, 3
    rows, columns = (height + 1) // 2, (width + 1) // 2
    sizes = {"causal": (hidden, 33), "mid": (5, hidden), "mid_bias": (5,), "head": (6, 5), "head_bias": (6,)}
    sizes |= {"trunk": (features, 27), "trunk_bias": (features,)}
    sizes |= {"trunk_above": (4 * features, features), "trunk_above_bias": (4 * features,)}
    weights = {f"rate.1.{name}": random(*size) for name, size in sizes.items()}
    own = native.Rate.of({name: part.numpy() for name, part in weights.items()}, 1, np.zeros(hidden, np.float32))
    values, coarser = random(channels, height, width).requires_grad_(), random(features, rows, columns).requires_grad_()
    kernel = weights["rate.1.trunk"].view(features, channels, 3, 3)
    phases = weights["rate.1.trunk_above"] @ coarser.flatten(1) + weights["rate.1.trunk_above_bias"][:, None]
    above = joined(phases.view(features, 2, 2, rows, columns))[:, :height, :width]
    around = functional.conv2d(values[None], kernel, weights["rate.1.trunk_bias"], padding=1)[0]
    upstream = random(features, height, width, seed=1)
    for given in (coarser, None):
        expected = torch.relu(around if given is None else around + above)
        gradients = torch.autograd.grad(expected, [values, coarser], upstream, retain_graph=True, allow_unused=True)
        out = np.empty(expected.shape, np.float32)
        own.features(values.detach().numpy(), None if given is None else given.detach().numpy(), out)
        assert np.allclose(out, expected.detach(), atol=1e-4)
        by_values, by_coarser = np.ones(values.shape, np.float32), np.ones(coarser.shape, np.float32)
        own.features_backward(out, upstream.numpy(), by_values, None if given is None else by_coarser)
        assert np.allclose(by_values - 1, gradients[0], atol=1e-4)
        assert given is None or np.allclose(by_coarser - 1, gradients[1], atol=1e-4)


@pytest.mark.parametrize("level", [0, 1, 3])
@pytest.mark.parametrize(("rows", "columns", "scale"), [(1, 1, 1), (7, 30, 1), (5, 9, 4), (61, 3, 0.3)])
def test_values_between_cells_and_the_way_back(level: int, rows: int, columns: int, scale: float) -> None:
    axes = []
    for samples in (rows, columns):
        pixels = max(1, round(scale * samples))
        count, at = -(-pixels >> level), (np.arange(samples) + 0.5) * pixels / samples
        kernel = level, count, 0.4 if level else 0.0, 0.3
        axes.append((count, *interpolation_matrix(at, *kernel, np.float64), *near_cells(at, *kernel)))
    (height, over_rows, down, own_rows, near_rows), (width, over_columns, across, own_columns, near_columns) = axes
    values, gains = random(3, height, width).numpy(), np.array([0.5, 2, -1], np.float32)
    assert (own_rows, own_columns) == (over_rows, over_columns)

    out, upstream = np.empty((3, rows, columns), np.float32), random(3, rows, columns, seed=1).numpy()
    near = values[:, own_rows, own_columns]
    native.interpolate(near, gains, near_rows, near_columns, out)
    assert np.allclose(out, down @ (near * gains[:, None, None]) @ across.T, atol=1e-5)
    by_values = np.ones_like(near)
    native.interpolate_back(upstream, gains, near_rows, near_columns, by_values)
    assert np.allclose(by_values - 1, gains[:, None, None] * (down.T @ upstream @ across), atol=1e-4)

    cells, weights = near_rows
    for refused in ((cells + height, weights), (cells - 1 - cells.min(), weights), (cells, weights[:, :3]), (cells,)):
        with pytest.raises(ValueError, match="outside|expected"):
            native.interpolate(near, gains, refused, near_columns, out)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected"):
        native.interpolate_back(upstream[:2], gains, near_rows, near_columns, by_values)


def test_arrays_that_do_not_fit_are_refused() -> None:
    planes, kernel, out = (
        np.zeros((4, 6, 9), np.float32),
        np.zeros((2, 4, 3, 3), np.float32),
        np.zeros((2, 4, 7), np.float32),
    )
    _kernels.convolve(planes, kernel, None, False, False, out)
    refused = [
        (planes.astype(np.float64), kernel, out),
        (planes[0], kernel, out),
        (planes[:, :, ::2], kernel, out),
        (planes[:3], kernel, out),
        (planes, kernel[:, :, :2], out),
        (planes, kernel, out[:, :, :6]),
        (planes, kernel, out[:1]),
    ]
    for a, b, c in refused:
        with pytest.raises(ValueError, match="expected"):
            _kernels.convolve(a, b, None, False, False, c)
    with pytest.raises(ValueError, match="expected"):  # what is seen cannot be added to fewer planes
        _kernels.convolve(planes, kernel, None, False, True, out)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        _kernels.convolve(planes, kernel, None, False, False, out)
    x, layers = np.zeros((3, 5), np.float32), [np.zeros((2, 3)), np.zeros(2), np.zeros((3, 5)), np.zeros(3)]
    parts = tuple(part.astype(np.float32) for part in layers)
    values = np.zeros((3, 5), np.float32)
    _kernels.siren(x, parts, values)
    with pytest.raises(ValueError, match="expected size 5, found 4"):
        _kernels.siren(x, parts, values[:, :4].copy())
    with pytest.raises(ValueError, match="layers"):
        _kernels.siren(x, parts[:2], values)
    with pytest.raises(ValueError, match="expected 11 arrays"):
        _kernels.rate(planes, None, parts, None, False, planes.copy(), planes.copy())


def test_arrays_of_adapting_that_do_not_fit_are_refused() -> None:
    parts = [random(5, 4, 3, 3).numpy(), random(5).numpy(), random(3, 5, 3, 3).numpy(), random(3).numpy()]
    padded, missing, weight = random(4, 10, 13).numpy(), random(3, 6, 9).numpy(), random(6, 9).numpy()
    slopes = [np.zeros_like(part) for part in parts]
    native.filter_slopes(padded, missing, weight, parts, 1.0, slopes)
    refused = [
        (padded[:, :9].copy(), missing, weight, parts, slopes),
        (padded, missing[:2].copy(), weight, parts, slopes),
        (padded, missing, weight[:5].copy(), parts, slopes),
        (padded, missing, weight, [*parts[:3], parts[3][:2]], slopes),
        (padded, missing, weight, parts, slopes[:3]),
        (padded, missing, weight, parts, [*slopes[:3], slopes[3][:2]]),
    ]
    for *arrays, own, by in refused:
        with pytest.raises(ValueError, match="expected"):
            native.filter_slopes(*arrays, own, 1.0, by)  # type: ignore[arg-type, call-arg]
    descent = native.Descent.of(np.zeros(7, np.float32), 4.0)
    descent.step(np.ones(7, np.float32), 0.1)
    assert np.allclose(descent.changes, -0.1)
    with pytest.raises(ValueError, match="expected size 7, found 6"):
        descent.step(np.ones(6, np.float32), 0.1)


def test_a_descent_is_adam_on_the_gradient_and_the_changes_own_bits() -> None:
    changes, gradients = random(83).sign() * torch.rand(83), [random(83, seed=seed) for seed in range(5)]
    descent, state = native.Descent.of(changes.numpy(), 4.0), (changes, torch.zeros(83), torch.zeros(83))
    for number, gradient in enumerate(gradients, start=1):
        whole = gradient + bits_slope(state[0], 4.0)
        state = adam_step(state, whole, torch.tensor(0.01), torch.tensor(float(number)))
        descent.step(gradient.numpy(), 0.01)
    for found, expected in zip(descent.state, state, strict=True):
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_cells_outside_of_their_arrays_are_refused() -> None:
    padded, above = np.zeros((1, 30)), np.zeros((4, 8), np.float32)
    parts = (np.zeros((11, 8)), np.zeros((8, 5)), np.zeros(5), np.zeros((5, 2)), *np.zeros((3, 2)))
    offsets, places, cells = np.arange(-11, 0), np.array([11, 29]), np.array([0, 3])
    mean, row = native.symbols(padded, places, offsets, above, cells, parts)
    assert not mean.any() and not row.any()
    for at, which in ((np.array([10, 29]), cells), (places + 12, cells), (places, cells + 1), (places, cells - 1)):
        with pytest.raises(ValueError, match="outside"):
            native.symbols(padded, at, offsets, above, which, parts)


def test_a_decoder_writes_the_values_of_cells_that_lie_in_their_arrays() -> None:
    padded, above = np.zeros((1, 30)), np.zeros((4, 8), np.float32)
    most = np.array([0, 1.0])  # rows of the table 0..15, 16..31
    parts = (np.zeros((11, 8)), np.zeros((8, 5)), np.zeros(5), np.zeros((5, 2)), np.array([0, 1.0]), np.zeros(2), most)
    offsets, places, cells, ends = np.arange(-11, 0), np.array([11, 29]), np.array([0, 3]), np.array([0, 1, 2])
    bounds = np.tile(np.array([0, 1 << 22, 1 << 23, 3 << 22, 1 << 24], np.int32), (32, 1))  # of 4 symbols, alike
    tables = bounds, np.zeros(32, np.int64), np.array([0, 1 << 24], np.int32)
    decoder = native.Decoder.of(np.array([(2 << 30) + (1 << 28)], np.uint32))  # symbol 2, then symbol 1
    decoder.values(padded, ends, places, offsets, above, cells, parts, tables)
    assert padded.nonzero()[1].tolist() == [11] and padded[0, 11] == 1  # the symbol less one, and less one again
    assert decoder.maybe_exhausted()
    with pytest.raises(ValueError, match="nothing"):
        native.Decoder.of(np.full(2, 2**32 - 1, np.uint32)).values(
            padded, ends, places, offsets, above, cells, parts, tables
        )
    refused: list[tuple[tuple[Any, ...], str]] = [
        ((padded, ends, places + 12, offsets, above, cells, parts, tables), "outside"),
        ((padded, ends, places, offsets, above, cells + 1, parts, tables), "outside"),
        ((padded, ends + 1, places, offsets, above, cells, parts, tables), "follow"),
        ((padded, ends[::-1].copy(), places, offsets, above, cells, parts, tables), "follow"),
        ((padded, ends, places, offsets, above, cells, (*parts[:6], most + 1), tables), "rows"),
        ((padded, ends, places, offsets, above, cells, parts, (*tables[:1], tables[1][:9], tables[2])), "expected"),
    ]
    for arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            decoder.values(*arguments)
