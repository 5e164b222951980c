"""The HTTP edge that every service's app shares: who is calling, OpenAI's error envelope, request ids, health."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import psycopg
import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope

from shared import garbage
from shared.answers import Alive, Ready, answering
from shared.body_limits import BodyLimits, BoundedBodies
from shared.edge import Door, NameRequests
from shared.errors import InvalidInput, QuotaExceeded, TooManyRequests, Unavailable, UpliftError
from shared.field_names import field_named
from shared.live import AsyncLiveClient, Reply
from shared.telemetry import logger
from shared.wiring import Wiring

log = logger(__name__)
T = TypeVar("T")
_RETRY_SECONDS = {429: 1, 503: 2}
_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "DELETE"],
    "allow_headers": ["*"],
    "expose_headers": ["x-request-id", "retry-after", "x-should-retry", "idempotency-replayed"]
    + [f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")],
}


@dataclass(frozen=True)
class Caller:
    """Who is asking: one API key of one project."""

    project_id: str
    project_name: str
    organisation_id: str
    key_id: str
    scopes: tuple[str, ...]
    request_id: str
    meter: Callable[[int], None] = field(default=lambda _tokens: None, repr=False, compare=False)

    def charge_tokens(self, tokens: int) -> None:
        """Count what an answer used (prompt and completion) against the limits of the key and its project.

        Call it once an answer is there; it never blocks and never fails.
        """
        self.meter(tokens)


class ClientGone(UpliftError):
    """Whoever asked has hung up; nobody reads this answer."""

    status = 499
    code = "client_gone"


class AccessPolicy(Protocol):
    """Turns a request into its caller, or raises Unauthorized."""

    async def __call__(self, request: Request, wiring: Any, /) -> Caller: ...


async def wiring(request: Request) -> Any:
    """The process's wiring; a dependency of every route (async, because FastAPI gives others a thread each)."""
    return request.app.state.wiring


async def asking(request: Request) -> AsyncLiveClient:
    """The app's client for live requests; for routes that run on the event loop."""
    found: AsyncLiveClient = request.app.state.asking
    return found


async def caller(request: Request) -> Caller:
    """The caller whom the door let in; a dependency of every route but the health checks."""
    found: Caller = request.state.caller
    return found


METADATA_FILTER: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "required": False,
            "style": "deepObject",
            "explode": True,
            "description": "`metadata[name]=value`, once a pair: only what carries every pair.",
            # of any values: in an address 1 and "1" are one text
            "schema": {"type": "object", "propertyNames": {"minLength": 1}},
        }
    ]
}
"""What a route that depends on `metadata_filter` says of it, as its `openapi_extra`."""


async def metadata_filter(request: Request) -> dict[str, str]:
    """The pairs of a query's `metadata[name]=value`; raises InvalidInput for what is none, lest a list be too long."""
    found: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key == "metadata" or key.startswith("metadata["):
            name = key[len("metadata[") : -1]
            if not name or not key.endswith("]") or "][" in name or name in found:
                raise InvalidInput("A list is narrowed by metadata[name]=value, every name once.", param=key)
            found[name] = value
    return found


async def metered(replies: AsyncGenerator[Reply, None], who: Caller) -> AsyncGenerator[Reply, None]:
    """A live request's replies; the caller is charged for the tokens that its "done" says were used.

    Where none comes (the client hung up, the answer broke off), it is those that the last delta says.
    """
    heard = 0
    try:
        async with aclosing(replies):
            async for reply in replies:
                heard = reply.data.get("tokens", heard)
                if reply.kind == "done":
                    heard = 0
                    who.charge_tokens(reply.data.get("usage", {}).get("total_tokens", 0))
                yield reply
    finally:
        if heard:
            who.charge_tokens(heard)


