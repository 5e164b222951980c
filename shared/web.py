"""The HTTP edge that every service's app shares: who is calling, OpenAI's error envelope, request ids, health."""

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from starlette.exceptions import HTTPException

from shared.errors import TooManyRequests, Unavailable, UpliftError
from shared.telemetry import logger, trace_id_of
from shared.wiring import Wiring

log = logger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who is asking: one API key of one project."""

    project_id: str
    project_name: str
    organisation_id: str
    key_id: str
    scopes: tuple[str, ...]
    request_id: str


class AccessPolicy(Protocol):
    """Turns a request into its caller, or raises Unauthorized."""

    def __call__(self, request: Request, wiring: Wiring) -> Caller: ...


def wiring(request: Request) -> Any:
    """The process's wiring; a dependency of every route."""
    return request.app.state.wiring


def caller(request: Request, parts: Wiring = Depends(wiring)) -> Caller:  # noqa: B008
    """The authenticated caller; a dependency of every route but the health checks."""
    policy: AccessPolicy = request.app.state.access
    found = policy(request, parts)
    structlog.contextvars.bind_contextvars(project_id=found.project_id)
    return found


def page(items: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's cursor list. `has_more` is always there: without it the client asks for ever."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def create_app(
    title: str,
    routers: Iterable[APIRouter],
    *,
    wiring_factory: Callable[[], Wiring],
    access: AccessPolicy,
    prefix: str = "/v1",
) -> FastAPI:
    """An app with our edge; the wiring is built at start and closed at the end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        app.state.wiring = wiring_factory()
        yield
        app.state.wiring.close()

    app = FastAPI(title=title, version="0.1.0", lifespan=lifespan, docs_url="/docs", redoc_url=None)
    app.state.access = access
    app.middleware("http")(_name_request)
    _render_errors(app)
    _add_health(app)
    for router in routers:
        app.include_router(router, prefix=prefix)
    return app


def error_body(error: UpliftError) -> dict[str, Any]:
    """OpenAI's envelope."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    names = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }
    return {
        "error": {
            "message": error.message,
            "type": names.get(error.status, kind),
            "param": error.param,
            "code": error.code,
        }
    }


def _render_errors(app: FastAPI) -> None:
    def respond(error: UpliftError) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, TooManyRequests) else {}
        if error.status == 409:
            headers["x-should-retry"] = "false"
        return JSONResponse(error_body(error), status_code=error.status, headers=headers)

    @app.exception_handler(UpliftError)
    def known(_request: Request, error: UpliftError) -> JSONResponse:
        return respond(error)

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path"}) or None
        body = {
            "message": f"{where or 'body'}: {first['msg']}",
            "type": "invalid_request_error",
            "param": where,
        }
        return JSONResponse({"error": body | {"code": "invalid_input"}}, status_code=400)

    @app.exception_handler(HTTPException)
    def framework(request: Request, error: HTTPException) -> JSONResponse:
        body = {
            "message": f"{error.detail}: {request.method} {request.url.path}",
            "type": "invalid_request_error",
        }
        return JSONResponse(
            {"error": body | {"param": None, "code": "not_found" if error.status_code == 404 else "http_error"}},
            status_code=error.status_code,
            headers=error.headers,
        )

    @app.exception_handler(OperationalError)
    def database_away(_request: Request, error: OperationalError) -> JSONResponse:
        log.error("database not reachable", error=str(error))
        return respond(Unavailable("The database is not reachable. Nothing was changed; try again."))


async def _name_request(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Give the request an id, bind it and its trace to every log line, answer it in `x-request-id`."""
    request_id = f"req_{secrets.token_hex(12)}"
    request.state.request_id = request_id
    structlog.contextvars.clear_contextvars()
    trace_id = trace_id_of(request.headers.get("traceparent"))
    structlog.contextvars.bind_contextvars(request_id=request_id, trace_id=trace_id)
    began = time.perf_counter()
    response = await call_next(request)
    response.headers["x-request-id"] = request_id
    milliseconds = round(1000 * (time.perf_counter() - began), 1)
    response.headers["openai-processing-ms"] = str(int(milliseconds))
    log.info(
        "request",
        method=request.method,
        path=request.url.path,
        status=response.status_code,
        milliseconds=milliseconds,
    )
    return response


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"])
    def healthz() -> dict[str, str]:
        """This process answers. It says nothing of the parts it needs: a restart would not mend those."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    def readyz(parts: Wiring = Depends(wiring)) -> dict[str, str]:  # noqa: B008
        """Postgres and Redis answer, the schema is there, and the database login obeys row-level security."""
        check_ready(parts)
        return {"status": "ready"}


def check_ready(parts: Wiring) -> None:
    """Raise Unavailable, naming the part, unless this process can serve."""
    try:
        with parts.database.system_transaction() as session:
            exempt = session.execute(
                sa.text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
            ).scalar_one()
            session.execute(sa.text("SELECT 1 FROM jobs LIMIT 1"))
    except SQLAlchemyError as error:
        raise Unavailable(f"Postgres is not ready: {str(error).splitlines()[0]}") from error
    if exempt:
        raise Unavailable(
            "DATABASE_URL logs in as a superuser or with BYPASSRLS, which would let every project see every other's "
            "rows. Use a plain login that is a member of uplift_app."
        )
    try:
        parts.live.ping()
    except (RedisError, OSError) as error:
        raise Unavailable(f"Redis is not ready: {error}") from error
