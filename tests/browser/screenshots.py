"""Pictures of every tab of the demo, light and dark, on a phone and on a desk."""

import argparse
import importlib.util
import tempfile
from pathlib import Path

from browsers import ask, chromium, demo, open_tab, start_camera, upload, wait_for_text
from playwright.sync_api import Page
from videos import mjpeg, pan

ASSETS = Path(importlib.util.find_spec("ultralytics").submodule_search_locations[0]) / "assets"


def photo(page: Page, _: Path) -> None:
    """A result, and why its second row is what it is."""
    upload(page, "#photo", ASSETS / "bus.jpg")
    ask(page, "bus, pedestrian, traffic light")
    wait_for_text(page, "#answer", "3 pedestrian")
    page.locator('#table [data-testid="cell-1-1"]').last.click()
    wait_for_text(page, "#reason", "Row 2")


def film(page: Page, clip: Path) -> None:
    """A film that was looked at."""
    open_tab(page, "Film")
    upload(page, "#film", clip)
    wait_for_text(page, "#film", "clip")
    page.click("#look")
    page.wait_for_selector("#timeline canvas, #timeline svg", timeout=60_000)


def camera(page: Page, _: Path) -> None:
    """The camera, live."""
    open_tab(page, "Camera")
    start_camera(page)
    wait_for_text(page, "#live", "person", 30)


def main() -> None:
    """Twelve pictures, `demo-TAB-THEME-WIDTH.jpg`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        clip = pan(ASSETS / "bus.jpg", work / "clip.mp4", 40, (640, 480))
        shown = mjpeg(clip, work / "camera.mjpeg")
        with demo(work) as address, chromium(shown) as browser:
            for theme in ("light", "dark"):
                for width in (390, 1440):
                    for tab in (photo, film, camera):
                        size = {"width": width, "height": 900}
                        context = browser.new_context(viewport=size, color_scheme=theme)
                        page = context.new_page()
                        page.goto(f"{address}?__theme={theme}")
                        page.wait_for_selector("#photo")
                        tab(page, clip)
                        page.wait_for_timeout(1500)  # until what moves has settled
                        path = folder / f"demo-{tab.__name__}-{theme}-{width}.jpg"
                        page.screenshot(path=path, full_page=True, type="jpeg", quality=70)
                        context.close()


if __name__ == "__main__":
    main()
