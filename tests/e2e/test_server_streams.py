"""Streams of a server process: started by source name, followed, changed, stopped."""

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from servers import serving
from videos import free_port, pan

REQUEST = {"source": "street", "classes": ["bus", "pedestrian"]}


@pytest.fixture(scope="module")
def video(assets, tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "street.mp4"
    pan(assets / "bus.jpg", path, 40, (600, 600))
    return path


@pytest.fixture(scope="module")
def client(video, tmp_path_factory) -> Iterator[httpx.Client]:
    zones = tmp_path_factory.mktemp("zones") / "zones.toml"
    zones.write_text("[zones]\nall = [[10, 10], [590, 10], [590, 640], [10, 640]]\n")
    sources = (
        f"street={video}",
        f"zoned={video}",
        "gone=rtsp://user:secret@127.0.0.1:9/live",
        f"lost={video}.avi",
    )
    options = [part for source in sources for part in ("--source", source)]
    options += "--zones", f"zoned={zones}"
    with serving("--no-demo", "--streams", "3", *options) as (client, _):
        yield client


@pytest.fixture(autouse=True)
def stopped(client):
    yield
    for stream in client.get("/v1/streams").json():
        assert client.delete(f"/v1/streams/{stream['number']}").status_code == 204
    assert client.get("/v1/streams").json() == []


def start(client: httpx.Client, **change: Any) -> dict[str, Any]:
    response = client.post("/v1/streams", json=REQUEST | change)
    assert response.status_code == 201, response.text
    return response.json()


def events(client: httpx.Client, number: int, after: int = 0) -> Iterator[tuple[int, dict]]:
    headers = {"last-event-id": str(after)}
    with client.stream("GET", f"/v1/streams/{number}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        data = None
        for line in response.iter_lines():
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
            elif line.startswith("id: "):
                yield int(line.removeprefix("id: ")), data


def test_video_is_processed_to_its_end(client):
    stream = start(client)
    assert stream["classes"] == ["bus", "pedestrian"]
    received = list(events(client, stream["number"]))
    numbers = [number for number, _ in received]
    assert numbers == list(range(numbers[0], numbers[0] + len(received)))
    names = {event["class_name"] for _, event in received if event["event"] == "appeared"}
    assert names == {"bus", "pedestrian"}
    assert {event["source"] for _, event in received} == {"street"}
    assert received[-1][1]["event"] == "ended"
    state = client.get(f"/v1/streams/{stream['number']}").json()
    assert state["state"] == "ended"
    assert state["error"] is None
    assert state["metrics"]["frames"] == 40
    # A client that reconnects gets the rest, and nothing twice.
    assert list(events(client, stream["number"], after=numbers[2])) == received[3:]
    # An id of another server is not mistaken for one of this stream: all events are sent.
    for other in (3, 5000, numbers[0] - 1, numbers[-1] + 1):
        assert list(events(client, stream["number"], after=other)) == received
    path, last = f"/v1/streams/{stream['number']}", {"last-event-id": str(numbers[-1])}
    assert client.get(f"{path}/events", headers=last).status_code == 204
    assert client.put(f"{path}/classes", json={"classes": ["bus"]}).status_code == 404
    response = client.get(f"/v1/streams/{stream['number']}/frame")
    assert response.headers["content-type"] == "image/jpeg"
    image = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (600, 600, 3)


def test_classes_change_while_running(client, video):
    stored = {"classes": ["coach", "man"]}
    assert client.put("/v1/vocabularies/other", json=stored).status_code == 204
    number = start(client)["number"]
    changed = client.put(f"/v1/streams/{number}/classes", json={"vocabulary": "other"})
    assert changed.status_code == 204
    assert client.get(f"/v1/streams/{number}").json()["classes"] == ["coach", "man"]
    refused = client.put(f"/v1/streams/{number}/classes", json={"classes": []})
    assert refused.status_code == 422
    last = {event["class_name"] for _, event in events(client, number) if event["event"] == "left"}
    assert last <= {"coach", "man"}


def test_thresholds_change_while_running(client):
    number = start(client, score_threshold=0.999)["number"]
    assert not [e for _, e in events(client, number) if e["event"] == "appeared"]
    number = start(client)["number"]
    path = f"/v1/streams/{number}/classes"
    refused = client.put(path, json={"classes": ["bus"], "thresholds": {"cat": 0.5}})
    changed = {"classes": ["bus"], "thresholds": {"bus": 0.999}}
    assert client.put(path, json=changed).status_code == 204
    assert refused.status_code == 422


def test_zones_per_stream(client):
    numbers = [start(client, source=name)["number"] for name in ("zoned", "zoned", "street")]
    received = [[event for _, event in events(client, number)] for number in numbers]
    inside = [
        {
            (event["zone"], event["class_name"])
            for event in stream
            if event["event"] == "entered zone"
        }
        for stream in received
    ]
    assert inside[0] >= {("all", "bus"), ("all", "pedestrian")}
    assert inside[1] == inside[0]
    assert inside[2] == set()
    zoned, _, plain = (
        cv2.imdecode(np.frombuffer(client.get(path).content, np.uint8), cv2.IMREAD_COLOR)
        for path in (f"/v1/streams/{number}/frame" for number in numbers)
    )
    # Yellow, on the left side of the zone.
    edges = [frame[100:500, 9:11].astype(int) for frame in (zoned, plain)]
    drawn, bare = ((edge[..., 1:].min(2) - edge[..., 0] > 80).mean() for edge in edges)
    assert drawn > 0.9 > 0.3 > bare


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--zones", "gate={zones}"),
            "Zones are set for the unknown source 'gate'; add the source.",
        ),
        (("--zones", "{zones}"), "Each --zones needs a name of its own; use --zones NAME=FILE."),
        (
            ("--source", "a={photo}", "--zones", "a={zones}"),
            "set zones for a video or camera only.",
        ),
        (("--source", "a=0", "--zones", "a={huge}"), "each at most 16384."),
    ],
)
def test_invalid_zones_are_refused_at_start(assets, tmp_path, options, message):
    files = {"photo": assets / "bus.jpg", "zones": tmp_path / "z.toml", "huge": tmp_path / "h.toml"}
    files["zones"].write_text("[zones]\nall = [[0, 0], [9, 0], [9, 9]]\n")
    files["huge"].write_text("[zones]\nall = [[0, 0], [9, 0], [9, 900000]]\n")
    done = subprocess.run(
        [sys.executable, "-m", "openvocab", "serve", "--no-demo", "--port", str(free_port())]
        + [option.format(**files) for option in options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().endswith(message), done.stderr


def test_lost_camera_is_retried_and_its_address_hidden(client):
    number = start(client, source="gone")["number"]
    (_, lost), *_ = events_until(client, number, "source lost")
    state = client.get(f"/v1/streams/{number}").json()
    assert state["state"] == "lost"
    assert "see the server's log" in state["error"]
    for text in (json.dumps(lost), json.dumps(state)):
        assert "secret" not in text
        assert "127.0.0.1" not in text
    assert client.get(f"/v1/streams/{number}/frame").status_code == 404


def events_until(client, number, kind):
    received = []
    for number_and_event in events(client, number):
        received.append(number_and_event)
        if number_and_event[1]["event"] == kind:
            return received
    pytest.fail(f"no {kind!r} among {received}")


def test_missing_video_fails(client):
    number = start(client, source="lost")["number"]
    ((_, ended),) = events(client, number)
    assert ended["event"] == "ended"
    state = client.get(f"/v1/streams/{number}").json()
    assert state["state"] == "failed"
    assert state["error"] == ended["reason"]
    assert ".avi" not in state["error"]


def test_stream_limit_and_ended_streams_make_room(client):
    gone = [start(client, source="gone")["number"] for _ in range(3)]
    refused = client.post("/v1/streams", json=REQUEST)
    assert refused.status_code == 429
    assert "stop one" in refused.json()["detail"]
    assert client.delete(f"/v1/streams/{gone[0]}").status_code == 204
    ended = start(client)["number"]
    list(events(client, ended))
    refused = client.post("/v1/streams", json=REQUEST | {"classes": ["bus", "BUS"]})
    assert refused.status_code == 422
    assert (
        client.get(f"/v1/streams/{ended}").json()["state"] == "ended"
    )  # still there: the request failed
    newest = start(client)["number"]
    numbers = [stream["number"] for stream in client.get("/v1/streams").json()]
    assert numbers == [gone[1], gone[2], newest]


def test_listeners_that_leave_make_room(client):
    number = start(client, source="gone")["number"]
    for _ in range(70):  # more than may listen at once
        assert next(events(client, number))[1]["event"] == "source lost"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"source": "rtsp://elsewhere/1"}, 404, "no source"),
        ({"source": "/etc/passwd"}, 404, "no source"),
        ({"source": "0"}, 404, "no source"),
        ({"classes": []}, 422, "at least 1 item"),
        ({"classes": None}, 422, "Send either"),
        ({"vocabulary": "nowhere", "classes": None}, 404, "no vocabulary"),
        ({"thresholds": {"cat": 0.5}}, 422, "not among the classes"),
    ],
)
def test_other_sources_are_not_opened(client, change, status, message):
    response = client.post("/v1/streams", json=REQUEST | change)
    assert response.status_code == status, response.text
    assert message in response.json()["detail"]
    assert client.get("/v1/streams").json() == []


