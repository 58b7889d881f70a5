"""Folders to Parquet: no row twice, none lost, with either engine, even if a worker dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED
from videos import free_port

from openvocab import OpenVocabDetector
from openvocab.errors import ImageError
from openvocab.plugins._parquet import SCHEMA, Chunk, chunks, find, save, storage_path

WORDS = "bus, person"
RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openvocab", "parquet", "-c", WORDS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rows(out: Path) -> dict[str, dict]:
    tables = [pq.read_table(part) for part in sorted(out.glob("*.parquet"))]
    listed = pa.concat_tables(tables).to_pylist()
    assert len({row["path"] for row in listed}) == len(listed), "a row is there twice"
    return {row["path"]: row for row in listed}


def copies(target: Path, photos: list[Path], count: int) -> Path:
    target.mkdir()
    for number in range(count):
        photo = photos[number % len(photos)]
        shutil.copy(photo, target / f"{number:04}{photo.suffix}")
    return target


@pytest.fixture
def photos(tmp_path, assets) -> Path:
    """Two photos, and one that is broken."""
    folder = copies(tmp_path / "photos", [assets / "bus.jpg", assets / "zidane.jpg"], 2)
    (folder / "broken.jpg").write_bytes((assets / "bus.jpg").read_bytes()[:5000])
    return folder


def test_a_row_is_what_detect_finds_and_a_rerun_does_what_is_missing(photos, tmp_path, assets):
    out = tmp_path / "out"
    first = run(photos, "--out", out)
    assert first.returncode == 1
    assert "broken.jpg" in first.stderr
    assert "3 images, 0 skipped, 1 unreadable" in first.stdout
    found = rows(out)
    row = found[str(photos / "0000.jpg")]
    expected = OpenVocabDetector.from_preset().detect(assets / "bus.jpg", ["bus", "person"])
    assert (row["width"], row["height"], row["error"]) == (810, 1080, None)
    names = [detection["class_name"] for detection in row["detections"]]
    assert names == expected.data["class_name"].tolist()
    edges = ("x1", "y1", "x2", "y2")
    boxes = [[detection[edge] for edge in edges] for detection in row["detections"]]
    np.testing.assert_allclose(boxes, expected.xyxy, atol=0.1)
    assert found[str(photos / "broken.jpg")]["detections"] == []
    assert "broken.jpg" in found[str(photos / "broken.jpg")]["error"]
    (part,) = out.glob("*.parquet")
    assert pq.read_schema(part).equals(SCHEMA)

    before = part.stat().st_mtime_ns
    shutil.copy(assets / "bus.jpg", photos / "new.jpg")
    again = run(photos, "--out", out)
    assert "1 images, 3 skipped" in again.stdout
    assert part.stat().st_mtime_ns == before
    assert rows(out).keys() == found.keys() | {str(photos / "new.jpg")}

    for change in (("-c", "dog"), ("--threshold", "0.9"), ("--negatives", "tram")):
        other = run(photos, "--out", out, *change)
        assert other.returncode == 2, change
        assert "other classes or another preset" in other.stderr


def test_repaired_files_are_done_again(photos, tmp_path, assets):
    out = tmp_path / "out"
    assert run(photos, "--out", out).returncode == 1
    shutil.copy(assets / "zidane.jpg", photos / "broken.jpg")
    whole = run(photos, "--out", out)
    assert "1 images, 2 skipped, 0 unreadable" in whole.stdout
    assert whole.returncode == 0
    assert all(row["detections"] and not row["error"] for row in rows(out).values())


def test_a_bucket_is_listed_and_written_to(photos, tmp_path):
    """By the address of a file system, as of any bucket."""
    (photos / "deeper").mkdir()
    shutil.copy(photos / "0000.jpg", photos / "deeper/x.JPG")
    (photos / "notes.txt").write_text("not an image")
    _, found = find(photos.as_uri())
    assert [Path(path).name for path in found] == ["0000.jpg", "0001.jpg", "broken.jpg", "x.JPG"]
    done = run(photos.as_uri(), "--out", (tmp_path / "out").as_uri())
    assert done.returncode == 1
    assert len(rows(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "spark"], "use local or ray"),
        (["--out", "nowhere://x/y"], "check the address"),
        (["--out", "/dev/null/x"], "choose another folder"),
        (["--out", "/dev/null"], "choose another folder"),
    ],
)
def test_a_wrong_option_is_one_line(photos, tmp_path, arguments, message):
    more = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    done = run(photos, *arguments, *more)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_an_image_is_identified_by_its_full_path(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert find(".")[1] == find(str(photos))[1] == find("../photos")[1]
    Path(os.fsdecode(b"no\xff.jpg")).touch()
    with pytest.raises(ImageError, match="rename the file"):
        find(".")


@RAY
@pytest.mark.parametrize(
    ("change", "message"),
    [(("--device", "cuda:7"), "use cpu."), (("-c", "bus, bus"), "remove one.")],
)
def test_an_error_in_a_worker_is_one_line(photos, tmp_path, change, message):
    done = run(photos, "--out", tmp_path / "out", "--engine", "ray", "--workers", "64", *change)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(message)
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_part_is_written_under_its_final_name_only(tmp_path):
    out = storage_path(str(tmp_path / "out"))
    save(out, "x", pa.Table.from_pylist([{"path": "a", "detections": []}], SCHEMA))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.parquet"]


def test_the_name_of_a_chunk_depends_on_its_files():
    assert chunks(["a", "b", "c"], 2)[0] == chunks(["a", "b", "d"], 2)[0]
    first, last = chunks(["a", "b", "c"], 2)
    assert isinstance(first, Chunk)
    assert first.name != last.name
    assert (first.paths, last.paths) == (("a", "b"), ("c",))


@pytest.fixture
def coco() -> list[Path]:
    folder = SHARED / "coco-dev/images"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/coco-dev")
    return sorted(folder.glob("*.jpg"))


@RAY
@pytest.mark.slow
def test_ray_gives_the_rows_of_one_process_and_survives_a_dead_worker(tmp_path, coco):
    photos = copies(tmp_path / "photos", coco, 500)
    (photos / "broken.jpg").write_bytes(b"not an image")
    assert run(photos, "--out", tmp_path / "local").returncode == 1
    command = [
        sys.executable, "-m", "openvocab", "parquet", str(photos), "-c", WORDS,
        "--engine", "ray", "--out", str(tmp_path / "ray"),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not list((tmp_path / "ray").glob("*.parquet")):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.2)
        killed = workers()
        os.kill(killed[0], signal.SIGKILL)
        assert process.wait(900) == 1, process.stderr.read().decode()
    assert rows(tmp_path / "ray") == rows(tmp_path / "local")
    parts = sorted(part.name for part in (tmp_path / "local").glob("*.parquet"))
    assert sorted(part.name for part in (tmp_path / "ray").glob("*.parquet")) == parts
    for name in parts:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    again = run(photos, "--engine", "ray", "--out", tmp_path / "ray")
    assert "0 images, 501 skipped" in again.stdout


def workers() -> list[int]:
    """Processes that Ray calls by the name of our worker."""
    pids = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            name = (process / "cmdline").read_bytes().decode(errors="replace")
            if name.startswith("ray::Worker"):
                pids.append(int(process.name))
    assert pids
    return pids


@RAY
@pytest.mark.slow
def test_it_is_a_stage_of_ray_data(photos):
    program = f"""
