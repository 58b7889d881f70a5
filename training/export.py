"""Write `image.onnx` beside the starter bundle, or another: `openvocab export` with its own paths."""

import argparse
from pathlib import Path

from openvocab.export._image_encoder import export

BUNDLE = Path(__file__).parents[1] / "weights/starter/encoder"


def main() -> None:
    """Of the starter bundle, unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    print(export(parser.parse_args().bundle, "onnx", "fp32"))  # noqa: T201


if __name__ == "__main__":
    main()
