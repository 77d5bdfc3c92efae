"""Headless Chromium, driven by the DevTools protocol over pipes: no library and no network."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = "chromium", "chromium-browser", "google-chrome"
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
LOUD = "error", "warning", "assert"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
)
PATIENCE = 60.0  # s for an answer


class Page:
    """One page of a browser, and what it logged and asked for."""

    def __init__(self, send, receive):
        self.send, self.receive = send, receive
        self.number, self.rest, self.session = 0, b"", None
        self.errors, self.requests, self.loaded = [], [], 0

    def call(self, method, **parameters):
        """Answer to a command; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self):
        """The next message."""
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.receive], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            found = os.read(self.receive, 2**20)
            assert found, "the browser has gone"
            self.rest += found
        first, _, self.rest = self.rest.partition(b"\0")
        return json.loads(first)

    def _note(self, event):
        """Keep errors and requests."""
        name, content = event.get("method", ""), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.errors.append(str(content["exceptionDetails"]))
        elif name == "Runtime.consoleAPICalled" and content["type"] in LOUD:
            self.errors.append(str(content["args"]))
        elif name == "Log.entryAdded" and content["entry"]["level"] in LOUD:
            self.errors.append(content["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])
        elif name == "Page.loadEventFired":
            self.loaded += 1

    def run(self, code):
        """Value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, code):
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(code):
            assert time.monotonic() < end, f"{code} does not become true"
            time.sleep(0.05)

    def resize(self, width, height, *, is_phone=False):
        """Set the size of the window in CSS px."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if is_phone else 1, mobile=is_phone,
        )  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)

    def open(self, path):
        """Load a report, and wait for its viewer."""
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait("document.readyState === 'complete'")
        self.wait("document.documentElement.dataset.ready === 'yes'")

    def mouse(self, kind, x, y, **more):
        """One event of the mouse."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x, y):
        """Press and release the left button."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=int(kind != "mouseMoved"))

    def key(self, name, text=None):
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, **more)

    def screenshot(self, *, whole=False):
        """The page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def pdf(self):
        """The page in print."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])


@contextlib.contextmanager
def browser():
    """A page of a new browser, which is closed at the end."""
    child_in, send = os.pipe()
    receive, child_out = os.pipe()

    def connect():
        # the protocol reads from 3 and writes to 4
        first, second = os.dup(child_in), os.dup(child_out)
        os.dup2(first, 3)
        os.dup2(second, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, close_fds=False, preexec_fn=connect, **quiet)
        os.close(child_in)
        os.close(child_out)
        try:
            page = Page(send, receive)
            target = page.call("Target.createTarget", url="about:blank")["targetId"]
            attached = page.call("Target.attachToTarget", targetId=target, flatten=True)
            page.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.call(f"{domain}.enable")
            yield page
        finally:
            process.terminate()
            process.wait(20)
            os.close(send)
            os.close(receive)
