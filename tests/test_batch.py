"""Many files: what is found, where results go, and that one bad file spoils no other."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from conftest import write_png
from numpy.typing import NDArray
from test_cli import run

from inrcodec import codec
from inrcodec.cli.app import Reporter
from inrcodec.cli.batch import Batch, Job, MemoryShare, Progress, Result, do_all, find_jobs, grouped, one_by_one
from inrcodec.errors import ImageError, OptionError
from inrcodec.image import SUFFIXES
from inrcodec.prior import Prior

QUICK = ("--prior", "fields.safetensors", "--steps", "1")


@pytest.fixture
def folder(tmp_path: Path, picture: NDArray[np.uint8], field_prior: Prior) -> Path:
    """a.png, in/b.png, in/deep/c.png and a prior."""
    for name in ("a.png", "in/b.png", "in/deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_png(tmp_path / name, picture[:6, :8])
    (tmp_path / "fields.safetensors").write_bytes(field_prior.data)
    return tmp_path


def found(
    folder: Path, *sources: str, output: str | None = None, recursive: bool = True
) -> tuple[dict[str, str], bool]:
    """Outputs by inputs, relative to the folder, and whether it is a single file."""
    target = folder / output if output else None
    jobs, single = find_jobs([folder / source for source in sources], SUFFIXES, recursive, target, ".sinr")

    def short(path: Path | None) -> str:
        assert path is not None
        return path.relative_to(folder).as_posix()

    return {short(job.source): short(job.target) for job in jobs}, single


def test_results_lie_beside_their_files_or_in_a_folder_with_the_same_subfolders(folder: Path) -> None:
    assert found(folder, "a.png") == ({"a.png": "a.sinr"}, True)
    assert found(folder, "a.png", output="x.sinr") == ({"a.png": "x.sinr"}, True)
    assert found(folder, "a.png", output="in")[0] == {"a.png": "in/a.sinr"}
    assert found(folder, "in") == ({"in/b.png": "in/b.sinr", "in/deep/c.png": "in/deep/c.sinr"}, False)
    assert found(folder, "in", output="out")[0] == {"in/b.png": "out/b.sinr", "in/deep/c.png": "out/deep/c.sinr"}
    assert found(folder, "a.png", "in/b.png", output="out")[0] == {"a.png": "out/a.sinr", "in/b.png": "out/b.sinr"}
    assert found(folder, "i*/*.png") == ({"in/b.png": "in/b.sinr"}, False)
    assert find_jobs([folder / "a.png"], SUFFIXES, False, None, None) == ([Job(folder / "a.png")], True)


def test_what_is_ambiguous_or_empty_is_refused(folder: Path) -> None:
    write_png(folder / "a.webp", np.zeros((6, 8, 3), np.uint8))
    (folder / "empty").mkdir()
    with pytest.raises(OptionError, match="a folder; -r"):
        found(folder, "in", recursive=False)
    with pytest.raises(OptionError, match=r"a\.png and .*a\.webp would both become"):
        found(folder, "a.png", "a.webp")
    with pytest.raises(OptionError, match="no file matches"):
        found(folder, "*.gif")
    with pytest.raises(OptionError, match="need a folder"):
        found(folder, "in", output="a.png")
    with pytest.raises(ImageError, match="found none"):
        found(folder, "empty")
    with pytest.raises(OptionError, match="only input"):
        find_jobs([Path("-"), folder / "a.png"], SUFFIXES, False, None, ".sinr")


def test_files_are_the_same_bytes_whatever_runs_beside_them(folder: Path) -> None:
    made = []
    for number, jobs in enumerate((["--jobs", "1"], ["--jobs", "3"])):
        code, _, errors = run(folder, "encode", "-r", ".", "-o", f"out{number}", *QUICK, *jobs)
        assert code == 0, errors
        made.append([(folder / f"out{number}" / name).read_bytes() for name in ("a.sinr", "in/b.sinr")])
    assert made[0] == made[1]


def test_every_core_has_a_file_as_long_as_there_are_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    many, few = ([Job(Path("a.png"))] * count for count in (20, 3))
    assert (Batch(many, False).at_once, Batch(few, False).at_once, Batch(many, False, 5).at_once) == (8, 3, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Batch(many, False).at_once == 2


def test_pictures_of_a_size_are_done_together_while_every_core_has_groups() -> None:
    sizes = [(96, 64)] * 5 + [(64, 96)] * 5 + [None] * 2 + [(96, 64)] * 9 + [(5000, 4000)] * 3
    jobs = [Job(Path(str(number))) for number in range(len(sizes))]

    def size(job: Job) -> tuple[int, int] | None:
        return sizes[int(job.source.name)]

    for at_once, most in ((1, 6), (2, 3), (5, 1), (9, 1)):
        groups = grouped(jobs, at_once, size)
        assert sorted(number for group in groups for number in group) == list(range(len(jobs)))
        assert max(map(len, groups)) == most and len(groups) >= 4 * at_once or most == 1
        for group in groups:
            assert len({sizes[number] for number in group}) == 1
            assert len(group) == 1 or sizes[group[0]] in ((96, 64), (64, 96))


def test_a_group_gives_the_files_of_each_alone_but_for_a_bad_one(folder: Path, picture: NDArray[np.uint8]) -> None:
    for number in range(8):
        write_png(folder / "in" / f"{number}.png", np.roll(picture[:6, :8], number, axis=1))
    damaged = (folder / "in" / "3.png").read_bytes()
    (folder / "in" / "3.png").write_bytes(damaged[:-20])  # whole is its header
    (folder / "out").mkdir()
    (folder / "out" / "5.sinr").write_bytes(b"what must not be replaced")
    with patch("inrcodec.codec.encode_together", wraps=codec.encode_together) as together:
        code, out, errors = run(folder, "encode", "in/*.png", "-o", "out", "--jobs", "1", "--json", *QUICK)
    assert code == 1, errors
    files = {Path(said["input"]).name: said for said in json.loads(out)["files"]}
    assert sorted(len(call.args[0]) for call in together.call_args_list) == [1, 1, 1, 2, 2]
    assert [name for name, said in files.items() if "error" in said] == ["3.png", "5.png"]
    for name in ("0", "4", "7", "b"):
        assert run(folder, "encode", f"in/{name}.png", "-o", "one.sinr", "--force", *QUICK)[0] == 0
        assert (folder / "one.sinr").read_bytes() == (folder / "out" / f"{name}.sinr").read_bytes()


def test_what_cannot_be_fitted_together_fails_file_by_file(folder: Path, picture: NDArray[np.uint8]) -> None:
    for number in range(8):
        write_png(folder / "in" / f"{number}.png", picture[:6, :8])
    write_png(folder / "mask.png", picture[:5, :8])
    code, out, _ = run(folder, "encode", "in/*.png", "--jobs", "1", "--known", "mask.png", "--json", *QUICK)
    assert code == 1 and json.loads(out)["failed"] == 9
    assert all(said["input"] in said["error"]["message"] for said in json.loads(out)["files"])


def test_a_job_that_never_ends_does_not_keep_the_others_waiting() -> None:
    others = threading.Semaphore(0)

    @one_by_one
    def work(job: Job, progress: Progress) -> Result:
        if job.source.name == "0":
            assert all(others.acquire(timeout=20) for _ in range(5))
        else:
            others.release()
        return Result({}, "")

    do_all(Batch([Job(Path(str(n))) for n in range(6)], False, 2), work, Reporter(False, quiet=True), "testing")


def test_memory_is_shared_and_what_is_too_large_waits_until_it_is_alone() -> None:
    memory, held, most = MemoryShare(10), [], []

    def take(size: int) -> None:
        with memory(size):
            held.append(size)
            most.append(sum(held))
            time.sleep(0.01)
            held.remove(size)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take, (4, 25, 3, 6, 4, 5)))
    assert len(most) == 6 and all(size <= 10 or size == 25 for size in most)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_one_bad_file_is_reported_and_the_rest_is_done(folder: Path, jobs: str) -> None:
    (folder / "in" / "bad.png").write_text("this is no picture")
    code, out, errors = run(folder, "encode", "-r", "in", "a.png", "-o", "out", "--jobs", jobs, *QUICK)
    assert code == 1 and "3 done, 1 failed" in out and errors.count("\n") == 1 and "bad.png" in errors
    made = sorted(path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*.sinr"))
    assert made == ["a.sinr", "b.sinr", "deep/c.sinr"]
    code, out, _ = run(folder, "verify", "-r", "out", "--prior", "fields.safetensors", "--json")
    assert code == 0 and json.loads(out)["done"] == 3
    code, _, errors = run(folder, "decode", "-r", "out", "-o", "back", "--format", "webp", "--prior", QUICK[1])
    assert code == 0 and (folder / "back" / "deep" / "c.decoded.webp").exists(), errors


def test_resume_does_only_what_is_missing(folder: Path) -> None:
    assert run(folder, "encode", "in/b.png", "--keep-mtime", *QUICK)[0] == 0
    before = (folder / "in" / "b.sinr").stat().st_mtime_ns
    assert before == (folder / "in" / "b.png").stat().st_mtime_ns
    words = ("encode", "-r", "in", *QUICK)
    assert run(folder, *words)[0] == 1
    os.unlink(folder / "in" / "deep" / "c.sinr")
    code, out, _ = run(folder, *words, "--resume", "--json")
    report = json.loads(out)
    assert code == 0 and (report["done"], report["skipped"], report["failed"]) == (1, 1, 0)
    assert [("skipped" in said, said["input"]) for said in report["files"]] == [
        (True, "in/b.png"),
        (False, "in/deep/c.png"),
    ]
    assert (folder / "in" / "b.sinr").stat().st_mtime_ns == before
    assert "is there" in run(folder, "encode", "in/b.png", "--resume", *QUICK)[1]
    assert run(folder, *words, "--resume", "--force")[0] == 2


@pytest.mark.slow
def test_two_processes_share_the_files_and_the_first_reports_for_both(folder: Path) -> None:
    for name in ("d.png", "in/e.png"):
        write_png(folder / name, np.zeros((6, 8, 3), np.uint8))
    (folder / "bad.png").write_bytes(b"")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, **address, "PYTHONPATH": path}
    # Nothing is overwritten: a file that both do would fail in one of them.
    words = ["encode", "-r", ".", "--prior", "fields.safetensors", "--effort", "0", "--device", "cpu", "--json"]
    command = [sys.executable, "-m", "inrcodec", *words]
    started = [
        subprocess.Popen(command, cwd=folder, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        first, second = (process.communicate(timeout=120)[0] for process in started)
    finally:
        for process in started:
            process.kill()
    assert second == "" and [process.returncode for process in started] == [1, 1]
    report = json.loads(first)
    assert (report["done"], report["skipped"], report["failed"]) == (5, 0, 1)
    assert [said["input"] for said in report["files"]] == [
        "a.png", "bad.png", "d.png", "in/b.png", "in/deep/c.png", "in/e.png"
    ]  # fmt: skip
    assert "error" in report["files"][1]
    assert len(list(folder.rglob("*.sinr"))) == 5


def test_json_says_which_file_failed_and_why(folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"")
    code, out, errors = run(folder, "encode", "a.png", "bad.png", *QUICK, "--json")
    good, bad = json.loads(out)["files"]
    assert code == 1 and good["output"] == "a.sinr" and not errors
    assert bad["input"] == "bad.png" and bad["error"]["exit_code"] == 3
