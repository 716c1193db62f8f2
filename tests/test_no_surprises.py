"""The package does nothing that reading a picture should not do: no code from data, no network, no other programs."""

import ast
from pathlib import Path

import pytest

import inrcodec

RUN_DATA = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "runpy", "shelve"}
NETWORK = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "smtplib", "socket", "ssl", "urllib"}
OTHER_PROGRAMS = {"ctypes", "multiprocessing", "pty", "subprocess"}
MODULES = RUN_DATA | NETWORK | OTHER_PROGRAMS
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"torch.load", "torch.save", "torch.hub", "np.load", "numpy.load", "os.system", "os.popen"}

SOURCES = sorted(Path(inrcodec.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_unpickled_fetched_or_run(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & MODULES, f"line {node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[0] not in MODULES, f"line {node.lineno}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in CALLS, f"line {node.lineno}"
        elif isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ATTRIBUTES, f"line {node.lineno}"


def test_the_search_covers_the_whole_package() -> None:
    assert {"bitstream", "codec", "image", "prior"} <= {path.stem for path in SOURCES}
