from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CHANNELS, OMEGAS
from numpy.typing import NDArray

from inrcodec import render as module
from inrcodec.errors import OptionError
from inrcodec.grid import pixel_grid
from inrcodec.lattice import field_shapes
from inrcodec.prior import Prior
from inrcodec.render import Parameters, View, render, render_at, without_and_with_post
from inrcodec.siren import siren
from inrcodec.synthesis import before_post, post, synthesize, synthesize_finer, torch_network
from inrcodec.tile import FieldModel

pytestmark = pytest.mark.usefixtures("arithmetic")


def parameters_of(prior: Prior, height: int, width: int, q: float = 0.3) -> Parameters:
    rng = np.random.default_rng(height)
    fields = [
        np.rint(rng.laplace(0, 2, s)).astype(np.int32) for s in field_shapes(height, width, prior.architecture.channels)
    ]
    network = {k: v for k, v in prior.tensors.items() if k.startswith("siren.")}
    return Parameters(height, width, q, network, tuple(fields))


def whole(height: int, width: int, scale: float = 1) -> View:
    return View(round(height * scale), round(width * scale), 0, 0, height, width)


def agrees(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Within 1/255 on at least 99.9 % of samples."""
    return float((np.abs(a.astype(int) - b.astype(int)) <= 1).mean()) >= 0.999


def as_bytes(picture: torch.Tensor) -> NDArray[np.uint8]:
    return (picture.permute(1, 2, 0) * 255 + 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 11), (23, 38), (64, 9)])
def test_fields_render_as_in_torch(field_prior: Prior, height: int, width: int) -> None:
    parameters = parameters_of(field_prior, height, width)
    model = FieldModel.of(field_prior, torch.device("cpu"))
    planes = [torch.from_numpy(z).float()[None] for z in parameters.fields]
    expected = synthesize(model.weights, planes, torch.full((1, 1), 0.3), OMEGAS)[0]
    assert agrees(render(field_prior, parameters, whole(height, width)), as_bytes(expected))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 11), (11, 18), (64, 9)])
def test_fields_at_scale_2_render_as_in_torch(field_prior: Prior, height: int, width: int) -> None:
    parameters = parameters_of(field_prior, height, width)
    model = FieldModel.of(field_prior, torch.device("cpu"))
    planes = [torch.from_numpy(z).float()[None] for z in parameters.fields]
    expected = synthesize_finer(model.weights, planes, torch.full((1, 1), 0.3), OMEGAS)[0]
    assert agrees(render(field_prior, parameters, whole(height, width, 2)), as_bytes(expected))


@pytest.mark.parametrize("scale", [0.4, 1, 3])
def test_exact_samples_are_the_ordinary_ones_but_for_rounding(
    field_prior: Prior, network_prior: Prior, scale: float
) -> None:
    for prior in (field_prior, network_prior):
        parameters, view = parameters_of(prior, 21, 34), whole(21, 34, scale)
        exact = render(prior, parameters, view, exact=True, bit_depth=16).astype(int)
        ordinary = render(prior, parameters, view, bit_depth=16).astype(int)
        assert np.abs(exact - ordinary).max() <= 32
        assert scale < 1 or not np.array_equal(exact, ordinary)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 11), (23, 38), (64, 9)])
def test_the_post_filter_at_pixel_centres_is_that_of_torch(post_prior: Prior, height: int, width: int) -> None:
    parameters = replace(parameters_of(post_prior, height, width), post=True)
    model = FieldModel.of(post_prior, torch.device("cpu"))
    planes = [torch.from_numpy(z).float()[None] for z in parameters.fields]
    q = torch.full((1, 1), 0.3)
    without, seen = before_post(model.weights, planes, q, OMEGAS)
    added = post(model.weights, seen, q)
    assert added.abs().mean() > 0.02
    assert agrees(render(post_prior, parameters, whole(height, width)), as_bytes((without + added)[0]))
    assert torch.equal(without, synthesize(model.weights, planes, q, OMEGAS))


def test_the_post_filter_has_a_say_around_centres_alone(post_prior: Prior) -> None:
    """Of 8 samples per pixel and axis, those in the outer half of the pixel are as without it."""
    parameters, view = parameters_of(post_prior, 13, 22), whole(13, 22, 8)
    samples = [render(post_prior, replace(parameters, post=on), view, exact=True, bit_depth=16) for on in (False, True)]
    moved = (samples[0] != samples[1]).any(2).reshape(13, 8, 22, 8).mean((0, 2))
    inner = np.isin(np.arange(8), (2, 3, 4, 5))
    assert np.array_equal(moved > 0, inner[:, None] & inner)
    assert moved[inner][:, inner].min() > 0.5


def test_what_the_post_filter_says_does_not_depend_on_tiles(post_prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = replace(parameters_of(post_prior, 45, 38), post=True)
    expected = {scale: render(post_prior, parameters, whole(45, 38, scale)) for scale in (1, 3)}
    positions = np.array([[0.5, 0.5], [6.5, 3.5], [6.6, 3.4], [37.5, 44.5]])
    at = render_at(post_prior, parameters, positions) * 255
    assert np.abs(at[[0, 1, 3]] - expected[1][[0, 3, 44], [0, 6, 37]]).max() <= 1
    monkeypatch.setattr(module, "TILE", 16)
    for scale, picture in expected.items():
        assert agrees(render(post_prior, parameters, whole(45, 38, scale)), picture)


def test_tiles_without_and_with_the_post_filter_are_those_of_two_pictures(post_prior: Prior) -> None:
    parameters = parameters_of(post_prior, 25, 38)
    tiles = [(slice(0, 16), slice(0, 16)), (slice(16, 25), slice(7, 38)), (slice(24, 25), slice(0, 1))]
    pictures = [render(post_prior, replace(parameters, post=on), whole(25, 38)) for on in (False, True)]
    for tile, both in zip(tiles, without_and_with_post(post_prior, parameters, tiles), strict=True):
        assert all(agrees(found, picture[tile]) for found, picture in zip(both, pictures, strict=True))
    assert (pictures[0] != pictures[1]).any()


def test_detail_vanishes_at_pixel_centres(field_prior: Prior) -> None:
    """At an odd scale every centre is a sample, too: there the x3 picture is the x1 picture."""
    parameters = parameters_of(field_prior, 13, 22)
    fine = render(field_prior, parameters, whole(13, 22, 3))
    assert agrees(fine[1::3, 1::3], render(field_prior, parameters, whole(13, 22)))


def test_what_moves_means_has_nearly_the_same_say_at_all_finer_samples() -> None:
    """Or a lattice of pixels would be seen."""
    parts = np.stack([np.full((3, 1, 1), float(moves)) for moves in (0, 0, 0, 0, 1)])

    def says(samples: int) -> set[float]:
        at = (np.arange(samples) + 0.5) / samples
        return set(module._between(parts, at[:, None], at).round(6).ravel().tolist())

    assert says(1) == {0.0} and says(2) == {1.0} and says(4) == {0.75, 1.0}
    assert min(says(8)) > 0.2 and np.mean(list(says(8))) > 0.6


def test_a_tensor_that_a_prior_does_not_need_has_no_say(field_prior: Prior) -> None:
    """A file may bring its own prior, and nobody has checked the shape of what is not expected in it."""
    more = {name: np.ones((2, 2, 3, 3), np.float32) for name in ("filter.mid", "filter.mid_bias", "detail.more")}
    hostile, parameters = (
        replace(field_prior, tensors={**field_prior.tensors, **more}),
        parameters_of(field_prior, 13, 22),
    )
    for scale in (1, 2):
        view = whole(13, 22, scale)
        assert np.array_equal(render(hostile, parameters, view), render(field_prior, parameters, view))


@pytest.mark.parametrize("scale", [1, 4])
def test_a_network_of_coordinates_renders_as_in_torch(network_prior: Prior, scale: int) -> None:
    parameters = parameters_of(network_prior, 13, 22)
    weights = {k: torch.from_numpy(v.copy()) for k, v in parameters.network.items()}
    grid = torch.from_numpy(pixel_grid(13 * scale, 22 * scale))
    expected = siren(weights, grid, (20.0, 20.0)).reshape(13 * scale, 22 * scale, 3).permute(2, 0, 1)
    assert agrees(render(network_prior, parameters, whole(13, 22, scale)), as_bytes(expected))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("scale", [0.4, 1, 4])
def test_a_network_in_torch_gives_the_same_picture(
    field_prior: Prior, network_prior: Prior, scale: float, device: str
) -> None:
    for prior in (field_prior, network_prior):
        parameters, view = parameters_of(prior, 21, 34), whole(21, 34, scale)
        network = torch_network(prior, parameters, torch.device(device))
        assert agrees(render(prior, parameters, view, network=network), render(prior, parameters, view))


def test_a_region_is_bit_for_bit_a_part_of_the_whole(field_prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", 16)
    parameters = parameters_of(field_prior, 40, 53)
    picture = render(field_prior, parameters, whole(40, 53, 2))
    part = render(field_prior, parameters, whole(40, 53, 2), (slice(11, 70), slice(33, 35)))
    assert np.array_equal(part, picture[11:70, 33:35])


def test_tiles_leave_no_seams(field_prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = parameters_of(field_prior, 40, 53)
    at_once = render(field_prior, parameters, whole(40, 53))
    monkeypatch.setattr(module, "TILE", 16)
    assert np.abs(render(field_prior, parameters, whole(40, 53)).astype(int) - at_once).max() <= 1


def test_a_view_of_a_part_samples_the_same_function(field_prior: Prior) -> None:
    parameters = parameters_of(field_prior, 20, 31)
    picture = render(field_prior, parameters, whole(20, 31))
    part = render(field_prior, parameters, View(6, 9, top=5, left=12, height=6, width=9))
    assert agrees(part, picture[5:11, 12:21])


def test_shrinking_averages(field_prior: Prior) -> None:
    parameters = parameters_of(field_prior, 24, 36)
    picture = render(field_prior, parameters, whole(24, 36)).astype(float)
    small = render(field_prior, parameters, whole(24, 36, 1 / 4))
    blocks = picture.reshape(6, 4, 9, 4, 3).mean((1, 3))
    assert np.abs(small - blocks).max() <= 1


def test_single_positions_are_samples_of_a_grid(
    field_prior: Prior, network_prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their order, in however many blocks and chunks; at the borders, too."""
    monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(module, "CHUNK", 50)
    for prior in (field_prior, network_prior):
        parameters = parameters_of(prior, 21, 34)
        grid = render(prior, parameters, whole(21, 34, 5), bit_depth=16)
        chosen = np.random.default_rng(0).permutation(21 * 34 * 25)[:4000]
        y, x = np.divmod(chosen, 34 * 5)
        samples = render_at(prior, parameters, (np.stack([x, y], 1) + 0.5) / 5)
        assert np.abs(samples * 65535 - grid[y, x]).max() <= 32
        assert render_at(prior, parameters, np.empty((0, 2))).shape == (0, 3)
        corner = render_at(prior, parameters, np.array([[0.0, 0], [34, 21]]))[1]
        near = render(prior, parameters, View(1, 1, 21 - 1e-6, 34 - 1e-6, 1e-6, 1e-6))[0, 0]
        assert np.abs(corner * 255 - near).max() <= 0.51


def test_too_many_samples_are_refused() -> None:
    with pytest.raises(OptionError, match="samples"):
        View(1 << 15, 1 << 14, 0, 0, 8, 8)


def test_conditioning_changes_the_picture(field_prior: Prior) -> None:
    a, b = (render(field_prior, parameters_of(field_prior, 8, 13, q), whole(8, 13)) for q in (-0.5, 0.5))
    assert not np.array_equal(a, b)
    assert CHANNELS == field_prior.architecture.channels
