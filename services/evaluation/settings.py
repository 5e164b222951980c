"""What the evaluation worker reads from its environment beyond the standard settings."""

from shared.settings import Settings


class EvaluationSettings(Settings):
    """`UPLIFT_COMMIT` names the code in reports where there is no git checkout to ask (images set it)."""

    commit: str = ""
    embedder: str = "all-minilm-l6-v2"
    """The folder under the home's models whose vectors the cosine of evals compares; the same as retrieval's."""
