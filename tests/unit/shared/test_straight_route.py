"""The straight way to an endpoint answers as FastAPI's own does."""

from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel

from shared.body_limits import BodyLimits, BoundedBodies
from shared.edge import NameRequests
from shared.straight_route import NotStraight, StraightRoute
from shared.web import respond


class Order(BaseModel):
    count: int


async def take(request: Request, body: Order) -> Response:
    return Response(f"{request.url.path} {body.count}")


async def take_as_sent(request: Request, body: Order) -> Response:
    return Response(str(await request.json()))


def forbid() -> None:
    raise PermissionError


def _straight(endpoint: Any = take, **options: Any) -> APIRouter:
    router = APIRouter()
    router.add_api_route("/straight", endpoint, methods=["POST"], route_class_override=StraightRoute, **options)
    return router


def _client(router: APIRouter, *, depth: int = 64) -> TestClient:
    app = FastAPI()
    app.include_router(router)
    limits = BodyLimits(json_bytes=1 << 20, upload_bytes=1 << 20, depth=depth)
    app.add_middleware(BoundedBodies, limits=lambda _: limits, respond=respond)
    app.add_middleware(NameRequests, respond=respond)
    return TestClient(app)


def _both(*, depth: int = 64) -> TestClient:
    router = _straight()
    router.add_api_route("/usual", take, methods=["POST"])
    return _client(router, depth=depth)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"count": 3}', "application/json"),
        ('\ufeff{"count": 3}', "application/json"),
        ('{"count": 3}', "application/json; charset=utf-8"),
        ('{"count": 3}', "application/vnd.api+json"),
        ('{"count": 3}', "text/plain"),
        ('{"count": "many"}', "application/json"),
        ('{"count": 1', "application/json"),
        ("[]", "application/json"),
        ("[" * 200_000, "application/json"),
        ("", "application/json"),
    ],
)
def test_answers_as_the_usual_way_does(text: str, kind: str) -> None:
    client = _both(depth=1_000_000)
    straight, usual = (
        client.post(path, content=text.encode(), headers={"content-type": kind}) for path in ("/straight", "/usual")
    )
    assert straight.status_code == usual.status_code
    assert straight.text.replace("straight", "usual") == usual.text


@pytest.mark.parametrize("path", ["/straight", "/usual"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_no_way_reads_json_that_is_not_utf8(path: str, encoding: str) -> None:
    for kind in ("application/json", "application/json; charset=utf-16", "application/vnd.api+json"):
        body = '{"count": 3}'.encode(encoding)
        answer = _both().post(path, content=body, headers={"content-type": kind})
        assert (answer.status_code, "RFC 8259" in answer.text) == (400, True), (kind, answer.text)


def test_resolves_nothing_for_a_right_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unwanted(**_: object) -> None:
        raise AssertionError("the straight way resolved dependencies")

    monkeypatch.setattr("fastapi.routing.solve_dependencies", unwanted)
    assert _both().post("/straight", json={"count": 3}).text == "/straight 3"


def test_hands_on_what_it_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unwanted(_: Request) -> bytes:
        raise AssertionError("the body was read again")

    client = _client(_straight(take_as_sent))
    monkeypatch.setattr(Request, "body", unwanted)
    assert client.post("/straight", json={"count": 3, "more": [1]}).text == "{'count': 3, 'more': [1]}"


def test_refuses_a_route_with_a_dependency() -> None:
    with pytest.raises(NotStraight, match="forbid"):
        _straight(dependencies=[Depends(forbid)])


def test_refuses_a_dependency_that_a_router_brings() -> None:
    outer = APIRouter()
    outer.include_router(_straight(), dependencies=[Depends(forbid)])
    with pytest.raises(NotStraight, match="forbid"):
        _client(outer).post("/straight", json={"count": 3})


def test_refuses_an_endpoint_that_takes_more() -> None:
    async def take_limit(request: Request, body: Order, limit: int = 3) -> Response:
        return Response(str(limit))

    with pytest.raises(NotStraight, match="limit"):
        _straight(take_limit)


def test_describes_its_body() -> None:
    paths = _both().get("/openapi.json").json()["paths"]
    assert paths["/straight"]["post"]["requestBody"] == paths["/usual"]["post"]["requestBody"]
