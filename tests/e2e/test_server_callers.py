"""Clients that disconnect, come from other sites, or encode requests in other ways."""

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from servers import serving
from videos import free_port

from openvocab.errors import ConfigError
from openvocab.server import Settings

WORDS = ["bus", "pedestrian"]
SITE = "https://app.example.com"


@pytest.fixture(scope="module")
def bus(assets) -> bytes:
    return (assets / "bus.jpg").read_bytes()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving("--no-demo", "--allow-origin", SITE) as (client, _):
        yield client


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return sorted({row["class_name"] for row in response.json()["detections"]})


def test_form_fields_may_be_words_or_json(client, bus):
    def ask(**form: object) -> list[str]:
        return names(client.post("/v1/detect/file", data=form, files={"image": bus}))

    assert ask(classes=["bus", "person"]) == ["bus", "person"]  # repeated fields
    assert ask(classes='["bus", "person"]') == ["bus", "person"]
    assert ask(classes='{"human": ["person", "man"]}') == ["human"]
    assert ask(classes=["bus, dog", "person"]) == ["bus", "person"]
    response = client.post("/v1/detect/file", data={"classes": '["bus"'}, files={"image": bus})
    assert (response.status_code, "invalid JSON" in response.json()["detail"]) == (422, True)


@pytest.mark.parametrize("write", [base64.encodebytes, base64.urlsafe_b64encode])
def test_base64_with_line_breaks_or_url_safe_alphabet(client, bus, write):
    body = {"image": write(bus).decode(), "classes": WORDS}
    assert "bus" in names(client.post("/v1/detect", json=body))


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
def test_cross_origin_requests_are_refused(client, bus, headers, status):
    ours = f"http://{client.base_url.netloc.decode()}"
    headers = {key: ours if value == "OURS" else value for key, value in headers.items()}
    form, files = {"classes": "bus"}, {"image": bus}
    response = client.post("/v1/detect/file", data=form, files=files, headers=headers)
    assert response.status_code == status
    if status == 403:
        assert response.json()["detail"].endswith(".")


def test_allowed_origin(client, bus):
    body = {"origin": SITE, "access-control-request-method": "POST"}
    body["access-control-request-headers"] = "authorization,content-type"
    response = client.options("/v1/detect", headers=body)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, SITE)
    body = {"image": encoded(bus), "classes": ["bus"]}
    response = client.post("/v1/detect", json=body, headers={"origin": SITE})
    assert (names(response), response.headers["access-control-allow-origin"]) == (["bus"], SITE)


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
def test_every_error_is_one_line_with_a_remedy(client, method, path, more, status):
    response = client.request(method, path, **more)
    assert response.status_code == status, response.text
    message = response.json()["detail"]
    assert message.endswith(".") and "\n" not in message
    if status == 422 and path == "/v1/detect":
        assert "Content-Type: application/json" in message


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_bearer_scheme_is_case_insensitive(scheme):
    with serving("--no-demo", "--token", "secret") as (client, _):
        headers = {"authorization": f"{scheme} secret"}
        assert client.get("/v1/info", headers=headers).json()["preset"] == "starter"
        described = client.get("/openapi.json", headers=headers).json()
        assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert described["paths"]["/v1/detect"]["post"]["security"]
        assert client.get("/v1/info", headers={"authorization": "Basic secret"}).status_code == 401


def test_openapi_examples_work(client):
    described = client.get("/openapi.json").json()["components"]["schemas"]
    for name, path in (("DetectRequest", "/v1/detect"), ("DetectBatchRequest", "/v1/detect/batch")):
        for example in described[name]["examples"]:
            assert client.post(path, json=example).status_code == 200


def test_info(client):
    info = client.get("/v1/info").json()
    assert (info["preset"], info["score_threshold"], info["max_images"]) == ("starter", 0.3, 32)
    assert "person" in info["detector_labels"]


def test_unusable_vocabulary_folder_is_refused_at_start(tmp_path):
    (tmp_path / "file").write_text("no folder")
    command = [sys.executable, "-m", "openvocab", "serve", "--no-demo", "--port", str(free_port())]
    for folder, message in ((tmp_path / "file", "choose another folder"), (tmp_path, "remove it")):
        (tmp_path / "broken.npz").write_bytes(b"no vocabulary")
        done = subprocess.run(
            [*command, "--vocabularies", folder], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_disconnected_clients_are_cancelled(bus):
    body = {"image": encoded(bus), "classes": WORDS, "score_threshold": 0.0}  # seconds of work
    quick = body | {"score_threshold": 0.5}
    with serving("--no-demo", "--batch", "1") as (client, _):
        client.post("/v1/detect", json=quick).raise_for_status()
        with ThreadPoolExecutor(8) as pool:
            disconnected = [
                pool.submit(client.post, "/v1/detect", json=body, timeout=1.0) for _ in range(8)
            ]
            assert all(isinstance(future.exception(), httpx.ReadTimeout) for future in disconnected)
        client.post("/v1/detect", json=quick).raise_for_status()
        metrics = client.get("/metrics").text
    answered = re.search(r'request_seconds_count{path="/v1/detect",status="200"} (\d+)', metrics)
    dropped = re.search(r'request_seconds_count{path="/v1/detect",status="499"} (\d+)', metrics)
    assert (answered[1], dropped[1]) == ("2", "8")


@pytest.mark.parametrize(
    "headers", [{"origin": "http://["}, {"host": "["}, {"origin": "null"}, {"host": ""}]
)
def test_malformed_host_and_origin_are_refused(client, headers):
    response = client.post("/v1/detect", json={}, headers=headers)
    assert response.status_code in (400, 403), response.text


@pytest.mark.parametrize("origin", ["*", "app.example.com", "https://*.example.com", "https://"])
def test_invalid_allowed_origin_is_refused(origin):
    with pytest.raises(ConfigError, match=r"use https://HOST"):
        Settings(origins=(origin,))


def test_origins_and_hosts_are_normalised():
    settings = Settings(origins=("https://App.example.com/",), hosts=("[::1]", "Here"))
    assert (settings.origins, settings.hosts) == (("https://app.example.com",), ("::1", "here"))
