"""README tells the truth: its commands run, and it names every command there is."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from inrcodec.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_commands_of_the_use_section_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"<!-- use -->\n```sh\n(.*?)```", README, re.S)
    (tmp_path / "photos").mkdir()
    for name in ("photo.png", "photos/photo.png"):
        (tmp_path / name).write_bytes((ROOT / "examples" / "parrots.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    lines = [line.split("#")[0].strip() for line in block.splitlines() if line.startswith("inrcodec ")]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "encode":
            words += ["--effort", "0"]  # the last one counts
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (line, result.output)


def test_the_python_of_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"<!-- python -->\n```python\n(.*?)```", README, re.S)
    with Image.open(ROOT / "examples" / "parrots.png") as image:
        image.crop((0, 0, 150, 100)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["encode", "photo.png", "--steps", "0"]).exit_code == 0
    code = block.replace("quality=60", "quality=60, steps=0")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    assert names["array"].shape == (200, 300, 3) and names["patch"].shape == (256, 256, 3)
    assert names["colours"].shape == (2, 3)


def test_every_command_is_documented_and_has_help() -> None:
    import typer

    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"inrcodec {name}" in README, name
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", "help"), (name, parameter.name)