def test_unknown_streams_get_404(client):
    for path in ("", "/events", "/frame"):
        assert client.get(f"/v1/streams/99{path}").status_code == 404
    assert client.delete("/v1/streams/99").status_code == 404
    assert client.get("/v1/streams/x").status_code == 422


def test_detection_beside_a_stream(client, assets):
    number = start(client)["number"]
    image = base64.b64encode((assets / "bus.jpg").read_bytes()).decode()
    response = client.post("/v1/detect", json={"image": image, "classes": ["bus"]})
    assert [row["class_name"] for row in response.json()["detections"]] == ["bus"]
    assert list(events(client, number))[-1][1]["event"] == "ended"


def test_listener_does_not_block_shutdown():
    gone = "gone=rtsp://127.0.0.1:9/live"
    with serving("--no-demo", "--source", gone) as (client, process):
        number = start(client, source="gone")["number"]
        received: list[dict] = []
        listening = threading.Thread(
            target=lambda: received.extend(event for _, event in events(client, number))
        )
        listening.start()
        while not received and listening.is_alive():
            time.sleep(0.1)
            if client.get(f"/v1/streams/{number}").json()["state"] == "lost":
                break
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - begun < 10
        listening.join(5)
        assert received[0]["event"] == "source lost"


@pytest.mark.parametrize("source", ["rtsp://user:secret@host/1?x=1", "=x", "gate=", "gate"])
def test_source_needs_a_name(source):
    command = [sys.executable, "-m", "openvocab", "serve", "--source", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "NAME=ADDRESS" in done.stderr
    assert "secret" not in done.stderr
