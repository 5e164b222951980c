"""`uplift export`: a download is whole or not there, and what it says of the file."""

from pathlib import Path

import httpx
import pytest

from services.cli.client import ApiError, Client
from services.cli.export import _faithful
from shared.settings import Settings


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://uplift/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-uplift-x")
    return Client(Settings())


def answering(client: Client, response: httpx.Response) -> Client:
    client._http = httpx.Client(transport=httpx.MockTransport(lambda _request: response), base_url="http://uplift/v1/")
    return client


def test_downloads_a_file_and_tells_how_much_came(client: Client, tmp_path: Path) -> None:
    told: list[int] = []
    content = b"x" * 300_000
    answering(client, httpx.Response(200, content=content)).download("files/f/content", tmp_path / "m", told.append)
    assert (tmp_path / "m").read_bytes() == content
    assert told[-1] == len(content)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_leaves_nothing_of_a_refused_or_broken_download(client: Client, tmp_path: Path) -> None:
    refusal = httpx.Response(404, json={"error": {"message": "There is no file 'f'."}})
    with pytest.raises(ApiError, match="There is no file"):
        answering(client, refusal).download("files/f/content", tmp_path / "m", lambda _bytes: None)

    def breaking() -> object:
        yield b"some"
        raise httpx.ReadError("gone")

    broken = httpx.Response(200, content=breaking())  # type: ignore[arg-type]
    with pytest.raises(ApiError, match="broke off: gone"):
        answering(client, broken).download("files/f/content", tmp_path / "m", lambda _bytes: None)
    assert not list(tmp_path.iterdir())


def test_says_what_the_rounding_did() -> None:
    made = {"largest_logit_difference": 0.2504, "logit_spread": 5.766, "same_next_tokens": 83, "positions": 84}
    assert _faithful(made) == (
        "Largest difference of any logit: 0.25, where their standard deviation is 5.77; the same next token at 83 of "
        "84 places."
    )
    assert "as it was trained" in _faithful({"format": "adapter"})
