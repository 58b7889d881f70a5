"""Streams in a server process: started by name, listened to, changed, stopped."""

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

ASKED = {"source": "street", "classes": ["bus", "pedestrian"]}


@pytest.fixture(scope="module")
def film(assets, tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "street.mp4"
    pan(assets / "bus.jpg", path, 40, (600, 600))
    return path


@pytest.fixture(scope="module")
def client(film, tmp_path_factory) -> Iterator[httpx.Client]:
    zones = tmp_path_factory.mktemp("zones") / "zones.toml"
    zones.write_text("[zones]\nall = [[10, 10], [590, 10], [590, 640], [10, 640]]\n")
    sources = (
        f"street={film}",
        f"zoned={film}",
        "gone=rtsp://user:secret@127.0.0.1:9/live",
        f"lost={film}.avi",
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
    answer = client.post("/v1/streams", json=ASKED | change)
    assert answer.status_code == 201, answer.text
    return answer.json()


def events(client: httpx.Client, number: int, after: int = 0) -> Iterator[tuple[int, dict]]:
    headers = {"last-event-id": str(after)}
    with client.stream("GET", f"/v1/streams/{number}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        data = None
        for line in answer.iter_lines():
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
            elif line.startswith("id: "):
                yield int(line.removeprefix("id: ")), data


def test_a_film_is_watched_to_its_end_and_told(client):
    begun = start(client)
    assert begun["classes"] == ["bus", "pedestrian"]
    told = list(events(client, begun["number"]))
    numbers = [number for number, _ in told]
    assert numbers == list(range(numbers[0], numbers[0] + len(told)))
    names = {event["class_name"] for _, event in told if event["event"] == "appeared"}
    assert names == {"bus", "pedestrian"}
    assert {event["source"] for _, event in told} == {"street"}
    assert told[-1][1]["event"] == "ended"
    state = client.get(f"/v1/streams/{begun['number']}").json()
    assert state["state"] == "ended"
    assert state["error"] is None
    assert state["figures"]["frames"] == 40
    # Who was cut off hears the rest, and nothing twice.
    assert list(events(client, begun["number"], after=numbers[2])) == told[3:]
    # An id of another server is no reason to hear nothing, and none is taken for one of this.
    for other in (3, 5000, numbers[0] - 1, numbers[-1] + 1):
        assert list(events(client, begun["number"], after=other)) == told
    path, last = f"/v1/streams/{begun['number']}", {"last-event-id": str(numbers[-1])}
    assert client.get(f"{path}/events", headers=last).status_code == 204
    assert client.put(f"{path}/classes", json={"classes": ["bus"]}).status_code == 404
    picture = client.get(f"/v1/streams/{begun['number']}/picture")
    assert picture.headers["content-type"] == "image/jpeg"
    image = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (600, 600, 3)


def test_classes_change_while_it_runs(client, film):
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


def test_a_threshold_of_a_stream_may_change_too(client):
    number = start(client, score_threshold=0.999)["number"]
    assert not [e for _, e in events(client, number) if e["event"] == "appeared"]
    number = start(client)["number"]
    path = f"/v1/streams/{number}/classes"
    refused = client.put(path, json={"classes": ["bus"], "thresholds": {"cat": 0.5}})
    changed = {"classes": ["bus"], "thresholds": {"bus": 0.999}}
    assert client.put(path, json=changed).status_code == 204
    assert refused.status_code == 422


def test_zones_of_a_source_are_told_and_drawn_for_each_stream(client):
    numbers = [start(client, source=name)["number"] for name in ("zoned", "zoned", "street")]
    told = [[event for _, event in events(client, number)] for number in numbers]
    inside = [
        {(event["zone"], event["class_name"]) for event in each if event["event"] == "entered zone"}
        for each in told
    ]
    assert inside[0] >= {("all", "bus"), ("all", "pedestrian")}
    assert inside[1] == inside[0]
    assert inside[2] == set()
    zoned, _, plain = (
        cv2.imdecode(np.frombuffer(client.get(path).content, np.uint8), cv2.IMREAD_COLOR)
        for path in (f"/v1/streams/{number}/picture" for number in numbers)
    )
    # Yellow, on the left side of the zone.
    edges = [each[100:500, 9:11].astype(int) for each in (zoned, plain)]
    drawn, bare = ((each[..., 1:].min(2) - each[..., 0] > 80).mean() for each in edges)
    assert drawn > 0.9 > 0.3 > bare


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--zones", "gate={zones}"), "There are zones for 'gate' and no such source; name one."),
        (("--zones", "{zones}"), "Each --zones needs a name of its own; give --zones NAME=FILE."),
        (("--source", "a={photo}", "--zones", "a={zones}"), "zones need a film or camera."),
        (("--source", "a=0", "--zones", "a={huge}"), "give pixels of the picture."),
    ],
)
def test_zones_that_cannot_be_are_refused_at_the_start(assets, tmp_path, options, said):
    files = {"photo": assets / "bus.jpg", "zones": tmp_path / "z.toml", "huge": tmp_path / "h.toml"}
    files["zones"].write_text("[zones]\nall = [[0, 0], [9, 0], [9, 9]]\n")
    files["huge"].write_text("[zones]\nall = [[0, 0], [9, 0], [9, 900000]]\n")
    done = subprocess.run(
        [sys.executable, "-m", "openvocab", "serve", "--no-demo", "--port", str(free_port())]
        + [option.format(**files) for option in options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().endswith(said), done.stderr


def test_a_camera_that_is_away_is_told_and_tried_again_without_its_password(client):
    number = start(client, source="gone")["number"]
    (_, lost), *_ = events_until(client, number, "source lost")
    state = client.get(f"/v1/streams/{number}").json()
    assert state["state"] == "lost"
    assert "server's log says why" in state["error"]
    for text in (json.dumps(lost), json.dumps(state)):
        assert "secret" not in text
        assert "127.0.0.1" not in text
    assert client.get(f"/v1/streams/{number}/picture").status_code == 404


def events_until(client, number, kind):
    told = []
    for each in events(client, number):
        told.append(each)
        if each[1]["event"] == kind:
            return told
    pytest.fail(f"no {kind!r} among {told}")


def test_a_film_that_is_not_there_fails(client):
    number = start(client, source="lost")["number"]
    ((_, ended),) = events(client, number)
    assert ended["event"] == "ended"
    state = client.get(f"/v1/streams/{number}").json()
    assert state["state"] == "failed"
    assert state["error"] == ended["reason"]
    assert ".avi" not in state["error"]


def test_too_many_are_turned_away_and_what_ended_makes_room(client):
    gone = [start(client, source="gone")["number"] for _ in range(3)]
    refused = client.post("/v1/streams", json=ASKED)
    assert refused.status_code == 429
    assert "stop one" in refused.json()["detail"]
    assert client.delete(f"/v1/streams/{gone[0]}").status_code == 204
    ended = start(client)["number"]
    list(events(client, ended))
    refused = client.post("/v1/streams", json=ASKED | {"classes": ["bus", "BUS"]})
    assert refused.status_code == 422
    assert client.get(f"/v1/streams/{ended}").json()["state"] == "ended"  # not for nothing
    newest = start(client)["number"]
    numbers = [stream["number"] for stream in client.get("/v1/streams").json()]
    assert numbers == [gone[1], gone[2], newest]


def test_listeners_that_leave_make_room(client):
    number = start(client, source="gone")["number"]
    for _ in range(70):  # more than may listen at once
        assert next(events(client, number))[1]["event"] == "source lost"


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"source": "rtsp://elsewhere/1"}, 404, "no source"),
        ({"source": "/etc/passwd"}, 404, "no source"),
        ({"source": "0"}, 404, "no source"),
        ({"classes": []}, 422, "give names in a list"),
        ({"classes": None}, 422, "Give either"),
        ({"vocabulary": "nowhere", "classes": None}, 404, "no vocabulary"),
        ({"thresholds": {"cat": 0.5}}, 422, "not among the classes"),
    ],
)
def test_nothing_else_is_opened(client, change, status, said):
    answer = client.post("/v1/streams", json=ASKED | change)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert client.get("/v1/streams").json() == []


