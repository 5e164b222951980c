"""Reading uploaded training files, JSON lines: chats, preferences, documents; every error with its file and line."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from services.training.corpus import group_of
from services.training.domain import Document, Example
from services.training.errors import InvalidTrainingFile, NoTrainingExamples
from shared.text_lines import UnreadableText, numbered_lines

_ROLES = ("system", "user", "assistant")
_TOOLS = ("tools", "functions")
"""Keys of a row that OpenAI's files may carry empty; filled, they would teach calls that our models cannot make."""
_LEARNED_BY = {
    "messages": ("a chat", "supervised"),
    "preferred_output": ("a preference", "dpo"),
    "non_preferred_output": ("a preference", "dpo"),
    "text": ("a document", "continued_pretraining"),
}
"""What a row with such a key is, and the method that learns from it."""
_Row = TypeVar("_Row", Example, Document)


@dataclass(frozen=True)
class Source:
    """Which file is read: `param` is the job's field that names it, `longest_line` is in bytes."""

    param: str
    filename: str
    longest_line: int = 4 * 2**20

    def refuse(self, line: int, why: str) -> InvalidTrainingFile:
        return InvalidTrainingFile(f"{self.param} ({self.filename}), line {line}: {why}.", param=self.param)

    def lines(self, stored: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        """Its lines with their numbers, bounded; blank ones are passed over."""
        try:
            yield from ((number, line) for number, line in numbered_lines(stored, self.longest_line) if line.strip())
        except UnreadableText as error:
            raise self.refuse(max(1, error.line), error.problem.rstrip(".")) from error


def read_chats(stored: IO[bytes], source: Source) -> Iterator[Example]:
    """Examples of a chat file. Every assistant turn is learned unless its `weight` is 0."""
    yield from _read(stored, source, "supervised", _chat)


def read_preferences(stored: IO[bytes], source: Source) -> Iterator[Example]:
    """Examples of a preference file: `input.messages`, `preferred_output`, `non_preferred_output`."""
    yield from _read(stored, source, "dpo", _preference)


def read_texts(stored: IO[bytes], source: Source) -> Iterator[Document]:
    """Documents of a file of `{"text": …}` rows; those of one `group`, or of equal text without one, stay together."""
    yield from _read(stored, source, "continued_pretraining", _document)


def holds_texts(stored: IO[bytes], source: Source) -> bool:
    """Whether the first row is a document, not a chat; NoTrainingExamples where there is no row."""
    first = next(_records(stored, source), None)
    if first is None:
        raise NoTrainingExamples(f"{source.param} ({source.filename}) holds no rows.", param=source.param)
    return "text" in first[1]


def _read(
    stored: IO[bytes], source: Source, method: str, row_of: Callable[[dict[str, Any], int], _Row]
) -> Iterator[_Row]:
    for number, record in _records(stored, source):
        try:
            yield row_of(record, number)
        except ValueError as error:
            # what is replayed has no method of its own to change
            remedy = "" if source.param == "replay_file" else _remedy(record, method)
            raise source.refuse(number, f"{error}{remedy}") from error


def _remedy(record: dict[str, Any], method: str) -> str:
    """What to do with a row that another method learns from."""
    kinds = [kind for key, kind in _LEARNED_BY.items() if key in record]
    if not kinds or method in {learned_by for _, learned_by in kinds}:
        return ""
    kind, learned_by = kinds[0]
    return (
        f". This is {kind}, and the method here is {method}: to learn from such rows, give the job "
        f'`"method": {{"type": "{learned_by}"}}`, or the recipe `"objective": "{learned_by}"`'
    )


def _records(stored: IO[bytes], source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in source.lines(stored):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise source.refuse(number, f"this is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise source.refuse(number, "every line must hold a JSON object")
        yield number, record


def _chat(record: dict[str, Any], line: int) -> Example:
    _only(_without_tools(record), {"messages"}, "")
    messages = _messages(record.get("messages"), "messages", least=2, with_weight=True)
    learned = [place for place, (message, weight) in enumerate(messages) if message["role"] == "assistant" and weight]
    if messages[-1][0]["role"] != "assistant":
        raise ValueError("`messages` must end with the assistant's message, the answer to learn")
    if not learned:
        raise ValueError("every assistant message has weight 0, so there is nothing to learn")
    *earlier, last = learned
    turns = tuple(message for message, _ in messages[:last])
    return Example(turns, messages[last][0]["content"], also_learned=tuple(earlier), line=line)


def _preference(record: dict[str, Any], line: int) -> Example:
    _only(record, {"input", "preferred_output", "non_preferred_output"}, "")
    asked = record.get("input")
    if not isinstance(asked, dict):
        raise ValueError("`input` must be an object with `messages`")
    _only(_without_tools(asked), {"messages"}, "input.")
    messages = _messages(asked.get("messages"), "input.messages", least=1, with_weight=False)
    if messages[-1][0]["role"] == "assistant":
        raise ValueError("`input.messages` must end before the assistant's answer")
    preferred, rejected = (_output(record.get(name), name) for name in ("preferred_output", "non_preferred_output"))
    if preferred == rejected:
        raise ValueError("`preferred_output` and `non_preferred_output` are the same, so nothing is preferred")
    return Example(tuple(message for message, _ in messages), preferred, rejected=rejected, line=line)


def _document(record: dict[str, Any], _line: int) -> Document:
    _only(record, {"text", "group"}, "")
    text, group = record.get("text"), record.get("group")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("`text` must be the document's text")
    if group is not None and not (isinstance(group, str) and group):
        raise ValueError("`group` must be a name: documents of one group are held out together")
    return Document(text, group_of(text) if group is None else group)


def _output(output: Any, name: str) -> str:
    messages = _messages(output, name, least=1, with_weight=False)
    if len(messages) > 1 or messages[0][0]["role"] != "assistant":
        raise ValueError(f"`{name}` must be a list of one assistant message")
    return messages[0][0]["content"]


def _messages(found: Any, name: str, *, least: int, with_weight: bool) -> list[tuple[dict[str, str], int]]:
    """Messages of plain text, each with its weight."""
    if not isinstance(found, list) or len(found) < least:
        raise ValueError(f"`{name}` must be a list of at least {least} message{'s' if least > 1 else ''}")
    return [_message(message, f"{name}[{place}]", with_weight=with_weight) for place, message in enumerate(found)]


def _message(message: Any, name: str, *, with_weight: bool) -> tuple[dict[str, str], int]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise ValueError(f"`{name}` needs a role of {', '.join(_ROLES)}")
    _only(message, {"role", "content"} | ({"weight"} if with_weight else set()), f"{name}.")
    text = _text(message.get("content"))
    if text is None or not text.strip():
        raise ValueError(f"`{name}` needs text as `content`")
    weight = message.get("weight", 1)
    if weight not in (0, 1) or (message["role"] != "assistant" and "weight" in message):
        raise ValueError(f"`{name}.weight` must be 0 or 1, and only an assistant's message has one")
    return {"role": message["role"], "content": text}, int(weight)


def _text(content: Any) -> str | None:
    """The text of a string, or of OpenAI's list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    ):
        return None
    return "".join(part["text"] for part in content)


def _without_tools(record: dict[str, Any]) -> dict[str, Any]:
    """The row without the keys about tools, where those are empty and so mean nothing."""
    if any(record.get(key) for key in _TOOLS):
        return record
    return {key: value for key, value in record.items() if key not in (*_TOOLS, "parallel_tool_calls")}


def _only(record: dict[str, Any], known: set[str], where: str) -> None:
    """Refuse what we would otherwise ignore."""
    unknown = sorted(record.keys() - known)
    if unknown:
        raise ValueError(f"`{where}{unknown[0]}` is not supported")
