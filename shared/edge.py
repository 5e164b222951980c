"""The outermost layers of every service's app, as plain ASGI: they name a request and let nobody in unknown."""

import secrets
import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import InvalidInput
from shared.telemetry import logger, trace_id_of

log = logger(__name__)
Respond = Callable[[Exception], Response]


class NameRequests:
    """Give the request an id, bind it and its trace to every log line, answer it in `x-request-id`.

    What inner layers raise is rendered here, and headers that they want on the answer, whoever writes it, they put into
    `scope["state"]["answer_headers"]`.
    """

    def __init__(self, app: ASGIApp, respond: Respond) -> None:
        self._app = app
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer_headers: dict[str, str] = {}
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {}).update(request_id=request_id, answer_headers=answer_headers)
        structlog.contextvars.clear_contextvars()
        trace_id = trace_id_of(Headers(scope=scope).get("traceparent"))
        structlog.contextvars.bind_contextvars(request_id=request_id, trace_id=trace_id)
        began = time.perf_counter()
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                spent = str(int(1000 * (time.perf_counter() - began)))
                own = {"x-request-id": request_id, "openai-processing-ms": spent, **answer_headers}
                message["headers"] = [*message["headers"], *((name.encode(), own[name].encode()) for name in own)]
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception as error:
            # the process's outer edge: whatever happened, the client gets the envelope with the request's id
            if status:
                raise
            response = self._respond(error)
            await response(scope, receive, named)
            if response.status_code == 500:
                raise
        finally:
            milliseconds = round(1000 * (time.perf_counter() - began), 1)
            log.info("request", method=scope["method"], path=scope["path"], status=status, milliseconds=milliseconds)


class Door:
    """Ask the access policy who is calling before a byte of the body is read; the caller lies in the scope's state."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix + "/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self._prefix):
            _refuse_nul(scope)
            request = Request(scope)
            shared: Any = request.app.state
            found = await shared.access(request, shared.wiring)
            scope["state"]["caller"] = found
            structlog.contextvars.bind_contextvars(project_id=found.project_id)
        await self._app(scope, receive, send)


def _refuse_nul(scope: Scope) -> None:
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise InvalidInput("The address has the character NUL (%00), which no name has.")
