"""The floors of the package: imports go down, or sideways without a circle, and decoding does without torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import inrcodec

FLOORS = (
    {"adam", "errors", "graphs", "grid", "metrics", "native", "options", "parallel"},
    {"allocation", "bitstream", "entropy", "image", "lattice", "siren"},
    {"alpha", "dataset", "deltas", "guess", "maml", "prior", "rate", "render", "synthesis", "target"},
    {
        "adapt_filter",
        "adapt_rate",
        "analysis",
        "expect",
        "fit",
        "objective",
        "postfilter",
        "processes",
        "prune",
        "rounding",
        "spacing",
        "stripe",
        "tile",
    },
    {"api", "codec", "train", "train_fields"},
    {"__main__", "bench", "cli", "plugins", "viewer"},
)
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}
# `encode` with steps and training import torch, 2 seconds of it, when they are called. Nothing else may.
WITHOUT_TORCH = (
    "allocation", "alpha", "api", "bench", "bitstream", "cli", "codec", "deltas", "entropy", "guess", "image",
    "lattice", "metrics", "plugins", "postfilter", "prior", "render", "spacing", "viewer",
)  # fmt: skip

PACKAGE = Path(inrcodec.__file__).parent
MODULES = {path.stem: path.read_text("utf-8") for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
# A sub-package counts as one module.
MODULES |= {path.parent.name: "" for path in PACKAGE.glob("*/__init__.py")}
for path in sorted(PACKAGE.glob("*/*.py")):
    MODULES[path.parent.name] += path.read_text("utf-8")
TREES = {module: ast.parse(text) for module, text in MODULES.items()}


def imported(nodes: list[ast.AST]) -> set[str]:
    """Full names of what import statements import, `package.module` for each name of a `from` import too."""
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def neighbours(module: str, nodes: list[ast.AST]) -> set[str]:
    """Other modules of this package among the imports."""
    names = {name.split(".")[1] for name in imported(nodes) if name.startswith("inrcodec.")}
    return (names & TREES.keys()) - {module}


@pytest.mark.parametrize("module", TREES)
def test_imports_go_down_only(module: str) -> None:
    assert module in FLOOR, f"{module} has no floor yet"
    for other in neighbours(module, list(ast.walk(TREES[module]))):
        assert FLOOR[other] <= FLOOR[module], f"{module} imports {other} from a floor above"


def test_imports_form_no_circle() -> None:
    order = TopologicalSorter({module: neighbours(module, list(ast.walk(tree))) for module, tree in TREES.items()})
    assert set(order.static_order()) == TREES.keys()


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_decoding_needs_imports_no_torch(module: str) -> None:
    seen, left = set(), [module]
    while left:
        current = left.pop()
        seen.add(current)
        top_level = list(ast.iter_child_nodes(TREES[current]))
        assert not any(name.split(".")[0] == "torch" for name in imported(top_level)), f"{current} does"
        left += neighbours(current, top_level) - seen


def test_python_agrees_that_torch_is_not_imported() -> None:
    modules = ", ".join(f"inrcodec.{module}" for module in WITHOUT_TORCH)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
