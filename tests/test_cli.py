import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import write_png
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from inrcodec import __version__, errors
from inrcodec.cli import app
from inrcodec.cli.app import EXIT_CODES
from inrcodec.cli.encode import size_of
from inrcodec.prior import Prior, read_prior


@pytest.fixture
def folder(tmp_path: Path, picture: NDArray[np.uint8], field_prior: Prior, network_prior: Prior) -> Path:
    """A folder with photo.png and two priors."""
    write_png(tmp_path / "photo.png", picture)
    (tmp_path / "fields.safetensors").write_bytes(field_prior.data)
    (tmp_path / "network.safetensors").write_bytes(network_prior.data)
    return tmp_path


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in a folder."""
    import os

    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, list(words))
    finally:
        os.chdir(before)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def encoded(folder: Path, *words: str) -> None:
    code, _, errors = run(folder, "encode", "photo.png", "--prior", "fields.safetensors", "--steps", "1", *words)
    assert code == 0, errors


def test_encode_and_decode_write_beside_the_input(folder: Path) -> None:
    encoded(folder)
    code, out, _ = run(folder, "decode", "photo.sinr", "--prior", "fields.safetensors")
    assert code == 0 and "37x22" in out
    with Image.open(folder / "photo.decoded.png") as image:
        assert (image.size, image.mode) == ((37, 22), "RGB")


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--scale", "4"], (148, 88)),
        (["--scale", "0.5"], (18, 11)),
        (["--size", "50x20"], (50, 20)),
        (["--region", "10,3,9,7"], (9, 7)),
        (["--region", "10,3,9,7", "--scale", "2"], (18, 14)),
    ],
)
def test_decode_makes_any_size(folder: Path, words: list[str], size: tuple[int, int]) -> None:
    encoded(folder)
    code, _, errors = run(folder, "decode", "photo.sinr", "--prior", "fields.safetensors", "-o", "x.png", *words)
    assert code == 0, errors
    with Image.open(folder / "x.png") as image:
        assert image.size == size


def test_json_reports_the_file_on_disk(folder: Path) -> None:
    words = ("encode", "photo.png", "--prior", "network.safetensors", "--steps", "1", "--json")
    report = json.loads(run(folder, *words)[1])
    size = (folder / "photo.sinr").stat().st_size
    assert report["bytes"] == size
    assert report["steps"] == 1
    assert report["bpp"] == pytest.approx(size * 8 / (37 * 22), abs=1e-3)
    info = json.loads(run(folder, "info", "photo.sinr", "--json")[1])
    assert (info["width"], info["height"], info["bytes"]) == (37, 22, size)
    assert sum(info["groups"]) + 40 >= size
    code, out, _ = run(folder, "decode", "photo.sinr", "--prior", "network.safetensors", "--json")
    assert code == 0 and json.loads(out)["output"] == "photo.decoded.png"


def test_a_mask_says_what_is_known(folder: Path, picture: NDArray[np.uint8]) -> None:
    known = np.arange(22 * 37).reshape(22, 37) % 4 > 0
    Image.fromarray(known).save(folder / "mask.png")
    write_png(folder / "photo.png", np.where(known[..., None], picture, 7).astype(np.uint8))
    encoded(folder, "--known", "mask.png", "-o", "a.sinr")
    write_png(folder / "photo.png", picture)
    encoded(folder, "--known", "mask.png", "-o", "b.sinr")
    assert (folder / "a.sinr").read_bytes() == (folder / "b.sinr").read_bytes()
    Image.fromarray(known[:9]).save(folder / "mask.png")
    words = ("encode", "photo.png", "--known", "mask.png", "--prior", "fields.safetensors", "--json")
    code, out, _ = run(folder, *words)
    assert code == 3 and "photo.png: the mask of known pixels: expected 37 x 22" in json.loads(out)["error"]["message"]


def test_an_effort_stands_for_its_steps(folder: Path) -> None:
    encoded(folder, "--steps", "20", "-o", "a.sinr")
    words = ("encode", "photo.png", "--prior", "fields.safetensors", "--effort", "2", "-o", "b.sinr")
    assert run(folder, *words)[0] == 0
    assert (folder / "a.sinr").read_bytes() == (folder / "b.sinr").read_bytes()


def test_nothing_is_overwritten_without_force(folder: Path) -> None:
    encoded(folder)
    before = (folder / "photo.sinr").read_bytes()
    code, _, errors = run(folder, "encode", "photo.png", "--prior", "fields.safetensors", "--steps", "0")
    assert code == 6 and "photo.sinr" in errors
    assert (folder / "photo.sinr").read_bytes() == before
    encoded(folder, "--force", "-Q", "20")
    assert (folder / "photo.sinr").read_bytes() != before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["encode", "missing.png"], 3, "missing.png"),
        (["encode", "text.png"], 3, "text.png"),
        (["encode", "empty.png"], 3, "empty"),
        (["encode", "cut.png"], 3, "cut.png"),
        (["encode", "photo.png", "--prior", "nobody"], 5, "nobody"),
        (["encode", "photo.png", "--prior", "text.png"], 5, "text.png"),
        (["encode", "photo.png", "-Q", "101"], 2, "quality"),
        (["encode", "photo.png", "--steps", "-1"], 2, "steps"),
        (["encode", "photo.png", "--effort", "10"], 2, "effort"),
        (["encode", "photo.png", "--effort", "0", "--steps", "0"], 2, "not both"),
        (["encode", "photo.png", "-o", "photo.png", "--force"], 2, "photo.png"),
        (["encode", "photo.png", "-o", "nowhere/x.sinr"], 6, "nowhere"),
        (["decode", "missing.sinr"], 4, "missing.sinr"),
        (["decode", "photo.png"], 4, "photo.png"),
        (["decode", "broken.sinr"], 4, "broken.sinr"),
        (["decode", "ok.sinr"], 5, "not bundled"),
        (["decode", "ok.sinr", "--prior", "network.safetensors"], 5, "network"),
        (["decode", "ok.sinr", "--size", "12"], 2, "WxH"),
        (["decode", "ok.sinr", "--region", "1,2,3"], 2, "x,y,w,h"),
        (["decode", "ok.sinr", "--region", "30,0,20,5", "--prior", "fields.safetensors"], 2, "inside"),
        (["decode", "ok.sinr", "--scale", "2", "--size", "4x4"], 2, "not both"),
        (["decode", "ok.sinr", "--max-pixels", "813"], 4, "at most 813 pixels"),
        (["decode", "ok.sinr", "-o", "x.gif", "--prior", "fields.safetensors"], 6, "gif"),
        (["info", "text.png"], 4, "text.png"),
        (["train-prior", "nowhere"], 3, "nowhere"),
    ],
)
def test_errors_are_one_line_with_a_code_and_leave_nothing_behind(
    folder: Path, words: list[str], code: int, message: str
) -> None:
    encoded(folder, "-o", "ok.sinr")
    (folder / "text.png").write_text("this is no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:-40])
    (folder / "broken.sinr").write_bytes((folder / "ok.sinr").read_bytes()[:-3])
    before = sorted(path.name for path in folder.iterdir())
    found, out, errors = run(folder, *words)
    assert found == code, errors
    assert not out and message in errors and errors.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before


def test_what_nobody_foresaw_is_one_line_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("inrcodec.codec.encode_together", fail)
    code, out, errors = run(folder, "encode", "photo.png", "--prior", "fields.safetensors")
    assert (code, out, errors) == (1, "", "error: out of memory\n")
    monkeypatch.setattr("inrcodec.codec.encode_together", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(folder, "encode", "photo.png", "--prior", "fields.safetensors")[0] == 130


def test_priors_lists_what_is_bundled(folder: Path) -> None:
    rows = json.loads(run(folder, "priors", "--json")[1])
    assert [row["name"] for row in rows if row["default"]] == ["photo"]
    code, out, _ = run(folder, "priors")
    assert code == 0 and out.count("\n") == len(rows)


def test_train_prior_trains_a_prior_that_encodes(folder: Path) -> None:
    words = [
        "--hidden",
        "8",
        "--layers",
        "2",
        "--omega",
        "20",
        "--hidden-omega",
        "30",
        "--size",
        "12",
        "--resize",
        "16",
        "--batch",
        "1",
    ]
    words += ["--dense-steps", "3", "--rounds", "1", "--round-steps", "2", "--threads", "1"]
    code, out, errors = run(folder, "train-prior", ".", "-o", "mine.safetensors", *words, "-v")
    assert code == 0, errors
    assert "mine.safetensors" in out and (folder / "mine.run" / "log.csv").exists()
    assert "loss" in errors and "hidden=8" in errors
    assert read_prior(folder / "mine.safetensors").architecture.omegas == (20, 30)
    assert run(folder, "train-prior", ".", "-o", "mine.safetensors", *words, "--force", "-q") == (0, "", "")
    code, _, errors = run(folder, "encode", "photo.png", "--prior", "mine.safetensors", "--steps", "1")
    assert code == 0, errors


def test_train_fields_trains_a_prior_that_encodes(folder: Path) -> None:
    words = [
        "--size",
        "36",
        "--batch",
        "1",
        "--guess-steps",
        "1",
        "--fit-steps",
        "3",
        "--fit-length",
        "2",
        "--slots",
        "1",
        "--decoder-steps",
        "2",
    ]
    code, out, errors = run(folder, "train-fields", ".", "-o", "mine.safetensors", "--threads", "1", "--json", *words)
    assert code == 0, errors
    assert json.loads(out)["output"] == "mine.safetensors"
    code, _, errors = run(folder, "encode", "photo.png", "--prior", "mine.safetensors", "--steps", "1")
    assert code == 0, errors


def test_bench_measures_files_and_writes_table_plot_and_rows(folder: Path) -> None:
    words = ("bench", ".", "--prior", "fields.safetensors", "--steps", "1", "-Q", "10", "-Q", "90")
    code, out, errors = run(folder, *words, "--csv", "rows.csv", "--plot", "rd.png", "--json")
    assert code == 0, errors
    report = json.loads(out)
    assert {"inrcodec", "JPEG", "WebP"} <= {row["codec"] for row in report["rows"]}
    assert "JPEG" in report["bd_rate_percent"]
    assert (folder / "rows.csv").read_text().count("\n") == len(report["rows"]) + 1
    with Image.open(folder / "rd.png") as image:
        assert image.width > 400
    (folder / "rd.png").unlink()
    before = (folder / "rows.csv").read_text().splitlines()
    assert run(folder, *words[:-2], "--alone", "--csv", "rows.csv", "--resume", "-q") == (0, "", "")
    after = (folder / "rows.csv").read_text().splitlines()
    assert sorted(after) == sorted(before)  # nothing is measured again, and what was not asked for stays
    code, out, errors = run(folder, *words, "--alone", "-v")
    assert code == 0 and "PSNR" in out
    assert errors.count("photo.png: inrcodec, quality 10: ") == 1
    assert run(folder, *words, "--alone", "-q") == (0, "", "")


def test_version_and_help() -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["--version"]).stdout == f"inrcodec {__version__}\n"
    text = runner.invoke(app, ["--help"]).stdout
    assert all(name in text for name in ("encode", "decode", "info", "priors", "train-prior", "Exit codes"))
    assert "Examples" in runner.invoke(app, ["encode", "--help"]).stdout


def test_every_command_can_be_quiet_or_verbose_or_speak_json_and_has_help() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) >= 11
    for name, command in commands.items():
        options = {word for parameter in command.params for word in parameter.opts}
        assert options >= {"-q", "--quiet", "-v", "--verbose", "--json"}, name
        assert command.help and "inrcodec " + name in command.epilog, name
        assert all(getattr(parameter, "help", "") for parameter in command.params), name


def test_what_only_says_something_is_quiet_or_verbose_too(folder: Path) -> None:
    encoded(folder, "--self-contained")
    size = (folder / "photo.sinr").stat().st_size
    for words in (("info", "photo.sinr"), ("priors",), ("compare", "photo.png", "photo.sinr")):
        assert run(folder, *words, "-q") == (0, "", "")
        assert json.loads(run(folder, *words, "-q", "--json")[1]) == json.loads(run(folder, *words, "--json")[1])
        code, text, detail = run(folder, *words, "-v")
        assert code == 0 and text == run(folder, *words)[1] and detail
    spent = run(folder, "info", "photo.sinr", "-v")[2]
    assert "field of stride 4" in spent and sum(map(int, re.findall(r"(\d+) bytes", spent))) == size
    assert "Meta-SparseINR" in run(folder, "priors", "-v")[2]
    assert "red: mean difference" in run(folder, "compare", "photo.png", "photo.png", "-v")[2]
    assert run(folder, "info", "missing.sinr", "-q")[0] == 4


def test_a_reader_that_stops_reading_is_no_error_to_talk_about(folder: Path) -> None:
    encoded(folder)
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "inrcodec", "info", "photo.sinr"]
    result = subprocess.run(words, cwd=folder, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")


def test_torch_is_not_imported_where_it_is_not_needed(folder: Path) -> None:
    encoded(folder, "--self-contained")
    script = (
        "import sys\nfrom inrcodec.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    for words in (["--help"], ["info", "photo.sinr"], ["decode", "photo.sinr"], ["priors"]):
        result = subprocess.run([sys.executable, "-c", script, *words], cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_levels_decode_the_beginning_of_a_file(folder: Path) -> None:
    encoded(folder)
    (folder / "part.sinr").write_bytes((folder / "photo.sinr").read_bytes()[:-6])
    words = ("decode", "part.sinr", "--prior", "fields.safetensors")
    code, _, errors = run(folder, *words)
    assert code == 4 and "--levels" in errors
    code, out, errors = run(folder, *words, "--levels", "9")
    assert code == 0 and "37x22" in out, errors


def test_verify_reads_every_byte_and_writes_nothing(folder: Path) -> None:
    encoded(folder, "--self-contained")
    before = sorted(folder.iterdir())
    code, out, _ = run(folder, "verify", "photo.sinr", "--json")
    assert code == 0 and json.loads(out)["valid"]
    data = bytearray((folder / "photo.sinr").read_bytes())
    data[40] ^= 1
    (folder / "photo.sinr").write_bytes(data)
    assert run(folder, "verify", "photo.sinr")[0] == 4
    assert sorted(folder.iterdir()) == before


def test_compare_measures_pictures_and_files(folder: Path) -> None:
    encoded(folder)
    words = ("compare", "photo.png", "photo.sinr", "--prior", "fields.safetensors")
    code, out, errors = run(folder, *words, "--difference", "d.png", "--json")
    assert code == 0, errors
    facts = json.loads(out)
    assert 0 < facts["psnr"] < 60 and -1 <= facts["ssim"] < 1 and 0 <= facts["ms_ssim"] < 1
    assert facts["bpp_b"] == pytest.approx((folder / "photo.sinr").stat().st_size * 8 / (37 * 22))
    with Image.open(folder / "d.png") as image:
        assert image.size == (37, 22)
    assert json.loads(run(folder, "compare", "photo.png", "photo.png", "--json")[1])["psnr"] is None
    assert "PSNR inf dB" in run(folder, "compare", "photo.png", "photo.png")[1]


def test_convert_makes_a_file_that_opens_anywhere(folder: Path) -> None:
    encoded(folder)
    code, _, errors = run(folder, "convert", "photo.sinr", "--prior", "fields.safetensors")
    assert code == 0, errors
    assert run(folder, "verify", "photo.converted.sinr")[0] == 0
    code, _, errors = run(folder, "convert", "photo.converted.sinr", "-o", "plain.sinr", "--plain")
    assert code == 0 and (folder / "plain.sinr").read_bytes() == (folder / "photo.sinr").read_bytes()


def test_dashes_are_stdin_and_stdout(folder: Path) -> None:
    words = ["--prior", str(folder / "fields.safetensors")]
    png = (folder / "photo.png").read_bytes()
    made = CliRunner().invoke(app, ["encode", "-", "--steps", "1", *words, "--json"], input=png)
    assert made.exit_code == 0 and json.loads(made.stderr)["bytes"] == len(made.stdout_bytes)
    encoded(folder)
    assert made.stdout_bytes == (folder / "photo.sinr").read_bytes()
    shown = CliRunner().invoke(app, ["decode", "-", "--format", "webp", "-q", *words], input=made.stdout_bytes)
    assert shown.exit_code == 0 and shown.stdout_bytes[8:12] == b"WEBP" and not shown.stderr
    facts = CliRunner().invoke(app, ["info", "-", "--json"], input=made.stdout_bytes)
    assert json.loads(facts.stdout)["width"] == 37
    assert CliRunner().invoke(app, ["verify", "-", *words], input=made.stdout_bytes).exit_code == 0
    portable = CliRunner().invoke(app, ["convert", "-", *words], input=made.stdout_bytes)
    assert CliRunner().invoke(app, ["decode", "-", "-o", "-"], input=portable.stdout_bytes).exit_code == 0
    assert CliRunner().invoke(app, ["encode", "-"], input=b"no picture").exit_code == 3


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["encode", "missing.png"], 3, "ImageError"),
        (["info", "missing.sinr"], 4, "SinrError"),
        (["encode", "photo.png", "-Q", "1000"], 2, "OptionError"),
        (["encode", "photo.png", "--wrong"], 2, "NoSuchOption"),
        (["encode"], 2, "MissingParameter"),
        (["encode", "photo.png", "--steps", "many"], 2, "BadParameter"),
        (["translate"], 2, "UsageError"),
    ],
)
def test_with_json_errors_are_json_too(folder: Path, words: list[str], code: int, kind: str) -> None:
    found, out, errors = run(folder, *words, "--json")
    error = json.loads(out)["error"]
    assert found == error["exit_code"] == code and error["type"] == kind and error["message"] and not errors


def test_quiet_says_nothing_and_verbose_says_more(folder: Path) -> None:
    words = ("encode", "photo.png", "--prior", "fields.safetensors", "--steps", "1", "--force")
    assert run(folder, *words, "-q") == (0, "", "")
    code, out, errors = run(folder, *words, "-v")
    assert code == 0 and "bits per pixel" in out and "prior fields" in errors
    code, out, errors = run(folder, "encode", "missing.png", "-q")
    assert code == 3 and not out and "missing.png" in errors


def test_every_error_has_its_documented_exit_code() -> None:
    documented = {int(code) for code in re.findall(r"(\d+) ", EXIT_CODES)}
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert documented == {0, 130} | {kind.exit_code for kind in kinds}


def test_shells_complete_commands_and_priors() -> None:
    def completions(words: str) -> list[str]:
        environment = {"_INRCODEC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return CliRunner().invoke(app, [], prog_name="inrcodec", env=environment).stdout.split()

    assert completions("inrcodec enc") == ["encode"]
    assert completions("inrcodec encode x.png --prior ph") == ["photo"]
    assert "--quality" in completions("inrcodec encode x.png --q")


def test_opacity_survives_the_command_line(folder: Path, picture: NDArray[np.uint8]) -> None:
    Image.fromarray(np.dstack([picture, picture[..., 1]])).save(folder / "photo.png")
    encoded(folder)
    words = ("decode", "photo.sinr", "--prior", "fields.safetensors")
    assert json.loads(run(folder, "info", "photo.sinr", "--json")[1])["alpha"]
    assert run(folder, *words)[0] == 0
    with Image.open(folder / "photo.decoded.png") as image:
        assert image.mode == "RGBA" and np.array_equal(np.asarray(image)[..., 3], picture[..., 1])
    code, _, errors = run(folder, *words, "-o", "photo.jpg")
    assert code == 6 and "transparency" in errors
    assert run(folder, *words, "-o", "photo.jpg", "--convert")[0] == 0
    assert run(folder, "compare", "photo.png", "photo.sinr", "--prior", "fields.safetensors")[0] == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("40kB", 40_000), ("1.5 MB", 1_500_000), ("2KiB", 2048), ("700", 700), ("9k", 9000), ("1G", 10**9)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert size_of(text) == size


def test_targets_replace_the_quality(folder: Path) -> None:
    words = ("encode", "photo.png", "--prior", "network.safetensors", "--steps", "2", "--force")
    code, out, errors = run(folder, *words, "--target-size", "0.131kB", "--json")
    assert code == 0 and json.loads(out)["bytes"] == pytest.approx(131, rel=0.03), out
    assert "quality" in run(folder, *words, "--target-bpp", "1.25")[1]
    assert json.loads(out)["target_met"]
    for goal, said in (("--target-size", "a size of 20 bytes is not met: the nearest is"), ("--target-psnr", "a PSNR")):
        code, out, errors = run(folder, *words, goal, "20", "--json")
        assert code == 0 and json.loads(out)["target_met"] is False
        assert errors.startswith(f"warning: photo.png: {said}") and errors.count("\n") == 1
    assert run(folder, *words, "--target-size", "20", "-q") == (0, "", "")
    for wrong in (
        ["--target-size", "big"],
        ["--target-size", "9kB", "-Q", "50"],
        ["--target-psnr", "9", "--target-bpp", "1"],
    ):
        assert run(folder, *words, *wrong)[0] == 2
