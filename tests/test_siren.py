"""The sine network, against a plain NumPy loop and the distributions of its source."""

import math

import numpy as np
import pytest
import torch

from inrcodec.errors import OptionError
from inrcodec.siren import init_siren, siren

OMEGAS = (30.0, 7.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_siren_agrees_with_a_plain_loop_over_units() -> None:
    parameters = init_siren(2, (5, 4), 3, OMEGAS, seeded())
    inputs = torch.rand(6, 2, generator=seeded(1)) * 2 - 1
    arrays = {name: value.double().numpy() for name, value in parameters.items()}
    expected = np.empty((6, 3))
    for n, values in enumerate(inputs.double().numpy()):
        for i in range(3):
            weight, bias = arrays[f"siren.{i}.weight"], arrays[f"siren.{i}.bias"]
            sums = [sum(w * v for w, v in zip(row, values, strict=True)) for row in weight] + bias
            values = [math.sin(OMEGAS[i] * s) for s in sums] if i < 2 else sums
        expected[n] = values
    np.testing.assert_allclose(siren(parameters, inputs, OMEGAS), expected, atol=1e-5)


def test_siren_keeps_the_leading_axes_of_its_inputs() -> None:
    parameters = init_siren(2, (5, 4), 3, OMEGAS, seeded())
    inputs = torch.rand(4, 6, 2, generator=seeded(1))
    values = siren(parameters, inputs, OMEGAS)
    assert values.shape == (4, 6, 3)
    torch.testing.assert_close(values[2], siren(parameters, inputs[2], OMEGAS))


def test_init_siren_has_the_bounds_of_the_source() -> None:
    parameters = init_siren(2, (256, 256), 3, (200.0, 200.0), seeded())
    bounds = {0: 1 / 2, 1: math.sqrt(6 / 256) / 200, 2: math.sqrt(6 / 256) / 200}
    for i, bound in bounds.items():
        for part in ("weight", "bias"):
            largest = parameters[f"siren.{i}.{part}"].abs().max().item()
            assert 0.3 * bound < largest <= bound  # of as few as 3 uniform numbers
    assert parameters["siren.1.weight"].shape == (256, 256)
    assert parameters["siren.2.bias"].shape == (3,)


def test_init_siren_gives_every_sine_layer_the_same_spread() -> None:
    # Sitzmann 2020, section 3.2: inputs of a sine are about normal with standard deviation 1, and the
    # outputs arcsine-distributed with variance 1/2, whatever the depth
    parameters = init_siren(2, (256,) * 4, 3, (200.0,) * 4, seeded())
    hidden = torch.rand(500, 2, generator=seeded(1)) * 2 - 1
    for i in range(4):
        weight, bias = parameters[f"siren.{i}.weight"], parameters[f"siren.{i}.bias"]
        hidden = torch.sin(200 * (hidden @ weight.T + bias))
        assert 0.4 < hidden.var().item() < 0.6


def test_init_siren_is_a_function_of_the_generator() -> None:
    once, again, other = (init_siren(2, (5, 4), 3, OMEGAS, seeded(seed)) for seed in (7, 7, 8))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["siren.0.weight"], other["siren.0.weight"])


@pytest.mark.parametrize(("widths", "omegas"), [((5,), OMEGAS), ((), ()), ((5, 0), OMEGAS), ((5, 4), (30.0, 0.0))])
def test_init_siren_rejects_layers_that_make_no_network(widths: tuple[int, ...], omegas: tuple[float, ...]) -> None:
    with pytest.raises(OptionError):
        init_siren(2, widths, 3, omegas, seeded())
