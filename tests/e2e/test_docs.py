"""The code blocks of the documentation run, and the site builds without warnings.

A page's ```python blocks and the `openvocab` lines of its ```console blocks run in order, in a folder with the
files that the pages name. A ```text block right after one is its output; a block with a title is a file.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from servers import serving
from videos import pan

from openvocab._internal.runtimes import isolated_ultralytics
from openvocab.weights import resolve

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    DOCS / "index.md", *sorted(DOCS.glob("tutorials/*.md")), *sorted(DOCS.glob("how-to/*.md"))
]  # fmt: skip
FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"
NUMBER = re.compile(r"-?\d+(\.\d+)?")
# Resources that a browser would load from another host.
EXTERNAL = re.compile(r'<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)="(?:https?:)?//')


@pytest.fixture
def folder(tmp_path, monkeypatch, assets):
    """The working directory of a page's reader."""
    shutil.copy(assets / "bus.jpg", tmp_path / "street.jpg")
    shutil.copy(assets / "zidane.jpg", tmp_path / "match.jpg")
    (tmp_path / "photos").mkdir()
    for name in ("bus.jpg", "zidane.jpg"):
        shutil.copy(assets / name, tmp_path / "photos")
    pan(assets / "bus.jpg", tmp_path / "street.mp4", 30, (600, 600))
    shutil.copy(resolve("starter-detector"), tmp_path / "yolo.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(page, folder):
    """The server that a page uses, on another port; its camera is a video."""
    if ADDRESS not in page.read_text(encoding="utf-8"):
        yield ADDRESS
        return
    with serving("--token", "secret", "--source", "gate=street.mp4", "--no-demo") as (client, _):
        yield str(client.base_url)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_the_blocks_of_a_page_run(page, folder, server):
    names: dict[str, object] = {"__name__": "__main__"}
    end, printed = None, ""
    text = page.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        kind, title, body = block.groups()
        if kind == "text" and end is not None and not text[end : block.start()].strip():
            assert_same(body, printed)
        end = block.end() if kind in {"python", "console"} else None
        if kind == "python":
            printed = execute(body.replace(ADDRESS, server), names)
        elif kind == "console":
            printed = "".join(map(command, lines_of(body)))
        elif title and not title.startswith("/"):
            (folder / title).write_text(body, encoding="utf-8")
    for value in names.values():
        if isinstance(value, httpx.Client):
            value.close()


def execute(code, names) -> str:
    """Run Python code and return its output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.ExitStack() as stack:
        if "from ultralytics" in code:
            stack.enter_context(isolated_ultralytics())  # without the side effects of its import
        exec(code, names)  # noqa: S102  our own pages
    return out.getvalue()


def lines_of(body) -> list[str]:
    """The commands of a block, all ours: other commands belong in a ```sh block."""
    lines = [line for line in body.replace("\\\n", " ").splitlines() if line.strip()]
    assert all(line.startswith("openvocab ") for line in lines), lines
    return lines


def command(line) -> str:
    """Run a command and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(line, comments=True)],
        env=os.environ | {"COLUMNS": "120", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def assert_same(documented, printed):
    """The same words, and numbers within 0.02 or one pixel: processors differ in rounding."""
    expected, actual = documented.split(), printed.split()
    assert len(expected) == len(actual), printed
    for one, other in zip(expected, actual, strict=True):
        assert NUMBER.sub("#", one) == NUMBER.sub("#", other), printed
        for left, right in zip(NUMBER.finditer(one), NUMBER.finditer(other), strict=True):
            tolerance = 0.02 if left[1] else 1 if len(left[0]) > 1 else 0
            assert abs(float(left[0]) - float(right[0])) <= tolerance, printed


def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts(tmp_path):
    # A proxy that refuses stands for a missing network; the notice about MkDocs 2 is not a warning.
    refused = "http://127.0.0.1:9"
    offline = {"http_proxy": refused, "https_proxy": refused, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | offline,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*.html")}
    assert {f"{page.relative_to(DOCS).with_suffix('.html').as_posix()}" for page in PAGES} <= set(
        pages
    )
    assert not [name for name, path in pages.items() if EXTERNAL.search(path.read_text("utf-8"))]
    options = pages["reference/command-line.html"].read_text("utf-8")
    assert all(
        word in options for word in ("--max-seconds", "--classes-map", "openvocab weights pull")
    )
