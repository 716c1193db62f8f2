"""What is compiled says what PyTorch says, and refuses arrays that it could not read safely."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from inrcodec import native
from inrcodec.fit import noisy_round

try:
    from inrcodec import _kernels
except ModuleNotFoundError:
    pytest.skip("there was no C compiler when the package was installed", allow_module_level=True)


def convolved(planes: Tensor, kernel: Tensor, *, out: Tensor | None = None, **others: Tensor | bool) -> Tensor:
    """`native.convolved` of tensors."""
    given = {name: other.numpy() if isinstance(other, Tensor) else other for name, other in others.items()}
    into = None if out is None else out.numpy()
    return torch.from_numpy(native.convolved(planes.numpy(), kernel.numpy(), out=into, **given))  # type: ignore[arg-type]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.mark.parametrize("places", [1, 15, 16, 17, 300])
@pytest.mark.parametrize("units", [(5,), (8, 3), (4, 6, 2)])
def test_sines_and_their_gradient(places: int, units: tuple[int, ...]) -> None:
    x = (3 * random(7, places)).requires_grad_()
    sizes = [7, *units]
    pairs = [(random(rows, inner), random(rows)) for inner, rows in zip(sizes, units, strict=False)]
    out, skip, bias = random(3, units[-1]), random(3, 7, seed=1), random(3)
    h = x
    for matrix, shift in pairs:
        h = torch.sin(matrix @ h + shift[:, None])
    expected = out @ h + skip @ x + bias[:, None]
    upstream = random(3, places)
    (by_x,) = torch.autograd.grad(expected, x, upstream)

    forwards = [part for pair in pairs for part in pair] + [torch.cat([out, skip], 1), bias]
    given = x.detach().numpy(), [part.numpy() for part in forwards]
    cosines = np.empty((sum(units), places), np.float32)
    values = native.sines(*given, cosines)
    assert np.array_equal(values, native.sines(*given))
    assert np.allclose(values, expected.detach(), atol=1e-4)
    backwards = [out.T, *(matrix.T for matrix, _ in pairs[:0:-1]), torch.cat([pairs[0][0].T, skip.T], 1)]
    found = native.sines_backward(upstream.numpy(), [matrix.contiguous().numpy() for matrix in backwards], cosines)
    assert np.allclose(found, by_x, atol=1e-4 * float(by_x.abs().max()))


@pytest.mark.parametrize("largest", [500, 9e3, 3e6])
def test_sines_of_large_angles(largest: float) -> None:
    x = np.linspace(-1, 1, 997, dtype=np.float32)[None] * np.float32(largest)
    zero = np.zeros(1, np.float32)
    layers = [np.ones((1, 1), np.float32), zero, np.array([[1, 0]], np.float32), zero]
    cosines = np.empty_like(x)
    values = native.sines(x, layers, cosines)
    assert np.allclose(values, np.sin(x.astype(float)), atol=1e-4)
    assert np.allclose(cosines, np.cos(x.astype(float)), atol=1e-4)


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
    kept = random(*expected.shape, seed=1)
    where = convolved(planes, kernel, kept=kept)
    assert torch.allclose(where, (expected - bias[:, None, None]) * (kept > 0), atol=1e-4)
    whole = torch.full((features, 11, width + 4), 7.0)
    convolved(planes, kernel, bias=bias, out=whole[:, 1:-1, 2:-2])
    assert torch.allclose(whole[:, 1:-1, 2:-2], expected, atol=1e-4)
    assert (whole[:, 0] == 7).all() and (whole[:, :, :2] == 7).all() and (whole[:, :, -2:] == 7).all()


def test_arrays_that_do_not_fit_are_refused() -> None:
    planes, kernel, out = (
        np.zeros((4, 6, 9), np.float32),
        np.zeros((2, 4, 3, 3), np.float32),
        np.zeros((2, 4, 7), np.float32),
    )
    _kernels.convolve(planes, kernel, None, None, False, out)
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
            _kernels.convolve(a, b, None, None, False, c)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        _kernels.convolve(planes, kernel, None, None, False, out)
    x, layers = np.zeros((3, 5), np.float32), [np.zeros((2, 3)), np.zeros(2), np.zeros((3, 5)), np.zeros(3)]
    parts = tuple(part.astype(np.float32) for part in layers)
    _kernels.siren(x, parts, np.zeros((3, 5), np.float32), np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="expected size 5, found 4"):
        _kernels.siren(x, parts, np.zeros((3, 5), np.float32), np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="layers"):
        _kernels.siren(x, parts[:2], np.zeros((3, 5), np.float32), np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="expected 11 arrays"):
        _kernels.rate(planes, None, parts, None, False, planes.copy(), planes.copy())


def test_cells_outside_of_their_arrays_are_refused() -> None:
    padded, above = np.zeros((1, 30)), np.zeros((4, 8), np.float32)
    parts = (np.zeros((11, 8)), np.zeros((8, 5)), np.zeros(5), np.zeros((5, 2)), *np.zeros((3, 2)))
    offsets, places, cells = np.arange(-11, 0), np.array([11, 29]), np.array([0, 3])
    mean, row = native.symbols(padded, places, offsets, above, cells, parts)
    assert not mean.any() and not row.any()
    for at, which in ((np.array([10, 29]), cells), (places + 12, cells), (places, cells + 1), (places, cells - 1)):
        with pytest.raises(ValueError, match="outside"):
            native.symbols(padded, at, offsets, above, which, parts)
