"""`openvocab serve` in a process of its own: responses, errors, load, shutdown."""

import base64
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from servers import serving

from openvocab import OpenVocabDetector
from openvocab.cli._options import refuse_taken
from openvocab.errors import ConfigError
from openvocab.io import load_image
from openvocab.server import Settings

WORDS = ["bus", "pedestrian"]


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving("--max-mb", "2", "--no-demo") as (client, _):
        yield client


@pytest.fixture(scope="module")
def bus(assets) -> bytes:
    return (assets / "bus.jpg").read_bytes()


@pytest.fixture(scope="module")
def small(bus) -> str:
    image = cv2.imdecode(np.frombuffer(bus, np.uint8), cv2.IMREAD_COLOR)
    done, encoded = cv2.imencode(".jpg", cv2.resize(image, (270, 360)))
    assert done
    return base64.b64encode(encoded.tobytes()).decode()


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


def test_response_equals_detect(client, bus):
    body = {"image": encoded(bus), "classes": WORDS, "thresholds": {"bus": 0.5}}
    response = client.post("/v1/detect", json=body)
    assert response.status_code == 200, response.text
    expected = OpenVocabDetector.from_preset().detect(bus, WORDS, thresholds={"bus": 0.5})
    rows = response.json()["detections"]
    assert [row["class_name"] for row in rows] == expected.data["class_name"].tolist()
    np.testing.assert_allclose([row["xyxy"] for row in rows], expected.xyxy, atol=0.1)
    np.testing.assert_allclose([row["confidence"] for row in rows], expected.confidence, atol=1e-3)
    assert (response.json()["width"], response.json()["height"]) == (810, 1080)


def test_file_and_data_url(client, bus):
    form = {
        "classes": "bus, pedestrian", "negatives": "tram", "score_threshold": "0.5",
        "thresholds": '{"bus": 0.7}',
    }  # fmt: skip
    by_file = client.post("/v1/detect/file", data=form, files={"image": bus}).json()
    body = {
        "image": f"data:image/jpeg;base64,{encoded(bus)}", "classes": WORDS,
        "negatives": ["tram"], "score_threshold": 0.5, "thresholds": {"bus": 0.7},
    }  # fmt: skip
    assert client.post("/v1/detect", json=body).json() == by_file
    assert len(by_file["detections"]) >= 2


@pytest.mark.parametrize(
    "form", [{"treshold": "0.5"}, {"thresholds": "bus=0.5"}, {"thresholds": '{"bus": 2}'}]
)
def test_invalid_form_fields_are_refused(client, bus, form):
    body = {"classes": "bus"} | form
    response = client.post("/v1/detect/file", data=body, files={"image": bus})
    assert (response.status_code, next(iter(form)) in response.json()["detail"]) == (422, True)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_accepts_head(client, path):
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("token", ["secret\n", " secret "])
def test_token_is_stripped(token):
    assert [Settings(token=token).token] == ["secret"]


@pytest.mark.parametrize("token", ["\n", "sec\nret", "\x00"])
def test_unusable_token_is_refused(token):
    with pytest.raises(ConfigError, match="use a printable one"):
        Settings(token=token)


def test_foreign_host_is_refused_before_loading():
    command = [sys.executable, "-m", "openvocab", "serve", "--host", "192.0.2.1"]  # for examples
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "assign requested address); check --host and --port." in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_port_check_reports_a_used_port_and_leaves_a_free_one_free(host, family):
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no {host} ({error})")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="choose another with --port"):
            refuse_taken(host, port)
    refuse_taken(host, port)


