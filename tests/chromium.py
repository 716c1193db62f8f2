"""Drives a headless Chromium over a pipe, with the DevTools protocol and nothing else."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 300  # seconds that anything may take: far more than it does, so that load decides nothing
# The browser reads commands from file 3 and writes to 4. Nothing is rendered by a GPU, so that all machines do alike.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--remote-debugging-pipe",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--hide-scrollbars",
)


def _out_of_the_way(file: int) -> int:
    """The same open file with a number that is not 3 or 4."""
    moved = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(file)
    return moved


class Chromium:
    """A browser with one page, as large as it is told to be."""

    def __init__(self, folder: Path, *flags: str) -> None:
        assert PROGRAM
        down, self._write = map(_out_of_the_way, os.pipe())
        self._read, up = map(_out_of_the_way, os.pipe())
        command = ["bash", "-c", f'exec "$@" 3<&{down} 4>&{up} {down}<&- {up}>&-', "-", PROGRAM]
        self._process = subprocess.Popen(
            [*command, *FLAGS, *flags, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(down, up),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down)
        os.close(up)
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        (target,) = (t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        found = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        os.close(self._write)  # at which it leaves by itself
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of a command of the protocol."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda answer: answer.get("id") == self._last)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is wanted. Events are added to `events`."""
        while True:
            while b"\0" not in self._buffer:
                assert select.select([self._read], [], [], PATIENCE)[0], "Chromium does not answer"
                found = os.read(self._read, 1 << 20)
                assert found, "Chromium has left"
                self._buffer += found
            text, _, self._buffer = self._buffer.partition(b"\0")
            answer: dict[str, Any] = json.loads(text)
            if "method" in answer:
                self.events.append(answer)
            if wanted(answer):
                return answer

    def evaluate(self, expression: str) -> Any:
        """The value of some JavaScript, awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, path: Path, width: int, height: int) -> None:
        """Show a page in a window of so many pixels, and wait until it is done."""
        self.load(path)
        self.resize(width, height)
        self.wait()

    def load(self, path: Path) -> None:
        """Show a page and wait until it is loaded, which needs no scripts."""
        self.call("Page.navigate", url=path.as_uri())
        self._until(lambda answer: answer.get("method") == "Page.loadEventFired")

    def resize(self, width: int, height: int) -> None:
        """Change the window, and wait until the page has been told."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        told = f"innerWidth === {width} && innerHeight === {height}"
        frame = "await new Promise(requestAnimationFrame)"
        self.evaluate(f"(async () => {{ do {frame}; while (!({told})); {frame}; }})()")

    def wait(self) -> None:
        """Wait until the page is not busy."""
        until = time.monotonic() + PATIENCE
        done = "document.querySelector('[aria-busy=true]') === null"
        pause = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))"
        while not self.evaluate(f"{pause}.then(() => {done})"):
            assert time.monotonic() < until, "the page is still busy"

    def press(self, key: str) -> None:
        """Press a key, and wait until the page has done what it does then."""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.wait()

    def screenshot(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
