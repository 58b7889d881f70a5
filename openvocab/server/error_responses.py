"""Answers to requests that fail: a status, and one line that ends with the remedy."""

import logging
from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from openvocab.errors import ClassesError, ImageError, OpenVocabError, one_line
from openvocab.server.errors import BusyError, NotFoundError, ShuttingDownError

log = logging.getLogger(__name__)

TOLD = 20  # mistakes that are reported for one request
STATUSES: dict[type[OpenVocabError], int] = {
    BusyError: 429,
    ShuttingDownError: 503,
    NotFoundError: 404,
    ImageError: 422,
    ClassesError: 422,
}
"""Statuses of errors that are the caller's fault, or nobody's."""


def add_error_handlers(app: FastAPI) -> None:
    """Make an application answer errors this way."""
    app.add_exception_handler(OpenVocabError, _told)
    app.add_exception_handler(TimeoutError, _late)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_exception_handler(HTTPException, _unread)
    app.add_exception_handler(404, _unknown)
    app.add_exception_handler(405, _other_method)
    app.add_exception_handler(Exception, _failed)


def error_response(status: int, detail: str) -> JSONResponse:
    """Answer with one line, and the headers that belong to the status."""
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (408, 413):  # the rest of the body is not read, so no request can follow it
        headers["Connection"] = "close"
    if status in (429, 503, 504):
        headers["Retry-After"] = "1"
    return JSONResponse({"detail": one_line(detail)}, status, headers)


async def _told(request: Request, error: Exception) -> Response:
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            return error_response(status, str(error))
    # Not for callers, who can do nothing about files and folders on this machine.
    log.error("%s: %s", request.url.path, error)
    return await _failed(request, error)


async def _failed(_: Request, __: Exception) -> Response:
    return error_response(500, "The server failed, and its log says why; try again later.")


async def _late(request: Request, _: Exception) -> Response:
    log.warning("%s took too long", request.url.path)
    return error_response(504, "This took too long; try again later.")


async def _unread(_: Request, error: Exception) -> Response:
    """Answer errors of FastAPI and Starlette, whose messages have no remedy."""
    status, said = getattr(error, "status_code", 400), str(getattr(error, "detail", error))
    if status == 204:  # nothing is wrong
        return Response(status_code=204)
    if status == 400:
        said = f"{said.rstrip('.')}; /openapi.json says what is taken."
    return error_response(status, said)


async def _misread(request: Request, error: Exception) -> Response:
    rows = error.errors() if isinstance(error, RequestValidationError) else []
    is_json = "json" in request.headers.get("content-type", "")
    if not is_json and any(tuple(row["loc"]) == ("body",) for row in rows):
        said = "The body is not JSON by its name; send it with Content-Type: application/json."
        return error_response(422, said)
    mistakes = dict.fromkeys(_mistake(row["loc"], row["msg"]) for row in list(rows)[:TOLD])
    return error_response(422, "; ".join([*mistakes, "/openapi.json says what is taken."]))


def _mistake(where: Sequence[str | int], what: str) -> str:
    """One mistake, without the value that was sent, which may be huge or not valid in JSON."""
    if "classes" in where[:2]:  # reported once for each form that classes may have
        return f"{where[0]}.classes: give names in a list, or a list of words for each name"
    return f"{'.'.join(str(part)[:100] for part in where)}: {what}"


async def _unknown(_: Request, __: Exception) -> Response:
    return error_response(404, "There is no such path; /openapi.json lists them.")


async def _other_method(request: Request, _: Exception) -> Response:
    """Name all methods of the path; Starlette names only those of the first matching route."""
    allowed = {
        way.upper()
        for path, ways in request.app.openapi()["paths"].items()
        if compile_path(path)[0].match(request.url.path)
        for way in ways
    }
    answer = error_response(405, f"Use {', '.join(sorted(allowed))}.")
    answer.headers["Allow"] = ", ".join(sorted(allowed))
    return answer
