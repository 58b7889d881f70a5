"""Weights: the manifest against the disk, and pulls against a real server on the loopback."""

import hashlib
import logging
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from openvocab import weights
from openvocab.errors import WeightsError, WeightsNotFoundError
from openvocab.weights import Weights, WeightsFile

BODY = bytes(range(256)) * 1000
SHA = hashlib.sha256(BODY).hexdigest()


@dataclass
class Served:
    """What the server does, and the requests that it received."""

    url: str = ""
    body: bytes = BODY
    status: int = 200
    etag: str = '"v1"'
    linked: str = ""
    cut_at: int | None = None
    ranges: bool = True
    garbage: bool = False
    requests: list[dict[str, str]] = field(default_factory=list)


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name is http.server's
            served.requests.append(dict(self.headers.items()))
            if served.garbage:
                self.wfile.write(b"this is not HTTP\r\n\r\n")
                return
            if served.status != 200:
                self.send_error(served.status)
                return
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            fresh = self.headers.get("If-Range", served.etag) == served.etag
            start = int(wanted[1]) if wanted and fresh and served.ranges else 0
            if start >= len(served.body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                size = len(served.body)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(len(served.body) - start))
            self.send_header("ETag", served.etag)
            if served.linked:
                self.send_header("X-Linked-Etag", f'"{served.linked}"')
            self.end_headers()
            self.wfile.write(served.body[start : served.cut_at])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def served() -> Iterator[Served]:
    state = Served()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}/net.pt"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("OPENVOCAB_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entries(url: str, size: int | None = len(BODY), sha: str | None = SHA) -> dict[str, Weights]:
    file = WeightsFile("nets/net.pt", size, sha, url)
    return {"net": Weights("net", "detector", "MIT", "a test", False, (file,))}


def write_part(root: Path, content: bytes, etag: str = "") -> Path:
    part = root / "nets" / "net.pt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    if etag:
        part.with_name("net.pt.part.etag").write_text(etag)
    return part


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def ends_with_remedy(error: pytest.ExceptionInfo[Exception]) -> bool:
    return str(error.value).endswith("run `openvocab weights pull net` again.")


# The manifest


def test_bundled_entries_equal_the_files_on_disk() -> None:
    bundled = [entry for entry in weights.manifest().values() if entry.bundled]
    parts = {"detector", "encoder", "prototypes"}
    assert {entry.name for entry in bundled} == {f"starter-{part}" for part in parts}
    for entry in bundled:
        for file in entry.files:
            payload = (weights.bundled_root() / file.path).read_bytes()
            assert (len(payload), hashlib.sha256(payload).hexdigest()) == (file.bytes, file.sha256)
            assert file.url is None
        weights.verify(entry.name)


def test_every_other_entry_has_https_urls_and_a_licence() -> None:
    for entry in weights.manifest().values():
        assert entry.licence and entry.source
        if not entry.bundled:
            assert all(str(file.url).startswith("https://") for file in entry.files)


def test_another_manifest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[bundle]]\nname = "a"\nkind = "detector"\nlicence = "MIT"\nsource = "me"\n'
        'bundled = false\n[[bundle.files]]\npath = "a.pt"\nurl = "https://example.org/a.pt"\n'
    )
    assert weights.manifest(path)["a"].files == (
        WeightsFile("a.pt", url="https://example.org/a.pt"),
    )


@pytest.mark.parametrize("text", ["[[bundle]]\nname = 1", "not toml", "", "[[bundle]]\nx = 1\n"])
def test_a_bad_manifest_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(WeightsError, match=r"bad\.toml.*reinstall openvocab\.$"):
        weights.manifest(path)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\\..\\x", "C:/x", "", "."])