import os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from openvocab.plugins.ray import OpenVocabStage
ray.init(include_dashboard=False, log_to_driver=False)
paths = [{str(photos / "0000.jpg")!r}, {str(photos / "0001.jpg")!r}]
table = ray.data.from_items([{{"path": path}} for path in paths]).map_batches(
    OpenVocabStage, fn_constructor_kwargs={{"classes": ["bus", "person"]}},
    batch_format="pyarrow", batch_size=2, concurrency=1,
)
print(sorted(len(row["detections"]) for row in table.take_all()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = map(int, done.stdout.strip().splitlines()[-1].strip("[]").split(","))
    assert first >= 2
    assert second >= 4


@RAY
@pytest.mark.slow
def test_ray_serve_runs_the_server_in_replicas(assets):
    pytest.importorskip("grpc", reason="Ray Serve is not installed")
    program = f"""
import httpx, ray
from openvocab.plugins.ray import application
from openvocab.server._app import Settings
ray.init(include_dashboard=False, log_to_driver=False)
from ray import serve
serve.start(http_options={{"port": {(port := free_port())}}})
two = {{"num_replicas": 2, "ray_actor_options": {{"num_cpus": 0.5}}}}
serve.run(application(settings=Settings(token="secret"), **two))
client = httpx.Client(base_url="http://127.0.0.1:{port}", timeout=60)
print(client.get("/v1/vocabularies").status_code)
client.headers["authorization"] = "Bearer secret"
for _ in range(4):
    with open({str(assets / "bus.jpg")!r}, "rb") as bus:
        answer = client.post("/v1/detect/file", data={{"classes": "bus"}}, files={{"image": bus}})
    print(answer.status_code, [row["class_name"] for row in answer.json()["detections"]])
serve.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [
        line for line in done.stdout.splitlines() if line[:3] in ("401", "200")
    ]  # Ray says more
    assert said == ["401", *["200 ['bus']"] * 4]
