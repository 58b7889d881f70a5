"""MetricsMiddleware what enters the left half of a film's picture, and what crosses its middle.

python examples/count_in_zones.py street.mp4 --classes person bus
"""

import argparse
from collections import defaultdict

import supervision as sv

from openvocab import OpenVocabDetector, annotate
from openvocab.stream import Event, StreamProcessor, VideoSources, Zones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film")
    parser.add_argument("--classes", nargs="+", default=["person", "bus"], metavar="WORD")
    arguments = parser.parse_args()

    info = sv.VideoInfo.from_video_path(arguments.film)
    middle, bottom = info.width // 2, info.height
    left = [(0, 0), (middle, 0), (middle, bottom), (0, bottom)]
    zones = Zones({"left half": left}, {"middle": left[1:3]})  # or Zones.from_file("zones.toml")
    tracks = defaultdict[str, set[int]](set)  # each counts once, however often it crosses

    def note(event: Event) -> None:
        if place := event.data.get("zone") or event.data.get("line"):
            tracks[f"{event.data['class_name']} {event.kind} {place}"].add(event.data["tracker_id"])

    detector = OpenVocabDetector.from_preset("starter")
    processor = StreamProcessor(detector, arguments.classes, zones=zones, report=note)
    with sv.VideoSink("counted.mp4", info) as film:
        for frame, found in processor.run(VideoSources(arguments.film)):
            film.write_frame(zones.draw(annotate(frame.image, found), frame.source))
    print(*(f"{what}: {len(which)}" for what, which in tracks.items()), sep="\n")


if __name__ == "__main__":
    main()
