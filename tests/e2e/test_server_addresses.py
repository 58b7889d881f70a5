"""Pictures by their address: from the allowed hosts and folders, and from nowhere those lead to."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from servers import serving


class Host(ThreadingHTTPServer):
    """A host of pictures, which remembers what it was asked for."""

    def __init__(self, picture: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.picture = picture
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
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
            self.wfile.write(self.server.picture)
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
    allowed = "--allow-url", f"{host.address}/street", "--allow-url", "https://photos.example.com/"
    with serving("--no-demo", "--max-mb", "1", *allowed) as (client, _):
        yield client


def ask(client: httpx.Client, *addresses: str) -> httpx.Response:
    asked = {"images": addresses, "classes": ["bus", "pedestrian"]}
    return client.post("/v1/detect/batch", json=asked)


def test_an_allowed_address_is_a_picture(client, host, assets):
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
        "http://photos.example.com:{port}@127.0.0.1:{port}/street/bus.jpg",
        "http://127.1:{port}/street/bus.jpg",
        "http://0x7f000001:{port}/street/bus.jpg",
        "http://[::ffff:127.0.0.1]:{port}/street/bus.jpg",
        "https://127.0.0.1:{port}/street/bus.jpg",
        "http://photos.example.com.evil.com/bus.jpg",
        "https://photos.example.com:444/bus.jpg",
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
def test_no_other_is_asked_for(client, host, address):
    before = list(host.asked)
    answer = ask(client, address.format(host=host.address, port=host.server_port))
    assert answer.status_code == 422, answer.text
    assert "send the picture itself" in answer.json()["detail"]
    assert host.asked == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("elsewhere.jpg", "answers 302"),
        ("nothing.jpg", "answers 404"),
        ("endless", "ask for less"),
        ("packed.jpg", "is sent compressed"),
    ],
)
def test_what_an_allowed_host_says_is_not_believed(client, host, name, said):
    answer = ask(client, f"{host.address}/street/{name}")
    assert answer.status_code == 422, answer.text
    assert said in answer.json()["detail"]
    assert "/secret/bus.jpg" not in host.asked


def test_pictures_of_a_request_share_its_limit(client, host):
    assert ask(client, *[f"{host.address}/street/bus.jpg"] * 6).status_code == 200
    answer = ask(client, *[f"{host.address}/street/bus.jpg"] * 9)
    assert answer.status_code == 422
    assert "ask for less" in answer.json()["detail"]


def test_a_host_that_is_away_is_one_line(assets):
    with serving("--no-demo", "--allow-url", "http://127.0.0.1:9/") as (client, _):
        answer = ask(client, "http://127.0.0.1:9/bus.jpg")
        assert answer.status_code == 422
        assert "try again later" in answer.json()["detail"]


@pytest.mark.parametrize(
    "allowed",
    ["https://", "photos.example.com", "ftp://host/", "https://a:b/", "https://[::1/", "https://xn--a/",
     "https://*.example.com/", "https://host:99999999/", "https://user:secret@host/", "https://host/?a"],
)  # fmt: skip
def test_what_allows_nothing_is_refused_at_the_start(allowed):
    command = [sys.executable, "-m", "openvocab", "serve", "--no-demo", "--allow-url", allowed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "give an address like" in done.stderr.splitlines()[-1]
