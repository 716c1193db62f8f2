"""Examples run as they say, and are short enough to be read at a glance."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
# What follows the name of each, in a folder with photos/a.png, photos/b.png and a.sinr.
ARGUMENTS = {
    "zoom": ["a.sinr", "frames", "--at", "20,10", "--frames", "3"],
    "recompress": ["photos", "small", "--share", "0.2", "--steps", "0"],
    "header": ["a.sinr", "photos/a.png"],
    "own_prior": ["photos", "mine.safetensors", "--size", "24", "--steps", "1"],
    "use_pillow": ["photos/a.png"],
}
MADE = {
    "zoom": ["frames/000.png", "frames/002.png"],
    "recompress": ["small/a.sinr", "small/b.sinr"],
    "header": [],
    "own_prior": ["mine.safetensors", "mine.sinr"],
    "use_pillow": ["photos/a.sinr", "photos/a.thumbnail.png"],
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/a.png, photos/b.png and a.sinr."""
    from inrcodec import codec
    from inrcodec.image import read_picture
    from inrcodec.options import EncodeOptions

    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    with Image.open(EXAMPLES / "parrots.png") as image:
        image.crop((60, 40, 148, 104)).save(folder / "photos" / "a.png")
        image.crop((200, 90, 250, 130)).save(folder / "photos" / "b.png")
    data = codec.encode(read_picture(folder / "photos" / "a.png"), EncodeOptions(steps=0)).data
    (folder / "a.sinr").write_bytes(data)
    return folder


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_example_does_what_it_says(encoded: Path, name: str) -> None:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *ARGUMENTS[name]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=encoded, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout, result.stderr
    for made in MADE[name]:
        assert (encoded / made).stat().st_size > 0


def test_every_example_is_tested_listed_and_short() -> None:
    paths = sorted(EXAMPLES.glob("*.py"))
    assert [path.stem for path in paths] == sorted(ARGUMENTS)
    for path in paths:
        text = path.read_text()
        assert len(text.splitlines()) <= 40
        assert f"({path.name})" in (EXAMPLES / "README.md").read_text()
        assert f"python examples/{path.name}" in text
