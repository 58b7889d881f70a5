"""MkDocs hooks: the options of all commands, doctests as code blocks, and links to files outside docs/."""

import posixpath
import re
from typing import Any

import typer
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from typer.cli import get_docs_for_click

from openvocab.cli import app

COMMANDS = "<!-- commands -->"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_config(config: Any) -> None:  # noqa: ANN401  MkDocs calls it
    """Render the examples in docstrings as code."""
    config.markdown_extensions.append(_Doctests())


class _Doctests(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  Markdown calls it
        md.preprocessors.register(_Fence(md), "doctests", 100)  # before fenced code


class _Fence(Preprocessor):
    """Fences the lines from `>>> ` to the next blank line, which Markdown would read as nested quotes."""

    def run(self, lines: list[str]) -> list[str]:
        fenced: list[str] = []
        inside = False
        for line in [*lines, ""]:
            if not inside and line.startswith(">>> "):
                fenced += ["", "```pycon"]
                inside = True
            elif inside and not line.strip():
                fenced.append("```")
                inside = False
            fenced.append(line)
        return fenced


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:  # noqa: ANN401  MkDocs calls it
    """Insert the commands, and replace links to files outside docs/ by their names."""
    # Without prompts, Pygments would highlight a console block as output.
    markdown = markdown.replace("```console\n", "```sh\n")
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, _commands())
    folder = posixpath.dirname(page.file.src_uri)

    def without_link(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        if not target.startswith("../"):
            return link[0]
        return f"{link[1]} (`{target.removeprefix('../')}` in the repository)"

    return LINK.sub(without_link, markdown)


def _commands() -> str:
    """The help of each command in Markdown, without terminal markup, which would drop `[default: ...]`."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="openvocab")
    text = get_docs_for_click(obj=command, ctx=context, name="openvocab")
    return text.split("\n", 2)[2]  # the page has its own title