def test_what_is_not_there_is_not_found(client):
    for path in ("", "/events", "/picture"):
        assert client.get(f"/v1/streams/99{path}").status_code == 404
    assert client.delete("/v1/streams/99").status_code == 404
    assert client.get("/v1/streams/x").status_code == 422


def test_detection_goes_on_beside_a_stream(client, assets):
    number = start(client)["number"]
    image = base64.b64encode((assets / "bus.jpg").read_bytes()).decode()
    answer = client.post("/v1/detect", json={"image": image, "classes": ["bus"]})
    assert [row["class_name"] for row in answer.json()["detections"]] == ["bus"]
    assert list(events(client, number))[-1][1]["event"] == "ended"


def test_a_listener_does_not_keep_the_server_from_stopping():
    gone = "gone=rtsp://127.0.0.1:9/live"
    with serving("--no-demo", "--source", gone) as (client, process):
        number = start(client, source="gone")["number"]
        heard: list[dict] = []
        listening = threading.Thread(
            target=lambda: heard.extend(event for _, event in events(client, number))
        )
        listening.start()
        while not heard and listening.is_alive():
            time.sleep(0.1)
            if client.get(f"/v1/streams/{number}").json()["state"] == "lost":
                break
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - begun < 10
        listening.join(5)
        assert heard[0]["event"] == "source lost"


@pytest.mark.parametrize("source", ["rtsp://user:secret@host/1?x=1", "=x", "gate=", "gate"])
def test_a_source_needs_a_name(source):
    command = [sys.executable, "-m", "openvocab", "serve", "--source", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "NAME=ADDRESS" in done.stderr
    assert "secret" not in done.stderr
