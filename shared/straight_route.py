"""A route for what is asked most: its endpoint gets the request and the checked body straight away."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute


class StraightRoute(APIRoute):
    """For `async def endpoint(request: Request, body: SomeModel) -> Response`, behind `BoundedBodies`.

    Resolving dependencies and parameters, of which such an endpoint has none, is a sixth of what the gateway runs for a
    chat. Whatever is not plainly a right body goes FastAPI's own way, so that errors, and the API's description, are
    those of every other route.
    """

    def get_route_handler(self) -> Callable[[Request], Any]:
        resolving, endpoint = super().get_route_handler(), self.endpoint
        model = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            raw: bytes | None = request.scope["state"].get("body")
            if raw is None or request.headers.get("content-type") != "application/json":
                return await resolving(request)
            try:
                body = model.model_validate(json.loads(raw))
            except ValueError:  # no JSON, or not the model's
                return await resolving(request)
            answer: Awaitable[Response] = endpoint(request, body)
            return await answer

        return handle
