"""The package does nothing that reading a picture should not do: no code from data, no network, no other programs."""

import ast
import subprocess
import sys
from pathlib import Path

import golden
import pytest

import inrcodec

RUN_DATA = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "runpy", "shelve"}
NETWORK = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "smtplib", "socket", "ssl", "urllib"}
OTHER_PROGRAMS = {"ctypes", "multiprocessing", "pty", "subprocess"}
MODULES = RUN_DATA | NETWORK | OTHER_PROGRAMS
ALLOWED = {("parallel", "ctypes")}  # to tell the C library that is there anyway what to keep
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"torch.load", "torch.save", "torch.hub", "np.load", "numpy.load", "os.system", "os.popen"}

SOURCES = sorted(Path(inrcodec.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_unpickled_fetched_or_run(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert not {name for name in names & MODULES if (path.stem, name) not in ALLOWED}, f"line {node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[0] not in MODULES, f"line {node.lineno}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in CALLS, f"line {node.lineno}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ctypes."):
            assert ast.unparse(node) == "ctypes.CDLL(None)", f"line {node.lineno}"
        elif isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ATTRIBUTES, f"line {node.lineno}"


def test_the_search_covers_the_whole_package() -> None:
    assert {"bitstream", "codec", "image", "prior"} <= {path.stem for path in SOURCES}


WATCHED = """
import sys
PROGRAMS = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn")
FORBIDDEN = ("socket.", "urllib.", "http.", "pickle.", *PROGRAMS)

def refuse(event, arguments):
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"{event} {arguments}")

sys.addaudithook(refuse)
from inrcodec.cli import app
app(sys.argv[1:])
"""


@pytest.mark.parametrize("command", ["decode", "info", "priors", "encode"])
def test_commands_run_without_network_other_programs_or_pickles(tmp_path: Path, command: str) -> None:
    words = {
        "decode": [str(golden.FOLDER / "fields.sinr"), "-o", str(tmp_path / "a.png")],
        "info": [str(golden.FOLDER / "fields.sinr")],
        "priors": [],
        "encode": [str(golden.FOLDER / "fields.png"), "-o", str(tmp_path / "a.sinr"), "--steps", "1"],
    }[command]
    done = subprocess.run([sys.executable, "-c", WATCHED, command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_watched_is_refused() -> None:
    for code in (
        "import socket; socket.socket()",
        "import os; os.system('true')",
        "import pickle; pickle.loads(b'cos\\nx\\n.')",
    ):
        script = WATCHED.split("from inrcodec")[0] + code
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert "PermissionError" in done.stderr
