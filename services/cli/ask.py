"""`uplift ask`: one question to any model id, the answer as it is written."""

import json
from typing import Annotated

import typer
from rich.console import Console

from services.cli.client import Client
from shared.settings import Settings


def ask(
    model: Annotated[str, typer.Argument(help="A base model, adapter, variant or release: see `uplift models list`.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 always answers the same.")] = 0.0,
) -> None:
    """Ask MODEL a question and print the answer as it is written."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
    }
    citations: list[dict[str, object]] = []
    with Client(Settings()) as client:
        for payload in client.stream_lines("chat/completions", body):
            if payload == "[DONE]":
                break
            chunk = json.loads(payload)
            if "error" in chunk:
                raise typer.Exit(_complain(chunk["error"]["message"]))
            citations = chunk.get("citations") or citations
            for choice in chunk["choices"]:
                typer.echo(choice["delta"].get("content") or "", nl=False)
    typer.echo()
    for number, cited in enumerate(citations, start=1):
        Console(stderr=True).print(f"[dim]\\[{number}] {cited.get('document') or cited.get('title')}[/]")


def _complain(message: str) -> int:
    typer.echo(message, err=True)
    return 1
