"""Training pictures: which files, which pixels, and that both depend on (seed, step) alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrcodec.dataset import Crop, open_dataset
from inrcodec.errors import ImageError, OptionError


def write_flat(path: Path, height: int, width: int, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four flat pictures of different sizes and values, one of them in a folder of its own, and a text."""
    write_flat(tmp_path / "b.png", 12, 16, 20)
    write_flat(tmp_path / "a.PNG", 16, 12, 40)
    write_flat(tmp_path / "more" / "c.png", 9, 30, 60)
    write_flat(tmp_path / "d.png", 5, 4, 80)
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_open_dataset_finds_images_in_all_folders_in_order(folder: Path) -> None:
    assert open_dataset(folder, 8, 6).names == ("a.PNG", "b.png", "d.png", "more/c.png")


def test_batch_has_values_in_zero_to_one_and_the_size_of_the_crop(folder: Path) -> None:
    pictures = open_dataset(folder, 8, 6, resize=10).batch(seed=0, step=0, count=4)
    assert pictures.shape == (4, 8, 6, 3)
    assert pictures.dtype == torch.float32
    values = sorted(round(float(picture.mean()) * 255) for picture in pictures)
    assert values == [20, 40, 60, 80]  # every picture once, the one smaller than the crop enlarged


def test_batch_depends_on_seed_and_step_alone(folder: Path) -> None:
    used, fresh = (open_dataset(folder, 8, 6, crop=Crop.RANDOM) for _ in range(2))
    for step in range(5):
        used.batch(seed=3, step=step, count=2)
    assert used.batch(seed=3, step=7, count=2).equal(fresh.batch(seed=3, step=7, count=2))
    drawn = {used.batch(seed, step, 2).numpy().tobytes() for seed in (0, 1) for step in range(6)}
    assert len(drawn) > 1


def test_parts_of_a_batch_make_the_whole(folder: Path) -> None:
    dataset = open_dataset(folder, 8, 6, crop=Crop.RANDOM)
    whole = dataset.batch(0, 1, 3)
    assert dataset.batch(0, 1, 3, slice(0, None, 2)).equal(whole[0::2])
    assert dataset.batch(0, 1, 3, slice(1, None, 2)).equal(whole[1::2])


def test_a_batch_larger_than_the_folder_repeats_pictures(folder: Path) -> None:
    assert open_dataset(folder, 8, 6).batch(0, 0, 9).shape == (9, 8, 6, 3)


def ramp(path: Path) -> None:
    """A picture whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[0:12, 0:20]
    Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)).save(path)


def test_centre_crop_is_in_the_centre(tmp_path: Path) -> None:
    ramp(tmp_path / "ramp.png")
    picture = open_dataset(tmp_path, 8, 6).batch(0, 0, 1)[0] * 255
    torch.testing.assert_close(picture[0, :, 0], torch.arange(7.0, 13))
    torch.testing.assert_close(picture[:, 0, 1], torch.arange(2.0, 10))


def test_random_crops_reach_every_place_and_none_outside(tmp_path: Path) -> None:
    ramp(tmp_path / "ramp.png")
    dataset = open_dataset(tmp_path, 10, 18, crop=Crop.RANDOM)
    corners = {tuple((dataset.batch(0, step, 1)[0, 0, 0] * 255).round().int().tolist()) for step in range(200)}
    assert corners == {(left, top, 0) for left in range(3) for top in range(3)}


def test_resize_sets_the_shorter_side(tmp_path: Path) -> None:
    ramp(tmp_path / "ramp.png")  # 12 x 20
    picture = open_dataset(tmp_path, 6, 10, resize=6).batch(0, 0, 1)[0] * 255  # all of it, at half the size
    torch.testing.assert_close(picture[3, 1:-1, 0], torch.arange(2.5, 18, 2), rtol=0, atol=0.51)  # rounded


def test_open_dataset_rejects_crops_without_pixels(folder: Path) -> None:
    for height, width, resize in ((8, 0, 0), (0, 6, 0), (8, 6, -1)):
        with pytest.raises(OptionError):
            open_dataset(folder, height, width, resize=resize)


def test_fingerprint_changes_with_files_and_crops(folder: Path) -> None:
    first = open_dataset(folder, 8, 6).fingerprint
    assert open_dataset(folder, 8, 6).fingerprint == first
    assert open_dataset(folder, 6, 8).fingerprint != first
    write_flat(folder / "e.png", 9, 9, 1)
    assert open_dataset(folder, 8, 6).fingerprint != first


def test_a_folder_without_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="found none"):
        open_dataset(tmp_path, 8, 6)
    with pytest.raises(ImageError, match="missing"):
        open_dataset(tmp_path / "missing", 8, 6)


def test_a_damaged_image_is_an_error_when_it_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        open_dataset(tmp_path, 8, 6).batch(0, 0, 1)