def test_ignored_signals_stay_ignored():
    program = (
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from openvocab.cli._options import ENDS\nprint(ENDS == [signal.SIGTERM])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"True"


def test_batch_is_answered_in_order(client, small):
    black = cv2.imencode(".png", np.zeros((50, 60, 3), np.uint8))[1].tobytes()
    body = {"images": [small, encoded(black), small], "classes": WORDS}
    first, nothing, last = client.post("/v1/detect/batch", json=body).json()
    assert first == last
    assert len(first["detections"]) >= 2
    assert nothing == {"width": 60, "height": 50, "detections": []}


def test_near_misses_are_returned_on_request(client, bus):
    body = {"image": encoded(bus), "classes": ["bus", "giraffe", "zebra"], "near_misses": True}
    response = client.post("/v1/detect", json=body).json()
    detector = OpenVocabDetector.from_preset()
    lowest = detector.class_head(body["classes"]).min_objectness
    (regions,) = detector.encode_images([load_image(bus)], [lowest])
    expected = detector.near_misses(regions, body["classes"])
    assert [row["class_name"] for row in response["near_misses"]] == [
        near.class_name for near in expected
    ]
    for row, near in zip(response["near_misses"], expected, strict=True):
        assert row["score"] == pytest.approx(near.score, abs=1e-3)
        assert row["xyxy"] == pytest.approx(near.xyxy, abs=0.1)
        assert row.get("box_class") == near.box_class
    form = {"classes": "bus, giraffe, zebra", "near_misses": "true"}
    assert client.post("/v1/detect/file", data=form, files={"image": bus}).json() == response
    assert "near_misses" not in client.post("/v1/detect", json=body | {"near_misses": False}).json()


def test_a_request_has_its_own_sizes(client, bus):
    """Requests of different sizes share a batch; each gets what `detect` finds at its size."""
    sizes = [{}, {"imgsz": 320}, {"imgsz": 960}, {"tile": 640}]
    body = {"image": encoded(bus), "classes": ["bus", "person"]}
    with ThreadPoolExecutor(len(sizes)) as pool:
        responses = list(pool.map(lambda size: client.post("/v1/detect", json=body | size), sizes))
    detector = OpenVocabDetector.from_preset()
    for size, response in zip(sizes, responses, strict=True):
        expected = detector.detect(bus, body["classes"], **size)
        rows = response.json()["detections"]
        assert [row["class_name"] for row in rows] == expected.data["class_name"].tolist()
        np.testing.assert_allclose([row["xyxy"] for row in rows], expected.xyxy, atol=0.5)


@pytest.mark.parametrize("size", [{"imgsz": 4000}, {"imgsz": 8}, {"tile": 9000}, {"tile": 64}])
def test_a_size_that_would_take_too_long_is_refused(client, bus, size):
    body = {"image": encoded(bus), "classes": ["bus"]}
    response = client.post("/v1/detect", json=body | size)
    assert response.status_code == 422
    assert next(iter(size)) in response.json()["detail"]


def test_every_request_has_its_own_classes(client, small):
    lists = [["bus"], ["person"], {"people": ["man", "woman"]}, ["zebra"]] * 3

    def ask(classes) -> set[str]:
        body = {"image": small, "classes": classes}
        rows = client.post("/v1/detect", json=body).json()["detections"]
        return {row["class_name"] for row in rows}

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, lists))
    assert found == [{"bus"}, {"person"}, {"people"}, set()] * 3


def test_example_images(client, bus, small):
    """The example image shows a man, the word is bus: each matches its own objects."""
    image = cv2.imdecode(np.frombuffer(bus, np.uint8), cv2.IMREAD_COLOR)
    man = encoded(cv2.imencode(".png", image[400:900, 50:210])[1].tobytes())
    parts = {"guest": [{"image": man}], "both": ["bus", {"image": man}]}
    counts = {}
    for name, prompts in parts.items():
        body = {"image": encoded(bus), "classes": {name: prompts}}
        counts[name] = len(client.post("/v1/detect", json=body).json()["detections"])
    assert counts == {"guest": 4, "both": 5}
    stored = {"classes": {"guest": parts["guest"]}}
    assert client.put("/v1/vocabularies/guests", json=stored).status_code == 204
    body = {"image": encoded(bus), "vocabulary": "guests"}
    detections = client.post("/v1/detect", json=body).json()["detections"]
    assert len(detections) == counts["guest"]
    assert client.delete("/v1/vocabularies/guests").status_code == 204
    broken = {"image": small, "classes": {"x": [{"image": encoded(b"no image")}]}}
    response = client.post("/v1/detect", json=broken)
    assert response.status_code == 422
    assert "example is not a whole image" in response.json()["detail"]
    tiny = encoded(cv2.imencode(".png", image[:40, :50])[1].tobytes())
    box = {"image": encoded(bus), "box": [47, 392, 218, 908]}
    request = {"image": encoded(bus), "classes": {"guest": [box]}}
    found = client.post("/v1/detect", json=request).json()["detections"]
    assert len(found) >= 2 and found[0]["similarity"] > 0.99
    for edges, message in (([9, 0, 1, 5], "x1 < x2"), ([900, 0, 999, 9], "outside the image")):
        request["classes"]["guest"] = [box | {"box": edges}]
        response = client.post("/v1/detect", json=request)
        assert (response.status_code, message in response.json()["detail"]) == (422, True)
    many = {"image": small, "classes": {"x": [{"image": tiny}] * 40}}
    assert "send fewer" in client.post("/v1/detect", json=many).json()["detail"]


