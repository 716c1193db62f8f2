"""Global magnitude pruning, against sorting by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from inrcodec.errors import OptionError
from inrcodec.prune import apply_masks, count_surviving, full_masks, prune, useful


def network() -> dict[str, Tensor]:
    """Ten weights in two layers, magnitudes 1..10 scattered over both, and biases smaller than all."""
    return {
        "siren.0.weight": torch.tensor([[9.0, -1.0], [3.0, -7.0], [5.0, 10.0]]),
        "siren.0.bias": torch.tensor([0.1, 0.0, -0.1]),
        "siren.1.weight": torch.tensor([[-2.0, 8.0], [6.0, -4.0]]),
        "siren.1.bias": torch.tensor([0.0, 0.2]),
    }


def test_full_masks_cover_the_weights_and_not_the_biases() -> None:
    masks = full_masks(network())
    assert set(masks) == {"siren.0.weight", "siren.1.weight"}
    assert count_surviving(masks) == (10, 10)


def test_prune_removes_the_smallest_weights_of_all_layers_together() -> None:
    parameters = network()
    masks = prune(parameters, full_masks(parameters), 0.4)
    assert masks["siren.0.weight"].tolist() == [[True, False], [False, True], [True, True]]
    assert masks["siren.1.weight"].tolist() == [[False, True], [True, False]]


def test_each_round_removes_the_fraction_of_what_survived_the_last() -> None:
    parameters = {"siren.0.weight": torch.randn(40, 25, generator=torch.Generator().manual_seed(0))}
    masks, counts = full_masks(parameters), []
    for _ in range(4):
        smaller = prune(parameters, masks, 0.2)
        assert not (smaller["siren.0.weight"] & ~masks["siren.0.weight"]).any()  # masks only shrink
        masks = smaller
        counts.append(count_surviving(masks)[0])
    assert counts == [800, 640, 512, 410]  # 512 - int(102.4)


def test_removed_weights_stay_removed_when_they_have_grown() -> None:
    parameters = network()
    masks = prune(parameters, full_masks(parameters), 0.2)
    parameters["siren.0.weight"][0, 1] = 100.0  # the smallest, removed
    again = prune(parameters, masks, 0.25)
    assert not again["siren.0.weight"][0, 1]
    assert count_surviving(again) == (6, 10)


def test_of_equal_weights_exactly_the_fraction_goes() -> None:
    parameters = {"siren.0.weight": torch.ones(3, 4), "siren.1.weight": torch.ones(2, 3)}
    masks = prune(parameters, full_masks(parameters), 0.5)
    assert count_surviving(masks) == (9, 18)
    assert prune(parameters, full_masks(parameters), 0.5)["siren.0.weight"].equal(masks["siren.0.weight"])


def test_prune_leaves_its_arguments_as_they_are() -> None:
    parameters = network()
    masks = full_masks(parameters)
    prune(parameters, masks, 0.5)
    assert count_surviving(masks) == (10, 10)


def test_apply_masks_gives_positive_zeros_and_touches_nothing_else() -> None:
    parameters = network()
    masks = prune(parameters, full_masks(parameters), 0.4)
    masked = apply_masks(parameters, masks)
    removed = masked["siren.0.weight"][~masks["siren.0.weight"]]
    assert removed.view(torch.int32).eq(0).all()  # +0.0, bit for bit
    assert masked["siren.0.weight"][0, 0] == 9
    assert masked["siren.0.bias"].equal(parameters["siren.0.bias"])


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_prune_rejects_fractions_outside_zero_to_one(fraction: float) -> None:
    with pytest.raises(OptionError):
        prune(network(), full_masks(network()), fraction)


def test_useful_weights_are_those_that_paths_lead_through() -> None:
    draw = np.random.default_rng(2)
    layers = [(draw.random(shape) < 0.3).astype(int) for shape in ((9, 2), (8, 9), (7, 8), (3, 7))]  # (out, in) each
    masks = useful({f"siren.{i}.weight": torch.tensor(layer == 1) for i, layer in enumerate(layers)})
    for i, layer in enumerate(layers):
        before, after = np.ones(2, int), np.ones(3, int)  # how many paths lead to a unit, and from it
        for other in layers[:i]:
            before = other @ before
        for other in layers[:i:-1]:
            after = after @ other
        assert (masks[f"siren.{i}.weight"].numpy() == (after[:, None] * layer * before > 0)).all()
    assert 0 < count_surviving(masks)[0] < sum(layer.sum() for layer in layers)
