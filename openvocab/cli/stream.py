"""`openvocab stream`: from films and cameras to annotated films, detections and events."""

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from openvocab.cli.console import err
from openvocab.cli.options import (
    Classes,
    Device,
    ImageSize,
    Negatives,
    PresetName,
    Threshold,
    TileSize,
    has_display,
    read_classes,
    read_preset,
)
from openvocab.errors import ConfigError, SinkError
from openvocab.vocabulary.prompts import split_class_list

if TYPE_CHECKING:
    from openvocab.stream.events import Event, Report
    from openvocab.stream.processor import StreamProcessor
    from openvocab.stream.records import JsonLines
    from openvocab.stream.source import VideoSources
    from openvocab.stream.zones import Zones

EVERY_S = 10.0  # between two lines of metrics in the events file


def stream(  # noqa: PLR0913  a command has as many parameters as it has options
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Films, folders or globs of pictures, camera numbers, rtsp:// or http://."
        ),
    ],
    *,
    classes: Classes,
    preset: PresetName = "starter",
    negatives: Negatives = "",
    threshold: Threshold = None,
    imgsz: ImageSize = None,
    tile: TileSize = None,
    device: Device = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Annotated film, .mp4 or .mkv; an existing one is kept, and out-2.mp4 written.",
        ),
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Detections, one frame per line; appended.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Detections, one box per row; appended.")
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Events and metrics, one per line; appended."),
    ] = None,
    zones: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Polygons and lines to watch, TOML or JSON.")
    ] = None,
    rotate_mb: Annotated[
        float | None, typer.Option(help="Begin another file at this size, in MB.", min=0.001)
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop after this many seconds of real time.", min=0)
    ] = None,
    every: Annotated[int, typer.Option(help="Detect in every n-th frame only.", min=1)] = 1,
    tracker: Annotated[
        str | None,
        typer.Option(help="bytetrack, ocsort or sort.  (default: bytetrack; pictures: none)"),
    ] = None,
    no_track: Annotated[
        bool, typer.Option("--no-track", help="Name each frame on its own.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a camera or address that is away at the start.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Show it in a window.")] = False,
) -> None:
    """Find CLASSES in films and cameras.

    Ctrl-C stops it and closes all files. Exit code: 0 it ended or was stopped, 2 a source or an
    option is wrong, or a file could not be written.
    """
    names = read_classes(classes)
    if show and (sys.platform == "darwin" or not has_display()):  # macOS: main thread only
        raise ConfigError("--show needs a display it can use; use --save FILE instead.")

    from openvocab.detector import OpenVocabDetector
    from openvocab.stream.capture import refuse_missing
    from openvocab.stream.processor import StreamProcessor
    from openvocab.stream.records import JsonLines
    from openvocab.stream.source import VideoSources
    from openvocab.stream.zones import Zones

    refuse_missing(sources)
    watched = None if zones is None else Zones.from_file(zones)
    longest = None if rotate_mb is None else round(rotate_mb * 1e6)
    with ExitStack() as stack:
        log = None if events is None else JsonLines(events, longest)
        if log is not None:
            stack.callback(log.close)
        report = _reporter(log)
        detector = OpenVocabDetector.from_preset(read_preset(preset, imgsz, tile), device=device)
        given = VideoSources(sources, report=report, patient=wait)
        stack.callback(given.close)
        takers = _tables(jsonl, csv, longest) + _films(save, given, sources, watched, longest)
        if show:
            takers.append(_window(lambda: _stop(processor), watched))
        processor = StreamProcessor(
            detector, names, negatives=split_class_list(negatives), score_threshold=threshold,
            tracker=_tracker(tracker, sources, no_track=no_track), every=every, zones=watched, report=report,
            sinks=takers,
        )  # fmt: skip
        _catch_signals(stack, processor)
        figures = _run(processor, given, max_seconds, log)
    err.print(Text(_line(figures)))


def _tracker(name: str | None, sources: list[str], *, no_track: bool) -> str | None:
    """The tracker; none for separate pictures, unless the user names one, as for a time lapse."""
    from openvocab.stream.capture import is_still

    if no_track or (name is None and all(map(is_still, sources))):
        return None
    return name or "bytetrack"


def _reporter(log: "JsonLines | None") -> "Report":
    """Report events to the log, and those about sources to the terminal as well."""
    from openvocab.stream.records import event_record

    def report(event: "Event") -> None:
        if log is not None:
            log.write(event_record(event))
        if event.kind.startswith("source"):
            err.print(Text(f"{event.kind}: {event.source} {event.data.get('reason', '')}"))

    return report


