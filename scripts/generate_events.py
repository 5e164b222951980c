"""Writes docs/events.md from shared/messages.py; `make docs` runs it and a test checks that it is up to date."""

import inspect
from pathlib import Path

from shared import messages
from shared.messages import Command

TARGET = Path(__file__).resolve().parent.parent / "docs" / "events.md"


def text() -> str:
    """The page as it should be."""
    commands = [
        found
        for _, found in inspect.getmembers(messages, inspect.isclass)
        if issubclass(found, Command) and "kind" in found.__dict__
    ]
    lines = ["# Messages", "", "Generated from `shared/messages.py` by `make docs`; do not edit.", ""]
    lines += ["| message | kind | queue | carries | what it says |", "|---|---|---|---|---|"]
    for command in sorted(commands, key=lambda found: (found.queue, found.kind)):
        fields = ", ".join(f"`{name}`" for name in command.model_fields)
        says = " ".join((inspect.getdoc(command) or "").split())
        lines.append(f"| {command.__name__} | `{command.kind}` | `{command.queue}` | {fields} | {says} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
