import pytest
import torch
from tape import Tape
from torch import Tensor

from inrcodec.graphs import Recorded, forget, side_by_side


def slope(weights: dict[str, Tensor], rows: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Of a small function that has a graph of its own."""
    leaf = weights["a"].detach().requires_grad_()
    loss = torch.stack([(row @ leaf).sin().sum() for row in rows]).sum()
    return loss.detach(), list(torch.autograd.grad(loss, [leaf]))


def inputs(seed: int, rows: int, device: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(rows, 5, generator=generator).to(device) for _ in range(2)]
    return {"a": torch.randn(5, 3, generator=generator).to(device)}, drawn


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_what_is_recorded_says_what_the_function_says(device: str) -> None:
    """Of other values and other shapes than it was recorded with."""
    recorded = Recorded(slope)
    for seed, rows in ((1, 4), (2, 4), (3, 7), (4, 4)):
        loss, (gradient,) = recorded(*inputs(seed, rows, device))
        expected, (by_a,) = slope(*inputs(seed, rows, device))
        assert torch.allclose(loss, expected) and torch.allclose(gradient, by_a)


def test_what_looks_at_values_is_called_instead(taped: list[Tape]) -> None:
    recorded = Recorded(lambda x: x * float(x.sum()))
    for factor in (1.0, 2.0):
        x = torch.arange(6.0) * factor
        assert torch.allclose(recorded(x), x * x.sum())
    assert not taped


def test_what_is_forgotten_is_called(taped: list[Tape]) -> None:
    calls = list[Tensor]()

    def doubled(x: Tensor) -> Tensor:
        calls.append(x)
        return x * 2

    recorded, x = Recorded(doubled), torch.ones(3)
    assert torch.equal(recorded(x), x * 2) and torch.equal(recorded(x + 1), x * 4)
    assert len(calls) == len(taped) == 1
    forget()
    assert torch.equal(recorded(x + 2), x * 6)
    assert len(calls) == 2 and len(taped) == 1


@pytest.mark.cuda
def test_what_is_forgotten_gives_its_memory_back() -> None:
    recorded = Recorded(lambda x: (x * 2).cumsum(0))
    x = torch.ones(1 << 22, device="cuda")
    expected = recorded(x).clone()
    before = torch.cuda.memory_allocated()
    forget()
    assert torch.cuda.memory_allocated() < before
    assert torch.equal(recorded(x), expected)


@pytest.mark.cuda
def test_a_function_that_looks_at_values_is_called() -> None:
    recorded = Recorded(lambda x: x * float(x.sum()))
    for factor in (1.0, 2.0):
        x = torch.arange(6.0, device="cuda") * factor
        assert torch.allclose(recorded(x), x * x.sum())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_what_is_done_side_by_side_is_what_each_does(device: str) -> None:
    rows = [torch.arange(12.0, device=device) + start for start in range(11)]

    def compute(rows: list[Tensor]) -> list[Tensor]:
        return side_by_side([lambda row=row: row.sin().cumsum(0) for row in rows], rows[0].device)  # type: ignore[misc]

    recorded = Recorded(compute)
    for factor in (1.0, 2.0, 3.0):
        found = recorded([row * factor for row in rows])
        assert all(torch.allclose(a, (row * factor).sin().cumsum(0)) for a, row in zip(found, rows, strict=True))
