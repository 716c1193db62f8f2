import numpy as np
import pytest

from inrcodec.lattice import (
    cells,
    continuation,
    continued,
    field_shapes,
    interpolation_matrix,
    kernel,
    seen_cells,
    taps,
    visible_cells,
)
from inrcodec.render import FILTER_REACH


def test_cells_cover_any_size() -> None:
    for size in (1, 2, 31, 32, 33, 768):
        for level in range(7):
            assert (cells(size, level) - 1) << level < size <= cells(size, level) << level
    assert field_shapes(5, 9, (1, 2)) == [(1, 5, 9), (2, 3, 5)]


@pytest.mark.parametrize(("b", "c"), [(0.0, 0.5), (1 / 3, 1 / 3), (1.0, 0.0), (1.7, -0.6)])
def test_kernel_weights_sum_to_one_and_are_symmetric(b: float, c: float) -> None:
    t = np.linspace(0, 1, 17)
    total = sum(kernel(t - shift, b, c) for shift in (-1, 0, 1, 2))
    assert np.allclose(total, 1)
    assert np.array_equal(kernel(t, b, c), kernel(-t, b, c))


def test_catmull_rom_reproduces_quadratics() -> None:
    values = (np.arange(12) + 0.5) ** 2 * 4.0  # f(p) = p^2 at centres of stride 2
    positions = np.array([7.0, 8.3, 11.9])
    index, weights = taps(positions, 1, 12, 0.0, 0.5)
    assert np.allclose((values[index] * weights).sum(1), positions**2)


def test_level_0_is_the_values_themselves_at_pixel_centres() -> None:
    columns, matrix = interpolation_matrix(np.arange(3, 8) + 0.5, 0, 9, 0.0, 0.7)
    whole = np.zeros((5, 9), np.float32)
    whole[:, columns] = matrix
    assert np.allclose(whole, np.eye(9)[3:8], atol=1e-12)


def test_seen_cells_have_a_visible_pixel_in_the_5x5_around() -> None:
    visible = np.random.default_rng(0).random((37, 50)) < 0.004
    for level, found in enumerate(seen_cells(visible, 4)):
        side = 1 << level
        expected = [
            [
                visible[max(0, y - 2) * side : (y + 3) * side, max(0, x - 2) * side : (x + 3) * side].any()
                for x in range(w)
            ]
            for h, w in [found.shape]
            for y in range(h)
        ]
        assert found.shape == (cells(37, level), cells(50, level))
        assert np.array_equal(found, expected) and found.any()
    assert not seen_cells(visible, 1)[0].all()


def test_a_field_goes_on_from_the_first_neighbour_that_has_a_value() -> None:
    coded = np.zeros((6, 9), bool)
    coded[2, 3] = coded[2, 4] = coded[3, 4] = True
    values = np.where(coded, np.array([[[1], [2], [3], [4], [5], [6]]]) * 10 + np.arange(9), 0)
    assert continued(values, coded)[0].tolist() == [
        [33, 33, 33, 33, 34, 34, 34, 34, 0],
        [33, 33, 33, 33, 34, 34, 34, 34, 0],
        [33, 33, 33, 33, 34, 34, 34, 34, 0],
        [33, 33, 33, 44, 44, 44, 44, 44, 0],
        [33, 33, 44, 44, 44, 44, 44, 44, 0],
        [33, 44, 44, 44, 44, 44, 44, 44, 0],
    ]
    everything = np.ones((3, 4), bool)
    assert not len(continuation(everything)[0]) and not len(continuation(~everything)[0])


def test_a_field_goes_on_as_far_as_what_is_visible_depends_on_it() -> None:
    visible = np.zeros((1, 400), bool)
    visible[0, 190:211] = True
    for level, own in enumerate(visible_cells(visible, 6)):
        assert own[0].tolist() == [visible[0, x << level : (x + 1) << level].any() for x in range(len(own[0]))]
        positions = np.arange(190 - FILTER_REACH, 211 + FILTER_REACH) + 0.5
        index, weights = taps(positions, level, 400 >> level, 0.3 if level else 0.0, 0.3)
        needed = index[weights != 0].tolist()
        assert set(needed) <= {*continuation(own)[0].tolist(), *np.flatnonzero(own[0]).tolist()}


def test_outermost_cells_go_on_beyond_the_border() -> None:
    _, matrix = interpolation_matrix(np.array([0.1, 6.9]), 3, 1, 0.2, 0.4)
    assert np.allclose(matrix, 1)
