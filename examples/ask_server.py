"""Asks a running `openvocab serve` what is in a photo, over HTTP.

openvocab serve --token secret    # in another terminal; wait until it says "openvocab is at ..."
python examples/ask_server.py street.jpg --classes bus pedestrian --token secret
"""

import argparse
import base64
from pathlib import Path

import httpx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--classes", nargs="+", default=["bus", "pedestrian"], metavar="WORD")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token", default="")
    arguments = parser.parse_args()

    picture = base64.b64encode(arguments.photo.read_bytes()).decode()
    try:
        answer = httpx.post(
            f"{arguments.url}/v1/detect",
            headers={"Authorization": f"Bearer {arguments.token}"} if arguments.token else {},
            json={"image": picture, "classes": arguments.classes},
            timeout=60,
        )
    except httpx.ConnectError:
        raise SystemExit(f"Nobody answers at {arguments.url}; start the server and wait.") from None
    if answer.is_error:  # its detail is one line that ends with the remedy
        raise SystemExit(f"{answer.status_code}: {answer.json()['detail']}")
    for thing in answer.json()["detections"]:
        print(f"{thing['class_name']} {thing['confidence']:.2f} at {thing['xyxy']}")


if __name__ == "__main__":
    main()
