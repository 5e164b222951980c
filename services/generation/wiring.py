"""What the generation worker is wired with beyond the standard parts."""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.generation.answering import GenerationEngine
from services.generation.settings import GenerationSettings
from shared.wiring import Wiring


@dataclass
class GenerationWiring(Wiring):
    """`engine(base_model)` gives the running engine of that model; raises ModelNotFound."""

    settings: GenerationSettings
    engine: Callable[[str], GenerationEngine] = field(kw_only=True)
