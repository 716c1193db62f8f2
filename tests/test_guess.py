"""The guess in NumPy is that of torch, for pictures of many tiles and of any size."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_png
from numpy.typing import NDArray

from inrcodec.analysis import analyse
from inrcodec.guess import first_guess
from inrcodec.lattice import visible_cells
from inrcodec.options import conditioning
from inrcodec.prior import Prior, find_prior
from inrcodec.tile import FieldModel

pytestmark = pytest.mark.usefixtures("arithmetic")


def photo_like(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).normal(0, 20, (height, width, 3))
    samples = noise + np.stack([128 + 90 * np.sin(x / 9), y % 200, (x * y) % 251], -1)
    pixels: NDArray[np.uint8] = np.clip(samples, 0, 255).astype(np.uint8)
    return pixels


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (21, 38), (131, 270)])
@pytest.mark.parametrize("name", ["photo", "small"])
def test_it_is_the_guess_of_the_torch_twin(field_prior: Prior, size: tuple[int, int], name: str) -> None:
    prior = find_prior() if name == "photo" else field_prior
    pixels = photo_like(*size)
    model, q = FieldModel.of(prior, torch.device("cpu")), torch.full((1, 1), conditioning(150))
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5
    with torch.no_grad():
        fields = analyse(model.weights, picture, q, model.channels, model.omegas)
    expected = [z[0].round().numpy() for z in fields]
    found = first_guess(prior, pixels, 150)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.int32 and a.shape == b.shape
        differ = a != b  # both round a sum of float32, in another order
        assert np.abs(a - b).max() <= 1 and differ.mean() < 1e-3


def test_around_what_is_coded_it_is_as_around_a_picture(field_prior: Prior) -> None:
    alone = photo_like(32, 48)
    canvas, visible = np.full((96, 112, 3), 77, np.uint8), np.zeros((96, 112), bool)
    canvas[32:64, 16:64], visible[32:64, 16:64] = alone, True
    masks = visible_cells(visible, len(field_prior.architecture.channels))
    found, expected = first_guess(field_prior, canvas, 150, masks), first_guess(field_prior, alone, 150)
    for level, (inside, own) in enumerate(zip(found, expected, strict=True)):
        assert not inside[:, ~masks[level]].any()
        part = inside[:, 32 >> level : 64 >> level, 16 >> level : 64 >> level]
        assert (part != own).mean() < 1e-3


def test_samples_need_not_be_integers(field_prior: Prior) -> None:
    pixels = photo_like(13, 22)
    a, b = (first_guess(field_prior, pixels.astype(kind), 99) for kind in (np.uint8, np.float32))
    assert all(map(np.array_equal, a, b))


def test_encoding_without_steps_needs_no_torch(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", photo_like(22, 37))
    words = ["encode", str(tmp_path / "a.png"), "--effort", "0"]
    code = f"import sys; from inrcodec.cli import app; app({words}, standalone_mode=False)"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (tmp_path / "a.sinr").exists()
