"""A server process of its own, asked over the network: answers, refusals, load, its end."""

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
from openvocab.cli.options import refuse_taken
from openvocab.errors import ConfigError
from openvocab.server.app import Settings

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
    picture = cv2.imdecode(np.frombuffer(bus, np.uint8), cv2.IMREAD_COLOR)
    done, encoded = cv2.imencode(".jpg", cv2.resize(picture, (270, 360)))
    assert done
    return base64.b64encode(encoded.tobytes()).decode()


def encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def test_the_answer_is_that_of_detect(client, bus):
    asked = {"image": encoded(bus), "classes": WORDS, "thresholds": {"bus": 0.5}}
    answer = client.post("/v1/detect", json=asked)
    assert answer.status_code == 200, answer.text
    expected = OpenVocabDetector.from_preset().detect(bus, WORDS, thresholds={"bus": 0.5})
    rows = answer.json()["detections"]
    assert [row["class_name"] for row in rows] == expected.data["class_name"].tolist()
    np.testing.assert_allclose([row["xyxy"] for row in rows], expected.xyxy, atol=0.1)
    np.testing.assert_allclose([row["confidence"] for row in rows], expected.confidence, atol=1e-3)
    assert (answer.json()["width"], answer.json()["height"]) == (810, 1080)


def test_a_file_and_a_data_address_are_pictures_too(client, bus):
    form = {
        "classes": "bus, pedestrian", "negatives": "tram", "score_threshold": "0.5",
        "thresholds": '{"bus": 0.7}',
    }  # fmt: skip
    by_file = client.post("/v1/detect/file", data=form, files={"image": bus}).json()
    asked = {
        "image": f"data:image/jpeg;base64,{encoded(bus)}", "classes": WORDS,
        "negatives": ["tram"], "score_threshold": 0.5, "thresholds": {"bus": 0.7},
    }  # fmt: skip
    assert client.post("/v1/detect", json=asked).json() == by_file
    assert len(by_file["detections"]) >= 2


@pytest.mark.parametrize(
    "form", [{"treshold": "0.5"}, {"thresholds": "bus=0.5"}, {"thresholds": '{"bus": 2}'}]
)
def test_a_form_that_would_be_misunderstood_is_refused(client, bus, form):
    asked = {"classes": "bus"} | form
    answer = client.post("/v1/detect/file", data=asked, files={"image": bus})
    assert (answer.status_code, next(iter(form)) in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_monitor_may_ask_for_the_head_alone(client, path):
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("token", ["secret\n", " secret "])
def test_a_token_from_a_file_is_the_one_in_it(token):
    assert [Settings(token=token).token] == ["secret"]


@pytest.mark.parametrize("token", ["\n", "sec\nret", "\x00"])
def test_a_token_that_nobody_can_bring_is_refused(token):
    with pytest.raises(ConfigError, match="give another"):
        Settings(token=token)


def test_an_address_that_is_not_ours_is_refused_before_anything_is_loaded():
    command = [sys.executable, "-m", "openvocab", "serve", "--host", "192.0.2.1"]  # for examples
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "assign requested address); check --host and --port." in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_a_port_that_is_taken_is_told_and_a_free_one_left_free(host, family):
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no {host} ({error})")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="choose another with --port"):
            refuse_taken(host, port)
    refuse_taken(host, port)


def test_what_nohup_has_ignored_stays_ignored():
    program = (
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from openvocab.cli.options import ENDS\nprint(ENDS == [signal.SIGTERM])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"True"


def test_a_batch_is_answered_in_order(client, small):
    black = cv2.imencode(".png", np.zeros((50, 60, 3), np.uint8))[1].tobytes()
    asked = {"images": [small, encoded(black), small], "classes": WORDS}
    first, nothing, last = client.post("/v1/detect/batch", json=asked).json()
    assert first == last
    assert len(first["detections"]) >= 2
    assert nothing == {"width": 60, "height": 50, "detections": []}


def test_every_request_has_its_own_classes(client, small):
    lists = [["bus"], ["person"], {"people": ["man", "woman"]}, ["zebra"]] * 3

    def ask(classes) -> set[str]:
        asked = {"image": small, "classes": classes}
        rows = client.post("/v1/detect", json=asked).json()["detections"]
        return {row["class_name"] for row in rows}

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, lists))
    assert found == [{"bus"}, {"person"}, {"people"}, set()] * 3


