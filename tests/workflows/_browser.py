"""A headless chromium, driven by the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from matplotlib.image import imread
from tornado.websocket import websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_START = 30  # seconds
_ARGUMENTS = ("--headless", "--no-sandbox", "--remote-debugging-port=0", "--disable-gpu",
              "--enable-unsafe-swiftshader", "--no-first-run", "--hide-scrollbars")  # fmt: skip


@contextmanager
def browser():
    """Start a browser; yield the address of its empty page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [CHROMIUM, *_ARGUMENTS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            file = Path(folder, "DevToolsActivePort")
            end = time.monotonic() + _START
            while not (file.exists() and file.read_text().strip()):
                assert time.monotonic() < end, "chromium did not start"
                time.sleep(0.05)
            port = file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = json.load(answer)
            yield next(one for one in pages if one["type"] == "page")["webSocketDebuggerUrl"]
        finally:
            process.terminate()
            process.wait(10)


class Tab:
    """The page of a browser."""

    def __init__(self, connection):
        self._connection = connection
        self._number = 0
        self.errors = []
        self.addresses = []

    @classmethod
    @asynccontextmanager
    async def open(cls, address):
        tab = cls(await websocket_connect(address, max_message_size=1 << 28))
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            yield tab
        finally:
            tab._connection.close()
            await tab._connection.read_message()  # the answer to it: None

    async def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        await self._connection.write_message(json.dumps(message))
        while True:
            answer = json.loads(await asyncio.wait_for(self._connection.read_message(), 60))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        kind, content = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            details = content["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif kind == "Runtime.consoleAPICalled" and content["type"] == "error":
            self.errors.append(str(content["args"]))
        elif kind == "Log.entryAdded" and content["entry"]["level"] == "error":
            self.errors.append(content["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            self.addresses.append(content["request"]["url"])

    async def run(self, script):
        """Return the value of a script."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def go(self, address, width, *, ready="document.body && document.body.dataset.ready"):
        """Open an address in a window of a width, and wait until the page is ready."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                        deviceScaleFactor=1, mobile=False)  # fmt: skip
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=address)
        for _ in range(600):
            if await self.run(ready):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"the page is not ready: {self.errors}")

    async def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left",
                            clickCount=1)  # fmt: skip
        await asyncio.sleep(0.05)

    async def picture(self):
        """Return the window as an array of colours, (rows, columns, 3)."""
        answer = await self.call("Page.captureScreenshot", format="png")
        return imread(io.BytesIO(base64.b64decode(answer["data"])), format="png")[..., :3]
