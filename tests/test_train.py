"""A training run: rounds, log, checkpoints, interruption, several processes."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from inrcodec.errors import OptionError, PriorError
from inrcodec.grid import pixel_grid
from inrcodec.maml import adapt
from inrcodec.options import Device
from inrcodec.prior import Prior, read_prior
from inrcodec.processes import processes
from inrcodec.prune import full_masks
from inrcodec.siren import init_siren, siren
from inrcodec.train import Progress, TrainOptions, train

OPTIONS = TrainOptions(
    hidden=8,
    layers=2,
    omega=20.0,
    inner_rate=3e-2,
    outer_rate=2e-3,
    batch=3,
    dense_steps=14,
    rounds=2,
    round_steps=8,
    device=Device.CPU,
    threads=1,
    log_every=5,
    checkpoint_every=6,
)


@dataclass(frozen=True)
class Ramps:
    """Smooth pictures of 4 x 6 pixels, a pure function of (seed, step): ramps of random slope and colour."""

    fingerprint: str = "ramps"

    def batch(self, seed: int, step: int, count: int, part: slice = slice(None)) -> Tensor:
        draw = np.random.default_rng([seed, step])
        slopes = draw.uniform(-0.4, 0.4, (count, 2, 3))
        ramps = pixel_grid(4, 6).reshape(4, 6, 2) @ slopes[:, None] + 0.6
        return torch.from_numpy(ramps).float()[part]


@dataclass(frozen=True)
class Deadly(Ramps):
    """Ramps that kill the second of torchrun's processes at a step, and note the steps that it is asked for."""

    folder: Path = Path()
    deadly_step: int = 9

    def batch(self, seed: int, step: int, count: int, part: slice = slice(None)) -> Tensor:
        if os.environ["RANK"] == "1":
            with (self.folder / "steps.txt").open("a") as steps:
                print(step, file=steps)
            if step == self.deadly_step and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(seed, step, count, part)


class Spent:
    """Pictures of a run that needs none any more."""

    fingerprint = "ramps"

    def batch(self, seed: int, step: int, count: int, part: slice = slice(None)) -> Tensor:
        raise AssertionError("the run is over")


class KilledError(Exception):
    """What a kill looks like from inside."""


def run(folder: Path, options: TrainOptions = OPTIONS, stop_at: int | None = None) -> Prior:
    """A prior trained on ramps; with `stop_at`, killed at the first report from that step on."""

    def watch(report: Progress) -> None:
        if stop_at is not None and report.step >= stop_at:
            raise KilledError

    prior = train(options, Ramps(), folder, progress=watch)
    assert prior is not None
    return prior


