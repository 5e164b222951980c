"""Reading one chat record: turns up to the last assistant turn, which is the reference answer."""

from collections.abc import Callable
from typing import Any, NoReturn

from services.data.domain import ROLES, Message

_SAME_ROLE = {"developer": "system"}


def conversation(turns: Any, refuse: Callable[[str], NoReturn]) -> tuple[tuple[Message, ...], str]:
    """The turns before the answer, and the answer. `refuse` is called with the problem and raises."""
    if not isinstance(turns, list) or not turns:
        refuse('field "messages" should be a list of turns with role and content.')
    read = [_turn(turn, number, refuse) for number, turn in enumerate(turns)]
    if read[-1].role != "assistant":
        refuse(f'field "messages" ends with a turn of {read[-1].role}; the last turn must be the assistant\'s answer.')
    if len(read) < 2 or read[-2].role != "user":
        refuse('field "messages" has no user turn right before the answer.')
    return tuple(read[:-1]), read[-1].content


def _turn(turn: Any, number: int, refuse: Callable[[str], NoReturn]) -> Message:
    where = f"messages[{number}]"
    if not isinstance(turn, dict):
        refuse(f'field "{where}" should be an object with role and content.')
    role = _SAME_ROLE.get(turn.get("role", ""), turn.get("role")) if isinstance(turn.get("role", ""), str) else None
    if role not in ROLES:
        refuse(f'field "{where}.role" is {turn.get("role")!r}; it must be system, user or assistant.')
    content = _content(turn.get("content"))
    if content is None or not content.strip():
        refuse(f'field "{where}.content" should be text that is not empty.')
    return Message(role, content)


def _content(content: Any) -> str | None:
    """Plain text, or OpenAI's list of text parts; None for anything else (images, tool calls)."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    return None
