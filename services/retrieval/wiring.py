"""What the retrieval worker is wired with beyond the standard parts."""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.retrieval.embedder import Embedder
from shared.wiring import Wiring


@dataclass
class RetrievalWiring(Wiring):
    """`embedder(name)` gives the embedding model of that id; raises EmbedderNotFound."""

    embedder: Callable[[str], Embedder] = field(kw_only=True)