def rows(folder: Path) -> list[dict[str, str]]:
    """The log, without the seconds."""
    with (folder / "log.csv").open(newline="") as log:
        return [{key: row[key] for key in row if key != "seconds"} for row in csv.DictReader(log)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("run") / "new"
    run(folder)
    return folder


def test_defaults_are_the_paper() -> None:
    # Lee et al. 2021, section 4 and code: 150k dense steps, then rounds of 20 % with 30k steps each
    options = TrainOptions()
    assert (options.hidden, options.inner.omegas) == (256, (200.0,) * 4)
    assert (options.inner.steps, options.inner.rate, options.outer_rate, options.batch) == (2, 1e-2, 1e-5, 3)
    assert (options.dense_steps, options.round_steps, options.rounds, options.fraction) == (
        150_000,
        30_000,
        20,
        0.2,
    )


def test_rounds_divide_the_steps() -> None:
    assert OPTIONS.steps == 30
    assert [OPTIONS.round_of(step) for step in (0, 13, 14, 21, 22, 29)] == [0, 0, 1, 1, 2, 2]
    assert [step for step in range(30) if OPTIONS.starts_round(step)] == [14, 22]


def test_each_round_keeps_four_fifths_of_the_weights(finished: Path) -> None:
    masks = []
    for number in range(3):
        prior = read_prior(finished / f"round-{number}.safetensors")
        masks.append(np.concatenate([prior.mask(layer).ravel() for layer in range(prior.layers)]))
    assert [mask.sum() for mask in masks] == [104, 84, 68]  # 104 - int(20.8), 84 - int(16.8)
    assert not (masks[1] & ~masks[0]).any()
    assert not (masks[2] & ~masks[1]).any()


def test_pruned_weights_are_zero_to_the_bit_and_nothing_of_them_is_left_in_adam(finished: Path) -> None:
    state = load_file(finished / "checkpoint.safetensors")
    names = [key.removeprefix("masks/") for key in state if key.startswith("masks/")]
    assert len(names) == 3
    for name in names:
        removed = ~state[f"masks/{name}"]
        for part in ("parameters", "first", "second"):
            assert state[f"{part}/{name}"][removed].view(torch.int32).eq(0).all()
            assert state[f"{part}/{name}"][~removed].ne(0).any()


def test_training_makes_unseen_pictures_fit_better_in_as_many_steps(tmp_path: Path) -> None:
    options = replace(OPTIONS, dense_steps=120, rounds=1, round_steps=40)
    prior = run(tmp_path, options)
    trained = {name: torch.from_numpy(tensor.copy()) for name, tensor in prior.tensors.items() if "mask" not in name}
    untrained = init_siren(2, (8, 8), 3, options.inner.omegas, torch.Generator().manual_seed(options.seed))
    coordinates = torch.from_numpy(pixel_grid(4, 6))
    picture = Ramps().batch(seed=999, step=0, count=1)[0].flatten(0, 1) - 0.5

    def error(start: dict[str, Tensor]) -> float:
        fitted = adapt(start, full_masks(start), coordinates, picture, options.inner)
        return (siren(fitted, coordinates, options.inner.omegas) - picture).square().mean().item()

    assert error(trained) < 0.2 * error(untrained)


def test_the_log_has_a_row_per_interval_and_per_round(finished: Path) -> None:
    log = rows(finished)
    assert [int(row["step"]) for row in log] == [5, 10, 14, 15, 20, 22, 25, 30]
    assert [int(row["round"]) for row in log] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [float(row["surviving"]) for row in log[::3]] == pytest.approx([1, 84 / 104, 68 / 104], abs=1e-6)
    assert float(log[-1]["loss"]) < float(log[0]["loss"])


def test_progress_counts_up_and_runs_out_of_time_left(tmp_path: Path) -> None:
    reports: list[Progress] = []
    train(OPTIONS, Ramps(), tmp_path, progress=reports.append)
    assert [report.step for report in reports] == [int(row["step"]) for row in rows(tmp_path)]
    assert all(report.steps == 30 and report.seconds > 0 for report in reports)
    assert reports[0].seconds_left > reports[-1].seconds_left == 0


def test_the_prior_says_how_it_was_made(tmp_path: Path) -> None:
    prior = train(OPTIONS, Ramps(), tmp_path, name="ramps", notes={"data": "ramps of 4 x 6 pixels"})
    assert prior is not None
    assert prior.name == "ramps"
    assert prior.architecture.omegas == OPTIONS.inner.omegas
    assert prior.notes["data"] == "ramps of 4 x 6 pixels"
    assert prior.notes["run"]["round_steps"] == 8
    assert prior.notes["round"] == 2


@pytest.mark.parametrize("stop_at", [5, 10, 14, 20, 25])
def test_a_killed_run_goes_on_to_the_same_bytes(finished: Path, tmp_path: Path, stop_at: int) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, stop_at=stop_at)
    prior = run(tmp_path)
    assert prior.data == read_prior(finished / "round-2.safetensors").data
    assert rows(tmp_path) == rows(finished)


def test_a_run_that_is_over_only_returns_its_prior(finished: Path) -> None:
    before = (finished / "log.csv").read_bytes()
    prior = train(OPTIONS, Spent(), finished)
    assert prior is not None
    assert prior.data == (finished / "round-2.safetensors").read_bytes()
    assert (finished / "log.csv").read_bytes() == before


def test_a_run_refuses_other_options_and_says_which(finished: Path) -> None:
    with pytest.raises(OptionError, match=r"inner_steps 2, now 3"):
        train(replace(OPTIONS, inner_steps=3), Ramps(), finished)
    with pytest.raises(OptionError, match=r"pictures ramps, now others"):
        train(OPTIONS, Ramps(fingerprint="others"), finished)


def test_a_run_may_change_how_often_it_reports(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, stop_at=10)
    prior = run(tmp_path, replace(OPTIONS, log_every=7, checkpoint_every=3))
    assert prior.tensors["siren.1.weight"].tobytes() == (
        read_prior(finished / "round-2.safetensors").tensors["siren.1.weight"].tobytes()
    )


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_damaged_checkpoint_is_an_error(tmp_path: Path, finished: Path, size: int) -> None:
    whole = (finished / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(whole[:size])
    with pytest.raises(PriorError, match="not a checkpoint"):
        run(tmp_path)


def test_a_run_that_diverges_stops(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="diverged before step 5"):
        run(tmp_path, replace(OPTIONS, inner_rate=1e30))


@pytest.mark.parametrize(
    "name", [field.name for field in fields(TrainOptions) if field.type in ("int", "float", "float | None")]
)
def test_options_out_of_range_are_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError, match=name):
        replace(OPTIONS, **{name: -1})  # type: ignore[arg-type]


