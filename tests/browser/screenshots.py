"""Screenshots of every tab of the demo: light and dark, phone and desktop."""

import argparse
import importlib.util
import tempfile
from pathlib import Path

from browsers import chromium, demo, enter_classes, open_tab, start_camera, upload, wait_for_text
from playwright.sync_api import Page
from videos import mjpeg, pan

ASSETS = Path(importlib.util.find_spec("ultralytics").submodule_search_locations[0]) / "assets"


def image(page: Page, _: Path) -> None:
    """A result, with the explanation of its second row."""
    upload(page, "#image", ASSETS / "bus.jpg")
    enter_classes(page, "bus, pedestrian, traffic light")
    wait_for_text(page, "#image-status", "4 pedestrian")
    page.locator('#detections [data-testid="cell-1-1"]').last.click()
    wait_for_text(page, "#explanation", "Row 2")


def video(page: Page, clip: Path) -> None:
    """A processed video."""
    open_tab(page, "Video")
    upload(page, "#video", clip)
    wait_for_text(page, "#video", "clip")
    page.click("#video-start")
    wait_for_text(page, "#json-lines", "detections", 60)
    page.wait_for_selector("#timeline .marks")
    page.wait_for_function("document.querySelector('#video-result video')?.readyState >= 3")


def camera(page: Page, _: Path) -> None:
    """A live camera."""
    open_tab(page, "Camera")
    start_camera(page)
    wait_for_text(page, "#camera-status", "person", 30)


def main() -> None:
    """Write twelve screenshots, `demo-TAB-THEME-WIDTH.jpg`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        clip = pan(ASSETS / "bus.jpg", work / "clip.mp4", 40, (640, 480))
        still = pan(ASSETS / "bus.jpg", work / "still.mp4", 1, (640, 480))
        camera_video = mjpeg(still, work / "camera.mjpeg")
        with demo(work) as address, chromium(camera_video) as browser:
            for theme in ("light", "dark"):
                for width in (390, 1440):
                    for tab in (image, video, camera):
                        size = {"width": width, "height": 900}
                        context = browser.new_context(viewport=size, color_scheme=theme)
                        page = context.new_page()
                        page.goto(f"{address}?__theme={theme}")
                        page.wait_for_selector("#image")
                        tab(page, clip)
                        page.wait_for_timeout(1500)  # animations
                        path = folder / f"demo-{tab.__name__}-{theme}-{width}.jpg"
                        page.screenshot(path=path, full_page=True, type="jpeg", quality=70)
                        context.close()


if __name__ == "__main__":
    main()