def test_paths_out_of_the_folder_are_refused(path: str) -> None:
    with pytest.raises(WeightsError, match="leaves the weights folder"):
        WeightsFile(path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x", "x.pt", ""])
def test_urls_other_than_http_are_refused(url: str) -> None:
    with pytest.raises(WeightsError, match="not http or https"):
        WeightsFile("x", url=url)


# resolve and verify


def test_a_detector_is_a_file_and_an_encoder_a_folder() -> None:
    assert weights.resolve("starter-detector") == weights.bundled_root() / "starter/detector.onnx"
    assert weights.resolve("starter-encoder") == weights.bundled_root() / "starter/encoder"


def test_a_path_on_disk_is_returned_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.touch()
    assert weights.resolve(own) == own
    assert weights.resolve(str(tmp_path)) == tmp_path


def test_missing_weights_name_both_folders_and_the_command(root: Path) -> None:
    with pytest.raises(WeightsNotFoundError) as error:
        weights.resolve("yolo26n")
    assert str(root) in str(error.value) and str(weights.bundled_root()) in str(error.value)
    assert str(error.value).endswith("; run `openvocab weights pull yolo26n`.")


def test_half_a_bundle_is_not_found(root: Path) -> None:
    folder = root / "vit-b-32-datacomp"
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").touch()
    with pytest.raises(WeightsNotFoundError):
        weights.resolve("vit-b-32-datacomp")
    (folder / "open_clip_model.safetensors").touch()
    assert weights.resolve("vit-b-32-datacomp") == folder


@pytest.mark.parametrize("name", ["", "yolo26m", "no\nsuch"])
def test_unknown_names_get_a_hint(name: str) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"did you mean|use one of"):
        weights.resolve(name)


def test_verify_reports_size_and_hash(root: Path) -> None:
    known = entries("http://127.0.0.1/x")
    target = root / "nets" / "net.pt"
    target.parent.mkdir(parents=True)
    target.write_bytes(BODY)
    weights.verify("net", known)
    target.write_bytes(BODY[:-1])
    with pytest.raises(WeightsError, match=f"{len(BODY) - 1} bytes, not {len(BODY)}"):
        weights.verify("net", known)
    target.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(WeightsError, match=f"not {SHA}; run `openvocab weights pull net`"):
        weights.verify("net", known)


# pull


