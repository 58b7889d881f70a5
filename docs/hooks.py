"""What MkDocs must be told of this repository: options of commands, examples in docstrings, files that it does not publish."""

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
    """Have examples in docstrings shown as code."""
    config.markdown_extensions.append(_Doctests())


class _Doctests(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  Markdown calls it
        md.preprocessors.register(_Fence(md), "doctests", 100)  # before code is looked for


class _Fence(Preprocessor):
    """`>>> ` to the next blank line is code: Markdown takes it for a quote of a quote of a quote."""

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
    """Write out the commands; name what lies outside docs/, which no page can link to."""
    markdown = markdown.replace("```console\n", "```sh\n")  # without prompts it looks like output
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, _commands())
    home = posixpath.dirname(page.file.src_uri)

    def inside(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, link[2]))
        if not target.startswith("../"):
            return link[0]
        return f"{link[1]} (`{target.removeprefix('../')}` in the repository)"

    return LINK.sub(inside, markdown)


def _commands() -> str:
    """What Typer says of each command, without markup for terminals, which eats `[default: ...]`."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="openvocab")
    text = get_docs_for_click(obj=command, ctx=context, name="openvocab")
    return text.split("\n", 2)[2]  # the page has its own title
