"""The paper's experiments, in a size of seconds: what each method starts from and keeps, and the pictures of glyphs."""

from dataclasses import replace
from pathlib import Path

import glyphs
import numpy as np
import paper
import pytest
import torch
from conftest import write_png
from paper import METHODS, SIZES, Protocol, Row, Size, fit, narrow_width, prunings, surviving

from inrcodec.errors import OptionError
from inrcodec.grid import pixel_grid
from inrcodec.options import Device
from inrcodec.prune import full_masks
from inrcodec.siren import init_siren
from inrcodec.train import TrainOptions

TRAIN = TrainOptions(
    hidden=10,
    layers=2,
    omega=20.0,
    hidden_omega=30.0,
    outer_rate=1e-3,
    dense_steps=3,
    rounds=2,
    round_steps=2,
    device=Device.CPU,
    threads=1,
)
TINY = Size(TRAIN, rounds=(2,), side=8, pictures=3, adam=Protocol(True, 12, 1e-3))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of five training and three test pictures."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 3)):
        (folder / part).mkdir()
        for i in range(count):
            slopes = draw.uniform(0, 12, (2, 3))
            ramp = np.indices((12, 15)).transpose(1, 2, 0) @ slopes
            write_png(folder / part / f"{i}.png", ramp.clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("out")
    paper.run({"glyphs": source}, TINY, out, [0], list(METHODS))
    return out


def test_every_method_is_measured_with_as_many_weights(finished: Path) -> None:
    rows = paper.read_rows(finished / "paper.csv")
    assert [(row.method, row.protocol) for row in rows] == [
        (method, protocol)
        for method in METHODS
        for protocol in ("adam", "sgd")
        if protocol == "adam" or method not in paper.PRUNED_IN_FIT
    ]
    target = surviving(TRAIN, 2)
    assert target == 96  # of 150; 150 - 30 - 24
    for row in rows:
        dense = row.method in ("Dense-Narrow", "Scratch")
        assert row.width == (8 if dense else 10)  # 8 units have 104 weights, 7 have 84
        rounding = row.method == "MAML+OneShot"  # prunes once, so it rounds down once, not in every round
        assert abs(row.weights - (104 if dense else target)) <= rounding and row.pictures == 3
        assert row.percent == pytest.approx(100 * row.weights / 150, abs=1e-3)


def test_a_finished_run_measures_nothing_again(source: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (finished / "paper.csv").read_text()
    lines = before.splitlines(keepends=True)
    monkeypatch.setattr(paper, "train", None)
    paper.run({"glyphs": source}, TINY, finished, [0], list(METHODS))
    assert (finished / "paper.csv").read_text() == before
    monkeypatch.undo()
    (finished / "paper.csv").write_text("".join(lines[:2] + lines[3:]))  # without one row
    paper.run({"glyphs": source}, TINY, finished, [0], list(METHODS))
    assert (finished / "paper.csv").read_text() == "".join(lines[:2] + lines[3:] + lines[2:3])
    (finished / "paper.csv").write_text(before)


def test_a_row_is_what_one_picture_after_the_other_gives(source: Path, finished: Path) -> None:
    experiment = paper.Experiment("glyphs", 0, TINY, source, finished / "runs")
    for method in METHODS:
        together = experiment.measure(method, 2, "adam", at_once=4)
        alone = experiment.measure(method, 2, "adam", at_once=1)
        assert alone == replace(together, psnr=alone.psnr)
        assert alone.psnr == pytest.approx(together.psnr, abs=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_keeps_its_masks_and_the_number_of_weights(method: str) -> None:
    generator = torch.Generator().manual_seed(3)
    initial = init_siren(2, (10, 10), 3, (20.0, 20.0), generator)
    pictures = torch.rand(2, 4 * 6, 3, generator=generator) - 0.5
    removed = prunings(method, 3, 12, 0.2)
    stack = {name: torch.stack([value, value]) for name, value in initial.items()}
    masks = {name: torch.stack([mask, mask]) for name, mask in full_masks(initial).items()}
    grid = torch.from_numpy(pixel_grid(4, 6))
    fitted, left = fit(stack, masks, grid, pictures, (20.0, 20.0), Protocol(True, 12, 1e-2), removed)
    counts = sum(mask.flatten(1).sum(1) for mask in left.values())
    expected = surviving(TRAIN, 3) if method in paper.PRUNED_IN_FIT else 150
    assert torch.as_tensor(counts).tolist() == pytest.approx([expected] * 2, abs=1)
    for name, mask in left.items():
        assert fitted[name][~mask].eq(0).all()
        assert fitted[name][mask].ne(0).all()
    if method in paper.PRUNED_IN_FIT:  # each picture has masks of its own
        assert any((mask[0] != mask[1]).any() for mask in left.values())


def test_pruning_within_a_fit_is_where_the_paper_has_it() -> None:
    assert prunings("MAML+OneShot", 2, 100, 0.2) == {50: pytest.approx(0.36)}
    assert prunings("MAML+IMP", 3, 100, 0.2) == {25: 0.2, 50: 0.2, 75: 0.2}
    assert len(prunings("MAML+IMP", 20, 100, 0.2)) == 20
    assert prunings("Dense-Narrow", 3, 100, 0.2) == {}


@pytest.mark.parametrize("size", SIZES)
def test_narrow_networks_have_as_many_weights_as_the_sparse_ones(size: str) -> None:
    options = SIZES[size].train
    for number in SIZES[size].rounds:
        target = surviving(options, number)
        width = narrow_width(options, number)
        assert paper.dense_weights(width, options.layers) == pytest.approx(target, rel=0.02), number


def test_the_full_size_is_the_published_protocol() -> None:
    assert SIZES["full"].train == TrainOptions()
    assert SIZES["full"].protocols == {"adam": Protocol(True, 100, 1e-4), "sgd": Protocol(False, 2, 1e-2)}
    assert surviving(TrainOptions(), 4) == pytest.approx(81055, abs=5)  # as published
    assert SIZES["full"].rounds[-1] == SIZES["full"].train.rounds == 20


def test_the_full_size_trains_and_measures(source: Path, tmp_path: Path) -> None:
    """Full width and 89 x 89 pixels, a few steps, and a single picture."""
    full = SIZES["full"]
    options = replace(full.train, dense_steps=1, rounds=1, round_steps=1, batch=1, device=Device.CPU)
    few = replace(full, train=options, rounds=(1,), pictures=1, adam=Protocol(True, 1, 1e-4))
    paper.run({"faces": source}, few, tmp_path, [0], ["Meta-SparseINR"])
    rows = paper.read_rows(tmp_path / "paper.csv")
    assert [(row.width, row.weights) for row in rows] == [(256, surviving(options, 1))] * 2
    assert all(row.psnr > 5 for row in rows)


def row(method: str, seed: int, psnr: float, number: int = 4) -> Row:
    return Row("faces", seed, method, number, 10, 40, 40.96, "adam", 3, psnr)


def test_the_table_has_means_spreads_and_the_least_margin() -> None:
    rows = [row("Meta-SparseINR", 0, 30.0), row("Scratch", 0, 20.0), row("MAML+IMP", 0, 28.0)]
    rows += [row("Meta-SparseINR", 1, 32.0), row("Scratch", 1, 21.0), row("MAML+IMP", 1, 32.5)]
    assert paper.table(rows, "faces", "adam").splitlines() == [
        "| surviving weights | 41.0 % |",
        "|---|---|",
        "| Meta-SparseINR | 31.00 ± 1.41 |",
        "| MAML+IMP | 30.25 ± 3.18 |",
        "| Scratch | 20.50 ± 0.71 |",
        "| *least margin* | *-0.50* |",
    ]


def test_the_comparison_counts_by_seed_where_few_weights_are_left() -> None:
    rows = [
        replace(row(method, seed, 20.0 + score, number), percent=percent)
        for method, scores in (("Meta-SparseINR", (9, 3, 2, 2)), ("Scratch", (0, 1, 3, 0)))
        for (seed, number, percent), score in zip(
            ((0, 4, 41.0), (0, 8, 16.8), (0, 9, 13.4), (1, 8, 16.8)), scores, strict=True
        )
    ]
    assert paper.comparison(rows, "adam").splitlines()[2:] == [
        "| Scratch | faces | +0.50 (1 of 2) | +2.00 (1 of 1) | +1.00 (2 of 3) |"
    ]
    assert len(paper.comparison(rows, "sgd").splitlines()) == 2


def test_show_draws_the_published_points_too(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "points.csv"
    published.write_text(
        "dataset,method,point,n_weights,pct_of_dense,psnr_db\nSDF,Scratch,w,9,6.0,20\nSDF,Scratch,v,9,4.0,\n"
    )
    assert paper.read_published(published) == {("glyphs", "Scratch"): [(6.0, 20.0)]}
    paper.show(finished / "paper.csv", published, tmp_path)
    assert "| MAML+OneShot |" in capsys.readouterr().out
    assert (tmp_path / "paper-glyphs.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_refuses_an_unknown_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["cats=folder"], ["faces"]):
        monkeypatch.setattr("sys.argv", ["paper.py", "run", *words, "--out", "nowhere"])
        with pytest.raises(OptionError, match="expected NAME=FOLDER"):
            paper.main()


def test_weights_of_use_are_counted_per_round(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paper.paths(finished / "runs")
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["glyphs-0", "1", "120"], ["glyphs-0", "2", "96"]]
    for row in rows:
        assert sum(map(int, row[4].split(" + "))) == int(row[3]) <= int(row[2])


def test_rows_are_printed_with_their_settings(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paper.settings([finished])
    lines = capsys.readouterr().out.splitlines()
    rows = (finished / "paper.csv").read_text().splitlines()
    assert lines == [
        f"omega,hidden_omega,outer_rate,dense_steps,round_steps,{rows[0]}",
        *(f"20.0,30.0,0.001,3,2,{row}" for row in rows if "Meta-SparseINR" in row or "Dense-Narrow" in row),
    ]


def test_other_settings_are_tried_on_training_pictures_that_are_set_aside(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "small", TINY)
    sizes = []
    monkeypatch.setattr(paper, "run", lambda folders, size, out, seeds, methods: sizes.append(size))
    words = [
        "--train",
        "outer_rate=1e-4",
        "dense_steps=7",
        "compile=1",
        "--fit-rate",
        "2e-3",
        "--validation",
        "2",
        "--rounds",
        "1",
    ]
    words += ["--side", "6"]
    monkeypatch.setattr("sys.argv", ["paper.py", "run", f"faces={source}", "--out", str(tmp_path), *words])
    paper.main()
    tried = sizes.pop()
    assert tried == replace(
        TINY,
        train=replace(TRAIN, outer_rate=1e-4, dense_steps=7, compile=True),
        adam=Protocol(True, 12, 2e-3),
        validation=2,
        rounds=(1,),
        side=6,
    )
    experiment = paper.Experiment("faces", 0, tried, source, tmp_path)
    drawn = experiment._pictures("train").batch(0, 0, 3)
    assert len(experiment._pictures("train").names) == 3 and len(experiment.test) == 2
    assert all((picture != other).any() for picture in drawn for other in experiment.test)
    monkeypatch.setattr("sys.argv", ["paper.py", "run", f"faces={source}", "--out", "x", "--train", "colour=3"])
    with pytest.raises(OptionError, match="OPTION=NUMBER"):
        paper.main()


def test_distances_are_those_to_the_nearest_pixel_of_the_other_kind() -> None:
    inside = np.random.default_rng(5).random((9, 14)) < 0.3
    inside[:, 10:] = False
    distances = glyphs.signed_distance(inside)
    for (y, x), within in np.ndenumerate(inside):
        others = np.argwhere(inside != within)
        nearest = np.sqrt(((others - (y, x)) ** 2).sum(1).min())
        assert distances[y, x] == pytest.approx((-1 if within else 1) * (nearest - 0.5))
