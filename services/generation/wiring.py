"""What the generation worker is wired with beyond the standard parts."""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.generation.answering import GenerationEngine
from services.generation.settings import GenerationSettings
from shared.wiring import Wiring


@dataclass
class GenerationWiring(Wiring):
    """`engine(model)` gives the running engine of a base model by its id, or of a whole fine-tuned model by its folder;
    raises ModelNotFound."""

    settings: GenerationSettings
    engine: Callable[[str], GenerationEngine] = field(kw_only=True)
