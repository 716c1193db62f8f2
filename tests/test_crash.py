"""Crashes: whenever a writer is killed, interrupted or out of space, its target is the old file or the new one."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import golden
import pytest

from inrcodec.errors import OutputError
from inrcodec.image import check_output, write_atomically

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")

MOMENTS = 50
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

# Children write to a target in a loop; after a random time each gets the signal. One line per child: how it
# ended (minus the signal, or its exit code), what its target held, and what else was in the folder.
WRITE_UNTIL_KILLED = """
import json, os, random, sys, time
from pathlib import Path
from inrcodec.image import write_atomically

folder, number, overwrite, moments = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True", int(sys.argv[4])
target, contents = folder / "target", {"old": b"a" * 200_000, "new": b"b" * 300_000}
rng = random.Random(number)
for _ in range(moments):
    target.write_bytes(contents["old"])
    ready, starts = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(starts, b"!")
            while True:
                for data in contents.values():
                    if not overwrite:
                        target.unlink()
                    write_atomically(target, data, overwrite=overwrite)
        except KeyboardInterrupt:
            os._exit(130)
        finally:
            os._exit(1)
    os.read(ready, 1)
    time.sleep(rng.uniform(0, 0.02))
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    found = target.read_bytes() if target.exists() else None
    held = next((name for name, data in contents.items() if data == found), "nothing" if found is None else "a part")
    others = [path.name for path in folder.iterdir() if path != target]
    print(json.dumps([os.waitstatus_to_exitcode(status), held, others]))
    for name in others:
        (folder / name).unlink()
"""

# Children train until they are killed, each going on where the one before was; where one comes to its end first,
# the next begins another training. The last is left to finish, and all are compared with one that was not stopped.
TRAIN_UNTIL_KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from inrcodec.options import Device

class Noise:
    names = ("noise",)
    fingerprint = "noise"
    def batch(self, seed, step, count, part=slice(None)):
        generator = torch.Generator().manual_seed(1000 * seed + step)
        return torch.rand(count, 6, 8, 3, generator=generator)[part]

def network(folder):
    from inrcodec.train import TrainOptions, train
    options = TrainOptions(hidden=6, layers=2, omega=20.0, batch=1, dense_steps=150, rounds=2, round_steps=75,
                           device=Device.CPU, threads=1, log_every=2, checkpoint_every=1)
    return train(options, Noise(), folder, name="crash")

def fields(folder):
    from inrcodec.train_fields import FieldOptions, train_fields
    options = FieldOptions(channels=(1, 3), widths=(5, 4), hidden=6, middle=4, features=3, analysis=4, batch=1,
                           guess_steps=60, fit_steps=120, fit_length=4, slots=2,
                           decoder_steps=20, decoder_batches=2, device=Device.CPU, threads=1,
                           log_every=2, checkpoint_every=1)
    return train_fields(options, Noise(), folder)

torch.set_num_threads(1)
folder, train, moments = Path(sys.argv[1]), globals()[sys.argv[2]], int(sys.argv[3])
import inrcodec.train, inrcodec.train_fields
import torch._dynamo  # late otherwise; and a Ctrl-C while its classes are made is Python's RuntimeError, not ours
rng, killed, stopped = random.Random(0), 0, [folder / "stopped0"]
while killed < moments:
    ready, starts = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(starts, b"!")
            train(stopped[-1])
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    os.read(ready, 1)
    os.close(ready), os.close(starts)
    time.sleep(rng.uniform(0, 0.15))
    number = signal.SIGINT if killed % 2 else signal.SIGKILL
    os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 130 if number == signal.SIGINT else -number), code
    if code:
        killed += 1
    else:
        stopped.append(folder / f"stopped{len(stopped)}")
whole = train(folder / "whole")
for run in stopped:
    assert all((train(run).tensors[name] == tensor).all() for name, tensor in whole.tensors.items())
print(len(stopped))
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts jobs in the background deaf to SIGINT, and so would be what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(script: str, *words: object) -> list[Any]:
    """What a script prints, line by line, read as JSON."""
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_a_writer_can_be_stopped_at_any_moment(tmp_path: Path, number: signal.Signals, overwrite: bool) -> None:
    rows = run(WRITE_UNTIL_KILLED, tmp_path, int(number), overwrite, MOMENTS)
    codes, held, others = zip(*rows, strict=True)
    assert Counter(codes) == {130 if number == signal.SIGINT else -number: MOMENTS}
    assert set(held) <= ({"old", "new"} if overwrite else {"old", "new", "nothing"})
    if number == signal.SIGINT:
        assert not any(others)
    assert all(name.startswith(".inrcodec-") for names in others for name in names)


@pytest.mark.parametrize("kind", ["network", "fields"])
def test_training_can_be_stopped_at_any_moment(tmp_path: Path, kind: str) -> None:
    (count,) = run(TRAIN_UNTIL_KILLED, tmp_path, kind, MOMENTS)
    whole = {path.name for path in (tmp_path / "whole").iterdir()}
    for number in range(count):
        left = (path.name for path in (tmp_path / f"stopped{number}").iterdir())
        assert {name for name in left if not name.startswith(".inrcodec-")} == whole


BEGIN = "print(flush=True); import runpy; runpy.run_module('inrcodec', run_name='__main__')"


def test_control_c_exits_130_and_leaves_the_old_output_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    command = [sys.executable, "-c", BEGIN, "decode", str(golden.FOLDER / "fields.sinr"), "--force", "-o", str(target)]

    def begun() -> subprocess.Popen[bytes]:
        """A process, once Python itself has started: while it does, its exit code is its own."""
        child = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()
        return child

    first, start = begun(), time.perf_counter()
    first.communicate()
    whole, new = time.perf_counter() - start, target.read_bytes()
    for moment in range(12):
        target.write_bytes(b"old")
        child = begun()
        time.sleep(whole * moment / 11)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate()
        # Python dies of the signal where nobody has said what else it should do, which a shell reports as 130, too.
        assert child.returncode in (0, 130, -signal.SIGINT), errors
        assert target.read_bytes() in ((new,) if child.returncode == 0 else (b"old", new))
        assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


WRITE_WITHOUT_SPACE = """
import resource, signal, sys
from pathlib import Path
from inrcodec.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
sys.argv[0] = "inrcodec"
main()
"""


@pytest.mark.parametrize("old", [b"old", None], ids=["old", "nothing"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, old: bytes | None) -> None:
    target = tmp_path / "out.png"
    if old is not None:
        target.write_bytes(old)
    words = ["decode", str(golden.FOLDER / "fields.sinr"), "-o", str(target), "--force"]
    command = [sys.executable, "-c", WRITE_WITHOUT_SPACE, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == OutputError.exit_code and "File too large" in done.stderr, done.stderr
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [data for data in [old] if data is not None]


@contextmanager
def read_only_folder() -> Iterator[Path]:
    """A folder that holds a file and that nobody may write into, root included."""
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), os.geteuid()
        (folder / "old").write_bytes(b"old")
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)  # root may write anywhere
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_read_only_folder_is_refused_before_the_work(name: str) -> None:
    with read_only_folder() as folder:
        with pytest.raises(OutputError, match="Permission denied|cannot write"):
            check_output(folder / name, overwrite=True)
        with pytest.raises(OutputError):
            write_atomically(folder / name, b"new", overwrite=True)
        assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("old", b"old")]
