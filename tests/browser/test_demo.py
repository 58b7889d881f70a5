"""What a visitor of the demo does and sees, in a real browser, with the real starter weights."""

import itertools
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
from browsers import CHROMIUM, ask, chromium, demo, open_tab, start_camera, upload, wait_for_text

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]
FILE = {"_type": "gradio.FileData"}
CELL = '#table [data-testid="cell-{}-{}"]'


@pytest.fixture(scope="module")
def clip(assets, tmp_path_factory):
    return pan(assets / "bus.jpg", tmp_path_factory.mktemp("film") / "clip.mp4", 30, (480, 480))


@pytest.fixture(scope="module")
def camera(clip):
    """The clip as Chromium's fake camera takes it."""
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
    """A visitor; whatever else is asked for than this server fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    opened = context.new_page()
    hosts, errors = set(), []
    opened.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    opened.goto(address)
    opened.wait_for_selector("#photo")
    yield opened
    context.close()
    assert hosts <= {urlsplit(address).netloc, ""}, hosts
    assert not errors, errors


def test_a_photo_is_named_in_the_words_that_are_typed(page, assets):
    upload(page, "#photo", assets / "bus.jpg")
    wait_for_text(page, "#answer", "3 person, 1 bus")
    ask(page, "pedestrian, dog")
    wait_for_text(page, "#answer", "3 pedestrian")
    assert page.inner_text(CELL.format(0, 1)).strip() == "pedestrian"
    assert "YOLO" not in page.inner_text("#reason")
    page.locator(CELL.format(1, 1)).last.click()
    wait_for_text(page, "#reason", "Row 2, pedestrian")
    wait_for_text(page, "#why", "pedestrian")
    assert "dog" in page.inner_text("#why")


def test_an_example_a_threshold_and_yolo_alone(page):
    page.get_by_text("man, necktie, microphone").click()
    wait_for_text(page, "#answer", "man")
    page.get_by_text("Advanced").click()
    score = page.get_by_label("number input for Lowest score").first
    score.fill("0.9")
    score.press("Enter")
    wait_for_text(page, "#answer", "Nothing of this is in the picture")
    score.fill("0.3")
    score.press("Enter")
    page.locator("#compare input").check()
    page.wait_for_selector("#closed-set img")
    wait_for_text(page, "#answer", "man")


def test_what_is_not_there_and_no_word_have_an_answer(page, assets):
    wait_for_text(page, "#answer", "")
    upload(page, "#photo", assets / "bus.jpg")
    wait_for_text(page, "#answer", "Found")
    ask(page, "giraffe")
    wait_for_text(page, "#answer", "Nothing of this")
    ask(page, " , ,")
    wait_for_text(page, "#answer", "Type what to look for")


@pytest.mark.parametrize(
    "words",
    ["🚌 bus, person", "أتوبيس, person", "公共汽车, person", "person, " + "long " * 60,
     ", ".join(["person", *(f"thing {n}" for n in range(199))]), "person, <img src=x onerror=alert(1)>"],
    ids=["emoji", "arabic", "chinese", "long", "two hundred", "markup"],
)  # fmt: skip
def test_any_name_can_be_asked_for(page, assets, words):
    upload(page, "#photo", assets / "bus.jpg")
    wait_for_text(page, "#answer", "Found")
    ask(page, words)
    wait_for_text(page, "#table", "person")
    assert page.locator("#answer img, #table img").count() == 0


def test_words_that_are_too_many_are_not_dropped_silently(page, assets):
    upload(page, "#photo", assets / "bus.jpg")
    ask(page, ", ".join([f"word {number}" for number in range(200)] + ["bus"]))
    wait_for_text(page, "#answer", "These are 201 words; type 200 at the most.")


def test_a_phone_shows_all_of_the_page(browser, address, assets):
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    upload(page, "#photo", assets / "bus.jpg")
    wait_for_text(page, "#answer", "Found:")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_a_file_that_is_no_picture_is_said_to_be(page, tmp_path, assets):
    (tmp_path / "broken.jpg").write_bytes(b"I am no picture")
    upload(page, "#photo", assets / "zidane.jpg")
    wait_for_text(page, "#answer", "2 person")
    upload(page, "#photo", tmp_path / "broken.jpg")
    wait_for_text(page, "#answer", "image")
    assert page.inner_text("#answer").startswith("broken.jpg is not a whole image")
    assert page.locator("#result img").count() == 0  # not the last photo's
    upload(page, "#photo", assets / "bus.jpg")
    wait_for_text(page, "#answer", "Found")


def test_a_film_comes_back_annotated_and_plays(page, clip):
    open_tab(page, "Film")
    upload(page, "#film", clip)
    wait_for_text(page, "#film", "clip")
    page.click("#look")
    wait_for_text(page, "#film-answer", "30 frames", 60)
    page.wait_for_function(
        "(v => v && v.readyState >= 3 && v.videoWidth == 480 && !v.error)"
        "(document.querySelector('#film-result video'))"
    )
    page.wait_for_selector("#timeline canvas, #timeline svg")
    wait_for_text(page, "#lines", "found")


def test_a_film_can_be_cancelled_and_leaves_nothing(page, assets, tmp_path):
    long = pan(assets / "bus.jpg", tmp_path / "long.mp4", 550, (640, 480))
    open_tab(page, "Film")
    upload(page, "#film", long)
    wait_for_text(page, "#film", "long")
    page.click("#look")
    wait_for_text(page, "#film-answer", "so far", 30)
    assert page.locator("#film-answer progress").count() == 1
    page.get_by_role("button", name="Cancel").click()
    wait_for_text(page, "#film-answer", "Cancelled")
    deadline = time.monotonic() + 20
    folders = Path(tempfile.gettempdir())
    while time.monotonic() < deadline and list(folders.glob("openvocab-film-*")):
        time.sleep(0.2)
    assert not list(folders.glob("openvocab-film-*"))
    assert page.locator("#film-result video").count() == 0


def test_a_camera_is_named_live_and_in_other_words_on_the_run(page):
    open_tab(page, "Camera")
    start_camera(page)
    wait_for_text(page, "#live", "person", 30)
    ask(page, "pedestrian", "#live-classes")
    wait_for_text(page, "#live", "pedestrian", 30)
    wait_for_text(page, "#live", "fps")


FAINT = """
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
  const faint = [];
  for (const node of document.querySelectorAll("p, span, label, button, h1, th, td, a, li, input")) {
    const own = [...node.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const [over, under] = [light(parts(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(over, under) + .05) / (Math.min(over, under) + .05);
    if (ratio < 4.5) faint.push([node.textContent.trim().slice(0, 40), ratio.toFixed(2)]);
  }
  return faint;
}
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(browser, address, assets, theme):
    """WCAG 2, level AA: a contrast of 4.5."""
    opened = browser.new_context(color_scheme=theme).new_page()
    opened.goto(f"{address}?__theme={theme}")
    upload(opened, "#photo", assets / "bus.jpg")
    wait_for_text(opened, "#answer", "Found")
    opened.locator(CELL.format(0, 1)).last.click()
    wait_for_text(opened, "#reason", "Row 1")
    opened.get_by_text("Advanced").click()
    faint = opened.evaluate(FAINT)
    for tab in ("Film", "Camera"):
        open_tab(opened, tab)
        opened.wait_for_timeout(500)
        faint += opened.evaluate(FAINT)
    opened.context.close()
    assert not faint


def test_the_keyboard_is_enough(page, assets):
    """From the top of the page to other words and a lower threshold without a mouse."""
    upload(page, "#photo", assets / "bus.jpg")
    wait_for_text(page, "#answer", "Found")

    def tab_to(place: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("place => document.activeElement.closest(place) !== null", place):
                return
        raise AssertionError(f"no way to {place}")

    tab_to("#classes")
    page.keyboard.press("Control+A")
    page.keyboard.type("pedestrian")
    wait_for_text(page, "#answer", "3 pedestrian")
    tab_to("#compare")
    page.keyboard.press("Space")
    page.wait_for_selector("#closed-set img")
    tab_to("#table")


def test_two_visitors_do_not_see_each_others_pictures(browser, address, assets):
    pages = []
    for photo, words in (("bus.jpg", "bus, person"), ("zidane.jpg", "man, necktie")):
        opened = browser.new_context().new_page()
        opened.goto(address)
        upload(opened, "#photo", assets / photo)
        ask(opened, words)
        pages.append(opened)
    wait_for_text(pages[0], "#answer", "1 bus")
    wait_for_text(pages[1], "#answer", "man")
    sources = [each.get_attribute("#result img", "src") for each in pages]
    assert len(set(sources)) == 2
    for one, other in itertools.permutations(pages):
        assert one.inner_text("#answer") != other.inner_text("#answer")
    for each in pages:
        each.context.close()


def test_files_of_the_server_are_out_of_reach(address):
    for path in ("/etc/passwd", "../../../../etc/passwd", __file__):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}gradio_api/file={path}")
        assert caught.value.code in {403, 404}
        caught.value.close()


def test_the_api_takes_pictures_that_are_sent_and_no_paths(address, assets):
    client = gradio_client.Client(address, verbose=False)
    asked = {"classes": "bus, giraffe", "negatives": "", "threshold": 0.3, "api_name": "/detect"}
    (found,) = client.predict(photo=gradio_client.handle_file(str(assets / "bus.jpg")), **asked)
    assert found["class_name"] == "bus"
    # Not through the client, which would send the file itself.
    body = {"data": [{"path": str(assets / "bus.jpg"), "meta": FILE}, "bus", "", 0.3]}
    called = httpx.post(f"{address}gradio_api/call/detect", json=body).json()
    answered = httpx.get(f"{address}gradio_api/call/detect/{called['event_id']}", timeout=20).text
    assert answered.startswith("event: error")
    assert "bus" not in answered
    client.close()


def test_a_password_is_asked_for_and_opens(browser, tmp_path):
    with demo(tmp_path, OPENVOCAB_DEMO_AUTH="anna:geheim") as guarded:
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(guarded)
        opened.wait_for_selector("input[type=password]")
        assert opened.locator("#photo").count() == 0
        for password, admitted in (("wrong", False), ("geheim", True)):
            opened.get_by_label("username").fill("anna")
            opened.get_by_label("password").fill(password)
            opened.get_by_role("button", name="Login").click()
            if admitted:
                opened.wait_for_selector("#photo")
            else:
                opened.wait_for_timeout(1000)
                assert opened.locator("#photo").count() == 0
        for place in ("gradio_api/mcp/", "gradio_api/mcp/schema"):  # Gradio's asks for no password
            assert httpx.post(guarded + place, json={}).status_code in {401, 404, 405}
        context.close()
