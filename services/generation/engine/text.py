"""From tokens to text as they come: no broken characters, and nothing of a stop string."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
_BROKEN = "\ufffd"


class IncrementalText:
    """Collects one answer's tokens; `add` answers the text that is safe to show.

    Only the tokens since the last safe point are decoded again, with a little context before them, since many
    tokenizers decode a token differently at the start of a text.
    """

    def __init__(self, decode: Decode, stops: Sequence[str]) -> None:
        self._decode, self._stops = decode, [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self._context = 0
        self._shown = 0
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that the token makes safe; sets `stopped` when a stop string is complete."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._context : self._shown])
        whole = self._decode(self._tokens[self._context :])
        if whole.endswith(_BROKEN) or len(whole) <= len(before):
            return ""
        self._context, self._shown = self._shown, len(self._tokens)
        return self._release(self._held + whole[len(before) :])

    def finish(self) -> str:
        """What was held back, once no more tokens come; of a character cut in half, nothing."""
        if self.stopped:
            return ""
        before = self._decode(self._tokens[self._context : self._shown])
        rest = self._held + self._decode(self._tokens[self._context :])[len(before) :].rstrip(_BROKEN)
        self._held = ""
        self._shown = len(self._tokens)
        found = self._first_stop(rest)
        self.stopped = found is not None
        return rest if found is None else rest[:found]

    def _release(self, text: str) -> str:
        found = self._first_stop(text)
        if found is not None:
            self.stopped, self._held = True, ""
            return text[:found]
        keep = self._possible_stop(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _first_stop(self, text: str) -> int | None:
        places = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        return min(places, default=None)

    def _possible_stop(self, text: str) -> int:
        """How many characters at the end could be the beginning of a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
