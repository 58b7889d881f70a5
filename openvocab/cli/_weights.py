"""`openvocab weights`: list, verify, locate and pull."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn
from rich.table import Table

from openvocab import config, weights
from openvocab.cli._console import out, progress
from openvocab.errors import WeightsNotFoundError

app = typer.Typer(help="List, check and pull weights.")


@app.command("list")
def list_weights() -> None:
    """List weights and presets, their licences, and whether they are on this machine."""
    table = Table("name", "kind", "size", "licence", "on this machine", box=None)
    for entry in weights.manifest().values():
        sizes = [file.bytes or 0 for file in entry.files]
        size = f"{sum(sizes) / 1e6:.1f} MB" if all(sizes) else "?"
        present = "yes" if _is_present(entry.name) else "no"
        table.add_row(entry.name, entry.kind, size, entry.licence, present)
    out.print(table)
    for name in config.available_presets():
        preset = config.load_preset(name)
        models = f"{preset.models.detector}, {preset.models.encoder}"
        out.print(f"preset {name}: {models}. {preset.description}")


@app.command("verify")
def verify_weights(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all on this machine.")] = None,
) -> None:
    """Compare files on this machine with the hashes of the manifest, or those of the pull."""
    for name in _bundles(names) if names else filter(_is_present, weights.manifest()):
        complete = weights.verify(name)
        out.print(f"{name}: {'whole' if complete else 'present, but its hash is unknown'}")


@app.command("path")
def path_of_weights(
    name: Annotated[str, typer.Argument(help="Name of a preset or of weights.")],
) -> None:
    """Print where weights are; for a preset, both models, one per line."""
    for bundle in _bundles([name]):
        out.print(str(weights.resolve(bundle)), soft_wrap=True)


@app.command("pull")
def pull_weights(
    names: Annotated[list[str], typer.Argument(help="Names of presets or weights.")],
) -> None:
    """Download weights; no other command does."""
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
    bundles: list[str] = []
    for name in names:
        if name in config.available_presets():
            models = config.load_preset(name).models
            bundles += models.detector, models.encoder
        else:
            bundles.append(name)
    for name in bundles:
        if name not in weights.manifest():
            weights.resolve(name)  # suggests a similar name, or says that there is none
            raise WeightsNotFoundError(
                f"{name} is a path, not a name; see `openvocab weights list`."
            )
    return bundles


def _is_present(name: str) -> bool:
    try:
        weights.resolve(name)
    except WeightsNotFoundError:
        return False
    return True
