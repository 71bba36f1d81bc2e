"""A headless Chromium by the WebDriver protocol, which is JSON over HTTP: no package is needed for a few commands."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


@dataclass(frozen=True)
class Browser:
    """A session."""

    address: str

    def _ask(self, method: str, path: str, **values: Any) -> Any:
        data = json.dumps(values).encode() if method == "POST" else None
        request = Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self._ask("POST", "/url", url=page.absolute().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a script returns."""
        return self._ask("POST", "/execute/sync", script=script, args=list(arguments))

    def wait_for(self, script: str) -> Any:
        """The value that a script's promise becomes."""
        text = f"const done = arguments[0]; ({script}).then(done, (error) => done(String(error)));"
        return self._ask("POST", "/execute/async", script=text, args=[])

    def complaints(self) -> list[str]:
        """What stood on the console since the last question."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", type="browser")]

    def chrome(self, command: str, **values: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", cmd=command, params=values)

    def screen(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the page, and what the system prefers."""
        self.chrome(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.chrome("Emulation.setEmulatedMedia", features=features)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.chrome("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        found = self.chrome("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser | None]:
    """A browser with a fresh profile; None where there is no Chromium with its driver."""
    driver = shutil.which("chromedriver")
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if driver is None or chromium is None:
        yield None
        return
    process = subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        said = (re.search(r"successfully on port (\d+)", line) for line in process.stdout)
        port = next(match[1] for match in said if match)
        whole = Browser(f"http://127.0.0.1:{port}/session")
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = whole._ask("POST", "", capabilities={"alwaysMatch": wanted})
        found = Browser(f"{whole.address}/{session['sessionId']}")
        try:
            yield found
        finally:
            found._ask("DELETE", "")
    finally:
        process.terminate()
        process.wait(10)