def test_a_class_may_be_shown(client, bus, small):
    """The picture shows a man, the word says bus: each finds its own."""
    picture = cv2.imdecode(np.frombuffer(bus, np.uint8), cv2.IMREAD_COLOR)
    man = encoded(cv2.imencode(".png", picture[400:900, 50:210])[1].tobytes())
    parts = {"guest": [{"image": man}], "both": ["bus", {"image": man}]}
    counts = {}
    for name, some in parts.items():
        asked = {"image": encoded(bus), "classes": {name: some}}
        counts[name] = len(client.post("/v1/detect", json=asked).json()["detections"])
    assert counts == {"guest": 3, "both": 4}
    stored = {"classes": {"guest": parts["guest"]}}
    assert client.put("/v1/vocabularies/guests", json=stored).status_code == 204
    asked = {"image": encoded(bus), "vocabulary": "guests"}
    assert len(client.post("/v1/detect", json=asked).json()["detections"]) == 3
    assert client.delete("/v1/vocabularies/guests").status_code == 204
    broken = {"image": small, "classes": {"x": [{"image": encoded(b"no picture")}]}}
    answer = client.post("/v1/detect", json=broken)
    assert answer.status_code == 422
    assert "example is not a whole image" in answer.json()["detail"]
    tiny = encoded(cv2.imencode(".png", picture[:40, :50])[1].tobytes())
    many = {"image": small, "classes": {"x": [{"image": tiny}] * 40}}
    assert "send fewer" in client.post("/v1/detect", json=many).json()["detail"]


def test_vocabularies_are_stored_and_outlive_the_server(small, tmp_path):
    asked = {"image": small, "vocabulary": "street"}
    with serving("--vocabularies", str(tmp_path), "--no-demo") as (client, _):
        words = {"classes": {"coach": ["bus"]}, "negatives": ["tram"]}
        assert client.put("/v1/vocabularies/street", json=words).status_code == 204
        assert client.get("/v1/vocabularies").json() == ["street"]
        assert client.get("/v1/vocabularies/street").json() == ["coach"]
        first = client.post("/v1/detect", json=asked).json()
        assert [row["class_name"] for row in first["detections"]] == ["coach"]
        for name in ("a%2Fb", "..%2Fetc", "-x", "é", "x" * 65):
            refused = client.put(f"/v1/vocabularies/{name}", json=words)
            assert refused.status_code in (404, 422)
    with serving("--vocabularies", str(tmp_path), "--no-demo") as (client, _):
        assert client.post("/v1/detect", json=asked).json() == first
        assert client.delete("/v1/vocabularies/street").status_code == 204
        assert client.delete("/v1/vocabularies/street").status_code == 404
        assert client.post("/v1/detect", json=asked).status_code == 404
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"image": "https://example.com/x.jpg"}, 422, "not fetched"),
        ({"image": "file:///etc/passwd"}, 422, "not fetched"),
        ({"image": "%%%"}, 422, "no base64"),
        ({"image": encoded(b"no picture")}, 422, "image is not a whole image (unknown format)"),
        ({"classes": []}, 422, "give names in a list"),
        ({"classes": "bus"}, 422, "give names in a list"),
        ({"classes": None}, 422, "Give either"),
        ({"vocabulary": "street"}, 422, "Give either"),
        ({"classes": None, "vocabulary": "nowhere"}, 404, "no vocabulary"),
        ({"score_threshold": 2}, 422, "less than or equal"),
        ({"score_threshold": False}, 422, "valid number"),
        ({"thresholds": {"bus": "0.5"}}, 422, "valid number"),
        ({"thresholds": {"cat": 0.5}}, 422, "not among the classes"),
        ({"negatives": ["bus"]}, 422, "among the classes and the negatives"),
        ({"surprise": 1}, 422, "Extra inputs are not permitted; /openapi.json says"),
    ],
)
def test_a_bad_question_is_the_callers_fault(client, small, change, status, said):
    answer = client.post("/v1/detect", json={"image": small, "classes": ["bus"]} | change)
    assert answer.status_code == status, answer.text
    assert said in json.dumps(answer.json()["detail"], ensure_ascii=False)


def test_what_would_take_all_memory_or_time_is_refused_at_once(client, small):
    huge = cv2.imencode(".png", np.zeros((6000, 6000, 3), np.uint8))[1].tobytes()
    many = {f"thing {number}": ["a", "b", "c"] for number in range(2000)}
    for change, said in (
        ({"image": encoded(huge)}, "more than 25 megapixels"),
        ({"classes": many}, "5000 words at the most"),
        ({str(number): 0 for number in range(20_000)}, "too many keys"),
        ({"thresholds": {str(number): 0.5 for number in range(6000)}}, "at most 5000"),
    ):
        begun = time.monotonic()
        answer = client.post("/v1/detect", json={"image": small, "classes": ["bus"]} | change)
        assert answer.status_code == 422, answer.text
        assert said in answer.text
        assert len(answer.content) < 20_000
        assert time.monotonic() - begun < 5
    tiny = encoded(cv2.imencode(".png", np.zeros((40, 50, 3), np.uint8))[1].tobytes())
    asked = {"images": [tiny] * 33, "classes": ["bus"]}
    answer = client.post("/v1/detect/batch", json=asked)
    assert answer.status_code == 422
    assert "send fewer" in answer.text
    asked["images"] = [tiny] * 32
    assert len(client.post("/v1/detect/batch", json=asked).json()) == 32


