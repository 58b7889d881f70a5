"""Small real videos and real camera servers, made for a test."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np

from openvocab.stream import VideoSources

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
            image = np.full((height, width, 3), number % 200, np.uint8)
            cv2.putText(image, str(number), (20, 90), 0, 2, (255, 255, 255), 3)
            body = cv2.imencode(".jpg", image)[1].tobytes()
            head = b"--frame\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: %d\\r\\n\\r\\n"
            self.wfile.write(head % len(body) + body + b"\\r\\n")
            number += 1
            time.sleep(1 / fps)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Camera).serve_forever()
"""

SYSTEM_PYTHON = "/usr/bin/python3"  # GStreamer's bindings come with the system, not from an index
RTSP_NEEDS = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("x264enc") and Gst.ElementFactory.find("rtph264pay")
"""
RTSP_SERVER = (
    RTSP_NEEDS
    + """
import sys
width, height = [(320, 240), (480, 360)][int(sys.argv[2]) % 2]
server = GstRtspServer.RTSPServer(service=sys.argv[1], address="127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f"( videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},"
    "framerate=25/1 ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 "
    "! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
GLib.MainLoop().run()
"""
)


def pan(photo: Path, path: Path, frames: int = 30, size: tuple[int, int] = (480, 360)) -> Path:
    """A video of a window that moves over a photo."""
    image = cv2.imread(str(photo))
    scale = 1.2 * max(size[0] / image.shape[1], size[1] / image.shape[0])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    room = image.shape[1] - size[0], image.shape[0] - size[1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = 4_000_000
        for index in range(frames):
            left = int(room[0] * index / frames)
            top = int(room[1] * (0.5 + 0.2 * index / frames))
            window = np.ascontiguousarray(image[top : top + size[1], left : left + size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def mjpeg(video: Path, path: Path) -> Path:
    """The frames of a video as Chromium's fake camera reads them."""
    frames = (frame.image for frame in VideoSources(video))
    path.write_bytes(b"".join(cv2.imencode(".jpg", image)[1].tobytes() for image in frames))
    return path


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A network camera: a process that can be killed, suspended and started again."""

    def __init__(self) -> None:
        self.port, self._starts = free_port(), 0
        self.start()

    def command(self) -> list[str]:
        """Command of the `self._starts`-th start."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(self.command())
        self._starts += 1
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the camera server did not start")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def suspend(self) -> None:
        """Send nothing, and keep the connections."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `suspend`."""
        self._process.send_signal(signal.SIGCONT)


class CameraServer(Server):
    """MJPEG over HTTP; the frame size alternates between starts."""

    def __init__(self, fps: float = 50) -> None:
        self._fps = fps
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}/"

    def command(self) -> list[str]:
        return [sys.executable, "-c", SERVER, str(self.port), str(self._fps), str(self._starts)]


class RtspServer(Server):
    """H.264 over RTSP, by GStreamer and the system's Python; the same two sizes alternate."""

    def __init__(self) -> None:
        super().__init__()
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"

    def command(self) -> list[str]:
        return [SYSTEM_PYTHON, "-c", RTSP_SERVER, str(self.port), str(self._starts)]

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, and the remedy."""
        if Path(SYSTEM_PYTHON).exists():
            check = subprocess.run(
                [SYSTEM_PYTHON, "-c", RTSP_NEEDS], capture_output=True, check=False
            )
            if check.returncode == 0:
                return None
        return (
            "no RTSP server; apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 "
            "gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
        )
