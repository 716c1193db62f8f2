import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHANNELS
from numpy.typing import NDArray
from tape import Tape, draws
from torch.utils._python_dispatch import TorchDispatchMode

from inrcodec import graphs, native
from inrcodec.deltas import pack_deltas
from inrcodec.errors import OptionError
from inrcodec.fit import (
    ADAPT_AFTER,
    QUIET,
    Aim,
    Given,
    fit_network,
    fit_together,
    noises,
    refine,
    schedule,
    soft_round,
    torch_device,
)
from inrcodec.lattice import field_shapes, seen_cells, visible_cells
from inrcodec.objective import objective
from inrcodec.options import Device
from inrcodec.prior import Prior
from inrcodec.tile import FieldModel

LEVELS = range(len(CHANNELS))
CPU = torch.device("cpu")


def test_steps_lower_the_objective(field_prior: Prior, picture: NDArray[np.uint8]) -> None:
    model = FieldModel.of(field_prior, CPU)
    target = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 - 0.5
    q = torch.zeros(1, 1)
    start = [torch.zeros(1, *s) for s in field_shapes(22, 37, CHANNELS)]
    found = []
    for steps in (0, 10, 60):
        generator = torch.Generator().manual_seed(0)
        (fields,) = refine([Aim(model, target, q, 200.0)], [[z.clone() for z in start]], steps, [generator])
        found.append(float(objective(model, [z.round() for z in fields], target, q, 200.0)[0]))
    assert found[0] > found[1] > found[2]


