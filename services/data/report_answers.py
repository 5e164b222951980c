"""The quality reports of datasets, for the API's description."""

from shared.answers import Answer


class Repeated(Answer):
    """A line that says the same as an earlier one."""

    line: int
    same_as_line: int


class ExactDuplicates(Answer):
    """Lines that were left out."""

    count: int
    samples: list[Repeated]


class NearDuplicate(Answer):
    """Two examples with almost the same question."""

    lines: list[int]
    questions: list[str]
    same_answer: bool


class NearDuplicates(Answer):
    """Pairs of almost the same question; they stay, in one split."""

    pairs: int
    pairs_with_different_answers: int
    samples: list[NearDuplicate]


class LabelConflict(Answer):
    """One question with several answers."""

    question: str
    answers: list[str]
    lines: list[int]


class LabelConflicts(Answer):
    """The same question with different answers: a model cannot learn both."""

    questions: int
    examples: int
    samples: list[LabelConflict]


class Distribution(Answer):
    """Lengths in characters."""

    min: int
    p50: int
    p95: int
    max: int
    mean: float


class Lengths(Answer):
    """Of questions and of answers."""

    question: Distribution
    answer: Distribution


class TooLong(Answer):
    """Examples that may be cut; the first lines of them."""

    count: int
    limit_chars: int
    lines: list[int]


class GoldDocuments(Answer):
    """The documents that examples name."""

    distinct: int
    examples_without: int


class Cluster(Answer):
    """A group of examples that belong together."""

    name: str
    examples: int


class Clusters(Answer):
    """Groups that no split tears apart."""

    count: int
    largest: Cluster


class SplitReport(Answer):
    """One split; `kinds` counts its examples by the metadata `kind`, which is empty where they have none."""

    examples: int
    clusters: int
    kinds: dict[str, int]


class SplitReports(Answer):
    """Every split."""

    train: SplitReport
    validation: SplitReport
    test: SplitReport


class Leakage(Answer):
    """What lies in more than one split; `clean` when nothing does."""

    documents: int
    questions: int
    clusters: int
    near_duplicates: int
    clean: bool


class ImportReport(Answer):
    """Everything worth knowing about an imported dataset before training on it."""

    rows_read: int
    examples: int
    exact_duplicates: ExactDuplicates
    near_duplicates: NearDuplicates
    label_conflicts: LabelConflicts
    lengths: Lengths
    too_long: TooLong
    documents: GoldDocuments
    kinds: dict[str, int]
    clusters: Clusters
    splits: SplitReports
    leakage: Leakage
    warnings: list[str]


class RaftSplitReport(Answer):
    """One split; `gold` counts its rows by what became of the passage that holds the answer."""

    examples: int
    gold: dict[str, int]
    passages: int


class RaftSplitReports(Answer):
    """Every split."""

    train: RaftSplitReport
    validation: RaftSplitReport
    test: RaftSplitReport


class RaftReport(Answer):
    """What retrieval found for a retrieval-aware training set."""

    examples: int
    splits: RaftSplitReports
    warnings: list[str]
