"""The straight way to an endpoint answers as FastAPI's own does."""

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.straight_route import StraightRoute


class Order(BaseModel):
    count: int


class _HoldsBodies:
    """What `BoundedBodies` leaves behind, without its limits."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            message = await receive()
            scope.setdefault("state", {})["body"] = message["body"]

            async def again() -> dict[str, object]:
                return dict(message)

            await self._app(scope, again, send)
        else:
            await self._app(scope, receive, send)


async def take(request: Request, body: Order) -> Response:
    return Response(f"{request.url.path} {body.count}")


def _client() -> TestClient:
    app, router = FastAPI(), APIRouter()
    router.add_api_route("/straight", take, methods=["POST"], route_class_override=StraightRoute)
    router.add_api_route("/usual", take, methods=["POST"])
    app.include_router(router)
    app.add_middleware(_HoldsBodies)
    return TestClient(app)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"count": 3}', "application/json"),
        ('{"count": 3}', "application/json; charset=utf-8"),
        ('{"count": 3}', "application/vnd.api+json"),
        ('{"count": 3}', "text/plain"),
        ('{"count": "many"}', "application/json"),
        ('{"count": 1', "application/json"),
        ("[]", "application/json"),
        ("", "application/json"),
    ],
)
def test_answers_as_the_usual_way_does(text: str, kind: str) -> None:
    client = _client()
    straight, usual = (
        client.post(path, content=text, headers={"content-type": kind}) for path in ("/straight", "/usual")
    )
    assert straight.status_code == usual.status_code
    assert straight.text.replace("straight", "usual") == usual.text


def test_resolves_nothing_for_a_right_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unwanted(**_: object) -> None:
        raise AssertionError("the straight way resolved dependencies")

    monkeypatch.setattr("fastapi.routing.solve_dependencies", unwanted)
    assert _client().post("/straight", json={"count": 3}).text == "/straight 3"


def test_describes_its_body() -> None:
    paths = _client().get("/openapi.json").json()["paths"]
    assert paths["/straight"]["post"]["requestBody"] == paths["/usual"]["post"]["requestBody"]
