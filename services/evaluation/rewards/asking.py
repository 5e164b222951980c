"""Asking the models that grade, while a client waits for the reward."""

from typing import Any

from shared.live import AsyncLiveClient
from shared.web import Caller

_SECONDS = 300.0
"""From a worker's admission. A verdict is short, but training may share the machine."""


class GradingModels:
    """The models of the caller's project; what they use is charged to the caller as their answers come."""

    def __init__(self, live: AsyncLiveClient, who: Caller, *, embedder: str) -> None:
        self._live, self._who, self.embedder = live, who, embedder

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """A model's whole answer; raises UpliftError with the status of its worker."""
        said = await self._ask("generation.interactive", "generation.chat", body)
        self._who.charge_tokens(said["usage"]["total_tokens"])
        return said

    async def embed(self, texts: list[str]) -> dict[str, Any]:
        """The texts' unit vectors; raises UpliftError likewise."""
        body = {"model": self.embedder, "input": texts}
        said = await self._ask("retrieval.interactive", "retrieval.embed", body)
        self._who.charge_tokens(said["prompt_tokens"])
        return said

    async def _ask(self, queue: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        who = self._who
        return await self._live.ask(queue, kind, who.project_id, body, timeout_s=_SECONDS, request_id=who.request_id)
