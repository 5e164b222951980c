"""When a finite loss has exploded: a rule over the training losses, so that a resumed run decides as an unbroken one.

A step is *wild* when its training loss is above 2 × m + 1 nats, m the median of the first five steps' losses: far worse
than where the run began. Five wild steps in a row are an explosion. Why so: single wild steps are common (an odd batch,
a spike that training recovers from) and are left alone; a loss twice that of the untrained adapter over five different
batches is no luck of the draw; the one nat keeps runs that begin near zero (continued from an adapter) from alarms over
small numbers. For `dpo`, whose loss begins at ln 2, the limit is 2.4 nats per pair.
"""

from collections.abc import Sequence
from statistics import median

from services.training.errors import NonFiniteLoss

FIRST = 5
"""Steps that say where the run began."""
IN_A_ROW = 5


def limit(losses: Sequence[float]) -> float:
    """The training loss, in nats, above which a step is wild."""
    return 2.0 * median(losses[:FIRST]) + 1.0


def wild_since(losses: Sequence[float]) -> int | None:
    """The first of the wild steps (from 1) that the losses so far end with; None when the last step was not wild."""
    if len(losses) <= FIRST:
        return None
    most = limit(losses)
    calm = next((n for n in range(len(losses), FIRST, -1) if losses[n - 1] <= most), FIRST)
    return calm + 1 if calm < len(losses) else None


def check(losses: Sequence[float]) -> None:
    """NonFiniteLoss when the losses so far end with five wild steps."""
    since = wild_since(losses)
    if since is not None and len(losses) - since + 1 >= IN_A_ROW:
        raise NonFiniteLoss(
            f"The loss has exploded: it is {losses[-1]:.1f} at step {len(losses)} and above {limit(losses):.1f} since "
            f"step {since}; it began at {losses[0]:.1f}."
        )