def test_a_good_pull_is_verified_and_leaves_one_file(served: Served, root: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    known = entries(served.url)
    path = weights.pull("net", progress=lambda *step: seen.append(step), entries=known)
    assert path == weights.resolve("net", known) == root / "nets" / "net.pt"
    assert path.read_bytes() == BODY
    assert left(root) == ["net.pt"]
    assert seen[-1] == (len(BODY), len(BODY)) and seen == sorted(seen)


def test_a_second_pull_does_not_use_the_network(served: Served, root: Path) -> None:
    known = entries(served.url)
    weights.pull("net", entries=known)
    weights.pull("net", entries=known)
    assert len(served.requests) == 1


def test_a_damaged_file_is_fetched_again(served: Served, root: Path) -> None:
    known = entries(served.url)
    path = weights.pull("net", entries=known)
    path.write_bytes(b"damaged")
    weights.pull("net", entries=known)
    assert path.read_bytes() == BODY and len(served.requests) == 2


def test_a_cut_off_body_keeps_its_part_and_is_resumed(served: Served, root: Path) -> None:
    served.cut_at = 1000
    known = entries(served.url)
    with pytest.raises(WeightsError, match="run `openvocab weights pull net` again") as error:
        weights.pull("net", entries=known)
    assert ends_with_remedy(error)
    part = root / "nets" / "net.pt.part"
    assert part.read_bytes() == BODY[:1000]
    assert not (root / "nets" / "net.pt").exists()
    served.cut_at = None
    assert weights.pull("net", entries=known).read_bytes() == BODY
    assert served.requests[1]["Range"] == "bytes=1000-"
    assert served.requests[1]["If-Range"] == '"v1"'
    assert left(root) == ["net.pt"]


def test_a_server_that_ignores_ranges_starts_over(served: Served, root: Path) -> None:
    served.ranges = False
    write_part(root, BODY[:1000], '"v1"')
    assert weights.pull("net", entries=entries(served.url)).read_bytes() == BODY


def test_a_part_of_another_version_is_not_continued(served: Served, root: Path) -> None:
    write_part(root, b"old" * 100, '"v0"')
    path = weights.pull("net", entries=entries(served.url, None, None))
    assert path.read_bytes() == BODY
    assert served.requests[0]["If-Range"] == '"v0"'


def test_without_an_etag_nothing_is_resumed(served: Served, root: Path) -> None:
    write_part(root, b"old" * 100)
    assert weights.pull("net", entries=entries(served.url, None, None)).read_bytes() == BODY
    assert "Range" not in served.requests[0]


def test_a_part_that_is_already_long_enough_starts_over(served: Served, root: Path) -> None:
    write_part(root, BODY + b"more", '"v1"')
    assert weights.pull("net", entries=entries(served.url)).read_bytes() == BODY
    assert len(served.requests) == 2


def test_wrong_content_is_refused_and_its_part_removed(served: Served, root: Path) -> None:
    served.body = BODY[:-1] + b"x"
    with pytest.raises(WeightsError, match=f"has SHA-256 .*not {SHA}") as error:
        weights.pull("net", entries=entries(served.url))
    assert ends_with_remedy(error)
    assert not [name for name in left(root) if name in ("net.pt", "net.pt.part")]


def test_another_size_than_the_manifest_says_is_not_downloaded(served: Served, root: Path) -> None:
    served.body = BODY * 2
    with pytest.raises(WeightsError, match=f"has {2 * len(BODY)} bytes, not {len(BODY)}") as error:
        weights.pull("net", entries=entries(served.url))
    assert ends_with_remedy(error) and left(root) == []


def test_the_hash_the_server_publishes_is_checked(served: Served, root: Path) -> None:
    served.linked = "0" * 64
    with pytest.raises(WeightsError, match="not 0000"):
        weights.pull("net", entries=entries(served.url, None, None))
    served.linked = SHA
    assert weights.pull("net", entries=entries(served.url, None, None)).read_bytes() == BODY


def test_a_missing_hash_is_logged(
    served: Served, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "openvocab.weights._download"):
        weights.pull("net", entries=entries(served.url, None, None))
    assert "no hash published" in caplog.text


def test_a_file_without_a_published_hash_is_compared_with_that_of_the_pull(
    served: Served, root: Path
) -> None:
    listed = entries(served.url, None, None)
    path = weights.pull("net", entries=listed)
    assert weights.verify("net", listed)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(WeightsError, match="SHA-256"):
        weights.verify("net", listed)


def test_an_empty_file_is_damaged_and_one_without_a_hash_is_not_verified(root: Path) -> None:
    listed = entries("http://127.0.0.1:1", None, None)
    path = root / listed["net"].files[0].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"copied from elsewhere")
    assert not weights.verify("net", listed)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="is empty"):
        weights.verify("net", listed)


@pytest.mark.parametrize("status", [404, 416, 500, 503])
def test_a_refusal_is_an_error_with_its_status(served: Served, root: Path, status: int) -> None:
    served.status = status
    with pytest.raises(WeightsError, match=f"HTTP {status}") as error:
        weights.pull("net", entries=entries(served.url))
    assert ends_with_remedy(error) and left(root) == []


def test_a_broken_status_line_is_an_error_of_ours(served: Served, root: Path) -> None:
    served.garbage = True
    with pytest.raises(WeightsError, match="check the network") as error:
        weights.pull("net", entries=entries(served.url))
    assert ends_with_remedy(error) and left(root) == []


def test_a_refused_connection_is_an_error_of_ours(root: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WeightsError, match="check the network") as error:
        weights.pull("net", entries=entries(f"http://127.0.0.1:{port}/net.pt"))
    assert ends_with_remedy(error) and left(root) == []


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(served: Served, root: Path) -> None:
    root.write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match="check the network and") as error:
        weights.pull("net", entries=entries(served.url))
    assert ends_with_remedy(error) and served.requests == []


def test_a_missing_bundled_file_is_not_fetched(served: Served) -> None:
    file = WeightsFile("nets/net.pt", len(BODY), SHA)
    shipped = {"net": Weights("net", "detector", "MIT", "a test", True, (file,))}
    with pytest.raises(WeightsNotFoundError, match=r"; reinstall openvocab\.$"):
        weights.pull("net", entries=shipped)
    assert weights.pull("starter-encoder") == weights.resolve("starter-encoder")
