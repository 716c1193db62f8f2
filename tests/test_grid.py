"""Coordinates: pixel centres, both axes over (-1, 1)."""

import numpy as np
import pytest

from inrcodec.errors import OptionError
from inrcodec.grid import normalise, pixel_grid, sample_axis


def test_pixel_grid_is_row_major_pairs_of_x_and_y() -> None:
    expected = [
        [-2 / 3, -1 / 2], [0, -1 / 2], [2 / 3, -1 / 2],
        [-2 / 3, 1 / 2], [0, 1 / 2], [2 / 3, 1 / 2],
    ]  # fmt: skip
    grid = pixel_grid(2, 3)
    assert grid.dtype == np.float32
    np.testing.assert_allclose(grid, expected, atol=1e-7)


def test_pixel_grid_is_symmetric_and_inside_the_open_square() -> None:
    grid = pixel_grid(6, 8)
    np.testing.assert_array_equal(grid, -grid[::-1])
    assert np.abs(grid).max() < 1


def test_pixels_of_one_row_share_their_y() -> None:
    grid = pixel_grid(5, 7).reshape(5, 7, 2)
    assert np.all(np.ptp(grid[..., 1], axis=1) == 0)
    assert np.all(np.ptp(grid[..., 0], axis=0) == 0)


def test_mean_of_a_4x4_block_of_the_x4_grid_is_the_sample_of_the_x1_grid() -> None:
    fine = pixel_grid(4 * 6, 4 * 8).reshape(6, 4, 8, 4, 2)
    np.testing.assert_allclose(fine.mean(axis=(1, 3)).reshape(-1, 2), pixel_grid(6, 8), atol=1e-6)


def test_sample_axis_over_the_whole_axis_is_the_pixel_centres() -> None:
    np.testing.assert_array_equal(sample_axis(4, 0, 4, 4), [0.5, 1.5, 2.5, 3.5])


def test_sample_axis_of_a_region_is_part_of_the_whole_axis() -> None:
    np.testing.assert_allclose(sample_axis(10, 3, 7, 8), sample_axis(10, 0, 10, 20)[6:14])


def test_normalise_maps_the_edges_of_the_axis_to_minus_one_and_one() -> None:
    np.testing.assert_array_equal(normalise(np.array([0.0, 3.5, 7.0]), 7), [-1, 0, 1])


@pytest.mark.parametrize(
    ("start", "stop", "samples"),
    [(-1, 4, 4), (0, 9, 4), (4, 4, 4), (5, 4, 4), (0, 8, 0), (0, float("nan"), 4), (float("-inf"), 4, 4)],
)
def test_sample_axis_rejects_parts_that_are_empty_or_outside(start: float, stop: float, samples: int) -> None:
    with pytest.raises(OptionError):
        sample_axis(8, start, stop, samples)
