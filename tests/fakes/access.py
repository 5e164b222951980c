"""An access policy for tests that are not about access."""

from typing import Any

from fastapi import Request

from shared.web import AccessPolicy, Caller


def always(who: Caller) -> AccessPolicy:
    """Lets everybody in as `who`."""

    async def policy(_request: Request, _wiring: Any, /) -> Caller:
        return who

    return policy
