"""`openvocab batch`: from a folder, a glob or a bucket to Parquet; a rerun does what is missing."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, TimeRemainingColumn

from openvocab._internal.environment import require_packages
from openvocab.cli.console import complain, out, progress
from openvocab.cli.options import (
    Classes,
    Device,
    ImageSize,
    Negatives,
    PresetName,
    Threshold,
    TileSize,
    read_classes,
    read_preset,
)
from openvocab.errors import ConfigError
from openvocab.vocabulary.prompts import split_class_list

SHOWN = 20  # failed files


def parquet(  # noqa: PLR0913  a command has as many parameters as it has options
    source: Annotated[
        str, typer.Argument(help="A folder, a glob, or a bucket: s3://..., gs://...")
    ],
    *,
    classes: Classes,
    output: Annotated[
        str, typer.Option("--out", metavar="DIR|URL", help="Where to write Parquet.")
    ],
    preset: PresetName = "starter",
    negatives: Negatives = "",
    threshold: Threshold = None,
    imgsz: ImageSize = None,
    tile: TileSize = None,
    device: Device = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Ray processes.")] = 2,
) -> None:
    """Find CLASSES in very many pictures.

    Writes one row of Parquet per picture. Pictures that are already in --out are skipped, except
    files that could not be read and have changed since. Exit code: 0 all pictures were read, 1
    some were not (they are listed, and have an error in their rows), 2 an option is wrong.
    """
    _check(engine)
    from openvocab.plugins import parquet as parts

    system, paths = parts.find(source)
    target = parts.folder(output)
    arguments: dict[str, Any] = {
        "classes": read_classes(classes), "preset": read_preset(preset, imgsz, tile),
        "negatives": split_class_list(negatives), "score_threshold": threshold, "device": device,
        "system": system,
    }  # fmt: skip
    asked = parts.question(arguments)
    wanted = set(paths)
    known = {path: why for path, why in parts.done(target, asked).items() if path in wanted}
    there = parts.drop_recovered(target, system, known)
    work = parts.chunks([path for path in paths if path not in there])
    for _ in _progress(_engine(engine, work, target, arguments, workers), work):
        pass
    now = parts.done(target, asked)
    failed = {path: why for path, why in now.items() if why and path in wanted}
    for why in list(failed.values())[:SHOWN]:
        complain(why)
    new = sum(len(each.paths) for each in work)
    out.print(
        f"{new} pictures, {len(paths) - new} were there, {len(failed)} not readable: {output}"
    )
    if failed:
        raise typer.Exit(1)


def _check(engine: str) -> None:
    needed = {"local": {"pyarrow": "batch"}, "ray": {"pyarrow": "ray", "ray": "ray"}}
    if engine not in needed:
        raise ConfigError(f"There is no engine {engine!r}; use local or ray.")
    for package, extra in needed[engine].items():
        require_packages(f"The engine {engine}", extra, package)


def _engine(
    name: str,
    work: list[Any],
    target: Any,  # noqa: ANN401  a StoragePath, whose module needs pyarrow
    arguments: dict[str, Any],
    workers: int,
) -> Iterator[int]:
    if not work:
        return iter(())
    if name == "ray":
        from openvocab.plugins.ray import run

        return run(work, target, arguments, workers)
    from openvocab.plugins.parquet import Worker

    worker = Worker(target, arguments)
    return (worker.do(chunk) for chunk in work)


def _progress(finished: Iterator[int], work: list[Any]) -> Iterator[int]:
    with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("looking", total=sum(len(each.paths) for each in work))
        for count in finished:
            bar.advance(task, count)
            yield count
