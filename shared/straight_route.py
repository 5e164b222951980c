"""A route for what is asked most: its endpoint gets the request and the checked body straight away."""

import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute, _effective_route_context_var


class NotStraight(TypeError):
    """A route asks for something that the straight way passes over, be it for a check of who may."""


class StraightRoute(APIRoute):
    """For `async def endpoint(request: Request, body: SomeModel) -> Response`, behind `BoundedBodies`.

    Resolving dependencies and parameters, of which such an endpoint has none, is a sixth of what the gateway runs for a
    chat. Whatever is not plainly a right body goes FastAPI's own way, so that errors, and the API's description, are
    those of every other route.
    """

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Raises NotStraight; where a router brings the dependency, at the router's first request."""
        resolving, endpoint = super().get_route_handler(), self.endpoint
        self._refuse_what_is_passed_over()
        model = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            raw: bytes | None = request.scope["state"].get("body")
            if raw is None or request.headers.get("content-type") != "application/json":
                return await resolving(request)
            try:
                parsed = json.loads(raw.decode())  # of bytes it would guess the encoding
                body = model.model_validate(parsed)
            except (ValueError, RecursionError):  # no JSON, or not the model's
                return await resolving(request)
            request._json = parsed  # where FastAPI's own way leaves it, for `await request.json()`
            answer: Awaitable[Response] = endpoint(request, body)
            return await answer

        return handle

    def _refuse_what_is_passed_over(self) -> None:
        taken = list(inspect.signature(self.endpoint).parameters)
        if taken != ["request", "body"]:
            raise NotStraight(f"{self.path} takes {taken}; a StraightRoute fills in (request, body) alone.")
        included = _effective_route_context_var.get()  # self as a router includes it, with that router's dependencies
        dependant = self.dependant if included is None else included.dependant
        if dependant.dependencies:
            names = [getattr(one.call, "__name__", repr(one.call)) for one in dependant.dependencies]
            raise NotStraight(f"{self.path} depends on {names}, which a StraightRoute does not run; use an APIRoute.")
