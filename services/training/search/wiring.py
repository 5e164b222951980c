"""What the search worker is wired with beyond the standard parts."""

from dataclasses import dataclass, field

from services.training.search.domain import Studies
from shared.wiring import Wiring


@dataclass
class SearchWiring(Wiring):
    """`studies` is Optuna; nobody but the search worker needs it."""

    studies: Studies = field(kw_only=True)

    def close(self) -> None:
        self.studies.close()
        super().close()
