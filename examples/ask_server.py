"""Detects objects in an image with a running `openvocab serve`, over HTTP.

openvocab serve --token secret    # in another terminal; wait until it says "openvocab is at ..."
python examples/ask_server.py street.jpg --classes bus pedestrian --token secret
"""

import argparse
import base64
from pathlib import Path

import httpx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--classes", nargs="+", default=["bus", "pedestrian"], metavar="WORD")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token", default="")
    arguments = parser.parse_args()

    image = base64.b64encode(arguments.image.read_bytes()).decode()
    try:
        response = httpx.post(
            f"{arguments.url}/v1/detect",
            headers={"Authorization": f"Bearer {arguments.token}"} if arguments.token else {},
            json={"image": image, "classes": arguments.classes},
            timeout=60,
        )
    except httpx.ConnectError:
        raise SystemExit(f"No server at {arguments.url}; start it and wait.") from None
    if response.is_error:  # its detail is one line that ends with the remedy
        raise SystemExit(f"{response.status_code}: {response.json()['detail']}")
    for detection in response.json()["detections"]:
        print(f"{detection['class_name']} {detection['confidence']:.2f} at {detection['xyxy']}")


if __name__ == "__main__":
    main()
