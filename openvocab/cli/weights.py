"""`openvocab weights`: list, verify, find and fetch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn
from rich.table import Table

from openvocab import config, weights
from openvocab.cli.console import out, progress
from openvocab.errors import WeightsNotFoundError

app = typer.Typer(help="List, check and fetch weights.")


@app.command("list")
def list_weights() -> None:
    """List weights and config, their licences, and whether they are on this machine."""
    table = Table("name", "kind", "size", "licence", "on this machine", box=None)
    for entry in weights.manifest().values():
        sizes = [file.bytes for file in entry.files]
        size = sum(part or 0 for part in sizes)
        known = f"{size / 1e6:.1f} MB" if all(sizes) else "?"
        table.add_row(
            entry.name, entry.kind, known, entry.licence, "yes" if _is_here(entry.name) else "no"
        )
    out.print(table)
    for name in config.available_presets():
        preset = config.load_preset(name)
        out.print(
            f"preset {name}: {preset.models.detector}, {preset.models.encoder}. {preset.description}"
        )


@app.command("verify")
def verify_weights(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all on this machine.")] = None,
) -> None:
    """Compare files on this machine with the hashes of the manifest, or those of the pull."""
    for name in _bundles(names) if names else filter(_is_here, weights.manifest()):
        known = weights.verify(name)
        out.print(f"{name}: {'whole' if known else 'here, but no hash of it is known'}")


@app.command("path")
def path_of_weights(
    name: Annotated[str, typer.Argument(help="Name of a preset or of weights.")],
) -> None:
    """Print where weights are; for a preset, both networks, one per line."""
    for part in _bundles([name]):
        out.print(str(weights.resolve(part)), soft_wrap=True)


@app.command("pull")
def pull_weights(
    names: Annotated[list[str], typer.Argument(help="Names of config or weights.")],
) -> None:
    """Fetch weights; no other command does."""
    for name in _bundles(names):
        entry = weights.manifest()[name]
        out.print(f"{name}: {entry.licence}; {entry.source}")
        out.print(str(_pull(name)), soft_wrap=True)


def _pull(name: str) -> Path:
    with progress(DownloadColumn()) as bar:
        task = bar.add_task(name, total=None)
        return weights.pull(
            name, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )


def _bundles(names: list[str]) -> list[str]:
    """Names of weights; the name of a preset stands for its detector and its encoder."""
    parts: list[str] = []
    for name in names:
        if name in config.available_presets():
            preset = config.load_preset(name)
            parts += preset.models.detector, preset.models.encoder
        else:
            parts.append(name)
    for part in parts:
        if part not in weights.manifest():
            weights.resolve(part)  # suggests a similar name, or says that there is none
            raise WeightsNotFoundError(
                f"{part} is a file, not a name; see `openvocab weights list`."
            )
    return parts


def _is_here(name: str) -> bool:
    try:
        weights.resolve(name)
    except WeightsNotFoundError:
        return False
    return True
