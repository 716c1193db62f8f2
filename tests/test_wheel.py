"""The built wheel, installed into a clean environment, encodes and decodes."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from conftest import write_png
from numpy.typing import NDArray

from inrcodec import viewer

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    scripts = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    run(scripts / "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)

    source = write_png(tmp_path / "photo.png", picture)
    names = [row["name"] for row in json.loads(run(scripts / "inrcodec", "priors", "--json", cwd=tmp_path))]
    assert {"photo", "sparse-siren"} <= set(names)
    for prior in names:
        target = tmp_path / f"{prior}.sinr"
        run(
            scripts / "inrcodec",
            "encode",
            source,
            "-o",
            target,
            "--prior",
            prior,
            "--steps",
            "2",
            cwd=tmp_path,
        )
        run(scripts / "inrcodec", "decode", target, cwd=tmp_path)
        assert target.with_suffix(".decoded.png").stat().st_size > 0
        run(scripts / "inrcodec", "view", target, cwd=tmp_path)
        assert target.with_suffix(".html").read_bytes() == viewer.page(target.read_bytes(), target.name)
