"""A real browser for tests: Chromium, driven over a pipe by its DevTools protocol. No package is needed.

The protocol is JSON between zero bytes, through the file descriptors 3 (to the browser) and 4 (from it); see
https://chromedevtools.github.io/devtools-protocol/. Every wait ends with a condition or an error, never with a sleep.
"""

import base64
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_TIMEOUT_S = 60
# gives the two ends of our pipes the numbers that Chromium expects, and becomes Chromium
_START = (
    "import fcntl, os, sys\n"
    "ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]\n"  # clear of 3 and 4
    "for place, end in zip((3, 4), ends):\n"
    "    os.dup2(end, place)\n"
    "os.execv(sys.argv[3], sys.argv[3:])"
)


def find_chromium() -> str | None:
    """The browser's program: what REALESR_CHROMIUM names, or one on the path."""
    names = [os.environ.get("REALESR_CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Browser:
    """A headless browser; `open` gives pages."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, from_browser = os.pipe(), os.pipe()
        command = [
            program,
            "--headless",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-sandbox",  # root, and containers, have none
            "--force-device-scale-factor=1",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(to_browser[0]), str(from_browser[1]), *command],
            pass_fds=(to_browser[0], from_browser[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self._out, self._in = to_browser[1], from_browser[0]
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._in, selectors.EVENT_READ)
        self._rest = b""
        self._count = 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to a command; events that come before it are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        """Returns after an event of this name, which may have come already."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not any(one.get("method") == event for one in self.events):
            self.events.append(self._receive(deadline))

    def open(self, path: Path, *, width: int = 1000, height: int = 700, touch: bool = False) -> "Page":
        """A page with a file in it, loaded, whose inner size is `width` x `height`."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable", session)
        self.send(
            "Emulation.setDeviceMetricsOverride", session, width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        if touch:
            self.send("Emulation.setTouchEmulationEnabled", session, enabled=True, maxTouchPoints=2)
        self.send("Page.navigate", session, url=path.absolute().as_uri())
        self.wait_for("Page.loadEventFired")
        return Page(self, session)

    def close(self) -> None:
        """Ends the browser, if need be by force."""
        try:
            self.send("Browser.close")
            self._process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(10)
        finally:
            self._ready.close()
            os.close(self._out)
            os.close(self._in)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not self._ready.select(max(0.0, deadline - time.monotonic())):
                raise AssertionError(f"the browser says nothing for {_TIMEOUT_S} s")
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded


class Page:
    """A loaded page: asked by JavaScript, moved by pointer and keys."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **parameters)

    def ask(self, expression: str) -> Any:
        """The value of an expression, once all that came before it is painted."""
        painted = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        answer = self.send(
            "Runtime.evaluate",
            expression=f"{painted}.then(() => ({expression}))",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: str = "", *, shift: bool = False) -> None:
        """A key goes down and up. `code` is its place on the keyboard, by default that of the key's name."""
        text = {"text": key} if len(key) == 1 else {}
        common = {"key": key, "code": code or key, "modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 4) -> None:
        self.mouse("Moved", *start)
        self.mouse("Pressed", *start, button="left", buttons=1, clickCount=1)
        for step in range(1, steps + 1):
            place = [a + (b - a) * step / steps for a, b in zip(start, end, strict=True)]
            self.mouse("Moved", *place, button="left", buttons=1)
        self.mouse("Released", *end, button="left", clickCount=1)

    def click(self, selector: str) -> None:
        box = f"document.querySelector('{selector}').getBoundingClientRect()"
        x, y = self.ask(f"(box => [box.left + box.width / 2, box.top + box.height / 2])({box})")
        self.mouse("Pressed", x, y, button="left", buttons=1, clickCount=1)
        self.mouse("Released", x, y, button="left", clickCount=1)

    def screenshot(self) -> NDArray[np.uint8]:
        """What is to be seen, (H, W, 3) RGB."""
        self.ask("0")
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], np.uint8)

    def troubles(self) -> list[Any]:
        """Errors of scripts, refusals of the content policy, and addresses asked for outside the page."""
        self.ask("0")
        found: list[Any] = []
        for event in self._browser.events:
            if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                found.append(event["params"])
            if event.get("method") == "Network.requestWillBeSent":
                url = event["params"]["request"]["url"]
                if not url.startswith(("data:", "file:")):
                    found.append(url)
        return found
