"""Python's cyclic garbage collector in a process that serves."""

import gc

_YOUNG_OBJECTS = 20_000


def settle() -> None:
    """Once all is loaded: never look through it again, and look through the rest more rarely.

    The gateway holds 240,000 objects that live as long as it does; what a request makes and drops, reference counting
    frees by itself.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
