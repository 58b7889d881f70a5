"""Detects objects in a folder of images as a stage of Ray Data, on all cores or a whole cluster.

pip install ".[ray]"
python examples/ray_data.py images/ --classes bus person --out detections/
"""

import argparse
import os
from pathlib import Path

import ray

from openvocab.plugins.ray import OpenVocabStage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", nargs="+", default=["bus", "person"], metavar="WORD")
    parser.add_argument("--out", type=Path, default=Path("detections"), metavar="FOLDER")
    arguments = parser.parse_args()

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports each start
    paths = [{"path": str(path.resolve())} for path in sorted(arguments.folder.glob("*.jpg"))]
    table = ray.data.from_items(paths).map_batches(
        OpenVocabStage,
        fn_constructor_kwargs={"classes": arguments.classes},
        batch_format="pyarrow",
        batch_size=8,
        concurrency=1,  # workers: each loads the models once
    )
    table.write_parquet(str(arguments.out.resolve()))
    for row in ray.data.read_parquet(str(arguments.out.resolve())).iter_rows():
        names = [detection["class_name"] for detection in row["detections"]]
        print(f"{Path(row['path']).name}: {', '.join(names)}")


if __name__ == "__main__":
    main()
