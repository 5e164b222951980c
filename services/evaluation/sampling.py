"""Seeded draws from a dataset: the validation questions to ask, the worked examples of a few-shot prompt."""

import random
from collections.abc import Sequence

from services.evaluation.material import Example
from shared.prompt_format import Shot

_SHORTEST, _LONGEST = 16, 256


def drawn(found: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` of the examples in their own order; the same ones for every variant."""
    if limit is None or limit >= len(found):
        return list(found)
    places = sorted(random.Random(seed).sample(range(len(found)), limit))
    return [found[place] for place in places]


def shots(train: Sequence[Example], count: int, seed: int) -> tuple[Shot, ...]:
    """Worked examples for a prompt: no two of a source document, and as many different answers as there are.

    Only single-turn questions qualify: a shot is one question and one answer.
    """
    pool = [one for one in train if len([m for m in one.messages if m["role"] != "system"]) == 1]
    random.Random(seed).shuffle(pool)
    chosen: list[Example] = []
    for fresh_answer in (True, False):
        for one in pool:
            if len(chosen) == count:
                break
            clusters, answers = {c.cluster for c in chosen}, {c.answer for c in chosen}
            if one.cluster not in clusters and not (fresh_answer and one.answer in answers):
                chosen.append(one)
    return tuple(Shot(question=one.question, answer=one.answer) for one in chosen)


def answer_budget(train: Sequence[Example]) -> int:
    """Tokens to allow an answer: half more than the longest reference needs at three characters a token.

    What an untuned model says beyond that cannot match the reference and only costs time.
    """
    longest = max((len(one.answer) for one in train), default=0)
    return min(_LONGEST, max(_SHORTEST, round(1.5 * longest / 3) + 4))
