"""Drive a headless Chromium through chromedriver (WebDriver over plain HTTP) to test pages.

Debian: `apt-get install chromium chromium-driver`.
"""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 180
"""Seconds that a command may take, on a busy machine."""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
]


def why_not() -> str:
    """Return why no browser can be used; empty if one can."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)} (apt-get install chromium chromium-driver)" * bool(
        lacking
    )


class Browser:
    """Session of chromedriver."""

    def __init__(self, url: str) -> None:
        self._url = url

    def open(self, page: Path) -> None:
        """Open a page on disk and empty the logs."""
        self.console_messages(), self.requests()
        self._post("url", {"url": page.resolve().as_uri()})
        # Another tab may have the focus, and then no element gets an event of it.
        self.devtools("Emulation.setFocusEmulationEnabled", enabled=True)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script and return its value."""
        return self._post("execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str) -> Any:
        """Run a script and return what it passes to its last argument, a function."""
        return self._post("execute/async", {"script": script, "args": []})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self._post("goog/cdp/execute", {"cmd": command, "params": parameters})

    def set_window(self, width: int, height: int = 900, dark: bool = False) -> None:
        """Set the size of the window and the colour scheme."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", media="", features=[scheme])

    def screenshot(self, path: Path, clip: tuple[int, int, int, int] | None = None) -> None:
        """Save a screenshot of the whole page or of a part (x, y, width, height)."""
        x, y, width, height = clip or (0, 0, *self.size())
        area = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        answer = self.devtools(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=area
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def size(self) -> tuple[int, int]:
        """Return the width and height of the whole page."""
        script = "const e = document.documentElement; return [e.scrollWidth, e.scrollHeight];"
        width, height = self.run(script)
        return int(width), int(height)

    def key(self, key: str) -> None:
        """Press a key on the focused element."""
        for kind in ("keyDown", "keyUp"):
            self.devtools("Input.dispatchKeyEvent", type=kind, key=key, code=key, **_CODES[key])

    def console_messages(self) -> list[str]:
        """Return the console's messages since the last call."""
        found = self._post("se/log", {"type": "browser"})
        return [f"{entry['level']}: {entry['message']}" for entry in found]

    def requests(self) -> list[str]:
        """Return the URLs requested since the last call, except the page itself."""
        entries = self._post("se/log", {"type": "performance"})
        sent = []
        for entry in entries:
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                sent.append((message["params"]["type"], message["params"]["request"]["url"]))
        # The browser's own pages, such as the new tab, load files by chrome://.
        own = ("data:", "chrome:")
        return [url for kind, url in sent if kind != "Document" and not url.startswith(own)]

    def _post(self, what: str, body: dict[str, Any]) -> Any:
        return post(f"{self._url}/{what}", body)


_CODES = {
    name: {"windowsVirtualKeyCode": code}
    for name, code in (
        ("Tab", 9),
        ("Enter", 13),
        ("ArrowLeft", 37),
        ("ArrowUp", 38),
        ("ArrowRight", 39),
        ("ArrowDown", 40),
    )
}


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Yield a browser with a temporary profile."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{_port(driver)}"
            session = post(f"{url}/session", _capabilities(profile))["sessionId"]
            try:
                yield Browser(f"{url}/session/{session}")
            finally:
                urllib.request.urlopen(
                    urllib.request.Request(f"{url}/session/{session}", method="DELETE"), timeout=20
                ).close()
        finally:
            driver.terminate()
            driver.wait(20)


def _port(driver: "subprocess.Popen[bytes]") -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        if found := re.search(rb"started successfully on port (\d+)", line):
            return int(found[1])
    raise RuntimeError("chromedriver did not start")


def _capabilities(profile: str) -> dict[str, Any]:
    chrome = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
    logs = {"browser": "ALL", "performance": "ALL"}
    always = {"browserName": "chrome", "goog:chromeOptions": chrome, "goog:loggingPrefs": logs}
    always |= {"timeouts": {"script": 1000 * PATIENCE}}
    return {"capabilities": {"alwaysMatch": always}}


def post(url: str, body: dict[str, Any]) -> Any:
    """Send a WebDriver request and return the value of its response."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(error.read().decode()[:500]) from None
