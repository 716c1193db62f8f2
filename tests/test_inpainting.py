"""The comparison of fills of hidden pixels: what may be seen, how each baseline fills, and what a row says."""

from __future__ import annotations

from pathlib import Path

import inpainting
import numpy as np
import pytest
from conftest import make_field_prior, write_png
from inpainting import HIDDEN, METHODS, known_pixels

PIXELS = np.random.default_rng(7).integers(0, 256, (26, 31, 3), np.uint8)


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_kind_hides_as_much_as_it_says(kind: str) -> None:
    known = known_pixels(kind, (40, 50), 3)
    if kind == "squares":
        assert 24**2 <= (~known).sum() <= 8 * 24**2
    else:
        assert (~known).mean() == pytest.approx(float(kind[:-1]) / 100)
    assert (known == known_pixels(kind, (40, 50), 3)).all()
    assert (known != known_pixels(kind, (40, 50), 4)).any()


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_keeps_what_is_known_and_does_not_see_the_rest(name: str) -> None:
    known = known_pixels("50%", PIXELS.shape[:2], 1)
    filled = METHODS[name](np.where(known[..., None], PIXELS, 0).astype(np.uint8), known)
    other = METHODS[name](np.where(known[..., None], PIXELS, 255).astype(np.uint8), known)
    assert (filled == other).all()
    assert (filled[known] == PIXELS[known]).all()
    assert filled[~known].any(axis=1).mean() > 0.9


def test_nearest_copies_a_pixel_at_the_least_number_of_steps() -> None:
    known = known_pixels("90%", PIXELS.shape[:2], 2)
    pixels = (
        np.arange(known.size).reshape(known.shape)[..., None] // [1, 256, 1] % 256
    )  # each pixel's index, in two bytes
    filled = inpainting.nearest(pixels.astype(np.uint8), known).astype(int)
    ys, xs = np.nonzero(known)
    for (y, x), _ in np.ndenumerate(known):
        source = divmod(filled[y, x, 0] + 256 * filled[y, x, 1], known.shape[1])
        assert known[source]
        assert abs(source[0] - y) + abs(source[1] - x) == (abs(ys - y) + abs(xs - x)).min()


def test_diffusion_continues_a_ramp_into_a_hole() -> None:
    ramp = np.stack([np.indices((20, 24)).sum(0) * 4] * 3, -1).astype(np.uint8)
    known = np.ones((20, 24), bool)
    known[6:13, 8:17] = False
    assert (inpainting.diffused(np.where(known[..., None], ramp, 0).astype(np.uint8), known) == ramp).all()


def test_the_crop_is_the_centre() -> None:
    assert (inpainting.centre(PIXELS, "11x6") == PIXELS[10:16, 10:21]).all()
    assert inpainting.centre(PIXELS, None) is PIXELS


def test_a_run_goes_on_and_the_table_has_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_field_prior(tmp_path)
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        write_png(tmp_path / "pictures" / f"{i}.png", np.roll(PIXELS, i, 0))
    results = tmp_path / "results.csv"
    words = [str(tmp_path / "pictures"), "--csv", str(results), "--steps", "1", "--hidden", "10%", "90%"]
    monkeypatch.setattr("sys.argv", ["inpainting.py", *words, "--prior", str(tmp_path / "fields.safetensors")])
    inpainting.main()
    whole = results.read_text()
    rows = inpainting.read_rows(results)
    assert (
        len(rows) == 2 * 2 * 5
        and [row["bpp"] != "" for row in rows] == [False] * 4 + [True] + ([False] * 4 + [True]) * 3
    )
    lines = capsys.readouterr().out.splitlines()[-2:]
    mean = sum(float(row["psnr"]) for row in rows if row["hidden"] == "90%" and row["method"] == "nearest") / 2
    assert lines[1].startswith(f"| 90% | 2 | {mean:.2f} |")
    results.write_text("".join(whole.splitlines(keepends=True)[:16]))  # the last hidden kind of the last picture is due
    inpainting.main()
    assert results.read_text() == whole
