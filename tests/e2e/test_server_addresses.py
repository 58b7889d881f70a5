"""Images by URL: only from the allowed hosts and folders, without redirects."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from servers import serving


class Host(ThreadingHTTPServer):
    """A host of images, which records the requested paths."""

    def __init__(self, image: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.image = image
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        name = self.path.rpartition("/")[2]
        if name.startswith("elsewhere"):
            self.send_response(302)
            self.send_header("location", f"{self.server.address}/secret/bus.jpg")
            self.end_headers()
        elif name.startswith(("bus", "packed")):
            self.send_response(200)
            if name.startswith("packed"):
                assert self.headers["accept-encoding"] == "identity"
                self.send_header("content-encoding", "gzip")
            self.end_headers()
            self.wfile.write(self.server.image)
        elif name == "endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x" * 100_000)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host(assets) -> Iterator[Host]:
    with Host((assets / "bus.jpg").read_bytes()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def client(host) -> Iterator[httpx.Client]:
    allowed = "--allow-url", f"{host.address}/street", "--allow-url", "https://images.example.com/"
    with serving("--no-demo", "--max-mb", "1", *allowed) as (client, _):
        yield client


def ask(client: httpx.Client, *addresses: str) -> httpx.Response:
    body = {"images": addresses, "classes": ["bus", "pedestrian"]}
    return client.post("/v1/detect/batch", json=body)


def test_allowed_url_is_fetched(client, host, assets):
    by_address = client.post(
        "/v1/detect", json={"image": f"{host.address}/street/a/bus.jpg?size=9", "classes": ["bus"]}
    )
    assert by_address.status_code == 200, by_address.text
    files = {"image": (assets / "bus.jpg").read_bytes()}
    by_file = client.post("/v1/detect/file", data={"classes": "bus"}, files=files)
    assert by_address.json() == by_file.json()
    assert len(by_file.json()["detections"]) == 1


@pytest.mark.parametrize(
    "address",
    [
        "{host}/secret/bus.jpg",
        "{host}/streets/bus.jpg",
        "{host}/street/../secret/bus.jpg",
        "{host}/street/%2e%2e/secret/bus.jpg",
        "{host}/street/%252e%252e/secret/bus.jpg",
        "{host}/street/..%5csecret/bus.jpg",
        "http://localhost:{port}/street/bus.jpg",
        "http://127.0.0.1:{port}@elsewhere.example.com/street/bus.jpg",
        "http://images.example.com:{port}@127.0.0.1:{port}/street/bus.jpg",
        "http://127.1:{port}/street/bus.jpg",
        "http://0x7f000001:{port}/street/bus.jpg",
        "http://[::ffff:127.0.0.1]:{port}/street/bus.jpg",
        "https://127.0.0.1:{port}/street/bus.jpg",
        "http://images.example.com.evil.com/bus.jpg",
        "https://images.example.com:444/bus.jpg",
        "ftp://127.0.0.1:{port}/street/bus.jpg",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/street/bus.jpg",
        "http://127.0.0.1:{port}\\@elsewhere.example.com/street/bus.jpg",
        "http://",
        "http://[",
        "HTTP://169.254.169.254/latest/meta-data",
        "http://xn--a/",
        "{host}/street/..;/secret/bus.jpg",
        "{host}/street/..%3b/secret/bus.jpg",
        "{host}/street/..%00/secret/bus.jpg",
        "{host}/street/%c0%ae%c0%ae/secret/bus.jpg",
        "{host}/street%2Fbus.jpg",
        "{host}/street/%25252e%25252e/secret/bus.jpg",
    ],
)
def test_other_urls_are_not_fetched(client, host, address):
    before = list(host.requests)
    response = ask(client, address.format(host=host.address, port=host.server_port))
    assert response.status_code == 422, response.text
    assert "send the image itself" in response.json()["detail"]
    assert host.requests == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elsewhere.jpg", "returned status 302"),
        ("nothing.jpg", "returned status 404"),
        ("endless", "send a smaller image"),
        ("packed.jpg", "is sent compressed"),
    ],
)
def test_unusable_responses_of_an_allowed_host(client, host, name, message):
    response = ask(client, f"{host.address}/street/{name}")
    assert response.status_code == 422, response.text
    assert message in response.json()["detail"]
    assert "/secret/bus.jpg" not in host.requests


def test_fetched_images_share_the_limit_of_the_request(client, host):
    assert ask(client, *[f"{host.address}/street/bus.jpg"] * 6).status_code == 200
    response = ask(client, *[f"{host.address}/street/bus.jpg"] * 9)
    assert response.status_code == 422
    assert "send a smaller image" in response.json()["detail"]


def test_unreachable_host(assets):
    with serving("--no-demo", "--allow-url", "http://127.0.0.1:9/") as (client, _):
        response = ask(client, "http://127.0.0.1:9/bus.jpg")
        assert response.status_code == 422
        assert "try again later" in response.json()["detail"]


@pytest.mark.parametrize(
    "allowed",
    ["https://", "images.example.com", "ftp://host/", "https://a:b/", "https://[::1/", "https://xn--a/",
     "https://*.example.com/", "https://host:99999999/", "https://user:secret@host/", "https://host/?a"],
)  # fmt: skip
def test_invalid_allowed_prefix_is_refused_at_start(allowed):
    command = [sys.executable, "-m", "openvocab", "serve", "--no-demo", "--allow-url", allowed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "use a URL like" in done.stderr.splitlines()[-1]