def test_stored_vocabularies_outlive_the_server(small, tmp_path):
    body = {"image": small, "vocabulary": "street"}
    with serving("--vocabularies", str(tmp_path), "--no-demo") as (client, _):
        words = {"classes": {"coach": ["bus"]}, "negatives": ["tram"]}
        assert client.put("/v1/vocabularies/street", json=words).status_code == 204
        assert client.get("/v1/vocabularies").json() == ["street"]
        assert client.get("/v1/vocabularies/street").json() == ["coach"]
        first = client.post("/v1/detect", json=body).json()
        assert [row["class_name"] for row in first["detections"]] == ["coach"]
        for name in ("a%2Fb", "..%2Fetc", "-x", "é", "x" * 65):
            refused = client.put(f"/v1/vocabularies/{name}", json=words)
            assert refused.status_code in (404, 422)
    with serving("--vocabularies", str(tmp_path), "--no-demo") as (client, _):
        assert client.post("/v1/detect", json=body).json() == first
        assert client.delete("/v1/vocabularies/street").status_code == 204
        assert client.delete("/v1/vocabularies/street").status_code == 404
        assert client.post("/v1/detect", json=body).status_code == 404
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"image": "https://example.com/x.jpg"}, 422, "not fetched"),
        ({"image": "file:///etc/passwd"}, 422, "not fetched"),
        ({"image": "%%%"}, 422, "not valid base64"),
        ({"image": encoded(b"no image")}, 422, "image is not a whole image (unknown format)"),
        ({"classes": []}, 422, "at least 1 item"),
        ({"classes": "bus"}, 422, "valid list"),
        ({"classes": None}, 422, "Send either"),
        ({"vocabulary": "street"}, 422, "Send either"),
        ({"classes": None, "vocabulary": "nowhere"}, 404, "no vocabulary"),
        ({"score_threshold": 2}, 422, "less than or equal"),
        ({"score_threshold": False}, 422, "valid number"),
        ({"thresholds": {"bus": "0.5"}}, 422, "valid number"),
        ({"thresholds": {"cat": 0.5}}, 422, "not among the classes"),
        ({"negatives": ["bus"]}, 422, "among the classes and the negatives"),
        ({"surprise": 1}, 422, "Extra inputs are not permitted; see /openapi.json"),
    ],
)
def test_invalid_requests_are_refused(client, small, change, status, message):
    response = client.post("/v1/detect", json={"image": small, "classes": ["bus"]} | change)
    assert response.status_code == status, response.text
    assert message in json.dumps(response.json()["detail"], ensure_ascii=False)


def test_expensive_requests_are_refused_at_once(client, small):
    huge = cv2.imencode(".png", np.zeros((6000, 6000, 3), np.uint8))[1].tobytes()
    many = {f"thing {number}": ["a", "b", "c"] for number in range(2000)}
    for change, message in (
        ({"image": encoded(huge)}, "more than 25 megapixels"),
        ({"classes": many}, "5000 words; send fewer"),
        ({str(number): 0 for number in range(20_000)}, "too many keys"),
        ({"thresholds": {str(number): 0.5 for number in range(6000)}}, "at most 5000"),
    ):
        begun = time.monotonic()
        response = client.post("/v1/detect", json={"image": small, "classes": ["bus"]} | change)
        assert response.status_code == 422, response.text
        assert message in response.text
        assert len(response.content) < 20_000
        assert time.monotonic() - begun < 5
    tiny = encoded(cv2.imencode(".png", np.zeros((40, 50, 3), np.uint8))[1].tobytes())
    body = {"images": [tiny] * 33, "classes": ["bus"]}
    response = client.post("/v1/detect/batch", json=body)
    assert response.status_code == 422
    assert "send fewer" in response.text
    body["images"] = [tiny] * 32
    assert len(client.post("/v1/detect/batch", json=body).json()) == 32


def test_dns_rebinding_is_refused(client, small):
    headers = {"host": "rebound.example.com"}
    body = {"image": small, "classes": WORDS}
    assert client.post("/v1/detect", json=body, headers=headers).status_code == 400


def test_too_large_body_is_refused_with_or_without_content_length(client, small):
    large = b"x" * (2 * 1024**2 + 1)
    announced = client.post("/v1/detect", content=large)
    assert announced.status_code == 413
    assert "send less" in announced.json()["detail"]

    def parts() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000

    with suppress(httpx.TransportError):  # closed while we were still sending: refused as well
        assert client.post("/v1/detect", content=parts()).status_code == 413
    assert client.post("/v1/detect", json={"image": small, "classes": WORDS}).status_code == 200


def test_malformed_bodies_are_refused_and_the_next_valid_one_answered(client, small):
    chance = random.Random(0)  # noqa: S311  not for secrets
    good = json.dumps({"image": small[:400], "classes": WORDS}).encode()

    def malformed() -> bytes:
        body = bytearray(good)
        kind = chance.randrange(4)
        if kind == 0:
            return bytes(body[: chance.randrange(len(body))])
        if kind == 1:
            return chance.randbytes(chance.randrange(300))
        if kind == 2:
            for _ in range(8):
                body[chance.randrange(len(body))] = chance.randrange(256)
            return bytes(body)
        value = chance.choice([None, 1, [], {}, "x", [[1]], {"a": {"b": []}}, -1e308, "\ud800"])
        return json.dumps({"image": value, "classes": chance.choice([value, WORDS])}).encode()

    for _ in range(1000):
        path = chance.choice(["/v1/detect", "/v1/detect/batch", "/v1/detect/file"])
        kind = chance.choice(["application/json", "multipart/form-data; boundary=x", "text/plain"])
        response = client.post(path, content=malformed(), headers={"content-type": kind})
        assert 400 <= response.status_code < 500, response.text
    assert client.post("/v1/detect", json={"image": small, "classes": WORDS}).status_code == 200


