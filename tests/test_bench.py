"""Benchmarks of real files, with a codec that is easy to predict."""

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from inrcodec import bench
from inrcodec.bench import Average, Codec, Row, pillow_codecs
from inrcodec.errors import ImageError, OptionError, OutputExistsError
from inrcodec.metrics import psnr, ssim

SHAPES = {"a.png": (24, 16, 3), "b/c.png": (12, 40, 3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small pictures, one of them grey and with metadata that no file should carry."""
    rng = np.random.default_rng(0)
    for name, (height, width, _) in SHAPES.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] * [4.0, 3.0, 2.0]
        pixels = np.clip(ramp + rng.normal(0, 3, ramp.shape), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels)
        image.save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0" + bytes(5000))
    return tmp_path / "pictures"


def coarse_encode(source: Path, target: Path, quality: float) -> None:
    """One row of samples per pixel row, with as many levels as the quality; `.raw` files of known size."""
    with Image.open(source) as image:
        assert not image.info.get("exif")
        pixels = np.asarray(image)
    step = 256 / quality
    levels = np.floor(pixels / step).astype(np.uint8)
    target.write_bytes(bytes([*pixels.shape[:2], int(quality)]) + levels.tobytes())


def coarse_decode(source: Path, target: Path) -> None:
    data = source.read_bytes()
    height, width, quality = data[:3]
    levels = np.frombuffer(data, np.uint8, offset=3).reshape(height, width, 3)
    Image.fromarray(((levels + 0.5) * (256 / quality)).astype(np.uint8)).save(target)


OURS = Codec("ours", ".raw", (4, 16, 64), coarse_encode, coarse_decode)


def test_rows_that_are_known_are_not_measured_again(folder: Path, tmp_path: Path) -> None:
    rows = bench.measure(folder, [OURS])
    (tmp_path / "rows.csv").write_text(bench.to_csv(rows[:4]))
    known, told = bench.read_rows(tmp_path / "rows.csv"), list[Row]()
    assert known == rows[:4]
    again = bench.measure(folder, [OURS], tell=told.append, known=known)
    assert again[:4] == known and again[4:] == told and len(told) == 2
    (tmp_path / "rows.csv").write_text("codec,bpp\nours,1\n")
    with pytest.raises(OptionError, match="expected the rows"):
        bench.read_rows(tmp_path / "rows.csv")


def test_rows_are_measured_on_files(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    rows = bench.measure(folder, [OURS], lambda done, total: told.append((done, total)))
    assert told == [(number, 6) for number in range(1, 7)]
    assert [(row.file, row.quality) for row in rows] == [(name, quality) for name in SHAPES for quality in (4, 16, 64)]
    for row in rows:
        height, width, _ = SHAPES[row.file]
        assert row.bytes == 3 + height * width * 3
        assert row.bpp == 8 * row.bytes / (height * width)
        with Image.open(folder / row.file) as image:
            pixels = np.asarray(image)
        step = 256 / row.quality
        expected = ((np.floor(pixels / step) + 0.5) * step).astype(np.uint8)
        assert row.psnr == psnr(pixels, expected)
        assert row.ssim == ssim(pixels, expected)
        assert row.encode_s > 0 and row.decode_s > 0


def test_pillow_codecs_give_more_for_more(folder: Path) -> None:
    codecs = pillow_codecs(lambda _: None, qualities=(10, 50, 90))
    assert {"JPEG", "WebP"} <= {codec.name for codec in codecs}
    averages = bench.average(bench.measure(folder, codecs))
    for codec in codecs:
        low, middle, high = (mean for mean in averages if mean.codec == codec.name)
        assert low.psnr < middle.psnr < high.psnr
        assert low.bpp < high.bpp
        assert 0 < low.ssim < high.ssim < 1


def test_grey_pictures_are_measured_too(tmp_path: Path) -> None:
    Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12)).save(tmp_path / "grey.png")
    rows = bench.measure(tmp_path, pillow_codecs(lambda _: None, qualities=(90,)))
    assert all(row.psnr > 30 for row in rows)


def test_missing_codecs_are_left_out_with_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.SAVE, "WEBP")
    monkeypatch.delitem(Image.SAVE, "JXL", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    notices: list[str] = []
    names = [codec.name for codec in pillow_codecs(notices.append)]
    assert "JPEG" in names and not {"WebP", "JPEG XL"} & set(names)
    assert any("JPEG XL" in notice for notice in notices)
    assert any("WebP" in notice for notice in notices)


def test_averages_are_means_over_files() -> None:
    rows = [
        Row("x", 10, "a", 100, 1.0, 30.0, 0.5, 2.0, 0.25),
        Row("y", 10, "a", 100, 9.0, 40.0, 0.9, 1.0, 1.0),
        Row("x", 10, "b", 300, 2.0, 36.0, 0.75, 4.0, 0.75),
    ]
    assert bench.average(rows) == [
        Average("x", 10, 2, 1.5, 33.0, 0.625, 3.0, 0.5),
        Average("y", 10, 1, 9.0, 40.0, 0.9, 1.0, 1.0),
    ]


def mean_of(codec: str, bpp: float, decibels: float) -> Average:
    return Average(codec, 1, 1, bpp, decibels, 0.9, 1.0, 1.0)


def test_bd_rates_compare_ours_with_each_other_codec() -> None:
    averages = [mean_of("ours", bpp / 2, db) for bpp, db in ((0.2, 30), (0.4, 33), (0.8, 36))]
    averages += [mean_of("half as good", bpp, db) for bpp, db in ((0.2, 30), (0.4, 33), (0.8, 36))]
    averages += [mean_of("far off", 0.5, 50), mean_of("far off", 0.9, 55), mean_of("lossless", 9.0, math.inf)]
    curves = bench.curves(averages)
    assert "lossless" not in curves
    assert bench.bd_rates(curves, "ours") == {"half as good": pytest.approx(-50), "far off": None}
    assert bench.bd_rates({"other": [(0.1, 30.0), (0.2, 33.0)]}, "ours") == {"other": None}


def test_bd_rates_by_picture_do_not_depend_on_which_picture_gets_the_bits() -> None:
    def rows_of(codec: str, factors: dict[str, float], moved: dict[str, int]) -> list[Row]:
        """Pictures whose PSNR rises by 3 dB per doubling of the rate, `moved` doublings further up."""
        steps = [(file, factor, step + moved[file]) for file, factor in factors.items() for step in range(3)]
        return [Row(codec, step, file, 9, f * 2**step, 30 + 3 * step, 0.9, 1.0, 1.0) for file, f, step in steps]

    there = rows_of("theirs", {"smooth": 0.1, "busy": 0.4}, {"smooth": 0, "busy": 0})
    for moved in ({"smooth": 0, "busy": 0}, {"smooth": 1, "busy": -1}):
        rows = there + rows_of("ours", {"smooth": 0.05, "busy": 0.8}, moved)
        assert bench.bd_rates_by_picture(rows, "ours") == {"theirs": pytest.approx(0)}  # half and twice as many bits
    apart = rows_of("far off", {"smooth": 0.1}, {"smooth": 30})
    assert bench.bd_rates_by_picture(there + apart, "theirs") == {"far off": None}


def test_the_report_is_json_and_csv(folder: Path) -> None:
    rows = bench.measure(folder, [OURS])
    rows.append(Row("lossless", 100, "a.png", 10, 9.0, math.inf, 1.0, 0.1, 0.1))
    rates = bench.bd_rates(bench.curves(bench.average(rows)), "ours")
    loaded = json.loads(json.dumps(bench.report(rows, rates, "ours"), allow_nan=False))
    assert loaded["rows"][0]["file"] == "a.png"
    assert loaded["rows"][-1]["psnr"] is None
    assert loaded["averages"][0]["files"] == 2
    lines = list(csv.DictReader(bench.to_csv(rows).splitlines()))
    assert [float(line["bpp"]) for line in lines] == [row.bpp for row in rows]


def test_the_tables_show_every_codec() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        rows = [Row("ours", 1, "a", 9, 0.25, 31.256, 0.9, 1.0, 1.0), Row("JPEG", 1, "a", 9, 0.5, 30, 0.9, 1.0, 1.0)]
        console.print(*bench.tables(rows, {"JPEG": -12.34, "WebP": None}, "ours"))
    text = capture.get()
    assert all(part in text for part in ("JPEG", "0.2500", "31.26", "BD-rate of ours", "-12.3 %", "no common PSNR"))


def test_published_curves_are_read(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("codec,bpp,psnr_rgb,source\nJPEG,0.5,28.95,somewhere\nJPEG,1.0,32.59,x\nVTM,0.1,28.17,y\n")
    assert bench.read_curves(path) == {"JPEG": [(0.5, 28.95), (1.0, 32.59)], "VTM": [(0.1, 28.17)]}


@pytest.mark.parametrize(
    "text", ["codec,rate\nJPEG,1\n", "codec,bpp,psnr_rgb\nJPEG,much,30\n", "codec,bpp,psnr_rgb\nJPEG,1\n"]
)
def test_files_that_hold_no_curves_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "curves.csv"
    path.write_text(text)
    with pytest.raises(OptionError, match=r"curves\.csv: expected CSV"):
        bench.read_curves(path)
    with pytest.raises(OptionError, match="No such file"):
        bench.read_curves(tmp_path / "none.csv")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_curves_are_drawn_with_published_ones(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="the plot is an extra")
    path = tmp_path / f"curves{suffix}"
    measured = {"ours": [(0.4, 33.0), (0.2, 30.0)]}
    bench.plot(measured, path, published={"VTM": [(0.1, 28.17), (2.0, 41.0)]})
    assert path.stat().st_size > 1000
    with pytest.raises(OutputExistsError):
        bench.plot(measured, path)
    bench.plot({}, path, overwrite=True)
    bench.plot(measured, path, published={"all beyond": [(9.0, 60.0)]}, overwrite=True)


def test_a_plot_that_cannot_be_drawn_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"\.svg, found '\.txt'"):
        bench.plot({}, tmp_path / "curves.txt")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"inrcodec\[bench\]"):
        bench.plot({}, tmp_path / "curves.png")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="found none"):
        bench.measure(tmp_path, [OURS])
