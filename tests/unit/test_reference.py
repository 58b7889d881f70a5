"""The reference pages list exactly the public names, each on one page."""

import re
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
PUBLIC_MODULES = (
    "openvocab",
    "openvocab.config",
    "openvocab.encoders",
    "openvocab.errors",
    "openvocab.io",
    "openvocab.plugins.ray",
    "openvocab.plugins.ultralytics",
    "openvocab.proposers",
    "openvocab.scoring",
    "openvocab.server",
    "openvocab.stream",
    "openvocab.types",
    "openvocab.vocabulary",
    "openvocab.weights",
)


def documented() -> list[str]:
    """The entries of all reference pages, with repetitions."""
    return [
        name
        for page in PAGES
        for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
    ]


def defining_path(path: str) -> str:
    """The path where a name is defined; several modules may export the same object."""
    module, _, name = path.rpartition(".")
    value = getattr(import_module(module), name)
    if hasattr(value, "__qualname__") and value.__module__.startswith("openvocab"):
        return f"{value.__module__}.{value.__qualname__}"
    return path  # a type alias


def test_an_entry_appears_once():
    counts = Counter(map(defining_path, documented()))
    assert [path for path, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_name_has_an_entry(module):
    entries = set(map(defining_path, documented()))
    names = import_module(module).__all__
    assert [name for name in names if defining_path(f"{module}.{name}") not in entries] == []


def test_every_entry_is_a_public_name():
    for path in documented():
        module, _, name = path.rpartition(".")
        assert module in PUBLIC_MODULES, path
        assert name in import_module(module).__all__, path


def test_the_files_that_the_architecture_page_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    paths = set(re.findall(r"[\w/]+\.py\b", text))
    folders = (ROOT, ROOT / "openvocab")
    missing = {path for path in paths if not any((folder / path).exists() for folder in folders)}
    assert missing == set()
    assert len(paths) > 20