def test_without_the_token_only_health_answers(small):
    with serving("--token", "secret", "--no-demo") as (client, _):
        body = {"image": small, "classes": WORDS}
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            for path in ("/v1/detect", "/metrics", "/docs", "/openapi.json", "/v1/nothing"):
                assert client.post(path, json=body, headers=headers).status_code == 401
        assert client.get("/healthz").status_code == 200
        headers = {"authorization": "Bearer secret"}
        assert client.post("/v1/detect", json=body, headers=headers).status_code == 200
        metrics = client.get("/metrics", headers=headers).text
        assert 'openvocab_request_seconds_count{path="/v1/detect",status="401"} 3.0' in metrics


def test_overload_gets_429_and_no_other_error(small):
    with (
        serving("--queue", "2", "--batch", "1", "--no-demo") as (client, _),
        ThreadPoolExecutor(16) as pool,
    ):
        body = {"image": small, "classes": WORDS}
        responses = list(pool.map(lambda _: client.post("/v1/detect", json=body), range(48)))
        statuses = [response.status_code for response in responses]
        assert set(statuses) == {200, 429}
        refused = next(response for response in responses if response.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert client.post("/v1/detect", json=body).status_code == 200
        labels, count = '{path="/v1/detect",status="429"}', statuses.count(429)
        metrics = client.get("/metrics").text
        assert f"openvocab_request_seconds_count{labels} {count}.0" in metrics


def test_timeout_gets_504(bus):
    with serving("--timeout", "0.1", "--no-demo") as (client, _):
        body = {"images": [encoded(bus)] * 16, "classes": WORDS, "score_threshold": 0.01}
        response = client.post("/v1/detect/batch", json=body)
        assert response.status_code == 504
        assert "too long" in response.json()["detail"]


def test_timed_out_threads_still_count_as_load(small):
    """A request that timed out leaves a thread running, which still counts."""
    # Hardly a machine encodes 300 new names in that time.
    with serving("--timeout", "0.1", "--queue", "4", "--no-demo") as (client, process):
        idle = len(list(Path(f"/proc/{process.pid}/task").iterdir()))  # grows with the cores

        def ask(turn: int) -> int:
            words = {"classes": [f"thing {turn} {number}" for number in range(300)]}
            return client.put(f"/v1/vocabularies/v{turn}", json=words).status_code

        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(ask, range(120)))
        assert set(statuses) <= {504, 429}
        assert {504, 429} <= set(statuses)
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        assert threads < idle + 20
        until = time.monotonic() + 60
        while time.monotonic() < until:  # running threads finish, and there is room again
            if (
                client.post("/v1/detect", json={"image": small, "classes": ["bus"]}).status_code
                != 429
            ):
                break
            time.sleep(0.2)
        else:
            pytest.fail("still no room")


def test_slow_body_gets_408():
    with serving("--timeout", "1", "--no-demo") as (client, _):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
            slow.sendall(
                b"POST /v1/detect HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
            )
            begun = time.monotonic()
            response = slow.makefile("rb").read()  # to the end: the connection is closed
        assert response.startswith(b"HTTP/1.1 408"), response
        assert b"took more than 1 s" in response
        assert time.monotonic() - begun < 10


def test_running_requests_are_answered_before_shutdown(bus):
    with serving("--no-demo") as (client, process), ThreadPoolExecutor(1) as pool:
        body = {"images": [encoded(bus)] * 8, "classes": WORDS}
        waiting = pool.submit(client.post, "/v1/detect/batch", json=body)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert waiting.result(30).status_code == 200


def test_used_port_is_reported_in_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "openvocab", "serve", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("choose another with --port.")
    assert not done.stdout


def test_wrong_method_and_path(client):
    response = client.request("PATCH", "/v1/vocabularies/street")
    assert response.status_code == 405
    assert response.headers["allow"] in {"DELETE", "GET", "PUT"}
    assert "openapi.json" in client.get("/v1/nowhere").json()["detail"]


def test_every_route_is_described(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/detect", "/v1/vocabularies/{name}", "/v1/streams/{number}/events"} <= paths.keys()
    for methods in paths.values():
        for operation in methods.values():
            assert operation["description"]
