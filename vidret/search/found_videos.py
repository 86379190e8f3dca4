"""Videos that a search has found, and how likely each answers its query."""

from dataclasses import dataclass

from vidret.search.fusion import Question
from vidret.search.judging import DEFAULT_JUDGE, EvidenceJudge
from vidret.search.query.clauses import QueryStructure
from vidret.search.video_scores import VideoScores
from vidret.types import UNLIKELY


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreStandard:
    """What a probability is computed from: the best score, the number of segments and texts compared, and the judge.

    There are none for a query whose scores say nothing, such as an image.
    """

    best: float = 0.0
    size: int = 0
    judge: EvidenceJudge = DEFAULT_JUDGE


NO_STANDARD = ScoreStandard()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVideo:
    """A video that a search has found, with its existing paths."""

    scores: VideoScores
    paths: tuple[str, ...]
    question: Question | None = None
    standard: ScoreStandard = NO_STANDARD

    @property
    def structure(self) -> QueryStructure:
        """The clauses of the query."""
        assert self.question is not None
        return self.question.structure

    @property
    def is_text(self) -> bool:
        """Whether the query is text."""
        return self.question is not None and self.question.query.is_text

    @property
    def probability(self) -> float | None:
        """The probability that it answers the query; None if nothing tells."""
        standard = self.standard
        return standard.judge.video(self.scores.score, standard.best, standard.size) if standard.size else None

    @property
    def is_weak(self) -> bool:
        """Whether it is unlikely that the index has an answer that scores as high as this."""
        standard = self.standard
        return standard.size > 0 and standard.judge.index(self.scores.score, standard.size) < UNLIKELY
