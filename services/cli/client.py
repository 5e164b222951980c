"""The command line's client of the public API: credentials, one request method, readable failures."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.settings import Settings

POLL_SECONDS = 0.5
_RECONNECTIONS = 120
_SILENCE = httpx.Timeout(60, connect=5)
"""A stream says at least every 15 s that it is there."""


@dataclass(frozen=True)
class Message:
    """One server-sent event."""

    event: str
    id: str | None
    data: dict[str, Any]


def sse_messages(lines: Iterable[str]) -> Iterator[Message]:
    """The messages of a server-sent-event stream; comments are dropped."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line and "data" in fields:
            yield Message(fields.get("event", "message"), fields.get("id"), json.loads(fields["data"]))
        if not line:
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


class ApiError(Exception):
    """The API refused, or cannot be reached; the message is fit to print."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class JobFailed(ApiError):
    """A job that the command waited for did not succeed."""


def read_credentials(settings: Settings) -> dict[str, str]:
    """`OPENAI_BASE_URL` and `OPENAI_API_KEY` from the environment, else from the home's credentials.env."""
    names = ("OPENAI_BASE_URL", "OPENAI_API_KEY")
    if all(os.environ.get(name) for name in names):
        return {name: os.environ[name] for name in names}
    path = settings.home / "credentials.env"
    if not path.exists():
        raise ApiError(f"There are no credentials: {path} does not exist. Start the platform with `uplift up`.")
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


class Client:
    """Talks to one Uplift; use it as a context manager."""

    def __init__(self, settings: Settings) -> None:
        credentials = read_credentials(settings)
        self.base_url = credentials["OPENAI_BASE_URL"]
        self._http = httpx.Client(
            base_url=self.base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {credentials['OPENAI_API_KEY']}"},
            timeout=httpx.Timeout(600, connect=5),
            trust_env=False,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._call("GET", path, params={key: value for key, value in query.items() if value is not None}).json()

    def get_text(self, path: str) -> str:
        return self._call("GET", path).text

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._call("POST", path, json=dict(body or {})).json()

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path).json()

    def upload(self, path: Path, *, name: str, purpose: str = "user_data") -> str:
        """Upload one file under `name`; answers its file id."""
        with path.open("rb") as content:
            answer = self._call("POST", "files", data={"purpose": purpose}, files={"file": (name, content)})
        return str(answer.json()["id"])

    def download(self, path: str, target: Path, report: Callable[[int], None]) -> None:
        """Stream an answer's bytes into a file, which is there whole or not at all; `report` hears how many came."""
        partial = target.with_name(f".{target.name}.partial")
        try:
            with self._http.stream("GET", path) as response, partial.open("wb") as sink:
                if response.status_code >= 400:
                    response.read()
                    raise self._refused(response)
                came = 0
                for chunk in response.iter_bytes():
                    came += sink.write(chunk)
                    report(came)
            partial.replace(target)
        except httpx.HTTPError as error:
            raise ApiError(f"GET {path} broke off: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def everything(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a cursor list."""
        after: str | None = None
        while True:
            found = self.get(path, after=after, limit=100, **query)
            yield from found["data"]
            if not found["has_more"] or not found["data"]:
                return
            after = found["data"][-1]["id"]

    def stream_lines(self, path: str, body: Mapping[str, Any]) -> Iterator[str]:
        """The `data:` payloads of a server-sent-event answer."""
        with self._http.stream("POST", path, json=dict(body)) as response:
            if response.status_code >= 400:
                response.read()
                raise self._refused(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield line.removeprefix("data: ")

    def follow(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """A job's server-sent events until its end: (name, data), where an ordinary event's name is "message".

        A connection that breaks is opened again after the last event that came, for about a minute.
        """
        last: str | None = None
        patience = _RECONNECTIONS
        while True:
            try:
                headers = {"Last-Event-ID": last} if last is not None else None
                query = {"stream": "true"}
                with self._http.stream("GET", path, params=query, headers=headers, timeout=_SILENCE) as response:
                    if response.status_code >= 400:
                        response.read()
                        raise self._refused(response)
                    for message in sse_messages(response.iter_lines()):
                        last, patience = message.id or last, _RECONNECTIONS
                        yield message.event, message.data
                        if message.event == "end":
                            return
            except httpx.HTTPError as error:
                if patience == 0:
                    raise ApiError(f"GET {path} broke off: {error}") from error
            patience -= 1
            time.sleep(POLL_SECONDS)

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        for patience in (1, 2, 4, None):
            try:
                response = self._http.request(method, path, **options)
            except httpx.ConnectError as error:
                raise ApiError(f"Nothing answers at {self.base_url}. Start the platform with `uplift up`.") from error
            except httpx.HTTPError as error:
                raise ApiError(f"{method} {path} broke off: {error}") from error
            if response.status_code != 429 or patience is None:
                break
            time.sleep(patience)
        if response.status_code >= 400:
            raise self._refused(response)
        return response

    def _refused(self, response: httpx.Response) -> ApiError:
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:500]
        return ApiError(f"{message} (HTTP {response.status_code})", status=response.status_code)