async def while_connected(request: Request, answer: Awaitable[T]) -> T:
    """Await the answer; a client that hangs up cancels it (the server itself only does so once a stream has begun)."""
    asker = asyncio.current_task()
    assert asker is not None
    hung_up = False

    async def cancel_when_hung_up() -> None:
        nonlocal hung_up
        # `request.is_disconnected` never says so behind a middleware: it does not wait long enough to hear it
        while (await request.receive())["type"] != "http.disconnect":
            pass
        hung_up = True
        asker.cancel()

    # the answer is awaited here and not in a task of its own, which would take two more turns of the loop to be heard
    listening = asyncio.create_task(cancel_when_hung_up())
    try:
        return await answer
    except asyncio.CancelledError:
        if not hung_up or asker.uncancel() > 0:  # somebody else wants it to end, too
            raise
        raise ClientGone("The client hung up before the answer was complete.") from None
    finally:
        listening.cancel()


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
    inner: Sequence[Middleware] = (),
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """An app with our edge; the wiring is built at start and closed at the end.

    `inner` are layers around the routes, outermost first; they see requests with a known caller. Pages of
    `cors_origins` may call from a browser; without any, the answers carry no CORS header at all.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        app.state.wiring = parts = wiring_factory()
        app.state.asking = asking = AsyncLiveClient(parts.settings)
        garbage.settle()
        yield
        await asking.close()
        await parts.aclose()

    layers = [
        Middleware(NameRequests, respond=respond),
        Middleware(Door, prefix=prefix),
        Middleware(BoundedBodies, limits=_body_limits, respond=respond),
        *inner,
    ]
    if cors_origins:
        layers.insert(0, Middleware(CORSMiddleware, allow_origins=cors_origins, **_CORS))
    app = FastAPI(title=title, version="0.1.0", lifespan=lifespan, docs_url=None, redoc_url=None, middleware=layers)
    app.state.access = access
    _render_errors(app)
    _add_health(app)
    for router in routers:
        app.include_router(router, prefix=prefix)
    return app


def _body_limits(scope: Scope) -> BodyLimits:
    settings = scope["app"].state.wiring.settings
    return BodyLimits(settings.max_json_bytes, settings.max_upload_bytes, settings.max_json_depth)


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
            "type": error.code if error.code == QuotaExceeded.code else names.get(error.status, kind),
            "param": error.param,
            "code": error.code,
        }
    }


def respond(error: Exception) -> JSONResponse:
    """The answer to anything raised: named errors as they are, a database that is away as 503, the rest as 500."""
    if isinstance(error, OperationalError | psycopg.OperationalError):
        log.error("database not reachable", error=str(error))
        error = Unavailable("The database is not reachable. Nothing was changed; try again.")
    if isinstance(error, PoolExhausted):
        log.error("no database connection became free", error=str(error))
        error = Unavailable("Too many requests wait for the database. Nothing was changed; try again.")
    if not isinstance(error, UpliftError):
        error = UpliftError("This is a defect of the server; its log has the details under the answer's x-request-id.")
    seconds = _retry_after(error)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    if (error.status == 409 and not error.retryable) or error.code == QuotaExceeded.code:
        headers["x-should-retry"] = "false"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


def _retry_after(error: UpliftError) -> int | None:
    """Seconds after which to ask again. An error of another process (RemoteError) has its status alone to tell."""
    if isinstance(error, TooManyRequests):
        return error.retry_after
    if error.status == 409 and error.retryable:
        return _RETRY_SECONDS[503]
    return None if error.code == QuotaExceeded.code else _RETRY_SECONDS.get(error.status)


def _render_errors(app: FastAPI) -> None:
    @app.exception_handler(UpliftError)
    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolExhausted)
    def known(_request: Request, error: Exception) -> JSONResponse:
        return respond(error)

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = field_named(first, error.body)
        body = {
            "message": f"{where or 'body'}: {first['msg']}",
            "type": "invalid_request_error",
            "param": where,
        }
        return JSONResponse({"error": body | {"code": "invalid_input"}}, status_code=400)

    @app.exception_handler(HTTPException)
    def framework(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(allowed_methods(request))
        body = {
            "message": f"{error.detail}: {request.method} {request.url.path}",
            "type": "invalid_request_error",
        }
        return JSONResponse(
            {"error": body | {"param": None, "code": "not_found" if error.status_code == 404 else "http_error"}},
            status_code=error.status_code,
            headers=headers,
        )


def allowed_methods(request: Request) -> list[str]:
    """Every method of this path, which is the most literal one that fits; the framework names only the first's.

    Fewest parameters first, then the longest: a model's id has slashes, so it fits `…/export` too.
    """
    routes = [one for one in iter_route_contexts(request.app.routes) if one.path_regex.match(request.scope["path"])]
    path = min((one.path_format or "" for one in routes), key=lambda found: (found.count("{"), -len(found)), default="")
    return sorted({method for one in routes if one.path_format == path for method in one.methods or ()})


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"], responses=answering(Alive))
    async def healthz() -> dict[str, str]:
        """This process answers. It says nothing of the parts it needs: a restart would not mend those."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses=answering(Ready))
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
