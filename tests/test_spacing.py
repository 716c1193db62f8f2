import numpy as np
import pytest
from numpy.typing import NDArray

from inrcodec.lattice import halved
from inrcodec.options import lagrangian, quality_index
from inrcodec.prior import Prior, find_prior
from inrcodec.spacing import best_spacing, cell_index, cell_means


def soft(height: int = 90, width: int = 150) -> NDArray[np.uint8]:
    """Waves that are long, and a slow ramp: four cells in a square say the same."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 60 * np.sin(x / 9 + phase) * np.cos(y / 11) + x / 5 for phase in (0.0, 0.7, 1.9)]
    return np.stack(waves, -1).clip(0, 255).astype(np.uint8)


def test_a_soft_picture_has_wide_cells_and_a_sharp_one_has_not() -> None:
    prior = find_prior("photo")
    checks = np.where(np.indices((90, 150)).sum(0) % 2, 230, 20).astype(np.uint8)
    sharp = np.repeat(checks[..., None], 3, axis=2)
    for pixels, expected in ((soft(), 2), (soft().astype(np.float32), 2), (sharp, 1)):
        for fitted in (True, False):
            assert best_spacing(prior, pixels, quality_index(20), fitted) == expected


@pytest.mark.parametrize("fitted", [True, False])
def test_the_higher_the_quality_the_nearer_the_cells(fitted: bool) -> None:
    prior, noise = find_prior("photo"), np.random.default_rng(1).normal(0, 4, (90, 150, 3))
    pixels = (soft() + noise).clip(0, 255).astype(np.uint8)
    found = [best_spacing(prior, pixels, index, fitted) for index in range(0, 200, 9)]
    assert found == sorted(found, reverse=True) and set(found) == {1, 2}


@pytest.mark.parametrize("quality", [80, 100])
def test_what_would_need_a_lambda_below_the_least_has_cells_of_a_pixel(quality: float) -> None:
    assert best_spacing(find_prior("photo"), soft(), quality_index(quality), True) == 1


def test_without_fields_there_are_no_cells(network_prior: Prior) -> None:
    assert best_spacing(network_prior, soft(), 40, True) == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 2)])
def test_pictures_of_any_size_have_a_spacing(field_prior: Prior, height: int, width: int) -> None:
    assert best_spacing(field_prior, soft(height, width), 40, False) in (1, 2)


def test_a_fourth_of_lambda_goes_with_cells_of_four_pixels() -> None:
    assert lagrangian(cell_index(50, 2)) == pytest.approx(lagrangian(50) / 4, rel=0.01)
    assert cell_index(50, 1) == 50 and cell_index(250, 2) == 255


def test_cells_are_means_of_their_pixels() -> None:
    pixels = soft(5, 8)
    assert cell_means(pixels, 1) is pixels
    found = cell_means(pixels, 2)
    assert found.shape == (3, 4, 3) and np.array_equal(found, halved(pixels))
    assert found[0, 3, 1] == pixels[0:2, 6:8, 1].mean() and found[2, 0, 0] == pixels[4, 0:2, 0].mean()
