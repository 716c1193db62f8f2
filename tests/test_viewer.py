"""The page of `view`: in a real browser it shows what `decode` gives, obeys no word of a file, and needs no network."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import chromium
import golden
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from inrcodec import codec, viewer
from inrcodec.bitstream import pack, unpack
from inrcodec.cli import app
from inrcodec.errors import LimitError, PriorError
from inrcodec.image import MAX_TEXT, Picture, exif_texts
from inrcodec.options import DecodeOptions, EncodeOptions
from inrcodec.prior import Prior, save_prior

HOSTILE = "</script><script>window.hacked=1</script>\"'><img src=x onerror=hacked=2>&amp;{{script}}"
in_chromium = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed")


def golden_file(name: str) -> tuple[bytes, Prior]:
    """A golden file and its prior."""
    kind = json.loads(golden.INDEX.read_text())[f"{name}.sinr"]["prior"].removesuffix(".sinr")
    return (golden.FOLDER / f"{name}.sinr").read_bytes(), golden.carried_prior(kind)


def described(text: str) -> bytes:
    """An EXIF block with a description."""
    tags = Image.Exif()
    tags[0x010E] = text
    return tags.tobytes()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    made = chromium.Chromium(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


def show(browser: chromium.Chromium, folder: Path, page: bytes, width: int = 700, height: int = 240) -> None:
    """Open a page in a window whose part for the picture has an even number of pixels each way."""
    (folder / "page.html").write_bytes(page)
    browser.open(folder / "page.html", width, height)
    browser.resize(width, height + browser.evaluate("document.querySelector('main').clientHeight") % 2)
    browser.wait()


def canvas(browser: chromium.Chromium) -> NDArray[np.uint8]:
    """What is drawn, (H, W, 3)."""
    height, width, text = browser.evaluate(
        """(() => {
            const { width, height } = document.getElementById('view');
            const gl = document.getElementById('view').getContext('webgl2');
            const bytes = new Uint8Array(width * height * 4);
            gl.bindFramebuffer(gl.FRAMEBUFFER, null);
            gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
            return [height, width, btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))];
        })()"""
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[::-1, :, :3]


def middle(drawn: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Where a picture of so many screen pixels lies whose middle is in the middle."""
    top, left = (drawn.shape[0] - height) // 2, (drawn.shape[1] - width) // 2
    return drawn[top : top + height, left : left + width]


