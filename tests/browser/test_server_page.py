"""The demo beside the API: the same page, with the token as its password."""

import signal
import subprocess
import sys
import time

import httpx
import pytest

pytest.importorskip("playwright", reason="the browser tests need playwright")
pytest.importorskip("gradio", reason="the page needs gradio")

from browsers import CHROMIUM, chromium, enter_classes, upload, wait_for_text
from servers import serving

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]


def test_demo_at_the_root_beside_the_api(assets):
    with serving() as (client, process), chromium() as browser:
        page = browser.new_page()
        page.goto(str(client.base_url))
        upload(page, "#image", assets / "bus.jpg")
        enter_classes(page, "pedestrian, dog")
        wait_for_text(page, "#image-status", "4 pedestrian")
        files = {"image": (assets / "bus.jpg").read_bytes()}
        answer = client.post("/v1/detect/file", data={"classes": "bus"}, files=files)
        assert len(answer.json()["detections"]) == 1
        assert client.get("/openapi.json").json()["info"]["title"] == "openvocab"
        # The page accepts videos that are too large for a request.
        large = b"x" * (40 * 1024**2)
        assert client.post("/v1/detect", content=large).status_code == 413
        sent = client.post("/gradio_api/upload", files={"files": ("video.mp4", large)})
        assert sent.status_code == 200, sent.text
        foreign = {"host": "rebound.example.com"}
        assert client.get("/", headers=foreign).status_code == 400
        assert client.request("PATCH", "/v1/vocabularies/x").status_code == 405
        assert client.get("/v1/nowhere").json()["detail"].startswith("Not Found")
        # Preflight requests of other sites are refused.
        asks = {"origin": "https://evil.example.com", "access-control-request-method": "POST"}
        for path in ("/v1/streams", "/gradio_api/queue/join"):
            told = client.options(path, headers=asks)
            assert told.status_code == 400, path
            assert "access-control-allow-origin" not in told.headers
        # The page is still open and its heartbeat never ends by itself.
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - begun < 10


def test_demo_asks_for_the_token(assets):
    with serving("--token", "secret") as (client, _), chromium() as browser:
        for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x"):
            assert client.get(path).status_code == 401, path
        sent = client.post("/gradio_api/upload", files={"files": ("video.mp4", b"x")})
        assert sent.status_code == 401
        asked = {"data": [], "fn_index": 0, "session_hash": "x"}
        assert client.post("/gradio_api/queue/join", json=asked).status_code == 401
        assert client.get("/gradio_api/mcp/sse").status_code in (401, 404)
        assert client.post("/gradio_api/mcp/", json={}).status_code in (401, 404)
        assert client.get("/openapi.json").status_code == 401
        assert client.post("/v1/detect", json={}).status_code == 401
        page = browser.new_page()
        page.goto(str(client.base_url))
        for password, said in (("wrong", "Incorrect"), ("secret", "YOLO proposes boxes")):
            page.get_by_label("username").fill("anybody")
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            page.get_by_text(said).first.wait_for()
        upload(page, "#image", assets / "bus.jpg")
        wait_for_text(page, "#image-status", "4 person, 1 bus")
        # Logging in to the page gives no access to the API.
        cookies = httpx.Cookies()
        for cookie in page.context.cookies():
            cookies.set(cookie["name"], cookie["value"])
        answer = httpx.get(f"{client.base_url}/v1/sources", cookies=cookies)
        assert answer.status_code == 401


FETCHES = """
import asyncio, sys
import httpx
from openvocab.server._demo_page import demo_page
lookups = []
sys.addaudithook(lambda event, given: lookups.append(given) if event == "socket.getaddrinfo" else None)
with demo_page(public=True) as (page, options):
    import gradio
    from gradio import processing_utils, route_utils
    app = gradio.routes.App.create_app(page)
    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            handed_on = await client.get("/gradio_api/file=https://example.com/bus.jpg")
            print(handed_on.status_code)
        try:
            await processing_utils.async_ssrf_protected_download("https://example.com/a.jpg", ".")
        except ValueError as error:
            print(error)
    asyncio.run(ask())
print(lookups)
"""


def test_urls_from_visitors_are_not_fetched(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", FETCHES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "403", "URLs are not fetched here; upload the file itself.", "[]"
    ]  # fmt: skip
