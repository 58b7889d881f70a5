"""The demo in a server process of its own, and a Chromium that uses it as a visitor does."""

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from videos import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",  # as root, in a container
    "--disable-gpu",
    "--disable-background-networking",  # requests of Chromium itself
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@contextmanager
def demo(folder: Path, **environment: str) -> Iterator[str]:
    """Address of `openvocab demo`, running until the block ends."""
    port = free_port()
    log = folder / f"demo-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "openvocab", "demo", "--port", str(port)],
            env=os.environ | environment, stdout=output, stderr=output,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except urllib.error.HTTPError:
                break  # such as 401: it is up
            except OSError:
                time.sleep(0.2)
        else:
            raise AssertionError(log.read_text())
        yield address
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def chromium(camera: Path | None = None) -> Iterator[Browser]:
    """A browser whose camera plays an MJPEG video."""
    flags = [*FLAGS, *([f"--use-file-for-fake-video-capture={camera}"] if camera else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def upload(page: Page, selector: str, path: Path) -> None:
    """Choose a file in an image or file component."""
    page.set_input_files(f"{selector} input[type=file]", str(path))


def enter_classes(page: Page, classes: str, selector: str = "#classes") -> None:
    """Replace the text of a class field."""
    page.fill(f"{selector} textarea, {selector} input", classes)


def wait_for_text(page: Page, selector: str, text: str, seconds: float = 20) -> None:
    """Wait until an element contains the text."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)",
        arg=[selector, text],
        timeout=1000 * seconds,
    )


def open_tab(page: Page, name: str) -> None:
    """Switch to a tab by its title."""
    page.get_by_role("tab", name=name).click()


def start_camera(page: Page) -> None:
    """Allow the camera, then record."""
    page.get_by_text("Click to Access Webcam").click()
    page.locator("#camera button", has_text="Record").click(timeout=15_000)