def test_a_run_can_begin_with_the_prior_of_another(finished: Path, tmp_path: Path) -> None:
    start = read_prior(finished / "round-2.safetensors")
    prior = train(replace(OPTIONS, dense_steps=0, rounds=1), Ramps(), tmp_path, start=start)
    assert prior is not None
    before, after = (np.concatenate([p.mask(layer).ravel() for layer in range(p.layers)]) for p in (start, prior))
    assert (before.sum(), after.sum()) == (68, 55)  # 68 - int(13.6)
    assert not (after & ~before).any()
    # Adam moves no weight by more than its rate in the first steps, so these are still near
    distance = np.abs(prior.tensors["siren.0.bias"] - start.tensors["siren.0.bias"]).max()
    assert 0 < distance < 8 * 2 * OPTIONS.outer_rate
    with pytest.raises(OptionError, match=r"start .*, now None"):
        train(replace(OPTIONS, dense_steps=0, rounds=1), Ramps(), tmp_path)


@pytest.mark.parametrize("changed", [{"hidden": 9}, {"layers": 3}, {"omega": 21.0}, {"hidden_omega": 21.0}])
def test_a_run_refuses_to_begin_with_another_network(finished: Path, tmp_path: Path, changed: dict[str, float]) -> None:
    start = read_prior(finished / "round-0.safetensors")
    with pytest.raises(PriorError, match="is not a SIREN with"):
        train(replace(OPTIONS, **changed), Ramps(), tmp_path, start=start)  # type: ignore[arg-type]


def test_random_pruning_removes_as_many_weights_but_not_the_smallest(finished: Path, tmp_path: Path) -> None:
    start = read_prior(finished / "round-0.safetensors")
    options = replace(OPTIONS, dense_steps=0, rounds=1, round_steps=1)
    magnitudes = np.concatenate([np.abs(start.tensors[f"siren.{i}.weight"]).ravel() for i in range(start.layers)])
    least = {}
    for random in (False, True):
        folder = tmp_path / str(random)
        prior = train(replace(options, random_pruning=random), Ramps(), folder, start=start)
        assert prior is not None
        alive = np.concatenate([prior.mask(layer).ravel() for layer in range(prior.layers)])
        assert alive.sum() == 84
        least[random] = (alive[np.argsort(magnitudes)[:20]]).sum()  # of the 20 smallest, how many survive
    assert least[False] == 0
    assert 10 <= least[True] < 20


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("default")  # torch's own
def test_compiled_steps_are_those_of_the_plain_path(finished: Path, tmp_path: Path) -> None:
    prior = run(tmp_path, replace(OPTIONS, compile=True))
    plain = read_prior(finished / "round-2.safetensors")
    for name, tensor in prior.tensors.items():
        np.testing.assert_allclose(tensor, plain.tensors[name], atol=1e-4)


def test_more_processes_than_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrcodec.train.process", lambda: (0, 4))
    with pytest.raises(OptionError, match="4 processes cannot share a batch of 3"):
        run(tmp_path)


@pytest.mark.slow
def test_two_processes_train_like_one(finished: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, **address, "PYTHONPATH": path}
    started = [
        subprocess.Popen([sys.executable, __file__, str(tmp_path)], env={**environment, "RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=60) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    for row, single in zip(rows(tmp_path), rows(finished), strict=True):
        assert [float(row[key]) for key in row] == pytest.approx([float(single[key]) for key in row], rel=1e-3)
    shared, alone = (read_prior(folder / "round-2.safetensors") for folder in (tmp_path, finished))
    for name, tensor in shared.tensors.items():
        np.testing.assert_allclose(tensor, alone.tensors[name], atol=1e-4)


@pytest.mark.slow
def test_torchrun_restarts_a_killed_process_and_training_goes_on(finished: Path, tmp_path: Path) -> None:
    words = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", __file__, str(tmp_path)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    steps = [int(line) for line in (tmp_path / "steps.txt").read_text().split()]
    assert steps == [*range(10), *range(6, 30)]  # there is a checkpoint after 6 steps
    for row, single in zip(rows(tmp_path), rows(finished), strict=True):
        assert [float(row[key]) for key in row] == pytest.approx([float(single[key]) for key in row], rel=1e-3)


if __name__ == "__main__":  # one of the two processes
    with processes(Device.CPU):
        folder = Path(sys.argv[1])
        train(OPTIONS, Deadly(folder=folder) if "TORCHELASTIC_RUN_ID" in os.environ else Ramps(), folder)
