"""Error responses: a status, and `detail`, one line that ends with the remedy."""

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from openvocab.errors import ClassesError, ImageError, OpenVocabError, one_line
from openvocab.server._errors import BusyError, NotFoundError, ShuttingDownError, SizeError

log = logging.getLogger(__name__)

MAX_MISTAKES = 20  # reported for one request
STATUSES: dict[type[OpenVocabError], int] = {
    BusyError: 429,
    ShuttingDownError: 503,
    NotFoundError: 404,
    ImageError: 422,
    ClassesError: 422,
    SizeError: 422,
}
"""Statuses of the errors that clients may see; all others are answered with 500 and logged."""


def error_response(status: int, detail: str) -> JSONResponse:
    """A JSON response with one line, and the headers that belong to the status."""
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (408, 413):  # the rest of the body is not read, so no request can follow it
        headers["Connection"] = "close"
    if status in (429, 503, 504):
        headers["Retry-After"] = "1"
    return JSONResponse({"detail": one_line(detail)}, status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Make an application answer errors with `error_response`."""

    @app.exception_handler(OpenVocabError)
    async def on_openvocab_error(request: Request, error: OpenVocabError) -> Response:
        for kind, status in STATUSES.items():
            if isinstance(error, kind):
                return error_response(status, str(error))
        # Not for clients, who can do nothing about files and folders on this machine.
        log.error("%s: %s", request.url.path, error)
        return await on_exception(request, error)

    @app.exception_handler(TimeoutError)
    async def on_timeout(request: Request, _: TimeoutError) -> Response:
        log.warning("%s timed out", request.url.path)
        return error_response(504, "The request took too long; try again later.")

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(_: Request, error: RequestValidationError) -> Response:
        # FastAPI's own response echoes the invalid input: a whole image, or text that is not
        # valid Unicode and cannot be encoded.
        mistakes = dict.fromkeys(
            f"{'.'.join(str(part)[:100] for part in mistake['loc'])}: {mistake['msg']}"
            for mistake in list(error.errors())[:MAX_MISTAKES]
        )
        remedy = "see /openapi.json (a JSON body needs Content-Type: application/json)."
        return error_response(422, "; ".join([*mistakes, remedy]))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        detail = f"{error.detail.rstrip('.')}; see /openapi.json."
        error = HTTPException(error.status_code, detail, error.headers)
        return await http_exception_handler(request, error)

    @app.exception_handler(Exception)
    async def on_exception(_: Request, __: Exception) -> Response:
        return error_response(500, "The server failed; see its log, or try again later.")
