"""What the generation worker is wired with beyond the standard parts."""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.generation.answering import GenerationEngine
from shared.wiring import Wiring


@dataclass
class GenerationWiring(Wiring):
    """`engine(base_model)` gives the running engine of that model; raises ModelNotFound."""

    engine: Callable[[str], GenerationEngine] = field(kw_only=True)
