"""What retrieval's doors share: who asks, how a list is asked for, and when to ask again."""

from typing import Annotated, Literal

from fastapi import Depends, Query, Response

from services.retrieval.listing import Window
from shared.live import AsyncLiveClient
from shared.web import Caller, asking, caller, wiring
from shared.wiring import Wiring

Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Live = Annotated[AsyncLiveClient, Depends(asking)]
"""For routes that wait for a worker: on the event loop, where waiting holds no thread."""
_POLL_MS = 500
"""A small file is indexed in less; the client's own default is a second."""


def window(
    after: Annotated[str | None, Query(description="The id to list on from.")] = None,
    before: Annotated[str | None, Query(description="The id to list up to.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By creation.")] = "desc",
) -> Window:
    """A cursor list's query parameters."""
    return Window(after=after, before=before, limit=limit, order=order)


Listed = Annotated[Window, Depends(window)]


def ask_again(response: Response, status: str) -> None:
    """Tell the client's `poll` helpers when to look again, while there is something to wait for."""
    if status == "in_progress":
        response.headers["openai-poll-after-ms"] = str(_POLL_MS)
