"""The demo page, built on the public API of openvocab; `openvocab demo` serves it."""

from .app import CSS, UPLOAD_MB, build, theme

__all__ = ["CSS", "UPLOAD_MB", "build", "theme"]
