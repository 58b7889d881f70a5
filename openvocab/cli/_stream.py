"""`openvocab stream`: from videos and cameras to annotated videos, detections and events."""

import signal
import sys
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from openvocab.cli._console import err
from openvocab.cli._options import (
    Classes,
    Device,
    Examples,
    ImageSize,
    NegativeExamples,
    Negatives,
    PresetName,
    Threshold,
    TileSize,
    has_display,
    read_class_options,
    read_negative_options,
    read_preset,
)
from openvocab.errors import ConfigError, SinkError

if TYPE_CHECKING:
    from openvocab.stream import Event, EventLog, StreamProcessor, VideoSources
    from openvocab.stream._events import EventCallback


def stream(  # noqa: PLR0913  a command has as many parameters as it has options
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Videos, folders or globs of images, camera numbers, rtsp:// or http://."
        ),
    ],
    *,
    classes: Classes = "",
    example: Examples = None,
    preset: PresetName = "starter",
    negatives: Negatives = "",
    negative_example: NegativeExamples = None,
    threshold: Threshold = None,
    imgsz: ImageSize = None,
    tile: TileSize = None,
    device: Device = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Annotated video, .mp4 or .mkv; an existing file is kept, and out-2.mp4 written.",
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
        Path | None,
        typer.Option(metavar="FILE", help="Polygons and lines to report events for, TOML or JSON."),
    ] = None,
    rotate_mb: Annotated[
        float | None, typer.Option(help="Begin another file at this size, in MB.", min=0.001)
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop after this many seconds of real time.", min=0)
    ] = None,
    frame_stride: Annotated[int, typer.Option(help="Detect in every n-th frame only.", min=1)] = 1,
    tracker: Annotated[
        str | None,
        typer.Option(help="bytetrack, ocsort or sort.  (default: bytetrack; images: none)"),
    ] = None,
    no_track: Annotated[
        bool, typer.Option("--no-track", help="Detect in each frame separately.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait for a camera or address that is unavailable at first."),
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Show the video in a window.")] = False,
) -> None:
    """Detect CLASSES in videos and cameras.

    Ctrl-C stops it and closes all files. Exit code: 0 it ended or was stopped, 2 a source or an
    option is wrong, or a file could not be written.
    """
    names = read_class_options(classes, example)
    similar = read_negative_options(negatives, negative_example)
    if show and (sys.platform == "darwin" or not has_display()):  # macOS: main thread only
        raise ConfigError("--show needs a display it can use; use --save FILE instead.")
    if save is not None and save.resolve() in {Path(source).resolve() for source in sources}:
        raise SinkError(f"{save} is the source itself; save to another file.")

    from openvocab.detector import OpenVocabDetector
    from openvocab.stream import (
        CsvSink,
        EventLog,
        JsonLinesSink,
        StreamProcessor,
        TrackingSettings,
        VideoSources,
        WindowSink,
        Zones,
    )
    from openvocab.stream._capture import check_exist, is_still
    from openvocab.stream._video_sinks import drawing, video_sinks

    check_exist(sources)
    watched = None if zones is None else Zones.from_file(zones)
    max_bytes = None if rotate_mb is None else round(rotate_mb * 1e6)
    # Images of a folder are tracked only on request, as for a time lapse.
    is_tracked = not no_track and (tracker is not None or not all(map(is_still, sources)))
    tracking = TrackingSettings(tracker=tracker or "bytetrack") if is_tracked else None
    with ExitStack() as stack:
        log = None if events is None else stack.enter_context(closing(EventLog(events, max_bytes)))
        on_event = _event_callback(log)
        detector = OpenVocabDetector.from_preset(read_preset(preset, imgsz, tile), device=device)
        videos = stack.enter_context(
            closing(VideoSources(sources, on_event=on_event, retry_open=wait))
        )
        sinks: list[Any] = [] if jsonl is None else [JsonLinesSink(jsonl, max_bytes)]
        sinks += [] if csv is None else [CsvSink(csv, max_bytes)]
        sinks += (
            [] if save is None else video_sinks(save, videos.names, drawing(watched), max_bytes)
        )
        if show:
            sinks.append(WindowSink(lambda: processor.stop(), drawing(watched)))  # noqa: PLW0108
        processor = StreamProcessor(
            detector, names, negatives=similar, score_threshold=threshold,
            tracking=tracking, frame_stride=frame_stride, zones=watched,
            sinks=sinks, on_event=on_event,
        )  # fmt: skip
        _stop_on_signals(stack, processor)
        metrics = _run(processor, videos, max_seconds, log)
    err.print(Text(_summary(metrics)))


def _event_callback(log: "EventLog | None") -> "EventCallback":
    """Writes events to the log, and those about sources to the terminal as well."""

    def on_event(event: "Event") -> None:
        if log is not None:
            log(event)
        if event.kind.startswith("source"):
            err.print(Text(f"{event.kind}: {event.source} {event.data.get('reason', '')}"))

    return on_event


def _run(
    processor: "StreamProcessor",
    videos: "VideoSources",
    max_seconds: float | None,
    log: "EventLog | None",
) -> dict[str, Any]:
    """Run to the end, with metrics on the terminal and in the log; return the last metrics."""
    from openvocab.stream._metrics import periodic_metrics

    def snapshot() -> dict[str, Any]:
        return processor.metrics.snapshot(videos.dropped)

    def line() -> Text:
        return Text(_summary(snapshot()))

    with ExitStack() as stack:
        if max_seconds is not None:  # a timer, as frames need not come
            timer = threading.Timer(max_seconds, processor.stop)
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        if log is not None:
            stack.enter_context(periodic_metrics(snapshot, log.write_metrics))
        if err.is_terminal:
            stack.enter_context(
                Live(get_renderable=line, console=err, refresh_per_second=2, transient=True)
            )
        for _ in processor.run(videos):
            pass
    return snapshot()


def _summary(metrics: dict[str, Any]) -> str:
    return (
        f"{metrics['frames']} frames ({metrics['dropped']} dropped), {metrics['fps']:.1f} fps, "
        f"latency {metrics['latency_ms_p50']:.0f} ms (p95 {metrics['latency_ms_p95']:.0f}), "
        f"{metrics['regions_encoded_per_frame']:.2f} regions encoded a frame, "
        f"{100 * metrics['reused']:.0f} % reused, {metrics['tracks']} tracks, "
        f"{metrics['memory_mib']:.0f} MiB"
    )


def _stop_on_signals(stack: ExitStack, processor: "StreamProcessor") -> None:
    """The first Ctrl-C or SIGTERM ends the stream and closes its files; the next one kills it."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        err.print("stopping; press Ctrl-C again to discard pending output.")
        processor.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        stack.callback(signal.signal, number, signal.signal(number, stop))
