"""Which tokens' log-probabilities belong to a piece of text that is shown."""

from collections import deque

from services.generation.answering import TokenLogprob


class ShownTokens:
    """Holds tokens back until the text that they begin is shown, so that what a stop string cut off never is."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()  # with the byte of the answer at which each begins
        self._written = 0
        self._shown = 0

    def add(self, token: TokenLogprob) -> None:
        self._waiting.append((self._written, token))
        self._written += len(token.token)

    def show(self, text: str) -> tuple[TokenLogprob, ...]:
        """The tokens that begin within the text, which continues what was shown before."""
        self._shown += len(text.encode())
        found = []
        while self._waiting and self._waiting[0][0] < self._shown:
            found.append(self._waiting.popleft()[1])
        return tuple(found)

    def rest(self) -> tuple[TokenLogprob, ...]:
        """Every token that is left: those of a character that was never finished."""
        found = tuple(token for _, token in self._waiting)
        self._waiting.clear()
        return found
