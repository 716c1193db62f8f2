"""Coverage-guided fuzzing: `python tests/fuzz/run.py TARGET [libFuzzer options]`, with `pip install -e ".[fuzz]"`.

The corpus of the target is read, and new inputs are kept in `.fuzz/TARGET`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

with atheris.instrument_imports(include=["inrcodec"]):
    from targets import TARGETS, folders


def main() -> None:
    name, *options = sys.argv[1:]
    found = HERE.parent.parent / ".fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], str(found), *map(str, folders(name)), *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
