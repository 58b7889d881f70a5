"""Callers who go, dawdle, come from other sites or say things in other ways than we do."""

import asyncio
import base64
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from servers import serving
from videos import free_port

from openvocab.errors import ConfigError
from openvocab.server.app import Settings
from openvocab.server.connections import idle_timeout

WORDS = ["bus", "pedestrian"]
SITE = "https://app.example.com"


@pytest.fixture(scope="module")
def bus(assets) -> bytes:
    return (assets / "bus.jpg").read_bytes()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving("--no-demo", "--allow-origin", SITE) as (client, _):
        yield client


def encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def names(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return sorted({each["class_name"] for each in answer.json()["detections"]})


def test_a_form_says_what_json_says(client, bus):
    def ask(**form: object) -> list[str]:
        return names(client.post("/v1/detect/file", data=form, files={"image": bus}))

    assert ask(classes=["bus", "person"]) == ["bus", "person"]  # a field for each
    assert ask(classes='["bus", "person"]') == ["bus", "person"]
    assert ask(classes='{"human": ["person", "man"]}') == ["human"]
    assert ask(classes=["bus, dog", "person"]) == ["bus", "person"]
    answer = client.post("/v1/detect/file", data={"classes": '["bus"'}, files={"image": bus})
    assert (answer.status_code, "is none; mend it" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("write", [base64.encodebytes, base64.urlsafe_b64encode])
def test_base64_may_be_broken_into_lines_or_that_of_addresses(client, bus, write):
    asked = {"image": write(bus).decode(), "classes": WORDS}
    assert "bus" in names(client.post("/v1/detect", json=asked))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://evil.example.com"}, 403),
        ({"origin": "null", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": SITE, "sec-fetch-site": "cross-site"}, 200),
        ({"origin": "http://proxy.example.com", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "OURS"}, 200),
        ({"host": "evil.example.com"}, 400),
    ],
)
def test_a_page_elsewhere_may_not_ask(client, bus, headers, status):
    ours = f"http://{client.base_url.netloc.decode()}"
    headers = {key: ours if value == "OURS" else value for key, value in headers.items()}
    form, files = {"classes": "bus"}, {"image": bus}
    answer = client.post("/v1/detect/file", data=form, files=files, headers=headers)
    assert answer.status_code == status
    assert status == 200 or answer.json()["detail"].endswith(".")


def test_the_page_of_an_allowed_site_hears_the_answer(client, bus):
    asked = {"origin": SITE, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization,content-type"
    answer = client.options("/v1/detect", headers=asked)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, SITE)
    body = {"image": encoded(bus), "classes": ["bus"]}
    answer = client.post("/v1/detect", json=body, headers={"origin": SITE})
    assert (names(answer), answer.headers["access-control-allow-origin"]) == (["bus"], SITE)


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("POST", "/v1/detect", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 422),
        ("POST", "/v1/detect", {"data": {"a": "b"}}, 422),
        ("POST", "/v1/detect/", {"json": {}}, 404),
        ("GET", "/healthz/", {}, 404),
        ("POST", "/v1/detect", {"content": b"[" * 200_000, "headers": {"content-type": "application/json"}}, 400),
        ("POST", "/v1/detect/file", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ("GET", "/v1/streams/1/events", {"headers": {"last-event-id": ""}}, 404),
        ("GET", "/v1/streams/1/events", {"headers": {"last-event-id": "-1"}}, 422),
    ],
)  # fmt: skip
def test_every_refusal_is_a_line_in_json_that_ends_with_the_remedy(
    client, method, path, more, status
):
    answer = client.request(method, path, **more)
    assert answer.status_code == status, answer.text
    said = answer.json()["detail"]
    assert said.endswith(".") and "\n" not in said
    if status == 422 and path == "/v1/detect":
        assert "Content-Type: application/json" in said


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_a_token_may_come_by_any_spelling_of_its_scheme(scheme):
    with serving("--no-demo", "--token", "secret") as (client, _):
        headers = {"authorization": f"{scheme} secret"}
        assert client.get("/v1/info", headers=headers).json()["preset"] == "starter"
        described = client.get("/openapi.json", headers=headers).json()
        assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert described["paths"]["/v1/detect"]["post"]["security"]
        assert client.get("/v1/info", headers={"authorization": "Basic secret"}).status_code == 401


def test_examples_of_the_description_work_as_they_are(client):
    described = client.get("/openapi.json").json()["components"]["schemas"]
    for name, path in (("DetectRequest", "/v1/detect"), ("DetectBatchRequest", "/v1/detect/batch")):
        for example in described[name]["examples"]:
            assert client.post(path, json=example).status_code == 200


def test_it_says_which_networks_answer_within_which_limits(client):
    info = client.get("/v1/info").json()
    assert (info["preset"], info["score_threshold"], info["max_pictures"]) == ("starter", 0.3, 32)
    assert "person" in info["detector_labels"]


def test_a_folder_that_cannot_keep_vocabularies_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("no folder")
    command = [sys.executable, "-m", "openvocab", "serve", "--no-demo", "--port", str(free_port())]
    for place, said in ((tmp_path / "file", "choose another folder"), (tmp_path, "remove it")):
        (tmp_path / "broken.npz").write_bytes(b"no vocabulary")
        done = subprocess.run(
            [*command, "--vocabularies", place], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_connection_that_asks_for_nothing_is_closed():
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await asyncio.sleep(1.0)  # work may take longer than silence
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    with listening(app, http=idle_timeout(0.2)) as port:
        for said in (b"", b"GET / HTTP/1.1\r\nHost: x", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(said)
                heard = b"".join(iter(lambda: client.recv(4096), b""))
            assert heard.startswith(b"HTTP/1.1 204") == said.endswith(b"GET")


@contextmanager
def listening(app: object, **options: object) -> Iterator[int]:
    """Uvicorn in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def test_the_work_of_who_has_gone_is_not_done(bus):
    asked = {"image": encoded(bus), "classes": WORDS, "score_threshold": 0.0}  # seconds of work
    quick = asked | {"score_threshold": 0.5}
    with serving("--no-demo", "--batch", "1") as (client, _):
        client.post("/v1/detect", json=quick).raise_for_status()
        with ThreadPoolExecutor(8) as pool:
            gone = [
                pool.submit(client.post, "/v1/detect", json=asked, timeout=1.0) for _ in range(8)
            ]
            assert all(isinstance(each.exception(), httpx.ReadTimeout) for each in gone)
        client.post("/v1/detect", json=quick).raise_for_status()
        told = client.get("/metrics").text
    answered = re.search(r'requests_total{path="/v1/detect",status="200"} (\d+)', told)
    dropped = re.search(r'requests_total{path="/v1/detect",status="499"} (\d+)', told)
    assert (answered[1], dropped[1]) == ("2", "8")
    assert 'openvocab_seconds_count{path="/v1/detect"} 2.0' in told  # theirs are no times


@pytest.mark.parametrize(
    "headers", [{"origin": "http://["}, {"host": "["}, {"origin": "null"}, {"host": ""}]
)
def test_a_name_that_is_none_is_refused(client, headers):
    answer = client.post("/v1/detect", json={}, headers=headers)
    assert answer.status_code in (400, 403), answer.text


@pytest.mark.parametrize("origin", ["*", "app.example.com", "https://*.example.com", "https://"])
def test_an_origin_that_no_page_has_is_refused(origin):
    with pytest.raises(ConfigError, match=r"give https://HOST"):
        Settings(origins=(origin,))


def test_origins_and_hosts_may_be_written_in_other_ways():
    settings = Settings(origins=("https://App.example.com/",), hosts=("[::1]", "Here"))
    assert (settings.origins, settings.hosts) == (("https://app.example.com",), ("::1", "here"))