def _run(
    processor: "StreamProcessor",
    given: "VideoSources",
    max_seconds: float | None,
    log: "JsonLines | None",
) -> dict[str, Any]:
    """Run to the end, with metrics on the terminal, and in the log every ten seconds."""
    with ExitStack() as stack:
        if max_seconds is not None:
            stack.callback(_after(max_seconds, processor.stop).cancel)
        live = stack.enter_context(
            Live(console=err, refresh_per_second=2, transient=True, auto_refresh=err.is_terminal)
        )
        if log is not None:
            ended = threading.Event()
            teller = threading.Thread(target=_tell, args=(processor, given, log, ended))
            teller.start()
            stack.callback(teller.join)
            stack.callback(ended.set)  # before the join
        for _ in processor.run(given):
            if err.is_terminal:
                live.update(Text(_line(processor.metrics.snapshot(given.dropped))))
    figures = processor.metrics.snapshot(given.dropped)
    if log is not None:
        log.write({"event": "metrics"} | figures)
    return figures


def _after(seconds: float, what: Callable[[], None]) -> threading.Timer:
    """Start a timer, which works whether frames come or not."""
    timer = threading.Timer(seconds, what)
    timer.daemon = True
    timer.start()
    return timer


def _tell(
    processor: "StreamProcessor", given: "VideoSources", log: "JsonLines", ended: threading.Event
) -> None:
    """Write metrics to the log, even while no frames come."""
    with suppress(SinkError):  # the loop gets the same error
        while not ended.wait(EVERY_S):
            log.write({"event": "metrics"} | processor.metrics.snapshot(given.dropped))


def _line(figures: dict[str, Any]) -> str:
    return (
        f"{figures['frames']} frames ({figures['dropped']} dropped), {figures['fps']:.1f} fps, "
        f"latency {figures['latency_ms_p50']:.0f} ms (p95 {figures['latency_ms_p95']:.0f}), "
        f"{figures['regions_encoded_per_frame']:.2f} regions encoded a frame, "
        f"{100 * figures['reused']:.0f} % reused, {figures['tracks']} tracks, "
        f"{figures['memory_mib']:.0f} MiB"
    )


def _tables(jsonl: Path | None, csv: Path | None, longest: int | None) -> list[Any]:
    from openvocab.stream.records import CsvSink, JsonLinesSink

    takers: list[Any] = [] if jsonl is None else [JsonLinesSink(jsonl, longest)]
    return takers if csv is None else [*takers, CsvSink(csv, longest)]


def _films(
    save: Path | None,
    given: "VideoSources",
    sources: list[str],
    zones: "Zones | None",
    longest: int | None,
) -> list[Any]:
    """One film per source: `out.mp4`, or `out.0.mp4`, `out.1.mp4`, ... for several."""
    if save is None:
        return []
    from openvocab.stream.video import VideoSink, drawing

    if save.resolve() in {Path(source).resolve() for source in sources}:
        raise SinkError(f"{save} is the source itself; save to another file.")
    draw = drawing(zones)
    if len(sources) == 1:
        return [VideoSink(save, given.fps, draw=draw, max_bytes=longest)]
    films = {
        name: VideoSink(
            save.with_suffix(f".{index}{save.suffix}"), given.fps, draw=draw, max_bytes=longest
        )
        for index, name in enumerate(given.names)
    }
    return [_BySource(films)]


class _BySource:
    """Gives each frame to the film of its source."""

    def __init__(self, films: dict[str, Any]) -> None:
        self._films = films

    def write(self, frame: Any, detections: Any) -> None:  # noqa: ANN401
        self._films[frame.source].write(frame, detections)

    def close(self) -> None:
        with ExitStack() as stack:  # one failure does not keep the others open
            for film in self._films.values():
                stack.callback(film.close)


def _window(quit_: Callable[[], None], zones: "Zones | None") -> Any:  # noqa: ANN401
    from openvocab.stream.video import WindowSink, drawing

    return WindowSink(quit_, drawing(zones))


def _stop(processor: "StreamProcessor") -> None:
    """Stop from a signal handler or the sinks' thread, neither of which may wait for a lock."""
    threading.Thread(target=processor.stop, daemon=True).start()


def _catch_signals(stack: ExitStack, processor: "StreamProcessor") -> None:
    """The first Ctrl-C or SIGTERM ends the stream and closes its files; the next one kills it."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        err.print("stopping; once more to give up what is not written yet.")
        _stop(processor)

    for number in (signal.SIGINT, signal.SIGTERM):
        stack.callback(signal.signal, number, signal.signal(number, end))
