"""The scripts that measure cost, on a picture that costs nothing."""

import csv
import sys
from pathlib import Path

import fitting
import growth
import numpy as np
import pytest
import spacing
import sparsity
import speed
import stages
from conftest import write_png


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_speed_compares_with_what_pillow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, table = write_png(tmp_path / "a.png", np.zeros((22, 37, 3), np.uint8)), tmp_path / "speed.csv"
    monkeypatch.setattr(sys, "argv", ["speed", str(picture), "--efforts", "0", "--csv", str(table)])
    speed.main()
    found = {row[""]: row for row in rows(table)}
    assert set(found) == {"encode, effort 0", "decode, x1", "decode, x4"} | {
        f"Pillow {suffix}, {side}" for suffix in speed.PILLOW for side in ("encode", "decode")
    }
    ours, jpeg = found["decode, x1"], found["Pillow jpg, decode"]
    assert float(ours["seconds"]) > 0 and float(ours["MiB"]) > 10
    # Milliseconds or less, of which four decimals are written.
    assert float(ours["/ jpg"]) == pytest.approx(float(ours["seconds"]) / max(float(jpeg["seconds"]), 1e-4), rel=0.9)


def test_a_process_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    assert speed.measured("priors", limit=0.001) is None


def test_stages_add_up_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, table = write_png(tmp_path / "a.png", np.zeros((22, 37, 3), np.uint8)), tmp_path / "stages.csv"
    for owner, name in stages.watched():
        monkeypatch.setattr(owner, name, getattr(owner, name))  # undone afterwards
    monkeypatch.setattr(sys, "argv", ["stages", str(picture), "--steps", "3", "--csv", str(table)])
    stages.main()
    seconds = {row["stage"]: float(row["seconds"]) for row in rows(table)}
    total = seconds.pop("total")
    assert sum(seconds.values()) == pytest.approx(total, abs=0.01)
    names = "steps: objective and gradients", "adapting filter and rate model", "rounding"
    assert all(seconds[name] > 0 for name in names)


def test_growth_measures_each_size_once_and_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_png(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (512, 530, 3), dtype=np.uint8))
    table, drawing = tmp_path / "growth.csv", tmp_path / "growth.png"
    words = ["growth", str(tmp_path), str(table), "--megapixels", "0.001", "0.002", "--steps", "0"]
    monkeypatch.setattr(sys, "argv", [*words, "--plot", str(drawing)])
    growth.main()
    found = rows(table)
    assert [(row["what"], row["megapixels"]) for row in found] == [
        (what, size) for size in ("0.001", "0.002") for what in ("encode, 0 steps", "decode, x1")
    ]
    assert drawing.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(growth, "measured", lambda *words, limit: pytest.fail("measured again"))
    growth.main()
    assert rows(table) == found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        write_png(folder / f"{i}.png", np.random.default_rng(i).integers(0, 256, (25, 31, 3), dtype=np.uint8))
    return folder


def test_fitting_says_what_a_part_is_worth(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "fitting.csv"
    variants = ["as it is", "started from zero, not from the guess", "rounded to the nearest", "steps that do not fall"]
    words = ["--crops", "1", "--side", "20", "--qualities", "20", "--steps", "6", "--csv", str(table)]
    monkeypatch.setattr(sys, "argv", ["fitting", str(photos), *words, "--variants", *variants])
    fitting.main()
    costs = {row["variant"]: float(row["J"]) for row in rows(table)}
    assert list(costs) == variants and len(set(costs.values())) == 4
    assert costs["as it is"] < min(costs[variants[1]], costs[variants[2]])


def test_spacing_compares_guesses_and_files(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "spacing.csv"
    words = ["--crops", "3", "--side", "24", "--steps", "2", "--qualities", "10", "60", "--csv", str(table)]
    monkeypatch.setattr(sys, "argv", ["spacing", str(photos), *words])
    spacing.main()
    found = rows(table)
    assert [row["quality"] for row in found] == ["10.0", "60.0", "10.0"]
    # Noise loses nearly all where cells are enlarged: that is far more than a high quality loses.
    assert all(float(found[1][name]) > 1.1 * float(found[0][name]) for name in ("lost", "guess", "file"))


def test_sparsity_compares_equal_numbers_of_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "sparsity.csv"
    words = ["--crops", "2", "--others", "1", "--side", "20", "--fit", "2", "--steps", "40", "--seeds", "3"]
    monkeypatch.setattr(sys, "argv", ["sparsity", str(photos), *words, "--qualities", "30", "--csv", str(table)])
    sparsity.main()
    narrow, wide, pruned = rows(table)
    assert narrow["weights"] == pruned["weights"] < wide["weights"]
    assert all(0 < float(row["J_Q30"]) < 1000 for row in (narrow, wide, pruned))
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--trained", "--rate", "1e-9"])
    sparsity.main()
    bundled, *trained = rows(table)
    assert bundled["weights"] == narrow["weights"] == trained[2]["weights"]
    assert bundled["J_Q30"] == trained[0]["J_Q30"]
    assert float(trained[1]["J_Q30"]) == pytest.approx(float(bundled["J_Q30"]), rel=1e-3)  # what is new has no say
