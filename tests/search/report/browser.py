"""A page in headless Chromium, over the DevTools protocol: what it says, shows and complains about.

Source of the commands: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DEADLINE_S = 60.0


class Page:
    """One tab.

    Attributes:
        complaints: Errors and warnings of the console, and exceptions nobody caught.
    """

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(
            address, timeout=DEADLINE_S, suppress_origin=True
        )
        self._last = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events on the way are noted."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._last:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(str(params["entry"]))

    def open(self, file: Path, width: int, height: int = 900, theme: str = "light") -> None:
        """Open a page at a width and wait until it is drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.wait("document.documentElement?.dataset.drawn === 'yes'")

    def js(self, expression: str) -> Any:
        """Return the value of an expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + DEADLINE_S
        while not self.js(condition):
            assert time.monotonic() < end, f"never true: {condition}; {self.complaints}"
            time.sleep(0.05)

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse somewhere in the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - 2, y=y - 2)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def close(self) -> None:
        """Let go of the tab."""
        self._socket.close()

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a PNG of the whole page, or of the window."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """Start Chromium with a profile in a folder and yield its tab."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run",
        "--disable-background-networking", "--hide-scrollbars", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with contextlib.closing(Page(_address(folder / "DevToolsActivePort"))) as page:
            yield page
    finally:
        process.terminate()
        process.wait(timeout=30)


def _address(file: Path) -> str:
    """Return the address of the first tab, once the browser has written its port."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if file.is_file() and "\n" in (text := file.read_text()):
            port = int(text.split()[0])
            with urlopen(f"http://127.0.0.1:{port}/json") as answer:
                tabs = json.load(answer)
            for tab in tabs:
                if tab["type"] == "page":
                    return str(tab["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError(f"Chromium wrote no {file} within {DEADLINE_S} s")