def test_a_fit_is_a_function_of_its_seed(field_prior: Prior, picture: NDArray[np.uint8]) -> None:
    ((a, _),), ((b, _),), ((c, _),) = (
        fit_together(field_prior, [Given(picture, 90)], 4, CPU, seed) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert any(not np.array_equal(x, y) for x, y in zip(a, c, strict=True))


@pytest.mark.parametrize("steps", [0, 7])
def test_pictures_are_fitted_together_as_each_is_alone(
    field_prior: Prior, picture: NDArray[np.uint8], steps: int
) -> None:
    seen, coded = (
        np.arange(22 * 37).reshape(22, 37) % 5 > 0,
        [np.ones((-(-22 >> i), -(-37 >> i)), bool) for i in LEVELS],
    )
    for level, mask in enumerate(coded):
        mask[:, 20 >> level :] = False
    pictures = [
        Given(picture, 60),
        Given(picture[::-1, ::-1].copy(), 90),
        Given(255 - picture, 60, seen),
        Given(picture.astype(np.float32), 60, coded=coded),
        Given(picture[:13, 5:].copy(), 60),
    ]
    alone = [fit_together(field_prior, [given], steps, CPU)[0] for given in pictures]
    assert steps == 0 or any(deltas.filter or deltas.rate is not None for _, deltas in alone)
    for chosen in (slice(0, 2), slice(None), slice(4, None, -1)):
        together = fit_together(field_prior, pictures[chosen], steps, CPU)
        for (fields, deltas), (expected, own) in zip(together, alone[chosen], strict=True):
            assert all(map(np.array_equal, fields, expected))
            assert pack_deltas(deltas, field_prior.tensors) == pack_deltas(own, field_prior.tensors)


def test_progress_counts_the_steps(field_prior: Prior, picture: NDArray[np.uint8]) -> None:
    seen: list[tuple[int, int]] = []
    fit_together(field_prior, [Given(picture, 90)], 3, CPU, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often a number is read from a tensor: what makes the host wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_steps_read_nothing_from_the_device(
    field_prior: Prior, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_kernels", None)  # of CPUs
    target = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 - 0.5
    counts = []
    for weight in (None, torch.ones(1, 1, 22, 37)):
        fields = [torch.zeros(1, *s) for s in field_shapes(22, 37, CHANNELS)]
        with Reads() as reads:  # type: ignore[no-untyped-call]
            refine([Aim(FieldModel.of(field_prior, CPU), target, torch.zeros(1, 1), 200.0, weight)], [fields], 3)
        counts.append(reads.count)
    assert counts[0] == 0
    assert counts[1] > 0  # a CPU is asked where the weight is zero


def test_a_fit_is_the_same_if_its_parts_are_replayed(
    field_prior: Prior, picture: NDArray[np.uint8], taped: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is recorded depends on anything that changes but its arguments."""
    visible = np.ones((22, 37), bool)
    visible[:9, 20:] = False
    others, coded = np.ascontiguousarray(picture[::-1, ::-1]), visible_cells(visible, len(CHANNELS))
    given = [Given(picture, 90), Given(others, 90, seen=visible, coded=coded)]
    replayed = fit_together(field_prior, given, ADAPT_AFTER + 3, CPU)
    assert len(taped) > 6 and not any(map(draws, taped))
    monkeypatch.setattr(graphs, "RECORDS", "cuda")
    expected = fit_together(field_prior, given, ADAPT_AFTER + 3, CPU)
    for (fields, deltas), (own, own_deltas) in zip(replayed, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(fields, own, strict=True))
        assert pack_deltas(deltas, field_prior.tensors) == pack_deltas(own_deltas, field_prior.tensors)


def test_soft_rounding_runs_from_the_identity_to_rounding() -> None:
    x = torch.linspace(-2, 2, 101)
    assert torch.allclose(soft_round(x, torch.tensor(50.0)), x, atol=1e-3)
    away = (x - x.floor() - 0.5).abs() > 0.1
    assert torch.allclose(soft_round(x, torch.tensor(0.01))[away], x.round()[away], atol=1e-3)


def test_noise_of_four_steps_is_a_quarter_apart() -> None:
    drawn = noises([torch.zeros(1, 2, 3, 5)], torch.Generator().manual_seed(0))
    first, second = (torch.stack([next(drawn)[0] for _ in range(4)]) for _ in range(2))
    assert first.min() >= 0 and first.max() < 1
    assert torch.allclose(first.sort(0).values.diff(dim=0), torch.full((3, 1, 2, 3, 5), 0.25), atol=1e-6)
    assert (first - second).abs().min() > 0  # and then drawn anew
    assert 0.2 < first[0].std() < 0.4


def test_a_schedule_follows_the_quality() -> None:
    weights = {"fit.step": torch.tensor([[0.4, 0.1], [0.2, 0.1]]), "fit.temperature": torch.tensor([0.3, 0.1])}
    temperature, sizes = schedule(weights, torch.tensor([[0.0], [0.7]]), 0.5)
    assert temperature.flatten().tolist() == pytest.approx([0.2, 0.2])
    assert sizes.tolist() == [pytest.approx([0.25, 0.15])] * 2  # the same at all without slopes
    weights["fit.step_slope"] = torch.tensor([[0.0, 0.0], [math.log(2), 0.0]])
    weights["fit.temperature_slope"] = torch.tensor([-math.log(3), 0.0])
    temperature, sizes = schedule(weights, torch.tensor([[0.0], [1.0]]), 0.0)
    assert temperature.flatten().tolist() == pytest.approx([0.3, 0.1])
    assert sizes.tolist() == [pytest.approx([0.4, 0.2]), pytest.approx([0.4, 0.4])]


def test_a_network_fit_leaves_pruned_weights_alone_and_lowers_the_error(
    network_prior: Prior, picture: NDArray[np.uint8]
) -> None:
    few, many = (fit_network(network_prior, picture, steps, CPU) for steps in (1, 60))
    assert [len(d) for d in many] == [int(network_prior.mask(i).sum()) + len(network_prior.mask(i)) for i in range(3)]
    assert np.abs(many[1]).max() > np.abs(few[1]).max() > 0


def test_a_network_fit_sees_only_what_is_seen(network_prior: Prior, picture: NDArray[np.uint8]) -> None:
    seen = np.arange(22 * 37).reshape(22, 37) % 3 > 0
    other = np.where(seen[..., None], picture, 255 - picture)
    a, b = (fit_network(network_prior, pixels, 3, CPU, seen=seen) for pixels in (picture, other))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_values_that_nothing_seen_depends_on_stay_zero(field_prior: Prior, picture: NDArray[np.uint8]) -> None:
    seen = np.zeros(picture.shape[:2], bool)
    seen[2:6, 3:8] = True
    ((fields, _),) = fit_together(field_prior, [Given(picture, 200, seen)], 4, CPU)
    masks = seen_cells(seen, QUIET)
    for values, near in zip(fields, masks, strict=True):
        assert not values[:, ~near].any() and values[:, near].any()
    assert not near.all()


def test_cells_that_are_not_coded_stay_zero_at_every_level(field_prior: Prior, picture: NDArray[np.uint8]) -> None:
    seen, coded = np.ones((22, 37), bool), [np.arange(-(-37 >> i)) % 3 > 0 for i in range(len(CHANNELS))]
    seen[0, 0] = False
    masks = [np.tile(mask, (-(-22 >> level), 1)) for level, mask in enumerate(coded)]
    ((fields, _),) = fit_together(field_prior, [Given(picture, 200, seen, masks)], 4, CPU)
    for values, mask in zip(fields[QUIET:], masks[QUIET:], strict=True):
        assert not values[:, ~mask].any() and values[:, mask].any()


def test_a_device_that_is_not_there_is_refused() -> None:
    assert torch_device(Device.CPU) == CPU
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="cuda"):
            torch_device(Device.CUDA)