def on_checkerboard(picture: Picture, drawn: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
    """A decoded picture of 0..255 as it is shown in the middle of a canvas."""
    unit = (2**picture.bit_depth - 1) / 255
    samples: NDArray[np.floating[Any]] = picture.pixels / unit
    if picture.alpha is None:
        return samples
    y, x = np.mgrid[: drawn.shape[0], : drawn.shape[1]] >> 3
    board = np.where((x + y) % 2 == 0, 0.4 * 255, 0.6 * 255)[..., None]
    opacity = picture.alpha[..., None] / unit / 255
    shown: NDArray[np.floating[Any]] = samples * opacity + middle(board, *picture.alpha.shape) * (1 - opacity)
    return shown


def agreement(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The share of samples that are within 2/255."""
    assert a.shape == b.shape
    return float((np.abs(a.astype(float) - b) <= 2).mean())


def double_click(browser: chromium.Chromium) -> None:
    """In the middle of the canvas."""
    width, height = browser.evaluate("[document.getElementById('view').width, document.getElementById('view').height]")
    for clicks in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            where = {"x": width // 2, "y": height // 2, "button": "left", "clickCount": clicks}
            browser.call("Input.dispatchMouseEvent", type=kind, **where)
    browser.wait()


@in_chromium
@pytest.mark.parametrize(
    "name",
    [
        "fields-noise", "fields-large-numbers", "fields-alpha", "fields-deep-grey-alpha", "fields-1x13",
        "fields-67x5", "fields-wide", "fields-wide-alpha", "photo-q60", "network-grey", "post-filtered",
        "sparse-siren-q60",
    ],
)  # fmt: skip
def test_samples_on_the_screen_are_those_of_decode(browser: chromium.Chromium, tmp_path: Path, name: str) -> None:
    data, prior = golden_file(name)
    show(browser, tmp_path, viewer.page(data, name, prior=prior))
    browser.press("1")
    for scale in (1, 2):
        picture = codec.decode(data, DecodeOptions(scale=scale), prior=prior)
        drawn = canvas(browser)
        height, width, _ = picture.pixels.shape
        assert agreement(middle(drawn, height, width), on_checkerboard(picture, drawn)) >= 0.99
        double_click(browser)


@in_chromium
@pytest.mark.parametrize(("layers", "post"), [(2, False), (3, False), (3, True)])
def test_filters_of_several_layers_are_drawn_as_decoded(
    browser: chromium.Chromium, tmp_path: Path, post_prior: Prior, layers: int, post: bool
) -> None:
    kernels, biases = post_prior.tensors["detail.mid"], post_prior.tensors["detail.mid_bias"]
    features = kernels.shape[1]
    mids = {
        "detail.mid": np.concatenate([kernels, kernels])[: layers * features],
        "detail.mid_bias": np.concatenate([biases, biases])[: layers * features],
    }
    tensors = {**post_prior.tensors, **mids}
    prior = save_prior(tmp_path / "deep.safetensors", "deep", post_prior.architecture, tensors)
    pixels = np.random.default_rng(layers).integers(0, 256, (34, 58, 3), np.uint8)
    made = codec.encode(Picture(pixels), EncodeOptions(steps=0), prior=prior).data
    data = pack(replace(unpack(made), post=post))
    show(browser, tmp_path, viewer.page(data, "deep", prior=prior))
    browser.press("1")
    for scale in (1, 2, 4):
        decoded = codec.decode(data, DecodeOptions(scale=scale), prior=prior).pixels
        assert agreement(middle(canvas(browser), 34 * scale, 58 * scale), decoded) >= 0.99
        double_click(browser)


@in_chromium
def test_tiles_leave_no_seams(browser: chromium.Chromium, tmp_path: Path, field_prior: Prior) -> None:
    picture = Picture(golden.scene(6, 600))
    data = codec.encode(picture, EncodeOptions(steps=0), prior=field_prior).data
    show(browser, tmp_path, viewer.page(data, "wide", prior=field_prior))
    browser.press("1")
    expected = codec.decode(data, prior=field_prior).pixels
    assert np.abs(middle(canvas(browser), 6, 600).astype(int) - expected).max() <= 2


@in_chromium
def test_tiles_that_are_dropped_or_given_up_half_way_are_made_again(
    browser: chromium.Chromium, tmp_path: Path, field_prior: Prior
) -> None:
    data = codec.encode(Picture(golden.scene(6, 800)), EncodeOptions(steps=1), prior=field_prior).data
    page = viewer.page(data, "wide", prior=field_prior)
    assert page.count(b"SLOTS = 64;") == 1
    browser.call("Page.setBypassCSP", enabled=True)
    show(browser, tmp_path, page.replace(b"SLOTS = 64;", b"SLOTS = 2;"), 900, 200)
    browser.call("Page.setBypassCSP", enabled=False)
    for key in ["1", "+", "+", "ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowRight", "ArrowRight", "0"] * 5:
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        browser.evaluate("new Promise(requestAnimationFrame)")
    browser.press("0")
    browser.press("1")
    expected = codec.decode(data, prior=field_prior).pixels
    assert np.abs(middle(canvas(browser), 6, 800).astype(int) - expected).max() <= 2


@in_chromium
def test_the_ordinary_kinds_of_zoom(browser: chromium.Chromium, tmp_path: Path) -> None:
    data, prior = golden_file("fields-6x8")
    pixels = codec.decode(data, prior=prior).pixels
    show(browser, tmp_path, viewer.page(data, "small", prior=prior))
    browser.press("1")
    for _ in range(3):
        double_click(browser)
    drawn = {}
    for key, kind in (("p", Image.Resampling.NEAREST), ("b", Image.Resampling.BILINEAR)):
        browser.press(key)
        drawn[key] = middle(canvas(browser), 48, 64)
        assert agreement(drawn[key], np.asarray(Image.fromarray(pixels).resize((64, 48), kind))) >= 0.99
    browser.press("n")
    finer = codec.decode(data, DecodeOptions(scale=8), prior=prior).pixels
    assert agreement(middle(canvas(browser), 48, 64), finer) >= 0.99 > agreement(drawn["b"], finer)


@in_chromium
def test_wheel_drag_and_pinch_keep_what_is_under_the_finger(browser: chromium.Chromium, tmp_path: Path) -> None:
    data, prior = golden_file("fields-q60")
    show(browser, tmp_path, viewer.page(data, "photo", prior=prior))
    browser.press("p")
    browser.press("1")

    def mouse(kind: str, x: int, y: int, **more: Any) -> None:
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        browser.wait()

    def touch(kind: str, *points: tuple[int, int]) -> None:
        found = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=found)
        browser.wait()

    def zoom() -> float:
        return float(browser.evaluate("document.getElementById('zoom').textContent").split()[0].replace(",", ""))

    before = canvas(browser)
    height, width, _ = before.shape
    x, y = width // 2 + 12, height // 2 - 7
    assert zoom() == 100
    mouse("mouseWheel", x, y, deltaX=0, deltaY=-500 * math.log(4))
    after = canvas(browser)
    assert zoom() == 400 and np.array_equal(after[y + 2, x + 2], before[y, x]) and not np.array_equal(after, before)

    mouse("mousePressed", x, y, button="left", buttons=1)
    mouse("mouseMoved", x + 24, y + 12, button="left", buttons=1)
    mouse("mouseReleased", x + 24, y + 12, button="left")
    moved = canvas(browser)
    assert np.array_equal(moved[12:, 24:], after[:-12, :-24]) and not np.array_equal(moved, after)

    touch("touchStart", (x - 10, y), (x + 10, y))
    touch("touchMove", (x - 20, y), (x + 20, y))
    touch("touchEnd")
    pinched = canvas(browser)
    assert zoom() == 800 and np.array_equal(pinched[y + 4, x + 4], moved[y + 2, x + 2])

    browser.press("0")
    assert zoom() == pytest.approx(100 * min(width / 37, height / 22), rel=0.01)


@in_chromium
def test_the_page_runs_and_loads_nothing_but_itself(browser: chromium.Chromium, tmp_path: Path) -> None:
    data, prior = golden_file("fields-alpha")
    browser.events.clear()
    show(browser, tmp_path, viewer.page(data, "photo", prior=prior))
    sent = [event for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    urls = [event["params"]["request"]["url"].split(":")[0] for event in sent]
    assert set(urls) == {"file", "data"} and urls.count("file") == 1
    assert not {"Log.entryAdded", "Runtime.exceptionThrown"} & {event["method"] for event in browser.events}
    blocked = browser.evaluate(
        """(async () => {
            const script = document.createElement('script');
            script.textContent = 'window.ran = true';
            document.body.append(script);
            const image = new Image();
            image.src = 'page.html';
            return [
                window.ran === undefined,
                await fetch('page.html').then(() => false, () => true),
                await image.decode().then(() => false, () => true),
            ];
        })()"""
    )
    assert blocked == [True, True, True]
    assert len([event for event in browser.events if event["method"] == "Log.entryAdded"]) >= 3


@in_chromium
def test_hostile_words_are_only_shown(browser: chromium.Chromium, tmp_path: Path) -> None:
    data, prior = golden_file("fields-q60")
    file = unpack(data)
    picture = codec.decode(data, prior=prior)
    exif = described(HOSTILE)
    made = codec.encode(Picture(picture.pixels, metadata={"exif": exif}), EncodeOptions(steps=0), prior=prior).data
    assert file.width == 37
    show(browser, tmp_path, viewer.page(made, HOSTILE, prior=prior))
    title, scripts, hacked, shown, alt = browser.evaluate(
        """[document.title, document.scripts.length, window.hacked,
            Array.from(document.querySelectorAll('dd'), ({ textContent }) => textContent),
            document.getElementById('plain').alt]"""
    )
    assert title == alt == HOSTILE and scripts == 2 and hacked is None and shown.count(HOSTILE) == 2


@in_chromium
@pytest.mark.parametrize("flag", ["--disable-webgl2", "--blink-settings=scriptEnabled=false"])
def test_without_webgl2_or_scripts_there_is_a_plain_picture(tmp_path: Path, flag: str) -> None:
    data, prior = golden_file("fields-q60")
    other = chromium.Chromium(tmp_path / "profile", flag)
    try:
        page = tmp_path / "page.html"
        page.write_bytes(viewer.page(data, "photo", prior=prior))
        other.load(page)
        if flag == "--disable-webgl2":
            other.wait()
        screen = np.asarray(Image.open(BytesIO(other.screenshot())).convert("RGB"))
    finally:
        other.close()
    left = (screen.shape[1] - 36) // 2
    assert agreement(screen[:22, left : left + 37], codec.decode(data, prior=prior).pixels) == 1


@in_chromium
def test_a_picture_that_is_too_wide_is_shown_plainly_and_said_to_be(
    browser: chromium.Chromium, tmp_path: Path, network_prior: Prior
) -> None:
    picture = Picture(np.zeros((1, 20000, 3), np.uint8))
    data = codec.encode(picture, EncodeOptions(steps=0), prior=network_prior).data
    show(browser, tmp_path, viewer.page(data, "wide", prior=network_prior))
    notice, hidden = browser.evaluate(
        "[document.getElementById('notice').textContent, document.getElementById('plain').hidden]"
    )
    assert "ordinary picture" in notice and "wider" in notice and not hidden


class Reader(HTMLParser):
    """What is in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, str] = {}
        self.inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("type") or tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.content[self.inside] = self.content.get(self.inside, "") + data


def test_the_policy_allows_the_script_and_the_style_and_no_more() -> None:
    data, prior = golden_file("fields-q60")
    reader = Reader(viewer.page(data, HOSTILE, prior=prior).decode())
    (policy,) = (a["content"] for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    hashes = {
        kind: base64.b64encode(hashlib.sha256(reader.content[kind].encode()).digest()).decode()
        for kind in ("script", "style")
    }
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert sum(tag == "script" for tag, _ in reader.tags) == 2
    for _, attributes in reader.tags:
        assert not any(name.startswith("on") or name in ("style", "href") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:image/png;base64,") or not attributes.get("src")


def test_the_page_names_no_address_and_is_always_the_same() -> None:
    data, prior = golden_file("fields-alpha")
    page = viewer.page(data, "photo", prior=prior)
    assert not re.search(rb"https?:|//[a-z]|url\(|@import", re.sub(rb"[\w+/=]{64,}|// .*", b"", page))
    assert page == viewer.page(data, "photo", prior=prior)


def test_the_plain_picture_is_what_decode_gives() -> None:
    for name in ("fields-grey", "fields-deep-grey-alpha", "network-alpha"):
        data, prior = golden_file(name)
        (source,) = (a["src"] for tag, a in Reader(viewer.page(data, name, prior=prior).decode()).tags if tag == "img")
        assert source
        with Image.open(BytesIO(base64.b64decode(source.split(",")[1]))) as image:
            shown = Picture.from_array(np.asarray(image))
        expected = codec.decode(data, prior=prior)
        unit = (2**expected.bit_depth - 1) // 255
        assert np.abs(shown.pixels - expected.pixels / unit).max() <= 0.5 and shown.grey == expected.grey
        assert (shown.alpha is None) == (expected.alpha is None)
        if shown.alpha is not None and expected.alpha is not None:
            assert np.abs(shown.alpha - expected.alpha / unit).max() <= 0.5


def test_words_of_exif_are_short_and_on_one_line() -> None:
    assert exif_texts(described("A\nparrot\x07 ")) == {"Description": "A parrot"}
    assert len(exif_texts(described("x" * 5000))["Description"]) == MAX_TEXT
    for junk in (b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"junk", described("parrot")[:-9]):
        assert not exif_texts(junk)


def test_the_page_needs_the_right_prior_and_keeps_limits() -> None:
    from inrcodec.bitstream import Limits

    data, prior = golden_file("fields-q60")
    with pytest.raises(PriorError):
        viewer.page(data, "photo", prior=golden.carried_prior("network"))
    with pytest.raises(LimitError):
        viewer.page(data, "photo", prior=prior, limits=Limits(813))


def test_the_command_writes_a_page_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (golden.FOLDER / "fields.sinr").read_bytes()  # with its prior inside
    (tmp_path / "photo.sinr").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["view", "photo.sinr", "--json"])
    page = (tmp_path / "photo.html").read_bytes()
    assert json.loads(result.stdout) == {"input": "photo.sinr", "output": "photo.html", "bytes": len(page)}
    assert b"<title>photo.sinr</title>" in page
    for words, code in (
        (["view", "photo.sinr"], 6),  # it exists
        (["view", "photo.sinr", "--force", "-q"], 0),
        (["view", "photo.sinr", "--force", "-o", "photo.sinr"], 2),
        (["view", "missing.sinr"], 4),
        (["view", "photo.sinr", "-o", "other.html", "--max-pixels", "813"], 4),
        (["view", "photo.sinr", "-o", "other.html", "--prior", "photo"], 5),
    ):
        assert CliRunner().invoke(app, words).exit_code == code, words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.html", "photo.sinr"]
    assert (tmp_path / "photo.html").read_bytes() == page
    streamed = CliRunner().invoke(app, ["view", "-"], input=data)
    assert streamed.exit_code == 0 and streamed.stdout_bytes.startswith(b"<!DOCTYPE html>") and streamed.stderr
