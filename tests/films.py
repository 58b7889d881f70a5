"""Small real films and a real camera server, made on the spot."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np

SERVER = """
import sys, time, http.server
import numpy as np, cv2
port, fps = int(sys.argv[1]), float(sys.argv[2])
sizes = [(320, 240), (480, 360)]
class Camera(http.server.BaseHTTPRequestHandler):
    count = 0
    def log_message(self, *rest): pass
    def do_GET(self):
        Camera.count += 1
        width, height = sizes[int(sys.argv[3]) % 2]
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        number = 0
        while True:
            picture = np.full((height, width, 3), number % 200, np.uint8)
            cv2.putText(picture, str(number), (20, 90), 0, 2, (255, 255, 255), 3)
            body = cv2.imencode(".jpg", picture)[1].tobytes()
            head = b"--frame\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: %d\\r\\n\\r\\n"
            self.wfile.write(head % len(body) + body + b"\\r\\n")
            number += 1
            time.sleep(1 / fps)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Camera).serve_forever()
"""


def pan(photo: Path, path: Path, frames: int = 30, size: tuple[int, int] = (480, 360)) -> Path:
    """A film of a window that moves over a photo."""
    picture = cv2.imread(str(photo))
    scale = 1.2 * max(size[0] / picture.shape[1], size[1] / picture.shape[0])
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    room = picture.shape[1] - size[0], picture.shape[0] - size[1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = 4_000_000
        for index in range(frames):
            left = int(room[0] * index / frames)
            top = int(room[1] * (0.5 + 0.2 * index / frames))
            part = np.ascontiguousarray(picture[top : top + size[1], left : left + size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CameraServer:
    """An MJPEG camera over HTTP, a process of its own that can be killed and started again."""

    def __init__(self, fps: float = 50) -> None:
        self.port, self._fps, self._starts = free_port(), fps, 0
        self.url = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        """Every other start has another frame size."""
        arguments = [str(self.port), str(self._fps), str(self._starts)]
        self._starts += 1
        self._process = subprocess.Popen([sys.executable, "-c", SERVER, *arguments])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the camera server did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