def test_a_page_elsewhere_cannot_give_its_own_name_to_this_machine(client, small):
    headers = {"host": "rebound.example.com"}
    asked = {"image": small, "classes": WORDS}
    assert client.post("/v1/detect", json=asked, headers=headers).status_code == 400


def test_a_body_too_large_is_refused_announced_or_not(client, small):
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


def test_a_thousand_malformed_bodies_are_refused_and_the_next_good_one_answered(client, small):
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
        answer = client.post(path, content=malformed(), headers={"content-type": kind})
        assert 400 <= answer.status_code < 500, answer.text
    assert client.post("/v1/detect", json={"image": small, "classes": WORDS}).status_code == 200


def test_who_has_no_token_learns_only_that_it_lives(small):
    with serving("--token", "secret", "--no-demo") as (client, _):
        asked = {"image": small, "classes": WORDS}
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            for path in ("/v1/detect", "/metrics", "/docs", "/openapi.json", "/v1/nothing"):
                assert client.post(path, json=asked, headers=headers).status_code == 401
        assert client.get("/healthz").status_code == 200
        headers = {"authorization": "Bearer secret"}
        assert client.post("/v1/detect", json=asked, headers=headers).status_code == 200
        told = client.get("/metrics", headers=headers).text
        assert 'openvocab_requests_total{path="/v1/detect",status="401"} 3.0' in told


def test_too_many_are_turned_away_and_nobody_gets_an_error(small):
    with (
        serving("--queue", "2", "--batch", "1", "--no-demo") as (client, _),
        ThreadPoolExecutor(16) as pool,
    ):
        asked = {"image": small, "classes": WORDS}
        answers = list(pool.map(lambda _: client.post("/v1/detect", json=asked), range(48)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        turned = next(answer for answer in answers if answer.status_code == 429)
        assert turned.headers["retry-after"] == "1"
        assert client.post("/v1/detect", json=asked).status_code == 200
        told = client.get("/metrics").text
        counted = (
            f'openvocab_requests_total{{path="/v1/detect",status="429"}} {statuses.count(429)}.0'
        )
        assert counted in told


def test_what_takes_too_long_is_given_up(bus):
    with serving("--timeout", "0.1", "--no-demo") as (client, _):
        asked = {"images": [encoded(bus)] * 16, "classes": WORDS, "score_threshold": 0.01}
        answer = client.post("/v1/detect/batch", json=asked)
        assert answer.status_code == 504
        assert "too long" in answer.json()["detail"]


def test_words_that_take_too_long_do_not_pile_up(small):
    """Who is told that it took too long leaves a thread at work, which still counts."""
    with serving("--timeout", "0.2", "--queue", "4", "--no-demo") as (client, process):

        def ask(turn: int) -> int:
            words = {"classes": [f"thing {turn} {number}" for number in range(300)]}
            return client.put(f"/v1/vocabularies/v{turn}", json=words).status_code

        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(ask, range(120)))
        assert set(statuses) <= {504, 429}
        assert {504, 429} <= set(statuses)
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        assert threads < 40
        until = time.monotonic() + 60
        while time.monotonic() < until:  # what was begun is done, and room is made again
            if (
                client.post("/v1/detect", json={"image": small, "classes": ["bus"]}).status_code
                != 429
            ):
                break
            time.sleep(0.2)
        else:
            pytest.fail("no room is made")


def test_a_body_that_does_not_come_is_not_waited_for():
    with serving("--timeout", "1", "--no-demo") as (client, _):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
            slow.sendall(
                b"POST /v1/detect HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
            )
            begun = time.monotonic()
            answer = slow.makefile("rb").read()  # to the end: the connection is closed
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"took more than 1 s" in answer
        assert time.monotonic() - begun < 10


def test_what_was_asked_is_answered_before_it_stops(bus):
    with serving("--no-demo") as (client, process), ThreadPoolExecutor(1) as pool:
        asked = {"images": [encoded(bus)] * 8, "classes": WORDS}
        waiting = pool.submit(client.post, "/v1/detect/batch", json=asked)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert waiting.result(30).status_code == 200


def test_a_port_in_use_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "openvocab", "serve", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("choose another with --port.")
    assert not done.stdout


def test_another_method_is_told_which_to_use(client):
    answer = client.request("PATCH", "/v1/vocabularies/street")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "DELETE, GET, PUT"
    assert "openapi.json" in client.get("/v1/nowhere").json()["detail"]


def test_every_route_is_described(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/detect", "/v1/vocabularies/{name}", "/v1/streams/{number}/events"} <= paths.keys()
    for ways in paths.values():
        for way in ways.values():
            assert way["description"]
