"""Counts what enters the left half of a video, and what crosses its middle.

python examples/count_in_zones.py street.mp4 --classes person bus
"""

import argparse
from collections import defaultdict

import supervision as sv

from openvocab import OpenVocabDetector, annotate
from openvocab.stream import Event, StreamProcessor, VideoSources, Zones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video")
    parser.add_argument("--classes", nargs="+", default=["person", "bus"], metavar="NAME")
    arguments = parser.parse_args()

    info = sv.VideoInfo.from_video_path(arguments.video)
    middle, bottom = info.width // 2, info.height
    left = [(0, 0), (middle, 0), (middle, bottom), (0, bottom)]
    zones = Zones({"left half": left}, {"middle": left[1:3]})  # or Zones.from_file("zones.toml")
    tracks = defaultdict[str, set[int]](set)  # a track counts once, however often it crosses

    def count(event: Event) -> None:
        if name := event.data.get("zone") or event.data.get("line"):
            tracks[f"{event.data['class_name']} {event.kind} {name}"].add(event.data["tracker_id"])

    detector = OpenVocabDetector.from_preset("starter")
    processor = StreamProcessor(detector, arguments.classes, zones=zones, on_event=count)
    with sv.VideoSink("counted.mp4", info) as video:
        for frame, detections in processor.run(VideoSources(arguments.video)):
            video.write_frame(zones.draw(annotate(frame.image, detections), frame.source))
    print(*(f"{event}: {len(ids)}" for event, ids in tracks.items()), sep="\n")


if __name__ == "__main__":
    main()
