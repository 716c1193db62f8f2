"""All runs at once give what one after the other gives: gradients, pruning, training, and whole experiments."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import paper
import paper_batched
import pytest
import torch
from conftest import write_png
from paper_batched import Loss, Network, Pictures

from inrcodec.grid import pixel_grid
from inrcodec.maml import InnerLoop, meta_gradient
from inrcodec.options import Device
from inrcodec.prior import read_prior
from inrcodec.prune import apply_masks, full_masks, prune
from inrcodec.siren import siren
from inrcodec.train import TrainOptions

NETWORK = Network(width=10, omegas=(20.0, 30.0, 30.0))  # 10 units in a vector for 12
TRAIN = TrainOptions(
    hidden=10,
    layers=2,
    omega=20.0,
    hidden_omega=30.0,
    outer_rate=1e-3,
    batch=2,
    dense_steps=4,
    rounds=3,
    round_steps=3,
    device=Device.CPU,
    threads=1,
)
TINY = paper.Size(TRAIN, rounds=(1, 3), side=8, pictures=3, adam=paper.Protocol(True, 12, 1e-3))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two data sets of five and six training and four test pictures."""
    draw = np.random.default_rng(0)
    folders = {}
    for data, trains in (("faces", 5), ("glyphs", 6)):
        folders[data] = tmp_path_factory.mktemp(data)
        for part, count in (("train", trains), ("test", 4)):
            (folders[data] / part).mkdir()
            for i in range(count):
                ramp = np.indices((12, 15)).transpose(1, 2, 0) @ draw.uniform(0, 12, (2, 3))
                write_png(folders[data] / part / f"{i}.png", ramp.clip(0, 255).astype(np.uint8))
    return folders


