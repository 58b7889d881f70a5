"""The demo in a real browser, with the real starter weights."""

import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from videos import mjpeg, pan

pytest.importorskip("playwright", reason="the browser tests need playwright")
pytest.importorskip("gradio_client", reason="the demo needs gradio")

import gradio_client
from browsers import (
    CHROMIUM,
    chromium,
    demo,
    enter_classes,
    open_tab,
    start_camera,
    upload,
    wait_for_text,
)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]
FILE = {"_type": "gradio.FileData"}
FOCUSED = "selector => document.activeElement.closest(selector) !== null"
CELL = '#detections [data-testid="cell-{}-{}"]'


@pytest.fixture(scope="module")
def clip(assets, tmp_path_factory):
    return pan(assets / "bus.jpg", tmp_path_factory.mktemp("video") / "clip.mp4", 30, (480, 480))


@pytest.fixture(scope="module")
def camera(clip):
    """The clip in the format of Chromium's fake camera."""
    return mjpeg(clip, clip.with_suffix(".mjpeg"))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with demo(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
def browser(camera):
    with chromium(camera) as running:
        yield running


@pytest.fixture
def page(browser, address):
    """A visitor's page; a request to another host, or an error on the console, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    opened = context.new_page()
    hosts, errors = set(), []
    opened.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    opened.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    opened.goto(address)
    opened.wait_for_selector("#image")
    yield opened
    context.close()
    assert hosts <= {urlsplit(address).netloc, ""}, hosts
    assert not errors, errors


def test_an_image_is_classified_by_the_classes_entered(page, assets):
    upload(page, "#image", assets / "bus.jpg")
    wait_for_text(page, "#image-status", "4 person, 1 bus")
    enter_classes(page, "pedestrian, dog")
    wait_for_text(page, "#image-status", "4 pedestrian")
    assert page.inner_text(CELL.format(0, 1)).strip() == "pedestrian"
    assert not page.inner_text("#explanation").strip()
    page.locator(CELL.format(1, 1)).last.click()
    wait_for_text(page, "#explanation", "Row 2, pedestrian")
    wait_for_text(page, "#contributions", "pedestrian")
    assert "dog" in page.inner_text("#contributions")


def test_an_example_image_the_threshold_and_the_baseline(page):
    page.get_by_text("man, necktie, microphone").click()
    wait_for_text(page, "#image-status", "man")
    page.get_by_text("Advanced").click()
    score = page.get_by_label("number input for Score threshold").first
    score.fill("0.9")
    score.press("Enter")
    wait_for_text(page, "#image-status", "No detections")
    score.fill("0.3")
    score.press("Enter")
    page.locator("#compare input").check()
    page.wait_for_selector("#baseline img")
    wait_for_text(page, "#image-status", "man")


def test_no_detections_and_no_classes_have_messages(page, assets):
    upload(page, "#image", assets / "bus.jpg")
    wait_for_text(page, "#image-status", "Found")
    enter_classes(page, "giraffe")
    wait_for_text(page, "#image-status", "No detections")
    assert "giraffe: nothing above 0.30; closest 0." in page.inner_text("#image-status")
    enter_classes(page, " , ,")
    wait_for_text(page, "#image-status", "Enter class names")


def test_a_box_around_an_object_makes_it_an_example(page, assets):
    upload(page, "#image", assets / "bus.jpg")
    wait_for_text(page, "#image-status", "4 person")
    enter_classes(page, "")
    wait_for_text(page, "#image-status", "Enter class names")
    page.get_by_text("Use an object in the image as an example").click()
    drag_box(page, (49, 395), (213, 898))  # without a name, a box means nothing
    page.fill("#example-name input, #example-name textarea", "guest")
    drag_box(page, (213, 898), (49, 395))
    wait_for_text(page, "#image-status", "Found: 4 guest")
    upload(page, "#image", assets / "zidane.jpg")  # the example stays
    wait_for_text(page, "#image-status", "Found: 2 guest")
    page.get_by_role("button", name="Remove these examples").click()
    wait_for_text(page, "#image-status", "Enter class names")


def drag_box(page, start, end):
    """Drag from one corner to the other, in pixels of bus.jpg, over the annotated image."""
    width, height = 810, 1080
    page.wait_for_function(
        "width => { const image = document.querySelector('#image-result img');"
        " return image.complete && image.naturalWidth == width }",
        arg=width,
    )
    shown = page.locator("#image-result img")
    box = shown.bounding_box()
    scale = min(box["width"] / width, box["height"] / height)
    left, top = (box["width"] - scale * width) / 2, (box["height"] - scale * height) / 2
    positions = [{"x": left + scale * x, "y": top + scale * y} for x, y in (start, end)]
    shown.drag_to(shown, source_position=positions[0], target_position=positions[1])


@pytest.mark.parametrize(
    "classes",
    ["🚌 bus, person", "أتوبيس, person", "公共汽车, person", "person, " + "long " * 60,
     ", ".join(["person", *(f"thing {n}" for n in range(199))]), "person, <img src=x onerror=alert(1)>"],
    ids=["emoji", "arabic", "chinese", "long", "two hundred", "markup"],
)  # fmt: skip
def test_any_class_name_works(page, assets, classes):
    upload(page, "#image", assets / "bus.jpg")
    wait_for_text(page, "#image-status", "Found")
    enter_classes(page, classes)
    wait_for_text(page, "#detections", "person")
    assert page.locator("#image-status img, #detections img").count() == 0


def test_too_many_classes_are_refused(page, assets):
    upload(page, "#image", assets / "bus.jpg")
    enter_classes(page, ", ".join([f"word {number}" for number in range(200)] + ["bus"]))
    wait_for_text(page, "#image-status", "There are 201 names; enter at most 200.")


def test_the_page_fits_a_phone(browser, address, assets):
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    upload(page, "#image", assets / "bus.jpg")
    wait_for_text(page, "#image-status", "Found:")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_a_broken_image_is_refused_by_name(page, tmp_path, assets):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    upload(page, "#image", assets / "zidane.jpg")
    wait_for_text(page, "#image-status", "2 person")
    upload(page, "#image", tmp_path / "broken.jpg")
    wait_for_text(page, "#image-status", "image")
    assert page.inner_text("#image-status").startswith("broken.jpg is not a whole image")
    assert page.locator("#image-result img").count() == 0  # not that of the previous file
    upload(page, "#image", assets / "bus.jpg")
    wait_for_text(page, "#image-status", "Found")


def test_a_video_is_annotated_and_plays(page, clip):
    open_tab(page, "Video")
    upload(page, "#video", clip)
    wait_for_text(page, "#video", "clip")
    page.click("#video-start")
    wait_for_text(page, "#video-status", "30 frames", 60)
    page.wait_for_function(
        "(v => v && v.readyState >= 3 && v.videoWidth == 480 && !v.error)"
        "(document.querySelector('#video-result video'))"
    )
    page.wait_for_selector("#timeline .marks")
    wait_for_text(page, "#json-lines", "detections")


def test_a_cancelled_video_leaves_no_files(page, assets, tmp_path):
    long = pan(assets / "bus.jpg", tmp_path / "long.mp4", 550, (640, 480))
    open_tab(page, "Video")
    upload(page, "#video", long)
    wait_for_text(page, "#video", "long")
    page.click("#video-start")
    wait_for_text(page, "#video-status", "so far", 30)
    assert page.locator("#video-status progress").count() == 1
    page.get_by_role("button", name="Cancel").click()
    wait_for_text(page, "#video-status", "Cancelled")
    deadline = time.monotonic() + 20
    folders = Path(tempfile.gettempdir())
    while time.monotonic() < deadline and list(folders.glob("openvocab-video-*")):
        time.sleep(0.2)
    assert not list(folders.glob("openvocab-video-*"))
    assert page.locator("#video-result video").count() == 0


def test_a_camera_is_classified_live_and_classes_can_change(page):
    open_tab(page, "Camera")
    start_camera(page)
    wait_for_text(page, "#camera-status", "person", 30)
    enter_classes(page, "pedestrian", "#camera-classes")
    wait_for_text(page, "#camera-status", "pedestrian", 30)
    wait_for_text(page, "#camera-status", "fps")


LOW_CONTRAST = """
() => {
  const parts = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > .9) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll("p, span, label, button, h1, th, td, a, li, input")) {
    const own = [...node.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const [over, under] = [light(parts(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(over, under) + .05) / (Math.min(over, under) + .05);
    if (ratio < 4.5) low.push([node.textContent.trim().slice(0, 40), ratio.toFixed(2)]);
  }
  return low;
}
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_has_enough_contrast(browser, address, assets, theme):
    """WCAG 2, level AA: a contrast of 4.5."""
    opened = browser.new_context(color_scheme=theme).new_page()
    opened.goto(f"{address}?__theme={theme}")
    upload(opened, "#image", assets / "bus.jpg")
    wait_for_text(opened, "#image-status", "Found")
    opened.locator(CELL.format(0, 1)).last.click()
    wait_for_text(opened, "#explanation", "Row 1")
    opened.get_by_text("Advanced").click()
    low = opened.evaluate(LOW_CONTRAST)
    for tab in ("Video", "Camera"):
        open_tab(opened, tab)
        opened.wait_for_timeout(500)
        low += opened.evaluate(LOW_CONTRAST)
    opened.context.close()
    assert not low


def test_the_keyboard_reaches_every_control(page, assets):
    upload(page, "#image", assets / "bus.jpg")
    wait_for_text(page, "#image-status", "Found")

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(FOCUSED, selector):
                return
        raise AssertionError(f"the Tab key does not reach {selector}")

    tab_to("#classes")
    page.keyboard.press("Control+A")
    page.keyboard.type("pedestrian")
    wait_for_text(page, "#image-status", "4 pedestrian")
    tab_to("#compare")
    page.keyboard.press("Space")
    page.wait_for_selector("#baseline img")
    tab_to("#detections")


def test_two_visitors_do_not_share_images(browser, address, assets):
    pages = []
    for image, classes in (("bus.jpg", "bus, person"), ("zidane.jpg", "man, necktie")):
        opened = browser.new_context().new_page()
        opened.goto(address)
        upload(opened, "#image", assets / image)
        enter_classes(opened, classes)
        pages.append(opened)
    wait_for_text(pages[0], "#image-status", "1 bus")
    wait_for_text(pages[1], "#image-status", "man")
    sources = [opened.get_attribute("#image-result img", "src") for opened in pages]
    assert len(set(sources)) == 2
    assert pages[0].inner_text("#image-status") != pages[1].inner_text("#image-status")
    for opened in pages:
        opened.context.close()


def test_files_of_the_server_cannot_be_read(address):
    for path in ("/etc/passwd", "../../../../etc/passwd", __file__):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}gradio_api/file={path}")
        assert caught.value.code in {403, 404}
        caught.value.close()


def test_the_api_takes_uploaded_images_and_no_paths(address, assets):
    client = gradio_client.Client(address, verbose=False)
    request = {"classes": "bus, giraffe", "negatives": "", "threshold": 0.3, "api_name": "/detect"}
    result = client.predict(image=gradio_client.handle_file(str(assets / "bus.jpg")), **request)
    assert [row["class_name"] for row in result["detections"]] == ["bus"]
    (near_miss,) = result["near_misses"]
    assert near_miss["class_name"] == "giraffe"
    assert 0 <= near_miss["score"] < 0.3
    # Not through the client, which would upload the file.
    body = {"data": [{"path": str(assets / "bus.jpg"), "meta": FILE}, "bus", "", 0.3]}
    call = httpx.post(f"{address}gradio_api/call/detect", json=body).json()
    response = httpx.get(f"{address}gradio_api/call/detect/{call['event_id']}", timeout=20).text
    assert response.startswith("event: error")
    assert "bus" not in response
    client.close()


def test_a_login_is_required(browser, tmp_path):
    with demo(tmp_path, OPENVOCAB_DEMO_AUTH="anna:secret") as address:
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(address)
        opened.wait_for_selector("input[type=password]")
        assert opened.locator("#image").count() == 0
        for password, admitted in (("wrong", False), ("secret", True)):
            opened.get_by_label("username").fill("anna")
            opened.get_by_label("password").fill(password)
            opened.get_by_role("button", name="Login").click()
            if admitted:
                opened.wait_for_selector("#image")
            else:
                opened.wait_for_timeout(1000)
                assert opened.locator("#image").count() == 0
        for path in ("gradio_api/mcp/", "gradio_api/mcp/schema"):  # MCP would bypass the login
            assert httpx.post(address + path, json={}).status_code in {401, 404, 405}
        context.close()
