"""`openvocab parquet`: from a folder, a glob or a bucket to Parquet; a rerun does what is missing."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, TimeRemainingColumn

from openvocab._internal.environment import require_packages
from openvocab.cli import _options as options
from openvocab.cli._console import complain, out, progress
from openvocab.errors import ConfigError
from openvocab.vocabulary._prompts import split_class_list

MAX_ERRORS = 20  # files that are listed because they could not be read
PACKAGES = {"local": {"pyarrow": "parquet"}, "ray": {"pyarrow": "ray", "ray": "ray"}}
"""What each engine needs, and the extra that brings it."""


def parquet(  # noqa: PLR0913  a command has as many parameters as it has options
    source: Annotated[
        str, typer.Argument(help="A folder, a glob, or a bucket: s3://..., gs://...")
    ],
    *,
    classes: options.Classes,
    output: Annotated[
        str, typer.Option("--out", metavar="DIR|URL", help="Where to write Parquet.")
    ],
    preset: options.PresetName = "starter",
    negatives: options.Negatives = "",
    threshold: options.Threshold = None,
    imgsz: options.ImageSize = None,
    tile: options.TileSize = None,
    device: options.Device = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Ray processes.")] = 2,
) -> None:
    """Find CLASSES in very many images.

    Writes one row of Parquet per image. Images that are already in --out are skipped, except
    files that could not be read and have changed since. Exit code: 0 all images were read, 1 some
    were not (they are listed, and have an error in their rows), 2 an option is wrong.
    """
    if engine not in PACKAGES:
        raise ConfigError(f"Unknown engine {engine!r}; use local or ray.")
    for package, extra in PACKAGES[engine].items():
        require_packages(f"The engine {engine}", extra, package)
    from openvocab.plugins import _parquet as plugin

    system, paths = plugin.find(source)
    target = plugin.storage_path(output)
    arguments: dict[str, Any] = {
        "classes": options.read_classes(classes),
        "preset": options.read_preset(preset, imgsz, tile),
        "negatives": split_class_list(negatives),
        "score_threshold": threshold,
        "device": device,
        "system": system,
    }
    query = plugin.query(arguments)
    done = plugin.drop_recovered(target, system, plugin.finished(target, query, paths))
    todo = [path for path in paths if path not in done]
    chunks = plugin.chunks(todo)
    counts: Iterator[int] = map(plugin.Worker(target, arguments).do, chunks)
    if engine == "ray" and chunks:
        from openvocab.plugins.ray import run

        counts = run(chunks, target, arguments, workers)
    with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("detecting", total=len(todo))
        for count in counts:
            bar.advance(task, count)
    failed = [error for error in plugin.finished(target, query, paths).values() if error]
    for error in failed[:MAX_ERRORS]:
        complain(error)
    skipped = len(paths) - len(todo)
    out.print(f"{len(todo)} images, {skipped} skipped, {len(failed)} unreadable: {output}")
    if failed:
        raise typer.Exit(1)