@pytest.fixture(scope="module")
def packed(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their pictures in one file."""
    path = tmp_path_factory.mktemp("packed") / "pictures.npz"
    paper_batched.pack(folders, 8, None, path)
    return path


def experiments(packed: Path, out: Path, deadline: float = np.inf) -> paper_batched.Experiments:
    out.mkdir(exist_ok=True)
    return paper_batched.Experiments(TINY, Pictures.read(packed), [0, 1], out, 5, deadline)


def networks(count: int) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """Parameters of pruned networks, and their masks."""
    generator = torch.Generator().manual_seed(1)
    each = [NETWORK.init(generator) for _ in range(count)]
    masks = [prune(parameters, full_masks(parameters), 0.1 * (i + 1)) for i, parameters in enumerate(each)]
    return [apply_masks(*pair) for pair in zip(each, masks, strict=True)], masks


def flat_masks(masks: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    biases = {name: torch.ones_like(value) for name, value in NETWORK.init(torch.Generator()).items()}
    return NETWORK.pack([{**biases, **mask} for mask in masks]).bool()


def test_a_vector_holds_a_network() -> None:
    each, _ = networks(2)
    vectors = NETWORK.pack(each)
    assert vectors.shape == (2, NETWORK.size) and NETWORK.size == 12 * 3 + 2 * 12 * 13 + 3 * 13
    for parameters, back in zip(each, NETWORK.unpack(vectors), strict=True):
        assert parameters.keys() == back.keys()
        assert all((parameters[name] == back[name]).all() for name in parameters)
    grid = torch.from_numpy(pixel_grid(4, 6))
    outputs = Loss(NETWORK, grid).outputs(vectors)
    for parameters, output in zip(each, outputs, strict=True):
        torch.testing.assert_close(output, siren(parameters, grid, NETWORK.omegas))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_gradient_through_the_inner_steps_is_that_of_maml(steps: int) -> None:
    each, masks = networks(3)
    grid = torch.from_numpy(pixel_grid(4, 6)).double()
    pictures = torch.rand(3, 2, 24, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
    loss = Loss(NETWORK, grid)
    alive = flat_masks(masks)
    gradient, losses = paper_batched.meta_gradient(loss, NETWORK.pack(each).double(), alive, pictures, steps, 0.1)
    assert not gradient[~alive].any()
    inner = InnerLoop(NETWORK.omegas, steps, 0.1)
    for i, parameters in enumerate(each):
        doubles = {name: value.double() for name, value in parameters.items()}
        expected, expected_losses = meta_gradient(doubles, masks[i], grid, pictures[i], inner)
        torch.testing.assert_close(losses[i], expected_losses)
        for name, value in NETWORK.unpack(gradient[i : i + 1])[0].items():
            torch.testing.assert_close(value.double(), expected[name] / 2)


def test_each_network_is_pruned_by_itself() -> None:
    each, masks = networks(3)
    left = paper_batched.pruned(NETWORK, NETWORK.pack(each), flat_masks(masks), 0.3)
    expected = [prune(parameters, mask, 0.3) for parameters, mask in zip(each, masks, strict=True)]
    assert (left == flat_masks(expected)).all()


def test_batches_are_those_of_the_data_set(folders: dict[str, Path], packed: Path, tmp_path: Path) -> None:
    batched = experiments(packed, tmp_path)
    assert batched.runs == [("faces", 0), ("faces", 1), ("glyphs", 0), ("glyphs", 1)]
    for index, (data, seed) in enumerate(batched.runs):
        one = paper.Experiment(data, seed, TINY, folders[data], tmp_path)
        for step in range(3):
            drawn = batched.training[batched.schedule[step, index]]
            assert (drawn == (one._pictures("train").batch(seed, step, 2) - 0.5).flatten(1, 2)).all()
        assert (batched.tests[batched.run_of == index] == (one.test - 0.5).flatten(1, 2)).all()


def test_all_runs_at_once_give_what_each_gives(folders: dict[str, Path], packed: Path, tmp_path: Path) -> None:
    experiments(packed, tmp_path / "batched").run(list(paper.METHODS))
    paper.run(folders, TINY, tmp_path / "single", [0, 1], list(paper.METHODS))
    rows = {row.key: row for row in paper.read_rows(tmp_path / "batched" / "paper.csv")}
    expected = paper.read_rows(tmp_path / "single" / "paper.csv")
    assert len(expected) == len(rows) == 2 * 2 * 2 * (4 * 2 + 2)
    for row in expected:
        assert replace(row, psnr=rows[row.key].psnr) == rows[row.key]
        assert row.psnr == pytest.approx(rows[row.key].psnr, abs=5e-3)
    for path in sorted((tmp_path / "batched" / "runs").rglob("*.safetensors")):
        prior = read_prior(path)
        same = read_prior(tmp_path / "single" / path.relative_to(tmp_path / "batched"))
        for name, value in same.tensors.items():
            np.testing.assert_allclose(prior.tensors[name], value, rtol=1e-3, atol=1e-5)


def test_a_run_that_was_out_of_time_goes_on(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(paper_batched.OutOfTime):
        experiments(packed, tmp_path, deadline=0.0).run(["Dense-Narrow"])
    assert paper.read_rows(tmp_path / "paper.csv") == []
    experiments(packed, tmp_path).run(["Meta-SparseINR"])
    rows = paper.read_rows(tmp_path / "paper.csv")
    assert len(rows) == 2 * 2 * 2 * 2
    monkeypatch.setattr(paper_batched.Training, "run", None)
    experiments(packed, tmp_path).run(["Meta-SparseINR"])
    assert paper.read_rows(tmp_path / "paper.csv") == rows
    experiments(packed, tmp_path).run(["MAML+OneShot"])  # from the dense networks that were kept
    assert len(paper.read_rows(tmp_path / "paper.csv")) == len(rows) + 2 * 2 * 2


def test_the_command_packs_and_runs(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(paper.SIZES, "gpu", TINY)
    words = [f"{name}={folder}" for name, folder in folders.items()]
    path = tmp_path / "pictures.npz"
    command = ["pack", *words, "--side", "8", "--train", "4", "--out", str(path)]
    monkeypatch.setattr("sys.argv", ["paper_batched.py", *command])
    paper_batched.main()
    assert [len(pictures) for pictures in Pictures.read(path).train.values()] == [4, 4]
    command = ["run", str(path), "--seeds", "3", "--validation", "1", "--methods", "Scratch", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["paper_batched.py", *command])
    paper_batched.main()
    assert {(row.data, row.pictures) for row in paper.read_rows(tmp_path / "paper.csv")} == {
        ("faces", 1),
        ("glyphs", 1),
    }
    assert "out of time" not in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["paper_batched.py", *command[:-1], str(tmp_path / "b"), "--minutes", "0"])
    paper_batched.main()
    assert "out of time" in capsys.readouterr().out


def test_processes_measure_the_same(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, options in (("one", []), ("two", ["--processes", "2"])):
        changed = ["dense_steps=2", "round_steps=1", "hidden=5", "layers=2"]
        command = ["run", str(packed), "--train", *changed, "--rounds", "1", "--pictures", "2", "--seeds", "0", "1"]
        command += ["--methods", "Meta-SparseINR", "--out", str(tmp_path / name), *options]
        monkeypatch.setattr("sys.argv", ["paper_batched.py", *command])
        paper_batched.main()
        found.append({row.key: row.psnr for row in paper.read_rows(tmp_path / name / "paper.csv")})
    assert len(found[0]) == 2 * 2 * 2 and found[1] == pytest.approx(found[0], abs=2e-3)


@pytest.mark.cuda
def test_recorded_steps_are_those_of_the_cpu(packed: Path, tmp_path: Path) -> None:
    pictures = Pictures.read(packed)
    trained = []
    for device in (Device.CPU, Device.CUDA):
        size = replace(TINY, train=replace(TRAIN, device=device))
        out = tmp_path / device
        out.mkdir()
        batched = paper_batched.Experiments(size, pictures, [0, 1], out, 5, np.inf)
        trained.append(batched._begun(batched._network(10), "dense")[0].cpu())
    torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-5)
